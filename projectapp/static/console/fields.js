// The controls of a form: one for every type of field that a resource can declare.
import { flagText } from "./cells.js";
import { stringifyExact } from "./exact.js";
import { InputError, isJson, isText, sizesOf, timeInput } from "./form_values.js";
import { html, useEffect, useRef } from "./preact-htm.js";
import { fieldLabel } from "./schema.js";
import { settings, useStore } from "./store.js";
import { LAST_INPUT_TIME, hasText, inputOfTime, t, timeOfInput, zoneName } from "./texts.js";
import { Chip, Time } from "./ui.js";
import { invisibleCodes, visibleLines } from "./visible_text.js";

const MAX_LINE_CODE_POINTS = 255; // A longer text gets several lines.

const needsLines = (field, text) =>
  isJson(field) ||
  (isText(field) && (!(field.max_length <= MAX_LINE_CODE_POINTS) || /\n/.test(text ?? "")));

/** Return what a reader cannot see in a text: [] for an ordinary one. */
function invisibleParts(text) {
  if (text !== "" && text.trim() === "") return [t("field.only_spaces")];
  const codes = invisibleCodes(text);
  return codes.length ? [t("field.invisible", { codes: codes.slice(0, 4).join(", ") })] : [];
}

/** What a field means: a text of the console, or the description in the API. */
function Hint({ field: { name, description } }) {
  const key = `hint.${name}`;
  return hasText(key) ? html`<span>${t(key)}</span>` : html`<span lang="en">${description}</span>`;
}

function Size({ size: { key, size, limit } }) {
  const isOver = size > limit;
  return html`<span class=${isOver ? "size over" : "size"}>
    ${t(key, { size, limit })}${isOver && ` ${t("size.over")}`}
  </span>`;
}

function Choices({ field, input, choices, onInput, ...rest }) {
  const options = choices.map((value) => [String(value), value]);
  if (field.nullable) options.push(["", null]);
  const label = (value) => {
    if (value === null) return t("none");
    return typeof value === "boolean" ? flagText(field, value) : value;
  };
  return html`<select
    ...${rest}
    class="input"
    value=${input === null ? "" : String(input)}
    onChange=${(event) => onInput(options[event.target.selectedIndex][1])}
  >
    ${options.map(([key, value]) => html`<option key=${key} value=${key}>${label(value)}</option>`)}
  </select>`;
}

function Control({ field, input, onInput, ...rest }) {
  const isMultiline = useRef(needsLines(field, input));
  if (needsLines(field, input)) isMultiline.current = true; // It never shrinks under the cursor.
  if (field.type === "boolean" && !field.nullable) {
    return html`<label class="check">
      <input
        ...${rest}
        type="checkbox"
        checked=${input}
        onChange=${(event) => onInput(event.target.checked)}
      />
      <span>${flagText(field, input)}</span>
    </label>`;
  }
  if (field.type === "boolean" || field.type === "enum") {
    const choices = field.type === "enum" ? field.choices : [true, false];
    return html`<${Choices} ...${rest} field=${field} input=${input} choices=${choices} onInput=${onInput} />`;
  }
  const readText = (event) => {
    const text = event.target.value;
    // Only a text can be empty. An empty number or time is no value.
    onInput(text === "" && field.nullable && !isText(field) && !isJson(field) ? null : text);
  };
  const shared = {
    ...rest,
    value: input ?? "",
    placeholder: input === null ? t("none") : undefined,
    spellcheck: isText(field),
    autocomplete: "off",
    dir: isText(field) ? "auto" : "ltr",
    onInput: readText,
  };
  if (isMultiline.current) {
    const rows = Math.min(Math.max((input ?? "").split("\n").length + 1, isJson(field) ? 6 : 3), 16);
    return html`<textarea ...${shared} rows=${rows} class=${isJson(field) ? "input code" : "input"}></textarea>`;
  }
  if (field.type === "timestamp") {
    const readTime = ({ target: { value } }) => {
      const emptyInput = field.nullable ? null : "";
      onInput(value === "" ? emptyInput : timeInput(timeOfInput(value)));
    };
    return html`<input
      ...${shared}
      value=${input ? inputOfTime(input) : ""}
      class="input"
      type="datetime-local"
      step="1"
      max=${LAST_INPUT_TIME}
      onInput=${readTime}
    />`;
  }
  const isNumber = field.type === "integer" || field.type === "number";
  const mode = isNumber ? (field.type === "integer" ? "numeric" : "decimal") : undefined;
  return html`<input ...${shared} class="input" type="text" inputmode=${mode} />`;
}

