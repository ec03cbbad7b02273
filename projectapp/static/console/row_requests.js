// The requests of one row. Each write of an existing row has If-Match.
import { request } from "./api.js";
import { createPath, itemPath, writableFields } from "./schema.js";

const versionOf = ({ body, etag }) => ({ row: body, etag });

/** Read a row: {row, etag}. `asOf` is a time in the past. */
export async function readRow(resource, id, { asOf, signal } = {}) {
  return versionOf(await request("GET", itemPath(resource, id), { query: { as_of: asOf }, signal }));
}

/** Create a row from JSON text. The same key and text again create nothing. */
export async function createRow(resource, parentId, body, idempotencyKey) {
  return versionOf(
    await request("POST", createPath(resource, parentId), { body, idempotencyKey }),
  );
}

/**
 * Write the fields in `values`, and no others. PUT keeps a null inside of a JSON value, which a
 * merge patch would remove.
 */
export async function saveRow(resource, id, values, etag) {
  return versionOf(
    await request("PUT", itemPath(resource, id), { body: values, ifMatch: etag }),
  );
}

export async function deleteRow(resource, id, etag) {
  await request("DELETE", itemPath(resource, id), { ifMatch: etag });
}

/** Restore a version of a row; without `version`, a deleted row, which has no ETag. */
export async function restoreRow(resource, id, { version, etag } = {}) {
  const body = version ? { version } : {};
  return versionOf(
    await request("POST", `${itemPath(resource, id)}/restore`, { body, ifMatch: etag }),
  );
}

/** Return a page of the changes of a row, the newest first: {items, next_cursor}. */
export async function readHistory(resource, id, { cursor, pageSize, signal } = {}) {
  const query = { page_size: pageSize, cursor };
  const path = `${itemPath(resource, id)}/history`;
  return (await request("GET", path, { query, signal })).body;
}

/** Return the newest change of a row, or null if the caller sees no history of it. */
export async function readNewestChange(resource, id, options) {
  if (!resource.has.history) return null;
  try {
    return (await readHistory(resource, id, { ...options, pageSize: 1 })).items[0] ?? null;
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

/** Return the values of these fields, by default of all that a client can write. */
export function valuesOf(resource, row, names = writableFields(resource).map(({ name }) => name)) {
  return Object.fromEntries(names.map((name) => [name, row[name]]));
}
