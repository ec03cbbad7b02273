// The loaded rows of the current list. The panel and live changes replace, remove, insert and mark
// rows here; the order of the rows does not change by that.
//
// `head` has the rows from the first one on. `tail` has the rows before the last one: End reads the
// list in the reverse sort. Between both is a gap until one of them reaches the other.
import { onCallerEnd, request } from "./api.js";
import { clearSelection, refreshSelected, unselect } from "./selection.js";
import { createStore } from "./store.js";

const PAGE_ROWS = 100;
const DEFAULT_SORT = "-created_at";

const EMPTY = {
  resource: null,
  query: {},
  head: [],
  tail: [],
  headCursor: null,
  tailCursor: null,
  total: null,
  isEstimate: false,
  status: "loading", // loading, more (the next page), ready, error
  isStale: false, // the rows are those of the previous query
  error: null,
  marks: new Map(), // from the id of a row to "changed", "deleted" or "saving"
};

export const rows = createStore(EMPTY);

let abort = new AbortController();
let loadedIds = new Set();
let tailIds = new Set();

onCallerEnd(() => {
  abort.abort();
  clearSelection();
  rows.set(EMPTY);
});

const update = (changes) => rows.set({ ...rows.get(), ...changes });

export const hasGap = (list) => list.tail.length > 0 && list.headCursor !== null;
export const isComplete = (list) => list.headCursor === null;
/** Return the number of rows in the scroll area; the gap is one of them. */
export const countRows = (list) => list.head.length + (hasGap(list) ? 1 : 0) + list.tail.length;

/** Return the row at an index of the scroll area, or undefined for the gap. */
export function rowAt(list, index) {
  const { head, tail } = list;
  return index < head.length ? head[index] : tail[index - head.length - (hasGap(list) ? 1 : 0)];
}

/** Return the place of a row in the whole list, from 0. */
export function placeOf(list, index) {
  if (index < list.head.length || !hasGap(list)) return index;
  const loaded = countRows(list) - 1; // without the gap
  return Math.max(list.total ?? 0, loaded) - loaded + index - 1;
}

/** Return the index of the row with this id, or -1. `hint` is where it was. */
export function findIndex(list, id, hint = 0) {
  if (!id) return -1;
  if (rowAt(list, hint)?.id === id) return hint;
  const index = list.head.findIndex((row) => row.id === id);
  if (index >= 0) return index;
  const tailIndex = list.tail.findIndex((row) => row.id === id);
  return tailIndex < 0 ? -1 : tailIndex + countRows(list) - list.tail.length;
}

export const findRow = (id) => rowAt(rows.get(), findIndex(rows.get(), id));

/** Read the first page of a list. `query` has the parameters of the API; `cursor` is added here. */
export async function openList(resource, query) {
  abort.abort();
  abort = new AbortController();
  const { signal } = abort;
  const before = rows.get();
  const isSame = before.resource?.name === resource.name;
  if (!isSame || !hasSameRows(before.query, query)) clearSelection();
  const old = isSame ? before : EMPTY;
  update({ ...old, resource, query, status: "loading", isStale: isSame, error: null });
  try {
    const { body } = await request("GET", resource.path, {
      query: { ...query, page_size: PAGE_ROWS },
      signal,
    });
    loadedIds = new Set(body.items.map((row) => row.id));
    tailIds = new Set();
    update({
      ...EMPTY,
      resource,
      query,
      head: body.items,
      headCursor: body.next_cursor,
      total: body.total,
      isEstimate: body.total_is_estimate === true,
      status: "ready",
      marks: new Map(),
    });
  } catch (error) {
    if (!signal.aborted) update({ status: "error", error });
  }
}

/** Whether two queries match the same rows: only their order or their columns differ. */
function hasSameRows(before, query) {
  const filters = ({ sort, fields, ...others }) => JSON.stringify(Object.entries(others).sort());
  return filters(before) === filters(query);
}

/** Read the first page again. */
export const reload = () => openList(rows.get().resource, rows.get().query);

