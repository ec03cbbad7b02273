// Who is signed in. The token is in a cookie that no script can read; see docs/console.md.
import { loseSession, request, send, session } from "./api.js";
import { config } from "./store.js";

const PATH = "/console/session";
const TOKEN_FRAGMENT = /^#token=(.+)$/;

const otherTabs = new BroadcastChannel(`projectapp${config.prefix}`);
otherTabs.onmessage = ({ data }) => data === "session" && loadSession();

/** Ask the server who is signed in. */
export async function loadSession() {
  if (!config.auth.length) return;
  try {
    const { body } = await request("GET", PATH, { waitsForSignIn: false });
    session.set({ ...body, state: "open" });
  } catch (error) {
    if (error.status !== 401) throw error;
    loseSession();
  }
}

/**
 * Sign in with a token. Throws ApiError, with status 401 for a token that is not valid. If the
 * browser does not keep the cookie, the session is not open afterwards.
 */
export async function signIn(token) {
  await send("POST", PATH, { headers: { Authorization: `Bearer ${token}` } });
  await loadSession();
  otherTabs.postMessage("session");
}

export async function signOut() {
  await send("DELETE", PATH);
  session.set((current) => ({ ...current, state: "signed_out" }));
  otherTabs.postMessage("session");
}

/**
 * Return the token of a URL such as /console#token=..., and remove it from the address bar and
 * the browser's history. A fragment reaches no server and no log.
 */
export function takeTokenFromUrl() {
  const [, token] = TOKEN_FRAGMENT.exec(location.hash) ?? [];
  if (token) history.replaceState(null, "", location.pathname + location.search);
  return token && decodeURIComponent(token);
}
