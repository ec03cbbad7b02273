// One reader of the feed for all tabs of a browser. HTTP/1.1 allows about six connections to a
// server, so a stream in each tab would leave none for requests. The tab that holds a lock reads,
// and sends the changes to the others. When it closes, the next tab gets the lock, and continues at
// the cursor that it knows.
import { isOpen, session } from "./api.js";
import { parseExact } from "./exact.js";
import { noteChanges, noteGap, startLog } from "./feed_log.js";
import { readFeed } from "./feed_reader.js";
import { canRead, currentResource } from "./schema.js";
import { config, createStore, url } from "./store.js";

/** The state of the feed: "off", "on", "lagging" or "lost". */
export const feed = createStore({ state: "off" });

// Tabs with another version of this page do not share its messages.
const CHANNEL = `projectapp.feed ${config.prefix} ${config.version}`;
const MAX_STREAMS = 3; // Tabs that show other resources read a page every few seconds.

const channel = new BroadcastChannel(CHANNEL);
let subscription = null;

/** Follow the feed of the resource and for the caller that the page shows, also when they change. */
export function followPage() {
  follow();
  url.subscribe(follow);
  session.subscribe(follow);
}

function follow() {
  if (!isOpen(session.get())) return; // The reader waits until it is open again.
  const { caller = null } = session.get();
  const resource = currentResource(url.get());
  const key = JSON.stringify([resource.name, caller]);
  if (subscription?.key === key) return;
  subscription?.abort.abort();
  subscription = null;
  feed.set({ state: "off" });
  startLog(resource);
  if (!resource.has.changes || !canRead(resource)) return;
  subscription = { key, resource, cursor: null, isReader: false, abort: new AbortController() };
  channel.postMessage({ key, isQuestion: true });
  waitForTurn(subscription);
}

async function waitForTurn(current) {
  const { key, abort } = current;
  const { signal } = abort;
  try {
    // Without HTTPS there are no locks. Each tab then reads for itself, and keeps no stream open.
    if (!navigator.locks) await read(current, false);
    else await navigator.locks.request(`${CHANNEL} ${key}`, { signal }, () => readWithLock(current));
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

async function readWithLock(current) {
  const { held } = await navigator.locks.query();
  const readers = held.filter(({ name }) => name.startsWith(CHANNEL));
  await read(current, readers.length <= MAX_STREAMS);
}

function read(current, canStream) {
  const { key, resource, cursor, abort } = current;
  current.isReader = true;
  const publish = (message) => {
    if (navigator.locks) channel.postMessage({ key, ...message });
    if (current === subscription) receive(message);
  };
  return readFeed({ resource, cursor, canStream, signal: abort.signal, publish });
}

channel.onmessage = ({ data: message }) => {
  if (message.key !== subscription?.key) return;
  if (!message.isQuestion) receive(message);
  else if (subscription.isReader) {
    const { key, cursor } = subscription;
    channel.postMessage({ key, cursor, state: feed.get().state });
  }
};

/** Apply a message of the reader, in every tab. */
function receive({ state, cursor, texts = [], hasGap }) {
  const { resource } = subscription;
  subscription.cursor = cursor;
  if (hasGap) noteGap(resource);
  if (texts.length) noteChanges(resource, texts.map((text) => parseExact(text)));
  if (state !== feed.get().state) feed.set({ state });
}
