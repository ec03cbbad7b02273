// The rows of the grid: its header, and a row of the list.
import { html } from "./preact-htm.js";
import { cellValue, isRightAligned } from "./cells.js";
import { fieldLabel, titleOf } from "./schema.js";
import { clearSelection, selectRows } from "./selection.js";
import { t, zoneName } from "./texts.js";

function SelectAll({ list, selected }) {
  const loaded = list.head.length + list.tail.length;
  const isAll = loaded > 0 && selected.size >= loaded;
  const toggle = () => (isAll ? clearSelection() : selectRows([...list.head, ...list.tail]));
  const label = t("list.select_all", { count: loaded });
  return html`<div role="columnheader" class="cell select">
    <label title=${label}>
      <input
        type="checkbox"
        checked=${isAll}
        indeterminate=${selected.size > 0 && !isAll}
        onChange=${toggle}
      />
      <span class="hidden">${label}</span>
    </label>
  </div>`;
}

function HeaderCell({ resource, field, sortKey, onSort }) {
  const { name } = field;
  const isSorted = sortKey.replace(/^-/, "") === name;
  const isDescending = sortKey.startsWith("-");
  const zone = field.type === "timestamp" ? html` <small>${zoneName()}</small>` : null;
  const order = isSorted ? (isDescending ? "descending" : "ascending") : "none";
  const right = isRightAligned(field) ? "right" : "";
  if (!resource.sorts.includes(name)) {
    return html`<div role="columnheader" class=${`cell ${right}`}>${fieldLabel(name)}${zone}</div>`;
  }
  // A time or a flag is read from the newest or the true one first, a text from the letter A.
  const descendsFirst = field.type === "timestamp" || field.type === "boolean";
  const next = (isSorted ? !isDescending : descendsFirst) ? `-${name}` : name;
  return html`<div role="columnheader" class=${`cell ${right}`} aria-sort=${order}>
    <button type="button" class="sort" title=${t("list.sort", { field: fieldLabel(name) })} onClick=${() => onSort(next)}>
      ${fieldLabel(name)}${zone}<span class="arrow" aria-hidden="true">${isSorted ? (isDescending ? "↓" : "↑") : ""}</span>
    </button>
  </div>`;
}

export function Head({ list, selected, resource, fields, sortKey, onSort }) {
  return html`<div role="rowgroup" class="grid-head">
    <div role="row" class="grid-row" aria-rowindex="1">
      <${SelectAll} list=${list} selected=${selected} />
      ${fields.map(
        (field) => html`<${HeaderCell} key=${field.name} ...${{ resource, field, sortKey, onSort }} />`,
      )}
    </div>
  </div>`;
}

/** The rows between the first and the last ones, which are not loaded. */
export function GapRow({ list, columns }) {
  const count = Math.max(0, (list.total ?? 0) - list.head.length - list.tail.length);
  return html`<div role="row" class="grid-row gap">
    <div role="gridcell" aria-colspan=${columns} class="cell">${t("list.gap", { count })}</div>
  </div>`;
}

/**
 * Return a function that renders a row. It returns the same element again while nothing that the row
 * shows has changed: Preact then skips the row. A component that skips itself would not do, because
 * Preact takes it out of the document and puts it back whenever rows before it have moved.
 */
export function createRowRenderer() {
  const rendered = new Map(); // {props, element} by key
  return (key, props) => {
    const last = rendered.get(key);
    if (last && Object.keys(props).every((name) => props[name] === last.props[name])) return last.element;
    const element = renderRow(key, props);
    rendered.set(key, { props, element });
    return element;
  };
}

function renderRow(key, { resource, fields, row, index, place, mark, isActive, isSelected, isOpen }) {
  const state = `${isActive ? "active" : ""} ${isSelected ? "selected" : ""} ${isOpen ? "open" : ""}`;
  return html`<div
    key=${key}
    role="row"
    id=${`row-${row.id}`}
    class=${`grid-row ${state} ${mark ? `mark-${mark}` : ""}`}
    data-index=${index}
    aria-rowindex=${place + 2}
    aria-selected=${isSelected ? "true" : "false"}
    aria-current=${isOpen ? "true" : undefined}
  >
    <div role="gridcell" class="cell select">
      <input
        type="checkbox"
        tabindex="-1"
        checked=${isSelected}
        aria-label=${titleOf(resource, row)}
      />
    </div>
    ${fields.map(
      (field, number) => html`<div
        role="gridcell"
        class=${`cell ${isRightAligned(field) ? "right" : ""} type-${field.type}`}
        key=${field.name}
      >
        ${number === 0 && mark && html`<span class="mark">${t(`list.mark.${mark}`)}</span>`}
        ${cellValue(resource, field, row)}
      </div>`,
    )}
  </div>`;
}
