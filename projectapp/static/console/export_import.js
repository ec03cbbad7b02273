// The menu for files: export of the current view, and import of a file.
import { html, useState } from "./preact-htm.js";
import { ExportDialog } from "./export_dialog.js";
import { ImportDialog } from "./import_dialog.js";
import { Popover } from "./popover.js";
import { canWrite } from "./schema.js";
import { t } from "./texts.js";
import { Icon } from "./ui.js";

export function ExportImport({ resource, filters }) {
  const [dialog, setDialog] = useState(null); // "csv", "ndjson", "import" or null
  const mayImport = canWrite(resource) && resource.create_path;
  if (!resource.has.export && !mayImport) return null;
  const close = () => setDialog(null);
  return html`<${Popover}
      label=${t("files")}
      class="button quiet"
      button=${html`<${Icon} name="download" /><span class="wide">${t("files")}</span>`}
    >
      ${(closeMenu) => {
        const item = (name, icon) => html`<li>
          <button
            type="button"
            onClick=${() => {
              closeMenu();
              setDialog(name);
            }}
          >
            <${Icon} name=${icon} />${t(`files.${name}`)}
          </button>
        </li>`;
        return html`<ul class="menu-list">
          ${resource.has.export && [item("csv", "download"), item("ndjson", "download")]}
          ${mayImport && item("import", "upload")}
        </ul>`;
      }}
    <//>
    ${["csv", "ndjson"].includes(dialog) &&
    html`<${ExportDialog} ...${{ resource, filters }} format=${dialog} onClose=${close} />`}
    ${dialog === "import" && html`<${ImportDialog} resource=${resource} onClose=${close} />`}`;
}