/** The switch between a value and null. Off, the text from before comes back. */
function NullSwitch({ field, input, onInput, disabled }) {
  const lastText = useRef("");
  useEffect(() => {
    if (input !== null) lastText.current = input;
  }, [input]);
  return html`<label class="null-switch">
    <input
      type="checkbox"
      checked=${input === null}
      disabled=${disabled}
      onChange=${(event) => {
        const isEmptyValid = isText(field) || isJson(field);
        if (event.target.checked) onInput(null);
        else if (lastText.current || isEmptyValid) onInput(lastText.current);
        else event.target.checked = true;
      }}
    />
    ${t("none")}
  </label>`;
}

/**
 * A field of a form: label, control, sizes, and errors. `error` is an InputError or the messages of
 * the server, an array of English texts.
 */
export function FieldInput({ field, input, original, error, isChanged, disabled, onInput }) {
  useStore(settings);
  const id = `field-${field.name}`;
  const hasNullSwitch = field.nullable && field.type !== "boolean" && field.type !== "enum";
  const sizes = sizesOf(field, input, original);
  const warnings = isText(field) && input ? invisibleParts(input) : [];
  const isTime = field.type === "timestamp";
  const zone = isTime ? zoneName({ at: input }) : null;
  const isEmptyText = isText(field) && input === "";
  return html`<div class=${`field ${isChanged ? "changed" : ""} ${error ? "invalid" : ""}`} data-field=${field.name}>
    <div class="field-head">
      <label for=${id}>${fieldLabel(field.name)}${isTime && html` <small class="zone">${zone}</small>`}</label>
      ${field.required && html`<span class="required">${t("field.required")}</span>`}
      ${isChanged && html`<span class="changed-mark">${t("field.changed")}</span>`}
      <span class="spacer"></span>
      ${isEmptyText && !field.required && html`<${Chip} kind="none">${t("field.empty")}<//>`}
      ${hasNullSwitch && html`<${NullSwitch} ...${{ field, input, onInput, disabled }} />`}
    </div>
    <${Control}
      field=${field}
      input=${input}
      onInput=${onInput}
      id=${id}
      disabled=${disabled}
      aria-required=${field.required ? "true" : undefined}
      aria-invalid=${error ? "true" : undefined}
      aria-describedby=${`${id}-hints${error ? ` ${id}-error` : ""}`}
    />
    <div class="field-hints" id=${`${id}-hints`}>
      ${field.description && html`<${Hint} field=${field} />`}
      ${isTime && input && settings.get().zone !== "utc" && html`<span class="data">${input} (UTC)</span>`}
      ${warnings.map((text) => html`<span class="warning-text">${text}</span>`)}
      ${sizes.length > 0 &&
      html`<span class="sizes">${sizes.map((size) => html`<${Size} key=${size.key} size=${size} />`)}</span>`}
    </div>
    ${error &&
    html`<div class="field-error" id=${`${id}-error`} role="alert">
      ${error instanceof InputError
        ? t(`input.${error.key}`, error.values)
        : html`<p>${t("input.refused")}</p>
            ${error.map((text) => html`<p lang="en">${text}</p>`)}`}
    </div>`}
  </div>`;
}

/** A value as text that cannot be edited. null, "" and a text of spaces look different. */
export function Value({ field, value }) {
  if (value === null || value === undefined) {
    return html`<${Chip} kind="none">${t("none")}<//>`;
  }
  if (value === "") return html`<${Chip} kind="none">${t("field.empty")}<//>`;
  if (field.type === "boolean") return flagText(field, value);
  if (field.type === "timestamp" && Date.parse(value)) return html`<${Time} value=${value} />`;
  if (typeof value === "object" && isJson(field)) {
    return html`<pre class="data code">${stringifyExact(value, 2)}</pre>`;
  }
  const text = String(value);
  return html`<bdi class="data value-text">${visibleLines(text)}</bdi>
    ${invisibleParts(text).map((part) => html` <span class="warning-text">${part}</span>`)}`;
}
