// One filter: its form, and its text in a chip. A range of a field is one filter with four names.
import { html, useState } from "./preact-htm.js";
import { flagText } from "./cells.js";
import { JsonError, parseExact, stringifyExact } from "./exact.js";
import { fieldLabel, fieldOf } from "./schema.js";
import { LAST_INPUT_TIME, formatTime, inputOfTime, t, timeOfInput, zoneName } from "./texts.js";

const RANGE = /^(.+)\[(gte|gt|lte|lt)\]$/;
const SIGNS = { gte: "≥", gt: ">", lte: "≤", lt: "<" };

/** Return the filters of a resource: {name, type, choices, isRange, names (in the URL)}. */
export function groupFilters(resource, seesAll) {
  const groups = new Map();
  for (const { name, type, choices } of resource.filters) {
    if (name === "owner" && !seesAll) continue;
    const [, field = name] = RANGE.exec(name) ?? [];
    // The parameter of a JSON object is a text: the field knows what it is.
    const fieldType = fieldOf(resource, field)?.type ?? type;
    const group = groups.get(field) ?? { name: field, type: fieldType, choices, names: [], isRange: false };
    group.isRange ||= field !== name;
    group.names.push(name);
    groups.set(field, group);
  }
  const order = resource.fields.map(({ name }) => name);
  return [...groups.values()].sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
}

/** Return the text of a filter with the values in the URL. */
export function filterText(group, state) {
  const label = fieldLabel(group.name);
  const parts = group.names
    .filter((name) => name in state)
    .map((name) => {
      const [, , operator] = RANGE.exec(name) ?? [];
      return `${operator ? SIGNS[operator] : "="} ${valueText(group, state[name])}`;
    });
  if (group.type === "boolean") return `${label}: ${parts[0].slice(2)}`;
  return `${label} ${parts.join(", ")}`;
}

function valueText(group, value) {
  if (group.type === "boolean") return flagText(group, value === "true");
  const isTime = group.type === "timestamp" && !Number.isNaN(Date.parse(value));
  return isTime ? formatTime(value) : value;
}

/** `onApply` gets the changes of the URL. */
export function FilterForm({ group, state, onApply }) {
  const [error, setError] = useState(null);
  const apply = (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(event.target));
    try {
      const changes = Object.fromEntries(group.names.map((name) => [name, null]));
      for (const [name, text] of Object.entries(values)) changes[name] = fromText(group, text);
      onApply(changes);
    } catch (reason) {
      setError(errorText(reason));
    }
  };
  const label = fieldLabel(group.name);
  return html`<form class="filter-form" onSubmit=${apply}>
    ${group.isRange ? rangeInputs(group, state) : valueInput(group, state, label)}
    ${error && html`<p class="field-error" role="alert">${error}</p>`}
    <button class="button primary">${t("filter.apply")}</button>
  </form>`;
}

/** Return why a text is no value of the filter, in the language of the page. */
function errorText(error) {
  if (error instanceof JsonError) return t(`input.json_${error.reason}`, error);
  // An incomplete time is a RangeError.
  return t(error instanceof RangeError ? "input.timestamp" : "input.json_not_object");
}

function fromText(group, text) {
  if (text === "") return null;
  if (group.type === "timestamp") return timeOfInput(text);
  if (group.type !== "object") return text;
  const value = parseExact(text);
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new TypeError("The JSON is not an object.");
  }
  return stringifyExact(value);
}

function rangeInputs(group, state) {
  const isTime = group.type === "timestamp";
  return [
    ["gte", "filter.from"],
    ["lt", "filter.before"],
  ].map(([operator, key]) => {
    const name = `${group.name}[${operator}]`;
    const value = state[name] ?? "";
    return html`<label class="field" key=${name}>
      <span>${t(key)}${isTime && html` <small class="zone">${zoneName({ at: value })}</small>`}</span>
      <input
        name=${name}
        type=${isTime ? "datetime-local" : "number"}
        step=${isTime ? "1" : "any"}
        max=${isTime ? LAST_INPUT_TIME : undefined}
        value=${isTime ? inputOfTime(value) : value}
      />
    </label>`;
  });
}

function valueInput(group, state, label) {
  const value = state[group.name] ?? "";
  const choices = group.type === "boolean" ? ["true", "false"] : group.choices;
  if (choices) {
    return html`<label class="field">
      <span>${label}</span>
      <select name=${group.name}>
        ${choices.map(
          (choice) => html`<option value=${choice} selected=${choice === value}>
            ${group.type === "boolean" ? flagText(group, choice === "true") : choice}
          </option>`,
        )}
      </select>
    </label>`;
  }
  if (group.type === "object") {
    return html`<label class="field">
      <span>${t("filter.contains", { field: label })}</span>
      <textarea name=${group.name} rows="3" spellcheck=${false} placeholder=${'{"team": "core"}'} value=${value} />
    </label>`;
  }
  const isNumber = ["integer", "number"].includes(group.type);
  return html`<label class="field">
    <span>${t("filter.equals", { field: label })}</span>
    <input name=${group.name} value=${value} inputmode=${isNumber ? "decimal" : undefined} />
  </label>`;
}
