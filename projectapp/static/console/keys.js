// Keys. Letters work only outside of text fields, never while a letter is composed, and not at all
// when they are switched off (WCAG 2.1.4).
import { useEffect, useRef } from "./preact-htm.js";
import { settings } from "./store.js";

const SEQUENCE_MS = 1500;
const layers = [];
let prefix = null; // The first key of a sequence such as "g l", with the time of its press.

/** Return the name of a key press: "j", "Enter", "Shift+ArrowDown", "Ctrl+k" (also for Cmd). */
function keyName(event) {
  const isPrintable = [...event.key].length === 1;
  let name = isPrintable ? event.key.toLowerCase() : event.key;
  // While a Korean keyboard is active, event.key is a Hangul letter: the position names the key.
  if (/^Key[A-Z]$/.test(event.code) && !/^[a-z]$/.test(name)) name = event.code.at(-1).toLowerCase();
  if (event.shiftKey && !isPrintable) name = "Shift+" + name;
  if (event.ctrlKey || event.metaKey) name = "Ctrl+" + name;
  return event.altKey ? "Alt+" + name : name;
}

const isTextField = (element) =>
  element.isContentEditable ||
  element.matches?.("textarea, select, input:not([type=checkbox], [type=radio], [type=button])");

/** May a key do something while the focus is in a text field? Ctrl+Z undoes the field's changes. */
const isTextKey = (name) => name === "Escape" || (name.startsWith("Ctrl+") && name !== "Ctrl+z");

function isInScope(scope, element) {
  const open = "dialog:modal, :popover-open";
  const dialog = element.closest?.(open) ?? document.querySelector(open);
  if (scope === "dialog" || dialog) return scope === "dialog" && Boolean(dialog);
  return scope === "global" || Boolean(element.closest?.(`[data-keys=${scope}]`));
}

addEventListener("keydown", (event) => {
  if (event.isComposing || event.keyCode === 229 || event.defaultPrevented) return;
  const key = keyName(event);
  const isLetter = [...key].length === 1;
  const inText = isTextField(event.target);
  if (isLetter && (inText || !settings.get().letterKeys)) return;
  const first = prefix && Date.now() - prefix.time < SEQUENCE_MS ? prefix.key + " " : "";
  prefix = null;
  for (const name of first ? [first + key, key] : [key]) {
    for (const { current } of layers.toReversed()) {
      const handler = current.keys[name];
      if (!handler || !isInScope(current.scope, event.target)) continue;
      if (inText && !current.inText && !isTextKey(name)) continue;
      if (handler(event) === false) continue; // The handler leaves the key to the others.
      event.preventDefault();
      return;
    }
  }
  if (isLetter && layers.some((layer) => hasSequence(layer.current.keys, key))) {
    prefix = { key, time: Date.now() };
  }
});

const hasSequence = (keys, first) => Object.keys(keys).some((name) => name.startsWith(first + " "));

/**
 * Handle keys while the component is mounted: {"j": handler, "Ctrl+s": ..., "g l": ...}. A handler
 * gets the event; it returns false to leave the key to others. Scope "global" is the whole page,
 * "dialog" is an open dialog or popover (then no other scope gets keys), and any other scope is the
 * element with this name in data-keys. In a text field only Escape and keys with Ctrl are handled,
 * unless inText is true.
 */
export function useKeys(keys, { scope = "global", inText = false } = {}) {
  const layer = useRef();
  layer.current = { keys, scope, inText };
  useEffect(() => {
    layers.push(layer);
    return () => layers.splice(layers.indexOf(layer), 1);
  }, []);
}
