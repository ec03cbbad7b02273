// A button with a panel under it, which Escape or a click elsewhere closes.
import { html, useEffect, useRef, useState } from "./preact-htm.js";

const MARGIN_PX = 8;
let lastId = 0;

/** `button` is the content of the button, `children` a function of close() for the panel's content. */
export function Popover({ button, label, class: extra = "button", isOpenAtStart, children, ...rest }) {
  const [id] = useState(() => `popover-${++lastId}`);
  const [isOpen, setOpen] = useState(false);
  const opener = useRef();
  const panel = useRef();
  const close = () => panel.current?.hidePopover();
  const place = () => {
    const box = opener.current.getBoundingClientRect();
    const isRight = box.left > innerWidth / 2;
    const { style, offsetWidth } = panel.current;
    const edge = isRight ? innerWidth - box.right : box.left;
    const maxOffset = innerWidth - MARGIN_PX - offsetWidth; // The width is 0 until it is open.
    const offset = `${Math.max(MARGIN_PX, Math.min(edge, maxOffset))}px`;
    style.top = `${Math.min(box.bottom + MARGIN_PX / 2, innerHeight / 2)}px`;
    style.left = isRight ? "auto" : offset;
    style.right = isRight ? offset : "auto";
  };
  useEffect(() => {
    if (isOpenAtStart) panel.current.showPopover();
  }, []);
  useEffect(() => {
    if (!isOpen) return undefined;
    place();
    panel.current.querySelector("input, select, textarea, button")?.focus();
    addEventListener("resize", place);
    return () => removeEventListener("resize", place);
  }, [isOpen]);
  return html`<button
      ref=${opener}
      type="button"
      class=${extra}
      aria-label=${label}
      title=${label}
      aria-expanded=${isOpen ? "true" : "false"}
      popovertarget=${id}
      ...${rest}
    >
      ${button}
    </button>
    <div
      ref=${panel}
      id=${id}
      class="popover"
      popover="auto"
      onBeforeToggle=${({ newState }) => {
        if (newState !== "open") return;
        place();
        setOpen(true);
      }}
      onToggle=${({ newState }) => newState === "closed" && setOpen(false)}
    >
      ${isOpen && children(close)}
    </div>`;
}
