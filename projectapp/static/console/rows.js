// The rows of the current list that were loaded.
import { request } from "./api.js";
import { createStore } from "./store.js";

const EMPTY = { items: [], total: null, isEstimate: false, hasMore: false, state: "loading" };
const PAGE_ROWS = 100;

export const rows = createStore(EMPTY);

let current = null; // {resource, query, cursor, controller}

/** Load the first page of a list. */
export async function loadRows(resource, query) {
  current?.controller.abort();
  current = { resource, query, cursor: null, controller: new AbortController() };
  rows.set((value) => ({ ...value, state: "loading", error: null }));
  await loadPage(current);
}

export const loadMoreRows = () => loadPage(current);

async function loadPage(list) {
  const query = { ...list.query, page_size: PAGE_ROWS, cursor: list.cursor };
  try {
    const { signal } = list.controller;
    const { body } = await request("GET", list.resource.path, { query, signal });
    const items = list.cursor ? [...rows.get().items, ...body.items] : body.items;
    list.cursor = body.next_cursor;
    rows.set({
      items,
      total: body.total,
      isEstimate: Boolean(body.total_is_estimate),
      hasMore: Boolean(body.next_cursor),
      state: "ready",
    });
  } catch (error) {
    if (!list.controller.signal.aborted) rows.set((value) => ({ ...value, state: "error", error }));
  }
}

const changeItems = (change) => rows.set((value) => ({ ...value, items: change(value.items) }));

export const replaceRow = (row) =>
  changeItems((items) => items.map((item) => (item.id === row.id ? row : item)));

export const removeRow = (id) => changeItems((items) => items.filter((item) => item.id !== id));

export const insertRow = (row) => changeItems((items) => [row, ...items]);
