// The bars above a form: a change of somebody else, a delete, a restored draft, an error.
import { recreate, restoreDeleted } from "./delete_actions.js";
import { authorOf, discard, look } from "./form_actions.js";
import { html, useState } from "./preact-htm.js";
import { canWrite } from "./schema.js";
import { t } from "./texts.js";
import { Banner, Button, Empty, ErrorText, Time } from "./ui.js";

/** What the user must know about the row, with what to do. */
export function PanelNotices({ form, state, mayWrite }) {
  const { change, isDeleted, isSaving, draftTime, problem, status } = state;
  const when = change && html`<${Time} value=${change.at} />`;
  return html`<div class="panel-notices">
    ${!canWrite(form.resource) &&
    html`<${Banner}>${t("panel.read_only", { scope: form.resource.scope_write })}<//>`}
    ${draftTime &&
    html`<${Banner}>
      <p>${t("panel.draft")} <${Time} value=${draftTime} /></p>
      <${Button} onClick=${() => discard(form)}>${t("panel.discard")}<//>
    <//>`}
    ${change &&
    !isDeleted &&
    html`<${Banner} kind="warning">
      <p>${t("panel.changed_by")} <bdi>${authorOf(change)}</bdi> · ${when}</p>
      <${Button} onClick=${() => look(form)}>${t("panel.look")}<//>
    <//>`}
    ${isDeleted &&
    status === "ready" &&
    html`<${Banner} kind="warning">
      <div>
        <p>${t("panel.deleted_by")} <bdi>${authorOf(change)}</bdi>${when && html` · ${when}`}</p>
        <p>${t("panel.deleted_hint")}</p>
      </div>
      ${mayWrite &&
      html`<${Button} kind="primary" aria-disabled=${isSaving ? "true" : undefined} onClick=${() => recreate(form)}>
        ${t(isSaving ? "panel.saving" : "panel.recreate")}
      <//>`}
    <//>`}
    ${problem &&
    html`<${Banner} kind="error">
      <${ErrorText} error=${problem} />
      ${status === "failed" && html`<${Button} onClick=${form.load}>${t("retry")}<//>`}
    <//>`}
  </div>`;
}

/** The row does not exist, or does not exist any more. */
export function Missing({ form, state }) {
  const { resource, id } = form;
  const { change } = state;
  const [error, setError] = useState(null);
  const isDelete = change?.operation === "delete";
  const title = t(isDelete ? "panel.missing_deleted" : "panel.missing");
  return html`<${Empty} title=${title} text=${isDelete ? undefined : t("panel.missing_text")}>
    ${isDelete && html`<p><bdi>${authorOf(change)}</bdi> · <${Time} value=${change.at} /></p>`}
    ${isDelete &&
    resource.has.restore &&
    canWrite(resource) &&
    html`<${Button} kind="primary" icon="undo" onClick=${() => restoreDeleted(resource, id).catch(setError)}>
      ${t("restore")}
    <//>`}
    ${error && html`<${ErrorText} error=${error} />`}
  <//>`;
}
