// The menu of the settings and the account.
import { html } from "./preact-htm.js";
import { session } from "./api.js";
import { signOut } from "./session.js";
import { changeSettings, config, go, PAGE_PATH, settings, useStore } from "./store.js";
import { t, zoneName } from "./texts.js";
import { Button, Chip, Icon, Time, toast } from "./ui.js";

/** One choice out of two or three: radio buttons that look like one control. */
function Choice({ name, choices }) {
  const value = useStore(settings)[name];
  return html`<fieldset class="choice">
    <legend>${t(name)}</legend>
    <div>
      ${Object.entries(choices).map(
        ([choice, label]) => html`<label key=${choice}>
          <input
            type="radio"
            name=${name}
            checked=${choice === value}
            onChange=${() => changeSettings({ [name]: choice })}
          />
          <span lang=${name === "language" ? choice : undefined}>${label}</span>
        </label>`,
      )}
    </div>
  </fieldset>`;
}

function Account({ who }) {
  async function leave() {
    document.getElementById("menu").hidePopover();
    if (!go({ id: null, view: null })) return; // A form with unsaved text asks first.
    try {
      await signOut();
      location.assign(PAGE_PATH); // The data leaves the screen, too.
    } catch (error) {
      toast({ kind: "error", text: t("sign_out_failed"), error });
    }
  }
  return html`<section class="account" aria-label=${t("account")}>
    <p class="caller"><${Icon} name="user" /><bdi class="data">${who.caller}</bdi></p>
    <dl>
      <div>
        <dt>${t("credential")}</dt>
        <dd><code class="data">${who.credential}</code></dd>
      </div>
      ${who.expires_at &&
      html`<div>
        <dt>${t("expires")}</dt>
        <dd><${Time} value=${who.expires_at} /></dd>
      </div>`}
      <div>
        <dt>${t("scopes")}</dt>
        <dd>${who.scopes.map((scope) => html`<${Chip} key=${scope}>${scope}<//>`)}</dd>
      </div>
    </dl>
    <${Button} class="wide" onClick=${leave}>${t("sign_out")}<//>
  </section>`;
}

export function Menu({ onHelp }) {
  const who = useStore(session);
  const { letterKeys } = useStore(settings);
  const closeAndHelp = () => {
    document.getElementById("menu").hidePopover();
    onHelp();
  };
  return html`<${Button}
      kind="quiet"
      icon=${who.caller ? "user" : "settings"}
      class="menu-button"
      label=${who.caller ? `${t("menu")}: ${who.caller}` : t("menu")}
      popovertarget="menu"
      aria-haspopup="dialog"
    >
      ${who.caller && html`<bdi class="data">${who.caller}</bdi>`}
    <//>
    <div id="menu" popover="auto" class="menu" role="dialog" aria-label=${t("menu")}>
      ${who.state === "open" && html`<${Account} who=${who} />`}
      <${Choice} name="language" choices=${{ ko: "한국어", en: "English" }} />
      <${Choice}
        name="theme"
        choices=${{ auto: t("theme.auto"), light: t("theme.light"), dark: t("theme.dark") }}
      />
      <${Choice} name="zone" choices=${{ local: t("zone.local", { zone: zoneName({ zone: "local" }) }), utc: "UTC" }} />
      <label class="switch">
        <span>${t("letter_keys")}<small>${t("letter_keys_hint")}</small></span>
        <input
          type="checkbox"
          role="switch"
          checked=${letterKeys}
          onChange=${(event) => changeSettings({ letterKeys: event.target.checked })}
        />
      </label>
      <div class="menu-links">
        <${Button} kind="quiet" icon="help" onClick=${closeAndHelp}>${t("help")}<//>
        ${config.docs && html`<a class="button quiet" href=${`${config.prefix}/docs`}>${t("docs")}</a>`}
      </div>
      <p class="version">projectapp ${config.version}</p>
    </div>`;
}
