// The selected rows of the list. An action on several rows takes these and no others.
import { createStore } from "./store.js";

/** A Map from the id of a selected row to the row. */
export const selection = createStore(new Map());

export const clearSelection = () => selection.get().size && selection.set(new Map());

/** Select the row, or unselect it if it is selected. */
export function toggleRow(row) {
  const rows = new Map(selection.get());
  if (!rows.delete(row.id)) rows.set(row.id, row);
  selection.set(rows);
}

/** Select these rows, too. */
export function selectRows(added) {
  selection.set(new Map([...selection.get(), ...added.map((row) => [row.id, row])]));
}

/** Select these rows and no others. */
export const selectOnly = (rows) => selection.set(new Map(rows.map((row) => [row.id, row])));

/** Keep the version that the list shows: an action sends it as the expected version. */
export function refreshSelected(rows) {
  const selected = selection.get();
  const shown = rows.filter((row) => selected.has(row.id));
  if (shown.length) selectRows(shown);
}

export function unselect(id) {
  if (selection.get().has(id)) toggleRow({ id });
}
