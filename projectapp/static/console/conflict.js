// The dialog for fields that somebody else and the user changed to different values.
import { Value } from "./fields.js";
import { authorOf, settleConflict, takeTheirs } from "./form_actions.js";
import { html, useState } from "./preact-htm.js";
import { fieldLabel, fieldOf } from "./schema.js";
import { t } from "./texts.js";
import { Button, Dialog, Time } from "./ui.js";

function Choice({ name, value, isChosen, onChoose, title, children }) {
  return html`<label class=${isChosen ? "conflict-value chosen" : "conflict-value"}>
    <span class="conflict-title">
      <input type="radio" name=${`conflict-${name}`} value=${value} checked=${isChosen} onChange=${onChoose} />
      <span>${title}</span>
    </span>
    ${children}
  </label>`;
}

/** `conflict` is the one of form_state.js. Escape continues editing, and changes nothing. */
export function Conflict({ form, conflict }) {
  const { resource } = form;
  const { base } = form.state.get();
  const { theirs, change, both, mine, theirNames, values } = conflict;
  const [theirChoices, setTheirChoices] = useState([]);
  const keepEditing = () => form.update({ conflict: null });
  const author = authorOf(change);
  const choose = (name, isTheirs) =>
    setTheirChoices(theirChoices.filter((item) => item !== name).concat(isTheirs ? [name] : []));
  const labels = (names) => names.map(fieldLabel).join(", ");
  return html`<${Dialog}
    title=${t("conflict.title")}
    class="conflict"
    onClose=${keepEditing}
    footer=${html`<${Button} class="take-theirs" onClick=${() => takeTheirs(form)}>${t("conflict.take_theirs")}<//>
      <span class="spacer"></span>
      <${Button} class="keep-editing" onClick=${keepEditing}>${t("panel.keep_editing")}<//>
      <${Button} kind="primary" class="save-mine" onClick=${() => settleConflict(form, theirChoices)}>
        ${t(theirChoices.length ? "conflict.save_choice" : "conflict.save_mine")}
      <//>`}
  >
    <p>
      ${t("panel.changed_by")} <bdi>${author}</bdi>${change && html` · <${Time} value=${change.at} />`}
    </p>
    <p>${t("conflict.lead")}</p>
    ${both.map((name) => {
      const field = fieldOf(resource, name);
      const isTheirs = theirChoices.includes(name);
      return html`<fieldset class="conflict-field" key=${name} data-field=${name}>
        <legend>${fieldLabel(name)}</legend>
        <div class="conflict-value">
          <span class="conflict-title">${t("conflict.base")}</span>
          <${Value} field=${field} value=${base.row[name]} />
        </div>
        <${Choice}
          ...${{ name, value: "theirs", isChosen: isTheirs, onChoose: () => choose(name, true) }}
          title=${html`${t("conflict.theirs")} · <bdi>${author}</bdi>`}
        >
          <${Value} field=${field} value=${theirs.row[name]} />
        <//>
        <${Choice}
          ...${{ name, value: "mine", isChosen: !isTheirs, onChoose: () => choose(name, false) }}
          title=${t("conflict.mine")}
        >
          <${Value} field=${field} value=${values[name]} />
        <//>
      </fieldset>`;
    })}
    ${theirNames.length > 0 && html`<p>${t("conflict.only_theirs", { fields: labels(theirNames) })}</p>`}
    ${mine.length > 0 && html`<p>${t("conflict.only_mine", { fields: labels(mine) })}</p>`}
  <//>`;
}
