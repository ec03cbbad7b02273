// The parts that all screens use.
import { html, useEffect, useErrorBoundary, useRef, useState } from "./preact-htm.js";
import { session } from "./api.js";
import { createStore, go, settings, url, urlOf, useStore } from "./store.js";
import { formatNumber, formatTime, hasText, t } from "./texts.js";

// Paths in a square of 16 units, drawn with a line.
const ICONS = {
  search: "M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9ZM10.5 10.5 14 14",
  plus: "M8 3v10M3 8h10",
  close: "M4 4l8 8M12 4l-8 8",
  command: "M3 4.5 6.5 8 3 11.5M8.5 12H13",
  check: "M3 8.5 6.5 12 13 4.5",
  more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  up: "M4 10l4-4 4 4",
  right: "M6 4l4 4-4 4",
  trash: "M3 4.5h10M6.5 4V2.5h3V4M4.5 4.5l.5 9h6l.5-9",
  copy: "M5.5 5.5h8v8h-8zM3 10.5h-.5v-8h8V3",
  undo: "M5.5 3 2.5 6l3 3M2.5 6h7a3.5 3.5 0 0 1 0 7H6",
  history: "M8 4.5V8l2.5 1.5M3 5a6 6 0 1 1-1 3M2.5 2.5V5H5",
  filter: "M2.5 3.5h11M4.5 8h7M6.5 12.5h3",
  download: "M8 2.5v8M4.5 7.5 8 11l3.5-3.5M3 13.5h10",
  upload: "M8 11V3M4.5 6 8 2.5 11.5 6M3 13.5h10",
  warning: "M8 2.5 14.5 13.5h-13ZM8 6.5v3.5M8 12h.01",
  info: "M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2ZM8 7.5V11M8 5.2h.01",
  user: "M8 2.5a2.75 2.75 0 1 1 0 5.5 2.75 2.75 0 0 1 0-5.5ZM2.5 14a5.5 5.5 0 0 1 11 0",
  settings: "M2.5 4.5H8M12 4.5h1.5M2.5 11.5H4M8 11.5h5.5M10 3a1.5 1.5 0 1 1 0 3 1.5 1.5 0 0 1 0-3ZM6 10a1.5 1.5 0 1 1 0 3 1.5 1.5 0 0 1 0-3Z",
  help: "M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2ZM6.3 6.3c.3-2 3.4-1.800 3.400.2 0 1.300-1.700 1.300-1.700 2.600M8 11.300h.01",
};