/** Read the next page of the head. */
export async function loadMore() {
  const { headCursor, status } = rows.get();
  if (!headCursor || status === "loading" || status === "more") return;
  const body = await loadPage({ cursor: headCursor });
  if (!body) return;
  const list = rows.get();
  const meetsTail = body.items.length > 0 && tailIds.has(body.items.at(-1).id);
  const added = addNewRows(body.items);
  update({
    head: list.head.concat(added),
    headCursor: meetsTail ? null : body.next_cursor,
    status: "ready",
  });
}

/** Whether the end of the list can be read before the rows between: a search has no reverse. */
export const canLoadEnd = ({ query }) => Boolean(query.sort) || !query.q;

/** Read the last page of the list, or the page before the tail. */
export async function loadEnd() {
  const { headCursor, tailCursor, tail, status, query } = rows.get();
  if (!headCursor || status === "loading" || status === "more") return;
  const sort = (query.sort || DEFAULT_SORT)
    .split(",")
    .map((key) => (key.startsWith("-") ? key.slice(1) : `-${key}`))
    .join(",");
  const body = await loadPage({ sort, count: "none", ...(tail.length && { cursor: tailCursor }) });
  if (!body) return;
  const list = rows.get();
  const meetsHead =
    body.next_cursor === null ||
    (body.items.length > 0 &&
      loadedIds.has(body.items.at(-1).id) &&
      !tailIds.has(body.items.at(-1).id));
  const added = addNewRows(body.items);
  for (const row of added) tailIds.add(row.id);
  update({
    tail: added.reverse().concat(list.tail),
    tailCursor: body.next_cursor,
    headCursor: meetsHead ? null : list.headCursor,
    status: "ready",
  });
}

async function loadPage(parameters) {
  const { signal } = abort;
  const { resource, query } = rows.get();
  update({ status: "more", error: null });
  try {
    const response = await request("GET", resource.path, {
      query: { ...query, page_size: PAGE_ROWS, ...parameters },
      signal,
    });
    return signal.aborted ? null : response.body;
  } catch (error) {
    if (!signal.aborted) update({ status: "error", error });
    return null;
  }
}

/** A row that moved while the pages were read comes twice: keep it where it is. */
function addNewRows(items) {
  const added = items.filter((row) => !loadedIds.has(row.id));
  for (const row of added) loadedIds.add(row.id);
  return added;
}

/** Read again what failed: the first page, or the next one. */
export function retry() {
  const { head, isStale } = rows.get();
  if (isStale || !head.length) return reload();
  update({ status: "ready", error: null });
  return undefined; // The grid loads what is near its view.
}

/** Show the new values of rows, where the rows are. */
export function replaceRows(changed) {
  const byId = new Map(changed.map((row) => [row.id, row]));
  const merge = (row) => (byId.has(row.id) ? { ...row, ...byId.get(row.id) } : row);
  const { head, tail } = rows.get();
  update({ head: head.map(merge), tail: tail.map(merge) });
  refreshSelected(changed);
}

export const replaceRow = (row) => replaceRows([row]);

/** Remove a row that does not exist any more. */
export function removeRow(id) {
  unselect(id);
  tailIds.delete(id);
  if (!loadedIds.delete(id)) return;
  const { head, tail, total, marks } = rows.get();
  const isOther = (row) => row.id !== id;
  update({
    head: head.filter(isOther),
    tail: tail.filter(isOther),
    total: total === null ? null : Math.max(0, total - 1),
    marks: new Map([...marks].filter(([markedId]) => markedId !== id)),
  });
}

/** Show a new row first, whatever the sort is, so that its author sees it. */
export function insertRow(row) {
  if (loadedIds.has(row.id)) {
    markRow(row.id, null); // It was deleted elsewhere, and is restored now.
    return replaceRow(row);
  }
  loadedIds.add(row.id);
  const { head, total } = rows.get();
  return update({ head: [row, ...head], total: total === null ? null : total + 1 });
}

/** Mark a row as "changed", "deleted" or "saving"; null removes the mark. */
export function markRow(id, mark) {
  const marks = new Map(rows.get().marks);
  if (mark === null) marks.delete(id);
  else marks.set(id, mark);
  update({ marks });
}
