// What a change of the feed does in this page: an entry in the live view, a mark in the list, and
// a report for an open form. It alters no form, and the order of the list stays.
import { isOwnRequest } from "./api.js";
import { reportedChange } from "./form_state.js";
import { markRow, reload, replaceRows, rows } from "./rows.js";
import { titleOf } from "./schema.js";
import { selection } from "./selection.js";
import { createStore } from "./store.js";

const MAX_ENTRIES = 500;

/**
 * entries: the newest first, {number, change, title} or {number, gapTime} where changes are missing.
 * The numbers rise by 1. startTime and gapTime are RFC 3339 in UTC.
 */
export const feedLog = createStore({ resource: null, startTime: null, entries: [] });

let lastNumber = 0;

export function startLog(resource) {
  feedLog.set({ resource, startTime: new Date().toISOString(), entries: [] });
}

/** Add entries, of which the last one is the newest. */
function addEntries(added) {
  const numbered = added.map((entry) => ({ ...entry, number: ++lastNumber }));
  feedLog.set((log) => ({
    ...log,
    entries: [...numbered.toReversed(), ...log.entries].slice(0, MAX_ENTRIES),
  }));
}

/** Note the next changes of the feed, in its order. A change may come twice. */
export function noteChanges(resource, changes) {
  const list = rows.get();
  const isListed = list.resource?.name === resource.name;
  const loadedRows = new Map((isListed ? [...list.head, ...list.tail] : []).map((row) => [row.id, row]));
  const titles = new Map();
  for (const { change, title } of feedLog.get().entries.toReversed()) {
    if (change) titles.set(change.id, title);
  }
  const newRows = new Map();
  const newMarks = new Map();
  const added = [];
  for (const change of changes) {
    const { id, version } = change;
    const row = change[resource.singular];
    const known = newRows.get(id) ?? loadedRows.get(id);
    if (row) titles.set(id, titleOf(resource, row));
    else if (known) titles.set(id, titleOf(resource, known));
    added.push({ change, title: titles.get(id) ?? id });
    // The response to a write of this page shows the row. It can come before or after the change.
    if (!loadedRows.has(id) || !(version > known.version) || isOwnRequest(change.request_id)) continue;
    newMarks.set(id, row ? "changed" : "deleted");
    // A selected row keeps its version: an action on it then fails, as it was chosen before the change.
    if (!selection.get().has(id)) newRows.set(id, row ?? { ...known, version });
  }
  addEntries(added);
  if (newRows.size) replaceRows([...newRows.values()]);
  for (const [id, mark] of newMarks) markRow(id, mark);
  for (const change of changes) reportedChange.set({ resource: resource.name, change });
}

/** Changes are missing: read the list again. An open form finds out when it is saved. */
export function noteGap(resource) {
  addEntries([{ gapTime: new Date().toISOString() }]);
  if (rows.get().resource?.name === resource.name) reload();
}
