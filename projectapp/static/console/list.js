// The list of a resource: its toolbar, its states, and the grid of its rows.
import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { chosenColumns, defaultColumns, seesAllOwners } from "./columns.js";
import { ExportImport } from "./export_import.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { useKeys } from "./keys.js";
import { Popover } from "./popover.js";
import { countRows, openList, reload, retry, rows } from "./rows.js";
import { canCreate, createCommand, fieldLabel, titleField } from "./schema.js";
import { SelectionBar } from "./selection_bar.js";
import { go, listQuery, url, useStore } from "./store.js";
import { t } from "./texts.js";
import { Banner, Button, copyText, Empty, ErrorText, focusList, Icon } from "./ui.js";

/** Parameters that change how a list looks, and not which rows it has. */
const SHAPE = ["sort", "fields"];

export function List({ resource, label }) {
  const state = useStore(url);
  const phase = useValueOf(rows, (list) => phaseOf(list, resource));
  const names = state.fields?.split(",") ?? defaultColumns(resource, seesAllOwners(resource));
  const columns = chosenColumns(resource, names);
  const query = { ...listQuery(state), fields: requestedFields(resource, columns).join(",") };
  const key = JSON.stringify(query);
  useEffect(() => {
    // After another view, the rows are those that the live changes have kept up to date.
    const list = rows.get();
    if (list.resource !== resource || JSON.stringify(list.query) !== key || list.status === "error") {
      openList(resource, query);
    }
  }, [resource, key]);

  const mayCreate = canCreate(resource);
  const create = () => void go({ id: "new", view: null });
  useKeys({ n: () => (mayCreate ? create() : false) });
  useFocusAfterPanel(state.id);
  const filters = Object.keys(listQuery(state)).filter((name) => !SHAPE.includes(name));
  const sortKey = (state.sort ?? (state.q ? "" : "-created_at")).split(",")[0];
  return html`<section class="list" aria-label=${label}>
    <div class="toolbar">
      <${Total} resource=${resource} />
      <${Filters} resource=${resource} />
      <div class="toolbar-actions">
        <${Columns} resource=${resource} names=${names} />
        <${ExportImport} resource=${resource} filters=${filters} />
        ${mayCreate &&
        html`<${Button} kind="primary" icon="plus" onClick=${create}>${t("new")}<//>`}
      </div>
    </div>
    ${phase === "failed" && html`<${Failure} filters=${filters} />`}
    ${phase === "empty" && html`<${Nothing} ...${{ resource, label, filters, mayCreate, create }} />`}
    ${phase === "rows" &&
    html`<${Grid}
      ...${{ resource, columns, sortKey }}
      openId=${state.id}
      onOpen=${(row) => go({ id: row.id, view: null })}
      onSort=${(sort) => go({ sort })}
    />`}
    ${phase !== "failed" && html`<${LoadState} />`}
    <${SelectionBar} resource=${resource} />
  </section>`;
}

/** Return a value of a store, and render again only if this value changes. */
function useValueOf(store, select) {
  const [value, setValue] = useState(() => select(store.get()));
  useEffect(() => {
    const update = () => setValue(select(store.get()));
    update();
    return store.subscribe(update);
  }, [store]);
  return value;
}

/** "failed" and "empty" replace the grid. */
function phaseOf(list, resource) {
  const isCurrent = list.resource === resource && !list.isStale;
  const hasRows = countRows(list) > 0;
  if (list.status === "error" && (list.isStale || !hasRows)) return "failed";
  return isCurrent && list.status === "ready" && !hasRows ? "empty" : "rows";
}

/** Also fields that are not shown: an action needs the version, and sets a flag. */
function requestedFields(resource, columns) {
  const flags = resource.fields.filter(({ type, read_only: isFixed }) => type === "boolean" && !isFixed);
  const fields = [...columns, titleField(resource), ...flags].filter(Boolean);
  return [...new Set([...fields.map(({ name }) => name), "version"])];
}

/** When the panel closes, the keys work in the list again. */
function useFocusAfterPanel(id) {
  const hadPanel = useRef(false);
  useEffect(() => {
    const hasClosed = hadPanel.current && !id;
    hadPanel.current = Boolean(id);
    if (!hasClosed) return;
    const { activeElement } = document;
    const isLost = !activeElement || activeElement === document.body || !activeElement.isConnected;
    if (isLost) focusList();
  }, [id]);
}

function Total({ resource }) {
  const { resource: current, isStale, total, isEstimate } = useStore(rows);
  const text =
    current === resource &&
    !isStale &&
    total !== null && t(isEstimate ? "list.total_estimate" : "list.total", { count: total });
  return html`<span role="status" class="count">${text}</span>`;
}

/** What is being loaded, or why it failed: one line under the rows that are there. */
function LoadState() {
  const list = useStore(rows);
  if (list.status === "error") {
    return html`<${Banner} kind="error">
      <${ErrorText} error=${list.error} />
      <${Button} onClick=${retry}>${t("retry")}<//>
    <//>`;
  }
  const isLoading = list.status === "loading" || list.status === "more";
  return html`<div class="load-state" role="status">
    ${isLoading &&
    html`<span class="late">${t(list.status === "more" ? "list.loading_more" : "loading")}</span>`}
  </div>`;
}

