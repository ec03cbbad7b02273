// The newest changes of a resource.
import { html } from "./preact-htm.js";
import { addTexts, t } from "./texts.js";
import texts from "./texts_live.js";
import { Empty } from "./ui.js";

addTexts(texts);

export function Live() {
  return html`<section class="live">
    <${Empty} title=${t("live.empty")} text=${t("live.empty_text")} />
  </section>`;
}
