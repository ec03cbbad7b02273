// The search box and the filters of a list.
import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { FilterForm, filterText, groupFilters } from "./filter_form.js";
import { useKeys } from "./keys.js";
import { Popover } from "./popover.js";
import { seesAllOwners } from "./columns.js";
import { fieldLabel } from "./schema.js";
import { go, url, useStore } from "./store.js";
import { t } from "./texts.js";
import { focusList, Icon } from "./ui.js";

const SEARCH_DELAY_MS = 150;
const SEARCHABLE = /\S{2}/; // The API needs a word of two or more characters.
const MAX_SEARCH_LENGTH = 200;

/**
 * The search box. It searches while somebody types, also while a Hangul syllable is composed: an
 * input event comes for each letter, and the last syllable is composed until the next key.
 */
export function SearchBox({ resource }) {
  const state = useStore(url);
  const [isShort, setShort] = useState(false);
  const input = useRef();
  const timer = useRef();
  const isNewSearch = useRef(true);
  const sentText = useRef(state.q ?? null);
  useEffect(() => {
    // The URL follows the field. Only a change from outside, such as Back, changes the field: other
    // letters may be typed before this effect runs.
    const q = state.q ?? null;
    if (q === sentText.current && input.current.value !== "") return;
    sentText.current = q;
    input.current.value = q ?? "";
  }, [state.q]);
  useKeys({ "/": () => void input.current?.focus() });
  const search = () => {
    clearTimeout(timer.current);
    if (!input.current) return;
    const { value } = input.current;
    const q = SEARCHABLE.test(value) ? value : null;
    setShort(q === null && value.trim() !== "");
    if (q === sentText.current) return;
    sentText.current = q;
    // The first letters make an entry in the history, so that Back leads to the list before.
    go({ q, view: null }, { push: isNewSearch.current });
    isNewSearch.current = false;
  };
  const onInput = () => {
    clearTimeout(timer.current);
    timer.current = setTimeout(search, SEARCH_DELAY_MS);
  };
  const onKeyDown = (event) => {
    if (event.key !== "ArrowDown" || event.isComposing) return;
    event.preventDefault();
    focusList();
  };
  if (!resource.search) return null;
  return html`<form
    class="search"
    role="search"
    onSubmit=${(event) => {
      event.preventDefault();
      search();
      isNewSearch.current = true;
    }}
  >
    <${Icon} name="search" />
    <input
      ref=${input}
      type="search"
      maxlength=${MAX_SEARCH_LENGTH}
      aria-label=${t("search")}
      aria-describedby="search-hint"
      placeholder=${t("search")}
      onInput=${onInput}
      onKeyDown=${onKeyDown}
      onFocus=${() => (isNewSearch.current = true)}
    />
    <kbd aria-hidden="true">/</kbd>
    <span id="search-hint" class="search-hint" role="status">${isShort && t("search.short")}</span>
  </form>`;
}

/** The active filters as chips, and a button for one more. */
export function Filters({ resource }) {
  const state = useStore(url);
  const [added, setAdded] = useState(null); // the filter that was chosen and has no value yet
  useEffect(() => setAdded(null), [resource]);
  const groups = groupFilters(resource, seesAllOwners(resource));
  const isActive = (group) => group.names.some((name) => name in state);
  const inactive = groups.filter((group) => !isActive(group) && group !== added);
  const remove = (group) => go(Object.fromEntries(group.names.map((name) => [name, null])));
  return html`<div class="filters" role="group" aria-label=${t("filters")}>
    ${groups
      .filter((group) => isActive(group) || group.name === added?.name)
      .map(
        (group) => html`<span class="filter-chip" key=${group.name}>
          <${Popover}
            class="filter-edit"
            isOpenAtStart=${group.name === added?.name}
            button=${isActive(group) ? filterText(group, state) : fieldLabel(group.name)}
          >
            ${(close) => html`<${FilterForm}
              group=${group}
              state=${state}
              onApply=${(changes) => {
                close();
                setAdded(null);
                go(changes);
              }}
            />`}
          <//>
          <button
            type="button"
            class="filter-remove"
            aria-label=${t("filter.remove", { field: fieldLabel(group.name) })}
            onClick=${() => (isActive(group) ? remove(group) : setAdded(null))}
          >
            <${Icon} name="close" />
          </button>
        </span>`,
      )}
    ${inactive.length > 0 &&
    html`<${Popover}
      class="button quiet"
      button=${html`<${Icon} name="filter" /><span class="wide">${t("filter.add")}</span>`}
      label=${t("filter.add")}
    >
      ${(close) => html`<ul class="menu-list">
        ${inactive.map(
          (group) => html`<li key=${group.name}>
            <button
              type="button"
              onClick=${() => {
                close();
                setAdded(group);
              }}
            >
              ${fieldLabel(group.name)}
            </button>
          </li>`,
        )}
      </ul>`}
    <//>`}
  </div>`;
}
