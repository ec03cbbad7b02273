// The search box and the filters of a list.
import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { useKeys } from "./keys.js";
import { go, useUrl } from "./store.js";
import { t } from "./texts.js";
import { Icon } from "./ui.js";

const SEARCH_DELAY_MS = 150;

/** The search box. It searches while somebody types, also while a Hangul syllable is composed. */
export function SearchBox({ resource }) {
  const [state] = useUrl();
  const [text, setText] = useState(state.q ?? "");
  const input = useRef();
  const timer = useRef();
  useEffect(() => {
    if (document.activeElement !== input.current) setText(state.q ?? "");
  }, [state.q]);
  useKeys({ "/": () => input.current.focus() });
  const search = (q, push) => {
    clearTimeout(timer.current);
    go({ q }, { push });
  };
  const onInput = (event) => {
    const { value } = event.target;
    setText(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => search(value, false), SEARCH_DELAY_MS);
  };
  if (!resource.search) return null;
  return html`<form
    class="search"
    role="search"
    onSubmit=${(event) => {
      event.preventDefault();
      search(text, true);
    }}
  >
    <${Icon} name="search" />
    <input ref=${input} type="search" aria-label=${t("search")} placeholder=${t("search")} value=${text} onInput=${onInput} />
    <kbd aria-hidden="true">/</kbd>
  </form>`;
}