function Failure({ filters }) {
  const { error } = useStore(rows);
  if (!error) return null; // until the grid is there again
  return html`<${Empty} title=${t("list.failed")}>
    <div role="alert"><${ErrorText} error=${error} /></div>
    <div class="row-actions">
      <${Button} kind="primary" onClick=${reload}>${t("retry")}<//>
      ${error.status === 400 && html`<${ClearButton} filters=${filters} />`}
    </div>
  <//>`;
}

function ClearButton({ filters }) {
  const clear = () => go(Object.fromEntries([...filters, ...SHAPE].map((name) => [name, null])));
  return html`<${Button} onClick=${clear}>${t("list.clear")}<//>`;
}

function Nothing({ resource, label, filters, mayCreate, create }) {
  if (filters.length) {
    return html`<${Empty} title=${t("list.no_match")} text=${t("list.no_match_text")}>
      <${ClearButton} filters=${filters} />
    <//>`;
  }
  if (!mayCreate) {
    return html`<${Empty} title=${t("list.empty", { resource: label })} text=${t("list.empty_read_only")} />`;
  }
  const command = createCommand(resource);
  return html`<${Empty} title=${t("list.empty", { resource: label })} text=${t("list.empty_text")}>
    <${Button} kind="primary" icon="plus" onClick=${create}>${t("new")}<//>
    <p>${t("list.empty_curl")}</p>
    <pre class="code" tabindex="0" role="group" aria-label="curl">${command}</pre>
    <${Button} kind="quiet" icon="copy" onClick=${() => copyText(command)}>${t("copy")}<//>
  <//>`;
}

/** Which fields are columns: in the URL, so that a link shows the same. */
function Columns({ resource, names }) {
  const toggle = (name) => {
    const next = names.includes(name) ? names.filter((other) => other !== name) : [...names, name];
    if (next.length) go({ fields: next.join(",") }, { push: false });
  };
  return html`<${Popover} label=${t("columns")} class="button quiet icon-only" button=${html`<${Icon} name="settings" />`}>
    ${() => html`<fieldset class="menu-list">
      <legend>${t("columns")}</legend>
      ${resource.fields.map(
        ({ name }) => html`<label key=${name}>
          <input type="checkbox" checked=${names.includes(name)} onChange=${() => toggle(name)} />
          ${fieldLabel(name)}
        </label>`,
      )}
      <${Button} kind="quiet" onClick=${() => go({ fields: null }, { push: false })}>
        ${t("columns.default")}
      <//>
    </fieldset>`}
  <//>`;
}
