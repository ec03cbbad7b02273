// The dialog that imports a file: choose it, look at what it is, import, correct the lines with errors.
import { html, useEffect, useState } from "./preact-htm.js";
import { FileError, inspectFile } from "./file_parts.js";
import { importFile, importRecords, importStore } from "./import_run.js";
import { ParentChoice } from "./parent_choice.js";
import { reload } from "./rows.js";
import { Progress, RunButtons } from "./run.js";
import { createPath, writableFields } from "./schema.js";
import { useStore } from "./store.js";
import { t } from "./texts.js";
import { Banner, Button, Dialog, ErrorText, Icon, saveFile } from "./ui.js";

const FAILURES_SHOWN = 100;
const LINE_CHARACTERS = 60; // about as many as an input shows in one line
const ACCEPTED = ".csv,.ndjson,.jsonl,.json,text/csv,application/json,application/x-ndjson";

export function ImportDialog({ resource, onClose }) {
  const run = useStore(importStore);
  useEffect(() => () => importStore.get() && isOver(importStore.get()) && importStore.set(null), []);
  const props = { resource, onClose };
  // Only one import runs at a time: that of another resource is shown, too.
  return run ? html`<${RunDialog} key=${run} run=${run} ...${props} />` : html`<${FileDialog} ...${props} />`;
}

const isOver = (run) => ["finished", "stopped"].includes(run.state.phase);

function FileDialog({ resource, onClose }) {
  const [source, setSource] = useState(null);
  const [error, setError] = useState(null);
  const [isReading, setReading] = useState(false);
  const [parent, setParent] = useState(null); // of all rows, if the resource has one
  const read = async (file) => {
    if (!file) return;
    setError(null);
    setSource(null);
    setReading(true);
    try {
      setSource(await inspectFile(file));
    } catch (reason) {
      setError(reason);
    }
    setReading(false);
  };
  const canStart = source && (!resource.parent || parent);
  const start = () => importFile(resource, createPath(resource, parent?.id), source);
  const footer = html`<${Button} onClick=${onClose}>${t("cancel")}<//>
    <${Button} kind="primary" disabled=${!canStart} onClick=${start}>
      ${source ? t("import.start", { count: source.count }) : t("import.start_none")}
    <//>`;
  return html`<${Dialog} title=${t("files.import")} onClose=${onClose} footer=${footer}>
    <p>${t("import.lead", { fields: writableFields(resource).map(({ name }) => name).join(", ") })}</p>
    ${resource.parent &&
    html`<${ParentChoice} form=${{ resource, setParent }} state=${{ parent, errors: {} }} />`}
    <label
      class="drop"
      onDragOver=${(event) => event.preventDefault()}
      onDrop=${(event) => {
        event.preventDefault();
        read(event.dataTransfer.files[0]);
      }}
    >
      <${Icon} name="upload" />
      <span>${source ? html`<bdi>${source.file.name}</bdi>` : t("import.choose")}</span>
      <input type="file" accept=${ACCEPTED} onChange=${(event) => read(event.target.files[0])} />
    </label>
    <div role="status">
      ${isReading && t("import.reading")}
      ${source && t("import.contents", { count: source.count, format: source.format.toUpperCase() })}
      ${source?.encoding === "euc-kr" && html` ${t("import.euc_kr")}`}
    </div>
    ${error && html`<${Banner} kind="error"><${FileErrorText} error=${error} /><//>`}
  <//>`;
}

function FileErrorText({ error }) {
  return error instanceof FileError ? t(error.code, error.values) : t("import.unreadable");
}

function RunDialog({ run, onClose }) {
  const state = useStore(run.store);
  const { total, done, imported, replayed, failures, phase, error, source } = state;
  const isDone = isOver(run);
  const [texts, setTexts] = useState({}); // the corrected lines, by their place in `failures`
  useEffect(() => void (isDone && imported > 0 && reload()), [isDone]);
  const close = () => {
    importStore.set(null);
    onClose();
  };
  const corrected = failures
    .map(({ record }, index) => ({ line: record.line, text: texts[index] ?? record.text, index }))
    .filter(({ index }) => index in texts);
  const again = () => importRecords(state, corrected);
  const footer = isDone
    ? html`${failures.length > 0 &&
        html`<${Button} icon="download" onClick=${() => saveFailures(source, failures)}>${t("import.save_failures")}<//>
          <${Button} kind=${corrected.length ? "primary" : ""} disabled=${!corrected.length} onClick=${again}>
            ${t("import.again", { count: corrected.length })}
          <//>`}
        <${Button} kind=${corrected.length ? "" : "primary"} onClick=${close}>${t("close")}<//>`
    : html`<${RunButtons} run=${run} phase=${phase} />`;
  return html`<${Dialog} title=${t("files.import")} class="wide-dialog" onClose=${isDone ? close : undefined} footer=${footer}>
    <p class="file-name"><bdi>${source.file.name}</bdi></p>
    <${Progress} done=${done} total=${total} />
    <p role="status">
      ${t(isDone ? "import.result" : "import.progress", { count: imported, done, total, failed: failures.length })}
      ${replayed > 0 && html` ${t("import.replayed", { count: replayed })}`}
    </p>
    ${phase === "stopped" && html`<p>${t("import.stopped", { count: total - done })}</p>`}
    ${phase === "paused" &&
    html`<${Banner} kind="error"><div><${ErrorText} error=${error} /><p>${t("import.paused")}</p></div><//>`}
    ${failures.length > 0 &&
    html`<h3>${t("import.failures", { count: failures.length })}</h3>
      ${isDone && html`<p class="muted">${t("import.correct")}</p>`}
      ${source.header && html`<pre class="code">${source.header}</pre>`}
      <ol class="failures">
        ${failures.slice(0, FAILURES_SHOWN).map(
          (failure, index) => html`<${FailedLine}
            key=${index}
            ...${{ failure, isDone }}
            text=${texts[index] ?? failure.record.text}
            onChange=${(text) => setTexts({ ...texts, [index]: text })}
          />`,
        )}
      </ol>
      ${failures.length > FAILURES_SHOWN &&
      html`<p class="muted">${t("import.more_failures", { count: failures.length - FAILURES_SHOWN })}</p>`}`}
  <//>`;
}

function FailedLine({ failure: { record, errors }, isDone, text, onChange }) {
  const id = `line-${record.line}`;
  return html`<li>
    <label for=${id}>${t("import.line", { line: String(record.line) })}</label>
    <p class="field-error" lang="en" id=${`${id}-errors`}>
      ${errors.map(({ field, message }) => (field ? `${field}: ${message}` : message)).join(" ")}
    </p>
    <textarea
      id=${id}
      class="input code"
      rows=${Math.min(4, Math.max(text.split("\n").length, Math.ceil(text.length / LINE_CHARACTERS)))}
      spellcheck=${false}
      readonly=${!isDone}
      aria-describedby=${`${id}-errors`}
      value=${text}
      onInput=${(event) => onChange(event.target.value)}
    />
  </li>`;
}

/** Save the lines with errors as a file that can be corrected and imported. */
function saveFailures({ file, header, format }, failures) {
  const lines = failures.map(({ record }) => record.text);
  const text = (header === null ? lines : [header, ...lines]).join("\n") + "\n";
  // Excel reads UTF-8 only after a byte order mark.
  const isCsv = format === "csv";
  saveFile([isCsv ? "\ufeff" : "", text], file.name.replace(/(\.\w+)?$/, `-errors.${isCsv ? "csv" : "ndjson"}`));
}
