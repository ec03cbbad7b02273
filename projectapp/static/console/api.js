// Requests to the API: exact numbers, every error as an ApiError, waiting and signing in again.
import { parseExact, stringifyExact } from "./exact.js";
import { config, createStore, pause, untilStore, withJitter } from "./store.js";

/**
 * A request failed. kind "offline": there was no response, and `status` is 0. `details` has the
 * messages by field, `scope` is the scope that a 403 requires, and `retryAfterSeconds` is null if the
 * response has no Retry-After.
 */
export class ApiError extends Error {
  constructor(kind, status, problem = {}, headers = new Headers()) {
    super(problem.detail ?? "");
    this.kind = kind;
    this.status = status;
    this.code = problem.error ?? kind;
    this.detail = problem.detail ?? "";
    this.details = problem.details ?? {};
    this.requestId = problem.request_id ?? headers.get("X-Request-ID");
    this.etag = headers.get("ETag");
    [, this.scope] = /scope="([^"]*)"/.exec(headers.get("WWW-Authenticate") ?? "") ?? [];
    const seconds = Number.parseInt(headers.get("Retry-After"), 10);
    this.retryAfterSeconds = Number.isNaN(seconds) ? null : seconds;
  }
}

// state: "unknown", "open", "expired", "signed_out", or "none" without authentication. An open
// session has {caller, scopes, credential, expires_at}.
export const session = createStore({ state: config.auth.length ? "unknown" : "none" });

/** May requests be sent now? Without authentication always. */
export const isOpen = ({ state }) => state === "open" || state === "none";

/** The server does not accept the sign-in any more. The page keeps the caller, to compare it. */
export const loseSession = () =>
  session.set((current) => ({
    ...current,
    state: current.state === "open" ? "expired" : current.state.replace("unknown", "signed_out"),
  }));

/**
 * Call `action` after a sign-out, or when another caller has signed in: no data may stay. It gets the
 * session before.
 */
export const onCallerEnd = (action) =>
  session.subscribe((next, previous) => {
    const hasEnded = next.state === "signed_out" || next.caller !== previous.caller;
    if (previous.caller !== undefined && hasEnded) action(previous);
  });

// null, or {status, until (ms since 1970), retryNow()}: the reads that wait for Retry-After.
export const waiting = createStore(null);

// "online", or "offline" after a request without a response, until the server responds again.
export const connection = createStore("online");

// true as soon as the server has another version than this page.
export const isStale = createStore(false);

const REQUEST_TIMEOUT_MS = 30_000; // The server answers within 8 s; a slow upload takes longer.
const MAX_BACKOFF_SECONDS = 30;
const MAX_RETRIES = 20;

/**
 * Send a request, and return {status, body, etag, headers}. With `raw: true`, body is the Response.
 * Throws ApiError. A GET waits while the server is busy (429, 503) or unreachable, then it is repeated.
 * A write with an Idempotency-Key waits while the server is busy. Every request waits for a sign-in
 * that it needs, except with `waitsForSignIn: false`. Abort `signal` to end the waiting.
 */
export async function request(method, path, options = {}) {
  const { idempotencyKey, signal, waitsForSignIn = config.auth.length > 0 } = options;
  const isRead = method === "GET";
  for (let attempt = 0; ; attempt++) {
    try {
      return await send(method, path, options);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401 && waitsForSignIn) {
        const { caller } = session.get();
        loseSession();
        await untilStore(session, (current) => current.state === "open", signal);
        // Nothing is written in the name of another caller without a new click.
        if (!isRead && caller !== undefined && session.get().caller !== caller) {
          throw new ApiError("http", 401, { error: "caller_changed" });
        }
      } else if (isRead && error.kind === "offline") {
        await untilStore(connection, (current) => current === "online", signal);
      } else if (isBusy(error) && (isRead || idempotencyKey) && attempt < MAX_RETRIES) {
        await waitForRetry(error, attempt, signal);
      } else {
        throw error;
      }
    }
  }
}

