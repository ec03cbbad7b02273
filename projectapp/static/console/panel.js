// The panel of one row: create and edit.
import { html, useEffect, useState } from "./preact-htm.js";
import { request } from "./api.js";
import { Conflict } from "./conflict.js";
import { parseExact, stringifyExact } from "./exact.js";
import { History } from "./history.js";
import { useKeys } from "./keys.js";
import { insertRow, removeRow, replaceRow } from "./rows.js";
import { canWrite, fieldLabel, itemPath, writableFields } from "./schema.js";
import { useUrl } from "./store.js";
import { addTexts, t } from "./texts.js";
import texts from "./texts_panel.js";
import { Banner, Button, ErrorText, toast } from "./ui.js";
import { pushUndo, undo } from "./undo.js";

addTexts(texts);

const toText = (field, value) =>
  ["object", "array"].includes(field.type) ? stringifyExact(value, 2) : String(value ?? "");

function fromText(field, text) {
  if (field.type === "boolean") return text === "true";
  if (["object", "array", "integer", "number"].includes(field.type)) return parseExact(text);
  return text;
}

export function Panel({ resource, id }) {
  const [state, go] = useUrl();
  const [row, setRow] = useState(null);
  const [etag, setEtag] = useState(null);
  const [typed, setTyped] = useState({});
  const [error, setError] = useState(null);
  const [isConflict, setConflict] = useState(false);
  const [key] = useState(() => crypto.randomUUID());
  const isNew = id === "new";
  const close = () => go({ id: null, view: null });
  useEffect(() => {
    if (isNew) return setRow({});
    const controller = new AbortController();
    request("GET", itemPath(resource, id), { signal: controller.signal }).then(
      (answer) => {
        setRow(answer.body);
        setEtag(answer.etag);
      },
      (reason) => controller.signal.aborted || setError(reason),
    );
    return () => controller.abort();
  }, [resource, id]);
  async function save() {
    setError(null);
    try {
      const fields = writableFields(resource).filter((field) => field.name in typed);
      const body = Object.fromEntries(fields.map((field) => [field.name, fromText(field, typed[field.name])]));
      const answer = isNew
        ? await request("POST", resource.path, { body, idempotencyKey: key })
        : await request("PATCH", itemPath(resource, id), { body, ifMatch: etag });
      (isNew ? insertRow : replaceRow)(answer.body);
      toast({ kind: "success", text: t("panel.saved") });
      setTyped({});
      setRow(answer.body);
      setEtag(answer.etag);
      if (isNew) go({ id: answer.body.id }, { push: false });
    } catch (reason) {
      if (reason.status === 412) setConflict(true);
      else setError(reason);
    }
  }
  async function remove() {
    try {
      await request("DELETE", itemPath(resource, id), { ifMatch: etag });
      removeRow(id);
      const run = () => request("POST", `${itemPath(resource, id)}/restore`, { body: {} });
      pushUndo({ label: t("undo"), run });
      toast({ text: t("panel.deleted"), action: { label: t("undo"), run: undo } });
      close();
    } catch (reason) {
      setError(reason);
    }
  }
  useKeys({ Escape: close, "Ctrl+s": save, "Ctrl+Enter": save });
  useKeys({ "Ctrl+z": () => undo() });
  return html`<aside class="panel" data-keys="panel">
    <header class="panel-head">
      <h2>${isNew ? t("new") : row && html`<bdi class="data">${row.name ?? id}</bdi>`}</h2>
      <${Button} kind="quiet" icon="close" label=${t("close")} onClick=${close} />
    </header>
    ${error && html`<${Banner} kind="error"><${ErrorText} error=${error} /><//>`}
    ${isConflict &&
    html`<${Conflict} onMine=${save} onTheirs=${close} onClose=${() => setConflict(false)} />`}
    ${state.view === "history" && !isNew && html`<${History} resource=${resource} id=${id} />`}
    ${row &&
    state.view !== "history" &&
    html`<form
      onSubmit=${(event) => {
        event.preventDefault();
        save();
      }}
    >
      ${writableFields(resource).map(
        (field) => html`<label class="field" key=${field.name}>
          <span>${fieldLabel(field.name)}</span>
          <textarea
            disabled=${!canWrite(resource)}
            value=${typed[field.name] ?? toText(field, row[field.name] ?? field.default)}
            onInput=${(event) => setTyped({ ...typed, [field.name]: event.target.value })}
          />
        </label>`,
      )}
      <div class="panel-actions">
        <button class="button primary" disabled=${!canWrite(resource)}>${t("save")}</button>
        ${!isNew &&
        html`<${Button} onClick=${() => go({ view: "history" })}>${t("view.history")}<//>
          <${Button} kind="danger" onClick=${remove}>${t("delete")}<//>`}
      </div>
    </form>`}
  </aside>`;
}
