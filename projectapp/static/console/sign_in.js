// The dialogs to sign in: at first, over an open form when the sign-in has ended, and by a link.
import { html, useRef, useState } from "./preact-htm.js";
import { session } from "./api.js";
import { offeredSession, signIn } from "./session.js";
import { resources } from "./schema.js";
import { changeSettings, config, settings, useStore } from "./store.js";
import { t } from "./texts.js";
import { Banner, Button, Dialog, ErrorText, toast } from "./ui.js";

/** Return the command that makes a token for all that this page can do. */
function tokenCommand() {
  const scopes = resources.flatMap((resource) => [resource.scope_read, resource.scope_write]);
  const list = [...new Set(scopes)].filter(Boolean).join(",");
  return `flask tokens create --name console \\\n  --owner NAME --scope ${list}`;
}

export function SignIn() {
  const { state } = useStore(session);
  const input = useRef();
  const [message, setMessage] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const { language } = useStore(settings);
  const isAgain = state === "expired";
  const takesTokens = config.auth.includes("tokens");
  async function submit(event) {
    event.preventDefault();
    const token = input.current.value.trim();
    input.current.focus();
    if (!token) return setMessage(t("token_empty"));
    setBusy(true);
    setMessage(null);
    try {
      const { caller } = session.get();
      await signIn(token);
      if (session.get().state !== "open") {
        setMessage(t("cookie_refused"));
        return setBusy(false);
      }
      const next = session.get().caller;
      if (isAgain && caller !== next) toast({ text: t("other_caller", { caller: next }) });
    } catch (error) {
      const isRefused = [400, 401].includes(error.status) && error.code !== "bad_request";
      setMessage(isRefused ? t("token_refused") : html`<${ErrorText} error=${error} />`);
      setBusy(false);
    }
  }
  const other = language === "ko" ? "en" : "ko";
  const lead = t(takesTokens ? "sign_in_lead" : "sign_in_lead_jwt");
  return html`<${Dialog} title=${t(isAgain ? "sign_in_again" : "sign_in_title")} class=${isAgain ? "sign-in" : "sign-in first"}>
    <p>${isAgain ? t("sign_in_again_lead") : lead}</p>
    ${!isSecureContext && html`<${Banner} kind="warning">${t("needs_https")}<//>`}
    <form onSubmit=${submit}>
      <input class="hidden" type="text" autocomplete="username" value="token" tabindex="-1" aria-hidden="true" readonly />
      <label class="field">
        <span class="field-label">${t("token")}</span>
        <input
          ref=${input}
          class="input code"
          type="password"
          autocomplete="current-password"
          spellcheck=${false}
          data-autofocus
          aria-invalid=${message ? "true" : undefined}
          aria-describedby="sign-in-message"
        />
      </label>
      <div id="sign-in-message" role="alert" class="field-error">${message}</div>
      <${Button} kind="primary" type="submit" class="wide" aria-disabled=${isBusy ? "true" : undefined}>
        ${t("sign_in")}
      <//>
    </form>
    ${takesTokens &&
    !isAgain &&
    html`<p class="muted">${t("token_help")}</p>
      <pre class="code" tabindex="0" role="group" aria-label=${t("token_help")}><code>${tokenCommand().split(/(?<=,)/).map((part) => html`${part}<wbr />`)}</code></pre>`}
    <p class="sign-in-foot">
      <span class="muted">projectapp ${config.version}</span>
      <${Button} kind="quiet" lang=${other} onClick=${() => changeSettings({ language: other })}>
        ${other === "ko" ? "한국어" : "English"}
      <//>
    </p>
  <//>`;
}

/** The question whether a link may change who is signed in. */
export function OfferedSignIn() {
  const { caller } = useStore(session);
  const offered = useStore(offeredSession);
  if (!offered) return null;
  const close = () => offeredSession.set(null);
  const accept = async () => {
    close();
    try {
      await signIn(offered.token);
    } catch (error) {
      toast({ kind: "error", text: t("sign_in_failed"), error });
    }
  };
  return html`<${Dialog}
    title=${t("offered_title")}
    onClose=${close}
    footer=${html`<${Button} data-autofocus onClick=${close}>${t("offered_stay", { caller })}<//>
      <span class="spacer"></span>
      <${Button} class="accept" onClick=${accept}>${t("offered_accept", offered)}<//>`}
  >
    <p>${t("offered_text", { caller, other: offered.caller })}</p>
  <//>`;
}