/** Is the server busy? A 409 with Retry-After says that a request with the same key still runs. */
const isBusy = ({ status, retryAfterSeconds }) =>
  status === 429 || status === 503 || (status === 409 && retryAfterSeconds !== null);

/** Return 32 random hexadecimal digits, such as an Idempotency-Key. randomUUID() needs HTTPS. */
export const makeRandomId = () =>
  [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");

const pageId = makeRandomId();
let writes = 0;

/** Did this page send the request with this id? The feed also reports its own writes. */
export const isOwnRequest = (requestId) => Boolean(requestId?.startsWith(pageId));

/** Send a request once, without waiting for anything. */
export async function send(method, path, options = {}) {
  const { query, body, headers, signal, idempotencyKey, ifMatch, raw } = options;
  const parameters = new URLSearchParams(
    Object.entries(query ?? {}).filter(([, value]) => value !== null && value !== undefined),
  ).toString();
  const all = new Headers(headers);
  if (idempotencyKey) all.set("Idempotency-Key", idempotencyKey);
  if (ifMatch) all.set("If-Match", ifMatch);
  if (method !== "GET") all.set("X-Request-ID", `${pageId}-${++writes}`);
  const isText = typeof body === "string" || body instanceof Blob;
  if (body !== undefined && !all.has("Content-Type")) all.set("Content-Type", "application/json");
  const signals = [signal, raw ? null : AbortSignal.timeout(REQUEST_TIMEOUT_MS)].filter(Boolean);
  let response;
  let text;
  try {
    response = await fetch(config.prefix + path + (parameters && "?" + parameters), {
      method,
      headers: all,
      cache: "no-store", // Rows must not stay on the disk after the sign-out.
      body: body === undefined || isText ? body : stringifyExact(body),
      signal: AbortSignal.any(signals),
    });
    if (response.ok && raw) text = null;
    else text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    goOffline();
    throw new ApiError("offline", 0);
  }
  connection.set("online");
  if (response.ok) {
    const value = raw ? response : text && parseExact(text);
    const { status, headers: responseHeaders } = response;
    // A proxy that compresses makes the tag weak, and a weak tag never matches If-Match.
    const etag = responseHeaders.get("ETag")?.replace(/^W\//, "");
    return { status, body: value, etag, headers: responseHeaders };
  }
  throw new ApiError("http", response.status, parseProblem(text), response.headers);
}

function parseProblem(text) {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {}; // The response of a proxy in front of the service.
  }
}

const waits = new Set();

function showWaits() {
  const last = [...waits].sort((a, b) => a.until - b.until).at(-1);
  waiting.set(
    last ? { ...last, retryNow: () => [...waits].forEach((wait) => wait.retryNow()) } : null,
  );
}

async function waitForRetry(error, attempt, signal) {
  const seconds = error.retryAfterSeconds ?? Math.min(2 ** attempt, MAX_BACKOFF_SECONDS);
  const delay = withJitter(Math.max(seconds, 1) * 1000);
  const isOver = createStore(false);
  const wait = {
    ...{ status: error.status, until: Date.now() + delay },
    retryNow: () => isOver.set(true),
  };
  waits.add(wait);
  showWaits();
  try {
    await pause(delay, signal, isOver);
  } finally {
    waits.delete(wait);
    showWaits();
  }
}

// --- Is the server there, and does it have the version of this page?

const PROBE_SECONDS = 3;
let probe = null;

function goOffline() {
  connection.set("offline");
  probe ??= setTimeout(probeServer, PROBE_SECONDS * 1000);
}

/** Ask the server's health, which needs no sign-in and no database. */
async function probeServer() {
  clearTimeout(probe);
  probe = null;
  try {
    const { body } = await send("GET", "/health", {});
    if (body.version !== config.version) isStale.set(true);
  } catch {
    // send() has set `connection`; an error status says that a server is there.
  }
}

addEventListener("online", probeServer);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") probeServer();
});
connection.subscribe((value) => value === "online" && probeServer());
