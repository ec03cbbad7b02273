// The panel of one row: create, edit, delete, and its history.
import { rememberRow } from "./commands.js";
import { Conflict } from "./conflict.js";
import { recreate, remove } from "./delete_actions.js";
import { FieldInput, Value } from "./fields.js";
import { discard, save } from "./form_actions.js";
import { createForm } from "./form_state.js";
import { History } from "./history.js";
import { useKeys } from "./keys.js";
import { Missing, PanelNotices } from "./panel_notices.js";
import { ParentChoice } from "./parent_choice.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./preact-htm.js";
import { canCreate, canWrite, currentResource, fieldLabel, resourceLabel, titleOf, writableFields } from "./schema.js";
import { go, guardUrl, url, useStore } from "./store.js";
import { t } from "./texts.js";
import { Button, copyText, Dialog, focusList, toast } from "./ui.js";

/**
 * Focus the panel while it opens, and what had the focus before when it closes. The panel also gets
 * the focus of a control that disappears, so that its keys go on working.
 */
function usePanelFocus(element) {
  const lastFocused = useRef(null);
  useEffect(() => {
    const isLost = document.activeElement === document.body && lastFocused.current?.isConnected === false;
    if (isLost) element.current.focus({ preventScroll: true });
  });
  useLayoutEffect(() => {
    const opener = document.activeElement;
    element.current.addEventListener("focusin", ({ target }) => (lastFocused.current = target));
    element.current.focus({ preventScroll: true });
    return () => {
      const { activeElement } = document;
      if (activeElement !== document.body && !element.current.contains(activeElement)) return;
      const isUsable = opener?.isConnected && opener !== document.body;
      if (isUsable) opener.focus({ preventScroll: true });
      else focusList();
    };
  }, []);
}

/** Ask before unsaved text leaves the page. Returns [the URL to go to, set it]. */
function useLeavingGuard(form) {
  const [leaving, setLeaving] = useState(null);
  useLayoutEffect(() => {
    const warn = (event) => form.isDirty() && event.preventDefault();
    addEventListener("beforeunload", warn);
    const removeGuard = guardUrl((next) => {
      const stays = next.id === form.id && currentResource(next) === form.resource;
      if (stays || !form.isDirty()) return true;
      setLeaving(next);
      return false;
    });
    return () => {
      removeEventListener("beforeunload", warn);
      removeGuard();
    };
  }, [form]);
  return [leaving, setLeaving];
}

const focusFirst = (element, selector) =>
  element.current.querySelector(selector)?.focus() === undefined;

export function Panel({ resource, id }) {
  const { view } = useStore(url);
  const element = useRef();
  const form = useMemo(() => createForm(resource, id), [resource, id]);
  const state = useStore(form.state);
  const isDirty = form.isDirty();
  const [leaving, setLeaving] = useLeavingGuard(form);
  const mayWrite = form.isNew ? canCreate(resource) : canWrite(resource) && resource.has.update;
  const isHistory = view === "history" && !form.isNew && resource.has.history;
  usePanelFocus(element);
  useEffect(() => {
    form.load();
    return form.dispose;
  }, [form]);
  useEffect(() => {
    if (form.isNew && state.status === "ready") focusFirst(element, "form input, form textarea");
  }, [state.status]);
  useEffect(() => {
    if (Object.keys(state.errors).length) focusFirst(element, "[aria-invalid=true]");
  }, [state.errors]);

  const close = () => go({ id: null, view: isHistory ? null : view });
  const showView = (name) => void go({ view: name }, { push: true });
  const submit = async () => {
    if (!mayWrite || state.status !== "ready") return;
    if (state.isDeleted) await recreate(form);
    else if (!isDirty && !form.isNew) toast({ text: t("panel.unchanged") });
    else await save(form);
  };
  useKeys({ "Ctrl+s": () => void submit(), "Ctrl+Enter": () => void submit() });
  useKeys(
    {
      Escape: () => void close(),
      h: () => (form.isNew ? false : showView(isHistory ? null : "history")),
      e: () => {
        showView(null);
        setTimeout(() => focusFirst(element, "form input, form textarea"));
      },
    },
    { scope: "panel" },
  );

  const title = form.isNew
    ? t("new_row", { resource: resourceLabel(resource) })
    : state.base
      ? titleOf(resource, state.base.row)
      : `${resourceLabel(resource)} ${id.slice(0, 8)}`;
  useLayoutEffect(() => {
    if (state.base) rememberRow({ resource: resource.name, id, title });
  }, [id, state.base, title]);
  return html`<section
    class="panel"
    data-keys="panel"
    tabindex="-1"
    ref=${element}
    aria-label=${title}
  >
    <header class="panel-head">
      <h2><bdi class="data" title=${title}>${title}</bdi></h2>
      ${isDirty && html`<span class="unsaved">${t("panel.unsaved")}</span>`}
      <${Button} kind="quiet" icon="close" label=${t("close")} onClick=${close} />
    </header>
    ${!form.isNew &&
    resource.has.history &&
    html`<nav class="panel-views" aria-label=${t("panel.views")}>
      <button type="button" aria-current=${isHistory ? undefined : "page"} onClick=${() => showView(null)}>
        ${t("panel.row")}
      </button>
      <button type="button" aria-current=${isHistory ? "page" : undefined} onClick=${() => showView("history")}>
        ${t("view.history")}
      </button>
    </nav>`}
    <${PanelNotices} form=${form} state=${state} mayWrite=${mayWrite} />
    ${state.status === "loading" && html`<p class="panel-loading" role="status">${t("loading")}</p>`}
    ${state.status === "missing" && !isHistory && html`<${Missing} form=${form} state=${state} />`}
    ${isHistory && state.status !== "loading" && html`<${History} form=${form} state=${state} />`}
    ${state.status === "ready" &&
    html`<${RowForm} ...${{ form, state, isDirty, mayWrite, submit }} hidden=${isHistory} />`}
    ${state.conflict && html`<${Conflict} form=${form} conflict=${state.conflict} />`}
    ${leaving &&
    html`<${LeavingDialog}
      onStay=${() => setLeaving(null)}
      onDiscard=${() => {
        discard(form);
        go(leaving, { reset: true, force: true });
      }}
      onSave=${async () => {
        setLeaving(null);
        if (await (state.isDeleted ? recreate(form) : save(form))) go(leaving, { reset: true, force: true });
      }}
    />`}
  </section>`;
}