/** An icon without a meaning of its own: the control around it has a text or an aria-label. */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d=${ICONS[name]} /></svg>`;
}

/** kind: "primary", "danger", "quiet" or none. With an icon and no children, `label` names it. */
export function Button({ kind = "", icon, label, class: extra = "", children, ...rest }) {
  const isIconOnly = !children || children.length === 0;
  return html`<button
    type="button"
    class=${`button ${kind} ${isIconOnly ? "icon-only" : ""} ${extra}`}
    aria-label=${label}
    title=${isIconOnly ? label : undefined}
    ...${rest}
  >
    ${icon && html`<${Icon} name=${icon} />`}${children}
  </button>`;
}

/** A link that changes the URL's state: a plain click stays in the page, others open a tab. */
export function Link({ to, children, ...rest }) {
  const state = useStore(url);
  const follow = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(to);
  };
  const target = { ...state, ...to };
  const href = urlOf(Object.fromEntries(Object.entries(target).filter(([, value]) => value)));
  return html`<a href=${href} onClick=${follow} ...${rest}>${children}</a>`;
}

/**
 * A modal dialog. The focus goes to the control with data-autofocus, else to the title, and returns to
 * where it was when the dialog closes. Escape and the cross call onClose. Without onClose the user
 * cannot close the dialog.
 */
export function Dialog({ title, onClose, class: extra = "", footer, children }) {
  const element = useRef();
  useEffect(() => {
    const dialog = element.current;
    const previous = document.activeElement;
    dialog.showModal();
    (dialog.querySelector("[data-autofocus]") ?? dialog.querySelector("h2")).focus();
    return () => {
      dialog.close();
      if (previous?.isConnected) previous.focus();
    };
  }, []);
  // Browsers close a dialog on a second Escape, whatever the page says.
  const reopen = () => {
    if (!element.current?.isConnected) return; // It is closed because it is removed.
    if (onClose) onClose();
    else element.current.showModal();
  };
  return html`<dialog
    ref=${element}
    class=${`dialog ${extra}`}
    aria-label=${title}
    onCancel=${(event) => {
      event.preventDefault();
      onClose?.();
    }}
    onClose=${reopen}
  >
    <header class="dialog-head">
      <h2 tabindex="-1">${title}</h2>
      ${onClose && html`<${Button} kind="quiet" icon="close" label=${t("close")} onClick=${onClose} />`}
    </header>
    <div class="dialog-body">${children}</div>
    ${footer && html`<footer class="dialog-foot">${footer}</footer>`}
  </dialog>`;
}

const toasts = createStore([]);
const TOAST_MS = 8000;
let lastToastId = 0;

/**
 * Show a message at the edge of the page. kind: "info", "success" or "error". An error stays until
 * it is closed. `action` is {label, run}: its button, such as Undo.
 */
export function toast({ kind = "info", text, action, error }) {
  const id = ++lastToastId;
  const remove = () => toasts.set((current) => current.filter((item) => item.id !== id));
  toasts.set((current) => [...current.slice(-4), { id, kind, text, action, error, remove }]);
  if (kind !== "error") setTimeout(remove, TOAST_MS);
}

export function Toasts() {
  const items = useStore(toasts);
  const runAction = (item) => {
    item.remove();
    item.action.run();
  };
  return html`<div class="toasts">
    <div role="status">${items.filter((item) => item.kind !== "error").map(card)}</div>
    <div role="alert">${items.filter((item) => item.kind === "error").map(card)}</div>
  </div>`;

  function card(item) {
    const icon = { success: "check", error: "warning" }[item.kind] ?? "info";
    return html`<div class=${`toast ${item.kind}`} key=${item.id}>
      <${Icon} name=${icon} />
      <div class="toast-text">${item.text}${item.error && html`<${ErrorText} error=${item.error} />`}</div>
      ${item.action &&
      html`<${Button} kind="quiet" onClick=${() => runAction(item)}>${item.action.label}<//>`}
      <${Button} kind="quiet" icon="close" label=${t("close")} onClick=${item.remove} />
    </div>`;
  }
}

const isMac = navigator.platform.startsWith("Mac");

/** A key, a combination such as Ctrl+K, or a sequence such as "g l". */
export function Keys({ keys }) {
  const shown = isMac ? keys.replace("Ctrl", "⌘") : keys;
  return html`<span class="keys">${shown.split(" ").map((key) => html`<kbd key=${key}>${key}</kbd>`)}</span>`;
}

/** A line across a screen. kind: "info", "warning" or "error". */
export function Banner({ kind = "info", children }) {
  const role = kind === "error" ? "alert" : "status";
  return html`<div class=${`banner ${kind}`} role=${role}>
    <${Icon} name=${kind === "info" ? "info" : "warning"} />
    <div class="banner-body">${children}</div>
  </div>`;
}

/** A timestamp of the API, in the zone of the settings. The title has the exact time in UTC. */
export function Time({ value, options }) {
  useStore(settings);
  return html`<time datetime=${value} title=${`${value} (UTC)`}>${formatTime(value, options)}</time>`;
}

/** A small label. kind: "", "on", "off", "warning" or "none" (for null). */
export function Chip({ kind = "", children }) {
  return html`<span class=${`chip ${kind}`}>${children}</span>`;
}

/** The text of an empty screen, with what to do next as children. */
export function Empty({ title, text, children }) {
  return html`<div class="empty">
    <h2>${title}</h2>
    ${text && html`<p>${text}</p>`} ${children}
  </div>`;
}

/** What an error means in the language of the page, with what the server said and its request. */
export function ErrorText({ error }) {
  const byStatus = hasText(`error.${error.status}`) ? `error.${error.status}` : "error.unknown";
  const key = hasText(`error.${error.code}`) ? `error.${error.code}` : byStatus;
  return html`<div class="error-text">
    <p>${t(key, { status: error.status, caller: session.get().caller })}</p>
    ${error.scope && html`<p>${t("error.scope", { scope: error.scope })}</p>`}
    ${error.detail && html`<p class="detail" lang="en">${error.detail}</p>`}
    ${error.requestId &&
    html`<p class="detail">${t("request_id")} <code class="data">${error.requestId}</code></p>`}
  </div>`;
}

/** Whole seconds until a time in ms. */
export function Countdown({ until }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 500);
    return () => clearInterval(timer);
  }, []);
  return html`<span class="countdown">${formatNumber(Math.max(0, Math.ceil((until - now) / 1000)))}</span>`;
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast({ kind: "success", text: t("copied") });
  } catch {
    toast({ kind: "error", text: t("copy_failed") });
  }
}

/** Let the browser save a file: `parts` are texts, bytes and Blobs. */
export function saveFile(parts, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export const focusList = () => document.querySelector("[role=grid]")?.focus({ preventScroll: true });

/** A failure in one screen does not affect the other screens and what was typed in them. */
export function Boundary({ children }) {
  const [error, reset] = useErrorBoundary();
  if (!error) return children;
  return html`<${Banner} kind="error">
    <span>${t("screen_failed")} <span class="detail" lang="en">${error.message}</span></span>
    <${Button} onClick=${reset}>${t("retry")}<//>
  <//>`;
}
