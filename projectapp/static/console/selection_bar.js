// The actions on the selected rows: the buttons, the question before a delete, progress and result.
import { html, useState } from "./preact-htm.js";
import { bulkStore, inverseOf, runAction } from "./bulk.js";
import { flagText } from "./cells.js";
import { findRow } from "./rows.js";
import { Progress, RunButtons } from "./run.js";
import { canWrite, fieldLabel, titleOf } from "./schema.js";
import { clearSelection, selection } from "./selection.js";
import { useStore } from "./store.js";
import { hasText, t } from "./texts.js";
import { Banner, Button, Dialog, ErrorText, focusList, toast } from "./ui.js";
import { pushUndo } from "./undo.js";

const NAMES_SHOWN = 5;

export function SelectionBar({ resource }) {
  const selected = useStore(selection);
  const run = useStore(bulkStore);
  const [isAsking, setAsking] = useState(false);
  const chosen = [...selected.values()];
  const clear = () => {
    clearSelection();
    focusList();
  };
  const start = (action) => {
    setAsking(false);
    // A delete takes the rows that its question has named.
    startRun(resource, action, action.kind === "delete" ? chosen : [...selection.get().values()]);
  };
  return html`<div class="selection" hidden=${!selected.size}>
      <span role="status">${t("selection.count", { count: selected.size })}</span>
      ${canWrite(resource)
        ? html`<${Actions} ...${{ resource, chosen, start }} onDelete=${() => setAsking(true)} />`
        : html`<span class="muted">${t("selection.read_only")}</span>`}
      <${Button} kind="quiet" onClick=${clear}>${t("selection.clear")}<//>
    </div>
    ${isAsking &&
    html`<${DeleteQuestion}
      ...${{ resource, chosen }}
      onDelete=${() => start({ kind: "delete" })}
      onClose=${() => setAsking(false)}
    />`}
    ${run && html`<${RunDialog} key=${run} run=${run} />`}`;
}

/** A flag that all clients can write is an action: to archive, to activate. */
function Actions({ resource, chosen, start, onDelete }) {
  const flags = resource.fields.filter(({ type, read_only: isFixed }) => type === "boolean" && !isFixed);
  const actions = flags.flatMap((field) => [false, true].map((value) => ({ field, value })));
  return html`${resource.has.bulk &&
    actions
      .filter(({ field, value }) => chosen.some((row) => row[field.name] !== value))
      .map(
        ({ field, value }) => html`<${Button}
          key=${`${field.name} ${value}`}
          onClick=${() => start({ kind: "set", field: field.name, value })}
        >
          ${actionText(field, value)}
        <//>`,
      )}
    ${resource.has.delete &&
    html`<${Button} kind="danger" icon="trash" onClick=${onDelete}>${t("delete")}<//>`}`;
}

function actionText(field, value) {
  const key = `action.${field.name}.${value}`;
  if (hasText(key)) return t(key);
  return t("action.set", { field: fieldLabel(field.name), value: flagText(field, value) });
}

/** Start a run, and offer to undo what it has changed: these rows, with their new versions. */
async function startRun(resource, action, chosen) {
  const run = await runAction(resource, action, chosen);
  const { changed, failures, phase } = run.state;
  const text = t(`bulk.done.${action.kind}`, { count: changed.length });
  const canUndo = action.kind === "set" || resource.has.restore;
  const inverse = canUndo && inverseOf(run.state, findRow);
  if (canUndo && inverse.rows.length) {
    pushUndo({ label: text, run: () => runAction(resource, inverse.action, inverse.rows) });
  } else if (changed.length) toast({ kind: "success", text });
  if (failures.length || phase === "stopped") return;
  bulkStore.set(null);
  focusList();
}

function Names({ resource, list }) {
  return html`<ul class="names">
    ${list.slice(0, NAMES_SHOWN).map(
      (row) => html`<li key=${row.id}><bdi>${titleOf(resource, row)}</bdi></li>`,
    )}
    ${list.length > NAMES_SHOWN &&
    html`<li class="muted">${t("selection.others", { count: list.length - NAMES_SHOWN })}</li>`}
  </ul>`;
}

function DeleteQuestion({ resource, chosen, onDelete, onClose }) {
  const count = chosen.length;
  const footer = html`<${Button} onClick=${onClose}>${t("cancel")}<//>
    <${Button} kind="danger" onClick=${onDelete}>${t("bulk.delete", { count })}<//>`;
  return html`<${Dialog} title=${t("bulk.delete_question", { count })} onClose=${onClose} footer=${footer}>
    <${Names} resource=${resource} list=${chosen} />
    <p class="muted">${t(resource.has.restore ? "bulk.delete_undo" : "bulk.delete_final")}</p>
  <//>`;
}

function RunDialog({ run }) {
  const { resource, action, total, done, phase, error, failures, changed } = useStore(run.store);
  const isOver = phase === "finished" || phase === "stopped";
  if (phase === "finished" && !failures.length) return null;
  const close = () => isOver && bulkStore.set(null);
  const footer = isOver
    ? html`<${Button} kind="primary" onClick=${close}>${t("close")}<//>`
    : html`<${RunButtons} run=${run} phase=${phase} />`;
  return html`<${Dialog} title=${t(`bulk.title.${action.kind}`)} onClose=${isOver ? close : undefined} footer=${footer}>
    <${Progress} done=${done} total=${total} />
    <p role="status">
      ${isOver
        ? t("bulk.result", { count: changed.length, total, failed: failures.length })
        : t("bulk.progress", { done, total })}
    </p>
    ${phase === "stopped" && html`<p>${t("bulk.stopped", { count: total - done })}</p>`}
    ${phase === "paused" && html`<${Banner} kind="error"><${ErrorText} error=${error} /><//>`}
    ${failures.length > 0 &&
    html`<h3>${t("bulk.failures", { count: failures.length })}</h3>
      <ul class="failures">
        ${failures.map(
          ({ row, error: reason }) => html`<li key=${row.id}>
            <bdi>${titleOf(resource, row)}</bdi>
            <${ErrorText} error=${{ status: reason.status, code: reason.code }} />
          </li>`,
        )}
      </ul>
      ${isOver && html`<p class="muted">${t("bulk.still_selected")}</p>`}`}
  <//>`;
}
