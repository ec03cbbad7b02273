// The list of a resource.
import { html, useEffect } from "./preact-htm.js";
import { ExportImport } from "./export_import.js";
import { useKeys } from "./keys.js";
import { loadMoreRows, loadRows, rows } from "./rows.js";
import { canWrite, fieldLabel, titleOf } from "./schema.js";
import { SelectionBar } from "./selection.js";
import { listQuery, useStore, useUrl } from "./store.js";
import { addTexts, t } from "./texts.js";
import texts from "./texts_list.js";
import { Banner, Button, Empty, ErrorText, Time } from "./ui.js";

addTexts(texts);

export function List({ resource, label }) {
  const [state, go] = useUrl();
  const { items, total, isEstimate, hasMore, state: loading, error } = useStore(rows);
  const query = listQuery(state);
  const key = JSON.stringify(query);
  useEffect(() => {
    loadRows(resource, query);
  }, [resource, key]);
  const create = () => go({ id: "new", view: null });
  useKeys({ n: canWrite(resource) ? create : () => false });
  const isFiltered = Object.keys(query).some((name) => name !== "sort");
  return html`<section class="list" aria-label=${label} data-keys="list">
    <div class="toolbar">
      <span role="status" class="count">
        ${total !== null && t(isEstimate ? "list.total_estimate" : "list.total", { count: total })}
      </span>
      <${SelectionBar} resource=${resource} />
      <${ExportImport} resource=${resource} />
      ${canWrite(resource) &&
      !resource.parent &&
      html`<${Button} kind="primary" icon="plus" onClick=${create}>${t("new")}<//>`}
    </div>
    ${error && html`<${Banner} kind="error"><${ErrorText} error=${error} /><//>`}
    ${loading === "ready" &&
    !items.length &&
    (isFiltered
      ? html`<${Empty} title=${t("list.no_match")} text=${t("list.no_match_text")}>
          <${Button} onClick=${() => go({ resource: resource.name }, { reset: true })}>${t("list.clear")}<//>
        <//>`
      : html`<${Empty} title=${t("list.empty", { resource: label })} text=${t("list.empty_text")} />`)}
    ${items.length > 0 &&
    html`<table class="rows">
      <thead>
        <tr>
          <th scope="col">${fieldLabel("name")}</th>
          <th scope="col">${fieldLabel("updated_at")}</th>
        </tr>
      </thead>
      <tbody>
        ${items.map(
          (row) => html`<tr key=${row.id} aria-current=${row.id === state.id ? "true" : undefined}>
            <td>
              <button type="button" class="row-title" onClick=${() => go({ id: row.id })}>
                <bdi class="data">${titleOf(resource, row)}</bdi>
              </button>
            </td>
            <td><${Time} value=${row.updated_at} /></td>
          </tr>`,
        )}
      </tbody>
    </table>`}
    ${hasMore && html`<${Button} onClick=${loadMoreRows}>${t("list.more")}<//>`}
  </section>`;
}
