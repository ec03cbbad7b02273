// Downloads all rows that match the search and the filters of the list. A download that ends too early
// is not saved.
import { html, useEffect, useState } from "./preact-htm.js";
import { ApiError, request } from "./api.js";
import { rows as loadedRows } from "./rows.js";
import { Progress } from "./run.js";
import { listQuery, url, useStore } from "./store.js";
import { formatNumber, t } from "./texts.js";
import { Banner, Button, Dialog, ErrorText, saveFile } from "./ui.js";

const BLOB_BYTES = 2 ** 23; // larger pieces leave the memory of the page
const QUOTE = '"'.charCodeAt(0);
const NEWLINE = "\n".charCodeAt(0);

export function ExportDialog({ resource, filters, format, onClose }) {
  const { total } = useStore(loadedRows);
  const [state, setState] = useState({ phase: "running", rows: 0, bytes: 0 });
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    setState({ phase: "running", rows: 0, bytes: 0 });
    const show = (changes) => signal.aborted || setState((current) => ({ ...current, ...changes }));
    download(resource, filters, format, signal, show).then(
      (parts) => {
        saveFile(parts, `${resource.name}-${new Date().toISOString().slice(0, 10)}.${format}`);
        show({ phase: "finished" });
      },
      (error) => show({ phase: "failed", error }),
    );
    return () => controller.abort();
  }, [attempt]);
  const { phase, rows, bytes, error } = state;
  const isRunning = phase === "running";
  const isIncomplete = phase === "failed" && !(error instanceof ApiError);
  const footer = html`${phase === "failed" &&
    html`<${Button} kind="primary" onClick=${() => setAttempt(attempt + 1)}>${t("retry")}<//>`}
    <${Button} onClick=${onClose}>${t(isRunning ? "run.stop" : "close")}<//>`;
  return html`<${Dialog} title=${t(`files.${format}`)} onClose=${onClose} footer=${footer}>
    <p>${t(filters.length ? "export.filtered" : "export.all")} ${t("export.order")}</p>
    ${isRunning && html`<${Progress} done=${rows} total=${total ?? rows} />`}
    <p role="status">
      ${t(phase === "finished" ? "export.finished" : "export.progress", { count: rows, size: sizeText(bytes) })}
    </p>
    ${isIncomplete && html`<${Banner} kind="error">${t("export.incomplete")}<//>`}
    ${phase === "failed" && !isIncomplete && html`<${Banner} kind="error"><${ErrorText} error=${error} /><//>`}
  <//>`;
}

const sizeText = (bytes) =>
  bytes < 1e6
    ? formatNumber(Math.ceil(bytes / 1e3), { style: "unit", unit: "kilobyte" })
    : formatNumber(Math.ceil(bytes / 1e5) / 10, { style: "unit", unit: "megabyte" });

/** Return the file as a list of Blobs. Throws if the answer ends without its last chunk. */
async function download(resource, filters, format, signal, show) {
  const state = listQuery(url.get());
  const query = Object.fromEntries(filters.map((name) => [name, state[name]]));
  if (format === "csv") query.bom = "true";
  const path = `${resource.path}/export`;
  const { body } = await request("GET", path, { query: { ...query, format }, signal, raw: true });
  const reader = body.body.getReader();
  const blobs = [];
  let pieces = [];
  let pieceBytes = 0;
  let bytes = 0;
  let rows = format === "csv" ? -1 : 0; // without the header row
  let isQuoted = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    for (const byte of value) {
      if (byte === QUOTE) isQuoted = !isQuoted;
      else if (byte === NEWLINE && !(isQuoted && format === "csv")) rows++;
    }
    pieces.push(value);
    pieceBytes += value.length;
    bytes += value.length;
    if (pieceBytes > BLOB_BYTES) {
      blobs.push(new Blob(pieces));
      pieces = [];
      pieceBytes = 0;
    }
    show({ rows: Math.max(0, rows), bytes });
  }
  return [...blobs, ...pieces];
}
