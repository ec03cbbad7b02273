// The dialog for a change that somebody else made since the row was opened.
import { html } from "./preact-htm.js";
import { t } from "./texts.js";
import { Button, Dialog } from "./ui.js";

/** onMine saves on top of the other change, onTheirs drops one's own, onClose continues editing. */
export function Conflict({ onMine, onTheirs, onClose }) {
  return html`<${Dialog}
    title=${t("error.412")}
    onClose=${onClose}
    footer=${html`<${Button} onClick=${onTheirs}>${t("undo")}<//>
      <${Button} kind="primary" onClick=${onMine}>${t("save")}<//>`}
  />`;
}