function RowForm({ form, state, isDirty, mayWrite, submit, hidden }) {
  const { resource } = form;
  const { inputs, errors, base, isSaving, isDeleted } = state;
  const changed = form.changedInputs();
  return html`<form
    class="row-form"
    hidden=${hidden}
    noValidate
    autocomplete="off"
    onSubmit=${(event) => {
      event.preventDefault();
      submit();
    }}
  >
    <div class="row-fields">
      ${form.isNew && resource.parent && html`<${ParentChoice} form=${form} state=${state} />`}
      ${writableFields(resource).map(
        (field) => html`<${FieldInput}
          key=${field.name}
          field=${field}
          input=${inputs[field.name]}
          original=${base?.row[field.name]}
          error=${errors[field.name]}
          isChanged=${!form.isNew && field.name in changed}
          disabled=${!mayWrite}
          onInput=${(input) => form.setInput(field.name, input)}
        />`,
      )}
      ${base && html`<${RowFacts} resource=${resource} row=${base.row} />`}
    </div>
    ${mayWrite &&
    html`<footer class="panel-actions">
      <button class="button primary" disabled=${isDeleted} aria-disabled=${isSaving || (!isDirty && !form.isNew)} title="Ctrl+S">
        ${t(isSaving ? "panel.saving" : form.isNew ? "panel.create" : "save")}
      </button>
      ${isDirty && html`<${Button} onClick=${() => discard(form)}>${t("panel.discard")}<//>`}
      <span class="spacer"></span>
      ${!form.isNew &&
      !isDeleted &&
      resource.has.delete &&
      html`<${Button} kind="danger" icon="trash" onClick=${() => remove(form)}>${t("delete")}<//>`}
    </footer>`}
  </form>`;
}

/** The fields that the service writes. */
function RowFacts({ resource, row }) {
  const value = (field) => {
    if (field.name === "id") {
      return html`<code class="data">${row.id}</code> ${navigator.clipboard &&
        html`<${Button} kind="quiet" icon="copy" label=${t("panel.copy_id")} onClick=${() => copyText(row.id)} />`}`;
    }
    if (field.name === resource.parent_field) {
      const open = () => go({ resource: resource.parent, id: row[field.name] }, { reset: true });
      return html`<button type="button" class="link-button" onClick=${open}>
        <code class="data">${row[field.name]}</code>
      </button>`;
    }
    return html`<${Value} field=${field} value=${row[field.name]} />`;
  };
  return html`<dl class="row-facts">
    ${resource.fields
      .filter((field) => field.read_only)
      .map(
        (field) => html`<div key=${field.name}>
          <dt>${fieldLabel(field.name)}</dt>
          <dd>${value(field)}</dd>
        </div>`,
      )}
  </dl>`;
}

function LeavingDialog({ onStay, onDiscard, onSave }) {
  return html`<${Dialog}
    title=${t("panel.leave_title")}
    onClose=${onStay}
    footer=${html`<${Button} kind="danger" onClick=${onDiscard}>${t("panel.leave_discard")}<//>
      <span class="spacer"></span>
      <${Button} onClick=${onStay}>${t("panel.keep_editing")}<//>
      <${Button} kind="primary" onClick=${onSave}>${t("save")}<//>`}
  >
    <p>${t("panel.leave_text")}</p>
  <//>`;
}
