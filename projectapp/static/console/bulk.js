// Actions on the selected rows: set a field of all of them, delete them, or restore deleted ones.
// Every write has the version that the list showed, so no change of another user is lost.
import { onCallerEnd, request } from "./api.js";
import { deleteRow, readRow, restoreRow } from "./row_requests.js";
import { reload, removeRow, replaceRows } from "./rows.js";
import { itemErrors, Run } from "./run.js";
import { selectOnly } from "./selection.js";
import { createStore } from "./store.js";

const BATCH_ROWS = 100; // one request: small enough to show progress and to stop

/** The current run, or null. */
export const bulkStore = createStore(null);

onCallerEnd(() => {
  bulkStore.get()?.stop();
  bulkStore.set(null);
});

/**
 * Run an action on rows: {kind: "set", field, value}, {kind: "delete"} or {kind: "restore"}.
 * The rows that failed stay selected, with their current values. `state.failures` has each with its
 * error; `state.changed` has the other rows as they were before the action.
 */
export async function runAction(resource, action, rows) {
  const run = new Run({ resource, action, total: rows.length, failures: [], changed: [] });
  bulkStore.set(run);
  const queue = [...rows];
  const size = action.kind === "set" ? BATCH_ROWS : 1;
  while (queue.length && !run.isStopped) {
    const batch = queue.splice(0, size);
    try {
      await sendBatch(resource, action, batch);
      run.update({ changed: [...run.state.changed, ...batch] });
    } catch (error) {
      const failures = await failuresOf(resource, action, batch, error);
      const failedIds = new Set(failures.filter(({ error }) => error).map(({ row }) => row.id));
      const doneIds = new Set(failures.filter(({ error }) => !error).map(({ row }) => row.id));
      // A batch takes effect as a whole or not at all: its other rows are sent again.
      queue.unshift(...batch.filter(({ id }) => !failedIds.has(id) && !doneIds.has(id)));
      run.update({
        failures: [...run.state.failures, ...failures.filter(({ error }) => error)],
        changed: [...run.state.changed, ...batch.filter(({ id }) => doneIds.has(id))],
      });
      if (!failures.length) await run.pause(error);
    }
    run.update({ done: rows.length - queue.length });
  }
  if (bulkStore.get() === run) selectOnly([...run.state.failures.map(({ row }) => row), ...queue]);
  run.finish();
  if (action.kind === "restore") reload();
  return run;
}

async function sendBatch(resource, action, batch) {
  if (action.kind === "set") {
    const { field, value } = action;
    const items = batch.map(({ id, version }) => ({ id, version, [field]: value }));
    const { body } = await request("PATCH", resource.path, { body: items });
    replaceRows(body.items);
    return;
  }
  const [{ id, version }] = batch;
  if (action.kind === "delete") {
    await deleteRow(resource, id, `"${version}"`);
    removeRow(id);
  } else await restoreRow(resource, id);
}

/**
 * Return {row, error} for the rows that the error is about, and none if it is about the request.
 * `row` has the current values. A row that has the wanted state already has no error: the answer to
 * the same request was lost before.
 */
async function failuresOf(resource, action, batch, error) {
  const isAboutRows = [400, 404, 409, 410, 412].includes(error.status);
  const numbers = action.kind === "set" ? [...itemErrors(error).keys()] : [0];
  if (!isAboutRows || !numbers.length) return [];
  return Promise.all(
    numbers.map(async (number) => {
      const row = batch[number];
      const current = await readCurrent(resource, row.id);
      if (current === undefined) return { row, error };
      if (current === null) {
        removeRow(row.id);
        return { row, error: action.kind === "delete" ? null : error };
      }
      replaceRows([current]);
      const isDone =
        action.kind === "set" &&
        current[action.field] === action.value &&
        current.version === row.version + 1;
      return { row: current, error: isDone ? null : error };
    }),
  );
}

/** Return the row as it is now; null if it does not exist, and undefined if that is unknown. */
async function readCurrent(resource, id) {
  try {
    return (await readRow(resource, id)).row;
  } catch (error) {
    return error.status === 404 ? null : undefined;
  }
}

/** Return the action that reverses a run, and the rows that it takes. */
export function inverseOf({ action, changed }, currentRow) {
  if (action.kind === "delete") return { action: { kind: "restore" }, rows: changed };
  const rows = changed.filter((row) => row[action.field] !== action.value);
  const inverse = { ...action, value: !action.value };
  return { action: inverse, rows: rows.map(({ id }) => currentRow(id)).filter(Boolean) };
}
