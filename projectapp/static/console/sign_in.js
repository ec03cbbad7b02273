// The dialog to sign in: at first, and over an open form when the sign-in has ended.
import { html, useRef, useState } from "./preact-htm.js";
import { session } from "./api.js";
import { signIn } from "./session.js";
import { config, useStore } from "./store.js";
import { t } from "./texts.js";
import { Banner, Button, Dialog, ErrorText } from "./ui.js";

export function SignIn() {
  const { state } = useStore(session);
  const input = useRef();
  const [message, setMessage] = useState(null);
  const [isBusy, setBusy] = useState(false);
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
      await signIn(token);
    } catch (error) {
      const isRefused = [400, 401].includes(error.status) && error.code !== "bad_request";
      setMessage(isRefused ? t("token_refused") : html`<${ErrorText} error=${error} />`);
      setBusy(false);
    }
  }
  const lead = t(takesTokens ? "sign_in_lead" : "sign_in_lead_jwt");
  return html`<${Dialog} title=${t(isAgain ? "sign_in_again" : "sign_in_title")} class="sign-in">
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
          spellcheck="false"
          autofocus
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
      <pre class="code" tabindex="0" aria-label=${t("token_help")}><code>flask tokens create</code></pre>`}
  <//>`;
}
