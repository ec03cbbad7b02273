// Who is signed in. The token is in a cookie that no script can read; see docs/console.md.
import { ApiError, loseSession, request, send, session } from "./api.js";
import { removeDrafts } from "./drafts.js";
import { config, createStore, PAGE_PATH } from "./store.js";

const PATH = "/console/session";
const TOKEN_FRAGMENT = /^#token=(.+)$/;
const TOKEN = /^[A-Za-z0-9\-._~+/]+=*$/;

/** null, or {caller, token} of a link: the user must say whether to become this caller. */
export const offeredSession = createStore(null);

const otherTabs = new BroadcastChannel(`projectapp${config.prefix}`);
otherTabs.onmessage = ({ data }) => {
  if (data === "session") loadSession();
  if (data === "signed_out") endSession();
};

/** The rows leave the screen. What was typed in another tab comes back for the same caller. */
const endSession = () => session.set((current) => ({ ...current, state: "signed_out" }));

function authorization(token) {
  if (!TOKEN.test(token)) throw new ApiError("http", 400, { error: "not_a_token" });
  return { Authorization: `Bearer ${token}` };
}

/** Return who is signed in, or who the owner of a token is. */
const readSession = async (headers) =>
  (await request("GET", PATH, { headers, waitsForSignIn: false })).body;

/** Ask the server who is signed in. */
export async function loadSession() {
  if (!config.auth.length) return;
  try {
    session.set({ ...(await readSession()), state: "open" });
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
  await send("POST", PATH, { headers: authorization(token) });
  await loadSession();
  otherTabs.postMessage("session");
}

/**
 * Sign in with the token of a link. If somebody else is signed in, the user decides: otherwise the
 * author of a link could make others write in the author's name. Throws ApiError.
 */
export async function signInByLink(token) {
  const headers = authorization(token);
  const [current, { caller }] = await Promise.all([
    readSession().catch((error) => {
      if (error.status !== 401) throw error;
      return null;
    }),
    readSession(headers),
  ]);
  if (!current || caller === current.caller) return signIn(token);
  session.set({ ...current, state: "open" });
  return offeredSession.set({ caller, token });
}

export async function signOut() {
  await send("DELETE", PATH);
  removeDrafts();
  endSession();
  otherTabs.postMessage("signed_out");
}

/**
 * Return the token of a URL such as /console#token=..., and remove it from the address bar and the
 * Back button. A fragment reaches no server and no log, but the browser's list of visited pages has
 * it already, and no page can remove it there.
 */
export function takeTokenFromUrl() {
  const [, text] = TOKEN_FRAGMENT.exec(location.hash) ?? [];
  if (!text) return null;
  history.replaceState(null, "", PAGE_PATH + location.search);
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // It is no token. The sign-in says so.
  }
}
