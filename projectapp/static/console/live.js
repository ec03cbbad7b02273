// The newest changes of a resource, as the feed reports them. New ones move nothing that is being
// read: they wait behind a button.
import { html, useRef, useState } from "./preact-htm.js";
import { connection, session } from "./api.js";
import { feed } from "./feed_tabs.js";
import { feedLog } from "./feed_log.js";
import { authorOf } from "./form_actions.js";
import { fieldLabel, resourceLabel } from "./schema.js";
import { go, url, useStore } from "./store.js";
import { t } from "./texts.js";
import { Banner, Button, Chip, Empty, Time } from "./ui.js";

const PAGE_ENTRIES = 50;
const TOP_PX = 8;
const CHIP_KINDS = { create: "on", restore: "on", delete: "warning" };

export function Live({ resource }) {
  const { id: openId } = useStore(url);
  const { state } = useStore(feed);
  const log = useStore(feedLog);
  const { caller } = useStore(session);
  const isOnline = useStore(connection) === "online";
  const [isPaused, setPaused] = useState(false);
  const [onlyMine, setOnlyMine] = useState(false);
  const [heldNumber, setHeldNumber] = useState(null); // the newest entry that is shown; null: all
  const [maxEntries, setMaxEntries] = useState(PAGE_ENTRIES);
  const scroller = useRef();

  const entries = log.resource === resource ? log.entries : [];
  const newestNumber = entries[0]?.number ?? 0;
  const isMine = ({ change }) => !change || change.caller === caller;
  const matching = onlyMine ? entries.filter(isMine) : entries;
  const shown = matching.filter(({ number }) => heldNumber === null || number <= heldNumber);
  const newCount = matching.length - shown.length;

  const showNew = (paused) => {
    setHeldNumber(paused ? newestNumber : null);
    if (scroller.current) scroller.current.scrollTop = 0;
  };
  const togglePause = () => {
    setPaused(!isPaused);
    showNew(!isPaused);
  };
  const holdWhileReading = (event) => {
    if (isPaused) return;
    const isAtTop = event.currentTarget.scrollTop < TOP_PX;
    if (isAtTop) setHeldNumber(null);
    else if (heldNumber === null) setHeldNumber(newestNumber);
  };

  if (!resource.has.changes) {
    return html`<section class="live" aria-label=${t("view.live")}>
      <${Empty} title=${t("live.none")} text=${t("live.none_text", { resource: resourceLabel(resource) })} />
    </section>`;
  }
  // The page has a banner of its own while the server is away.
  const isInterrupted = isOnline && (state === "lost" || state === "lagging");
  return html`<section class="live" aria-label=${t("view.live")}>
    <div class="toolbar">
      <span class="count">
        ${log.startTime && html`${t("live.since")} <${Time} value=${log.startTime} options=${{ timeStyle: "medium" }} />`}
      </span>
      <div class="live-new" role="status">
        ${newCount > 0 &&
        html`<${Button} kind="primary" icon="up" onClick=${() => showNew(isPaused)}>
          ${t("live.new", { count: newCount })}
        <//>`}
      </div>
      <div class="toolbar-actions">
        ${caller &&
        html`<label class="live-filter">
          <input type="checkbox" checked=${onlyMine} onChange=${() => setOnlyMine(!onlyMine)} />
          ${t("live.only_mine")}
        </label>`}
        <${Button} aria-pressed=${isPaused} onClick=${togglePause}>${t("live.pause")}<//>
      </div>
    </div>
    ${isInterrupted && html`<${Banner} kind="warning">${t(`live.${state}_text`)}<//>`}
    <div class="live-scroller" ref=${scroller} onScroll=${holdWhileReading} tabindex="-1">
      ${shown.length === 0
        ? html`<${Empty} title=${t("live.empty")} text=${t(onlyMine ? "live.empty_mine" : "live.empty_text")} />`
        : html`<ol class="live-entries">
            ${shown
              .slice(0, maxEntries)
              .map((entry) => html`<${Entry} key=${entry.number} entry=${entry} isOpen=${entry.change?.id === openId} />`)}
          </ol>`}
      ${shown.length > maxEntries &&
      html`<p class="live-more">
        <${Button} onClick=${() => setMaxEntries(maxEntries + PAGE_ENTRIES)}>${t("live.more")}<//>
      </p>`}
    </div>
  </section>`;
}

const TIME = { dateStyle: "short", timeStyle: "medium" };

function Entry({ entry: { change, title, gapTime }, isOpen }) {
  if (!change) {
    return html`<li class="live-gap">
      <${Banner} kind="warning">
        <span>${t("live.gap")} <${Time} value=${gapTime} options=${TIME} /></span>
      <//>
    </li>`;
  }
  const { operation, changed, id, at } = change;
  const isUpdate = operation === "update";
  return html`<li class=${isOpen ? "live-entry open" : "live-entry"}>
    <${Chip} kind=${CHIP_KINDS[operation] ?? ""}>${t(`history.${operation}`)}<//>
    <button
      type="button"
      class="live-title"
      title=${title}
      aria-current=${isOpen ? "true" : undefined}
      onClick=${() => go({ id })}
    >
      <bdi class="data">${title.trim() === "" ? "␣" : title}</bdi>
    </button>
    <span class="live-fields">${isUpdate && changed.map((name) => fieldLabel(name)).join(", ")}</span>
    <span class="live-author muted"><bdi>${authorOf(change)}</bdi> · <${Time} value=${at} options=${TIME} /></span>
  </li>`;
}
