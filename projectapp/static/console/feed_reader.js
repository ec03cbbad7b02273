// Reads the feed of a resource until it is stopped: an event stream, or a page every few seconds.
import { ApiError, connection, isOpen, loseSession, send, session } from "./api.js";
import { stringifyExact } from "./exact.js";
import { readEvents } from "./feed_events.js";
import { pause, untilStore, withJitter } from "./store.js";

const POLL_MS = 5000;
const POLL_CHANGES = 1000;
const RECONNECT_MS = 2000;
const MAX_RECONNECT_MS = 30_000;
// The server sends at least a comment every 15 seconds.
const LAGGING_MS = 20_000;
const LOST_MS = 45_000;
const CHECK_MS = 5000;

/**
 * Follow the feed of a resource until the signal aborts, or until the caller may not read it.
 * `cursor` is where to start: null for now. Calls publish({state, cursor, texts, hasGap}): texts
 * are the changes as JSON. With hasGap, changes are missing between those before and after it.
 */
export async function readFeed({ resource, cursor, canStream, signal, publish }) {
  const path = `${resource.path}/changes`;
  let isStream = canStream;
  let failures = 0;

  function note(events) {
    failures = 0;
    cursor = events.at(-1)?.id ?? cursor;
    publish({ state: "on", cursor, texts: events.map(({ data }) => data).filter(Boolean) });
  }

  /** Read the event stream until it ends. Throws ApiError, or another error if it breaks off. */
  async function stream() {
    const abort = new AbortController();
    let lastPartTime = Date.now();
    const timer = setInterval(() => {
      const silence = Date.now() - lastPartTime;
      if (silence > LOST_MS) abort.abort();
      else if (silence > LAGGING_MS) publish({ state: "lagging", cursor });
    }, CHECK_MS);
    const endWithSession = session.subscribe((value) => isOpen(value) || abort.abort());
    const headers = { Accept: "text/event-stream", ...(cursor && { "Last-Event-ID": cursor }) };
    try {
      const { body: response } = await send("GET", path, {
        headers,
        raw: true,
        signal: AbortSignal.any([signal, abort.signal]),
      });
      note([]);
      await readEvents(response, (events) => {
        lastPartTime = Date.now();
        note(events);
      });
    } finally {
      clearInterval(timer);
      endWithSession();
    }
  }

  /** Read the changes since the cursor, page by page, then wait. */
  async function poll() {
    for (let hasMore = true; hasMore; ) {
      const query = { since: cursor, limit: POLL_CHANGES };
      const { body } = await send("GET", path, { query, signal });
      const texts = body.items.map((item) => stringifyExact(item));
      note([...texts.map((data) => ({ id: null, data })), { id: body.next_cursor, data: null }]);
      hasMore = body.has_more;
    }
    await pause(withJitter(POLL_MS), signal);
  }

  /** Decide what follows an error. Returns how many ms to wait, or null to give up. */
  function recover(error) {
    const { status, retryAfterSeconds } = error;
    if (status === 401) loseSession();
    if (status === 403 || status === 404) return null;
    // The cursor is too old, or is one of another database: its reader cannot continue.
    if ((status === 410 || status === 400) && cursor) {
      cursor = null;
      publish({ state: "lagging", cursor, texts: [], hasGap: true });
      return 0;
    }
    if (status === 501 && isStream) {
      isStream = false; // This server keeps no streams open.
      return 0;
    }
    publish({ state: "lost", cursor });
    if (retryAfterSeconds !== null && retryAfterSeconds !== undefined) return retryAfterSeconds * 1000;
    return Math.min(RECONNECT_MS * 2 ** failures++, MAX_RECONNECT_MS);
  }

  while (!signal.aborted) {
    let delay = RECONNECT_MS;
    if (!isOpen(session.get())) publish({ state: "off", cursor });
    await untilStore(session, isOpen, signal);
    await untilStore(connection, (value) => value === "online", signal);
    try {
      if (isStream) {
        await stream();
        publish({ state: "lagging", cursor }); // The server ended it: it stops, or the token has expired.
      } else {
        await poll();
        delay = 0;
      }
    } catch (error) {
      signal.throwIfAborted();
      delay = recover(error);
      if (delay === null) return publish({ state: "off", cursor });
      // After a time without an answer, the page asks the server's health until it is there again.
      if (error instanceof ApiError && error.kind === "offline") delay /= 4;
    }
    await pause(withJitter(delay), signal);
  }
}
