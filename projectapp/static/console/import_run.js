// Imports a file: part after part, each as one request that takes effect as a whole or not at all.
import { makeRandomId, onCallerEnd, request } from "./api.js";
import { makeBody, readParts, readRecords } from "./file_parts.js";
import { itemErrors, Run } from "./run.js";
import { config, createStore } from "./store.js";

const CONTENT_TYPES = { csv: "text/csv", ndjson: "application/x-ndjson", json: "application/x-ndjson" };
const STORAGE_PREFIX = "projectapp.import.";

/** The current run, or null. */
export const importStore = createStore(null);

// The next part would be stored in the name of the other caller.
onCallerEnd(() => {
  importStore.get()?.stop();
  importStore.set(null);
});

/**
 * Import the records of a file into the collection at `path`. `source` is what inspectFile returned.
 * A record with an error does not stop the others: it is in `state.failures`, with its line.
 */
export async function importFile(resource, path, source) {
  const run = startRun(resource, path, source, source.count);
  const key = importKey(path, source.file);
  await sendRecords(run, withoutHeader(readRecords(source), source.header), key.value);
  if (run.state.phase === "finished") key.forget();
  return run;
}

/** Import the corrected lines of an earlier run alone: records {line, text}. */
export async function importRecords({ resource, path, source }, records) {
  const run = startRun(resource, path, source, records.length);
  await sendRecords(run, records, makeRandomId());
  return run;
}

function startRun(resource, path, source, total) {
  const run = new Run({ resource, path, source, total, imported: 0, replayed: 0, failures: [] });
  importStore.set(run);
  return run;
}

async function* withoutHeader(records, header) {
  let isHeader = header !== null;
  for await (const record of records) {
    if (!isHeader) yield record;
    isHeader = false;
  }
}

/**
 * Return the first part of the Idempotency-Keys of a file. It outlives the page until the import is
 * complete: if the same file is chosen again, the parts that are stored are not stored twice.
 */
function importKey(path, { name, size, lastModified }) {
  const item = STORAGE_PREFIX + [path, name, size, lastModified].join("|");
  let value = makeRandomId();
  try {
    value = localStorage.getItem(item) ?? value;
    localStorage.setItem(item, value);
  } catch {
    // Without storage the key lasts as long as the page.
  }
  return { value, forget: () => globalThis.localStorage?.removeItem(item) };
}

async function sendRecords(run, records, key) {
  const { header } = run.state.source;
  let number = 0;
  for await (const part of readParts(records, header, config.max_content_length)) {
    await sendPart(run, part, `${key}-${number++}`);
    if (run.isStopped) break;
  }
  run.finish();
}

/** Send the records of a part, without those that the server refuses. */
async function sendPart(run, part, key) {
  let records = part;
  for (let attempt = 0; records.length && !run.isStopped; attempt++) {
    const { body, recordByLine } = makeBody(records, run.state.source.header);
    try {
      const { headers } = await request("POST", run.state.path, {
        body,
        headers: { "Content-Type": CONTENT_TYPES[run.state.source.format] },
        idempotencyKey: `${key}-${attempt}`,
      });
      const isReplayed = headers.get("Idempotency-Replayed") === "true";
      run.update({
        imported: run.state.imported + records.length,
        replayed: run.state.replayed + (isReplayed ? records.length : 0),
        done: run.state.done + records.length,
      });
      return;
    } catch (error) {
      if (error.status === 413 && records.length > 1) {
        // A proxy in front of the service has a smaller limit.
        const middle = Math.ceil(records.length / 2);
        await sendPart(run, records.slice(0, middle), `${key}-${attempt}-1`);
        await sendPart(run, records.slice(middle), `${key}-${attempt}-2`);
        return;
      }
      const failures = failuresOf(records, recordByLine, error);
      if (!failures.length) {
        attempt--; // The same key again: the part may be stored although the answer was lost.
        await run.pause(error);
        continue;
      }
      const failed = new Set(failures.map(({ record }) => record));
      records = records.filter((record) => !failed.has(record));
      run.update({
        failures: [...run.state.failures, ...failures],
        done: run.state.done + failures.length,
      });
    }
  }
}

/** Return {record, errors} for the records that the error is about. */
function failuresOf(records, recordByLine, error) {
  if (error.status === 413 && records.length === 1) return [{ record: records[0], errors: [error] }];
  if (![400, 409].includes(error.status)) return [];
  const byRecord = new Map();
  for (const [line, errors] of itemErrors(error)) {
    const record = recordByLine.get(line);
    if (record) byRecord.set(record, [...(byRecord.get(record) ?? []), ...errors]);
  }
  return [...byRecord].map(([record, errors]) => ({ record, errors }));
}
