// The list of all keys, and how to do the same with the API.
import { html } from "./preact-htm.js";
import { listCommand } from "./schema.js";
import { config } from "./store.js";
import { t } from "./texts.js";
import { Dialog, Keys } from "./ui.js";

// A key of a text, and its keys: alternatives are separate strings, "g l" is a sequence.
const SECTIONS = {
  everywhere: {
    search: ["/"],
    palette: ["Ctrl+K"],
    views: ["g l", "g h", "g v", "g c"],
    undo: ["Ctrl+Z"],
    new: ["n"],
    help: ["?"],
  },
  in_list: {
    move: ["j", "k", "↓", "↑"],
    jump: ["PgDn", "PgUp", "Home", "End"],
    open: ["Enter"],
    select: ["x", "Space"],
    range: ["Shift+↓", "Shift+↑"],
  },
  in_panel: {
    edit: ["e"],
    save: ["Ctrl+Enter", "Ctrl+S"],
    history: ["h"],
    back: ["Esc"],
  },
};

export function Help({ resource, onClose }) {
  return html`<${Dialog} title=${t("help")} class="help" onClose=${onClose}>
    <p class="muted">${t("help_lead")}</p>
    ${Object.entries(SECTIONS).map(
      ([section, rows]) => html`<section key=${section}>
        <h3>${t(`help.${section}`)}</h3>
        <dl>
          ${Object.entries(rows).map(
            ([name, keys]) => html`<div key=${name}>
              <dt>${t(`help.${name}`)}</dt>
              <dd>
                ${keys.map((key) => html`<${Keys} key=${key} keys=${key} />`)}
              </dd>
            </div>`,
          )}
        </dl>
      </section>`,
    )}
    <h3>${t("help_api")}</h3>
    <pre class="code" tabindex="0" role="group" aria-label=${t("help_api")}><code>${listCommand(resource)}</code></pre>
    ${config.docs && html`<p><a href=${`${config.prefix}/docs`}>${t("docs")}</a></p>`}
  <//>`;
}
