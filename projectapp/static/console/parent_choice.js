// The choice of the parent of a new row, by search.
import { request } from "./api.js";
import { InputError } from "./form_values.js";
import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { resourceLabel, resources, titleOf } from "./schema.js";
import { t } from "./texts.js";
import { Button, ErrorText } from "./ui.js";

const MAX_CHOICES = 8;
const SEARCH_DELAY_MS = 200; // also while a Korean syllable is composed
const MIN_SEARCH_CODE_POINTS = 2; // the API finds nothing shorter

/** Search the rows of the parent resource. Returns {rows, error}; rows is null during the first load. */
function useRows(resource, text) {
  const [answer, setAnswer] = useState({ rows: null, error: null });
  useEffect(() => {
    const abort = new AbortController();
    const { signal } = abort;
    const q = resource.search && [...text.trim()].length >= MIN_SEARCH_CODE_POINTS ? text : null;
    const query = { q, page_size: MAX_CHOICES, count: "none" };
    const timer = setTimeout(
      () =>
        request("GET", resource.path, { query, signal }).then(
          ({ body }) => setAnswer({ rows: body.items, error: null }),
          (error) => signal.aborted || setAnswer({ rows: [], error }),
        ),
      SEARCH_DELAY_MS,
    );
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [resource, text]);
  return answer;
}

/** A combobox: the arrows move, Enter or a click chooses, Escape closes the list. */
export function ParentChoice({ form, state }) {
  const { resource } = form;
  const parentResource = resources.find(({ name }) => name === resource.parent);
  const label = resourceLabel(parentResource);
  const [text, setText] = useState("");
  const [isOpen, setOpen] = useState(false);
  const [active, setActive] = useState(0);
  const changeButton = useRef();
  const isChosenHere = useRef(false);
  const { rows, error } = useRows(parentResource, text);
  const { parent, errors } = state;
  const choose = (row) => {
    form.setParent({ id: row.id, title: titleOf(parentResource, row) });
    isChosenHere.current = true;
    setOpen(false);
    setText("");
  };
  useEffect(() => {
    if (parent && isChosenHere.current) changeButton.current.querySelector("button").focus();
  }, [parent]);
  const move = (step) => {
    setOpen(true);
    setActive((index) => Math.min(Math.max(index + step, 0), (rows?.length ?? 1) - 1));
  };
  const onKeyDown = (event) => {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "ArrowDown") move(1);
    else if (event.key === "ArrowUp") move(-1);
    else if (event.key === "Enter" && isOpen && rows?.[active]) choose(rows[active]);
    else if (event.key === "Escape" && isOpen) setOpen(false);
    else return;
    event.preventDefault();
  };
  if (parent) {
    return html`<div class="field" data-field="parent">
      <div class="field-head"><span class="field-label">${label}</span></div>
      <div class="parent-row" ref=${changeButton}>
        <bdi class="data">${parent.title}</bdi>
        <${Button} kind="quiet" onClick=${() => form.setParent(null)}>${t("parent.change")}<//>
      </div>
    </div>`;
  }
  const { parent: invalid } = errors;
  return html`<div class=${`field ${invalid ? "invalid" : ""}`} data-field="parent">
    <div class="field-head">
      <label for="field-parent">${label}</label>
      <span class="required">${t("field.required")}</span>
    </div>
    <div class="combobox">
      <input
        id="field-parent"
        class="input"
        type="text"
        role="combobox"
        autocomplete="off"
        aria-expanded=${isOpen}
        aria-controls="parent-choices"
        aria-autocomplete="list"
        aria-activedescendant=${isOpen && rows?.[active] ? `parent-${rows[active].id}` : undefined}
        aria-invalid=${invalid ? "true" : undefined}
        aria-describedby=${invalid ? "field-parent-error" : undefined}
        placeholder=${t("parent.search")}
        value=${text}
        onInput=${(event) => {
          setText(event.target.value);
          setActive(0);
          setOpen(true);
        }}
        onFocus=${() => setOpen(true)}
        onClick=${() => setOpen(true)}
        onBlur=${() => setOpen(false)}
        onKeyDown=${onKeyDown}
      />
      <ul id="parent-choices" role="listbox" aria-label=${label} hidden=${!isOpen || !rows?.length}>
        ${rows?.map(
          (row, index) => html`<li
            key=${row.id}
            id=${`parent-${row.id}`}
            role="option"
            aria-selected=${index === active}
            onMouseDown=${(event) => event.preventDefault()}
            onClick=${() => choose(row)}
          >
            <bdi class="data">${titleOf(parentResource, row)}</bdi>
          </li>`,
        )}
      </ul>
    </div>
    <div class="field-hints" role="status">
      ${isOpen && rows?.length === 0 && !error && t("parent.no_match")}
    </div>
    ${error && html`<${ErrorText} error=${error} />`}
    ${invalid instanceof InputError &&
    html`<div class="field-error" id="field-parent-error" role="alert">${t("input.parent")}</div>`}
  </div>`;
}
