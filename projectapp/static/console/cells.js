// How a list shows the value of a field of any type. A cell may be too narrow for its value: the title
// has the whole value.
import { html } from "./preact-htm.js";
import { stringifyExact } from "./exact.js";
import { resources } from "./schema.js";
import { go } from "./store.js";
import { formatNumber, formatTime, hasText, t } from "./texts.js";
import { visibleLines, visibleText } from "./visible_text.js";

const TIME = { dateStyle: "medium", timeStyle: "short" };
const none = () => html`<span class="muted">${t("none")}</span>`;
const isNumber = (field) => field.type === "integer" || field.type === "number";
export const isRightAligned = (field) => isNumber(field);

/** Return the words for a boolean: those of its field if there are any, else yes and no. */
export function flagText(field, value) {
  const key = `flag.${field.name}.${value}`;
  return hasText(key) ? t(key) : t(value ? "yes" : "no");
}

/** Return the value of a field in one line. */
function valueOf(field, value) {
  if (value === null || value === undefined) return none();
  switch (field.type) {
    case "boolean":
      return html`<span class=${`flag ${value ? "on" : "off"}`}>${flagText(field, value)}</span>`;
    case "timestamp":
      return html`<time datetime=${value} title=${`${value} (UTC)`}>${formatTime(value, TIME)}</time>`;
    case "integer":
    case "number":
      return numberText(value);
    case "uuid":
      return html`<code title=${value}>${value.slice(0, 8)}</code>`;
    case "object":
    case "array": {
      const text = stringifyExact(value);
      return html`<code title=${text}>${text}</code>`;
    }
    case "enum":
      return html`<span class="flag">${String(value)}</span>`;
    default:
      if (value === "") return html`<span class="muted">""</span>`;
      return html`<bdi class="text" title=${visibleLines(value)}>${visibleText(value)}</bdi>`;
  }
}

/** A number that JavaScript would round is an object of parseExact: it keeps its digits. */
const numberText = (value) =>
  Number.isSafeInteger(value) ? formatNumber(value) : stringifyExact(value);

/** Return the content of a cell of a row. The id of a parent opens the parent. */
export function cellValue(resource, field, row) {
  const value = row[field.name];
  const parent = field.name === resource.parent_field && value && resources.find(isParentOf(resource));
  if (!parent) return valueOf(field, value);
  const open = (event) => {
    event.stopPropagation();
    go({ resource: parent.name, id: value }, { reset: true });
  };
  return html`<button type="button" class="link" tabindex="-1" title=${value} onClick=${open}>
    <code>${value.slice(0, 8)}</code>
  </button>`;
}

const isParentOf = (resource) => (other) => other.name === resource.parent;
