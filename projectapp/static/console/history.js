// The history of a row.
import { html, useEffect, useState } from "./preact-htm.js";
import { request } from "./api.js";
import { fieldLabel, itemPath } from "./schema.js";
import { t } from "./texts.js";
import { Banner, Empty, ErrorText, Time } from "./ui.js";

export function History({ resource, id }) {
  const [items, setItems] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    request("GET", `${itemPath(resource, id)}/history`, { signal }).then(
      ({ body }) => setItems(body.items),
      (reason) => signal.aborted || setError(reason),
    );
    return () => controller.abort();
  }, [resource, id]);
  if (error) return html`<${Banner} kind="error"><${ErrorText} error=${error} /><//>`;
  if (!items) return html`<p role="status">${t("loading")}</p>`;
  if (!items.length) return html`<${Empty} title=${t("history.empty")} />`;
  return html`<ol class="history">
    ${items.map(
      (item) => html`<li key=${item.version}>
        <strong>${item.version}</strong> ${t(`history.${item.operation}`)} <${Time} value=${item.at} />
        <bdi>${item.caller}</bdi> ${item.changed.map(fieldLabel).join(", ")}
      </li>`,
    )}
  </ol>`;
}
