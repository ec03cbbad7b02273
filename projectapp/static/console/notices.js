// The banners of the whole page: waiting, offline, a new version, no sign-in.
import { html, useState } from "./preact-htm.js";
import { connection, isStale, waiting } from "./api.js";
import { config, useStore } from "./store.js";
import { t } from "./texts.js";
import { Banner, Button, Countdown } from "./ui.js";

/** The text with a number that counts down. A screen reader hears only that it has begun. */
function Waiting({ status, until, retryNow }) {
  const [before, after] = t(`waiting.${status}`, { seconds: "|" }).split("|");
  return html`<${Banner} kind="warning">
    <span>${before}<span aria-live="off"><${Countdown} until=${until} /></span>${after}</span>
    <${Button} onClick=${retryNow}>${t("retry_now")}<//>
  <//>`;
}

export function Notices() {
  const wait = useStore(waiting);
  const isOffline = useStore(connection) === "offline";
  const stale = useStore(isStale);
  const [isRead, setRead] = useState(false);
  return html`<div class="notices">
    ${isOffline && html`<${Banner} kind="warning">${t("offline")}<//>`}
    ${wait && html`<${Waiting} ...${wait} />`}
    ${stale &&
    html`<${Banner}>
      <span>${t("stale")}</span>
      <${Button} onClick=${() => location.reload()}>${t("reload")}<//>
    <//>`}
    ${!config.auth.length &&
    !isRead &&
    html`<${Banner} kind="warning">
      <span>${t("no_auth")}</span>
      <${Button} kind="quiet" icon="close" label=${t("close")} onClick=${() => setRead(true)} />
    <//>`}
  </div>`;
}
