// Charts of the service, with their numbers as tables.
import { html, useEffect, useState } from "./preact-htm.js";
import { request } from "./api.js";
import { resourceLabel, resources } from "./schema.js";
import { addTexts, formatNumber, t } from "./texts.js";
import texts from "./texts_live.js";

addTexts(texts);

export function Charts() {
  const [totals, setTotals] = useState({});
  useEffect(() => {
    for (const { name, path } of resources) {
      request("GET", path, { query: { page_size: 1 } }).then(({ body }) =>
        setTotals((current) => ({ ...current, [name]: body.total })),
      );
    }
  }, []);
  return html`<section class="charts">
    <table>
      <caption>${t("charts.total")}</caption>
      <tbody>
        ${resources.map(
          (resource) => html`<tr key=${resource.name}>
            <th scope="row">${resourceLabel(resource)}</th>
            <td>${totals[resource.name] === undefined ? "" : formatNumber(totals[resource.name])}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </section>`;
}
