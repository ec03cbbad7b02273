// Stores, the settings of this browser, and the state in the URL.
import { useEffect, useState } from "./preact-htm.js";

// The server writes this block into the page: projectapp/console/views.py.
export const config = JSON.parse(document.getElementById("config").textContent);

/** Return a store: get(), set(value or function), subscribe(listener) -> unsubscribe. */
export function createStore(value) {
  const listeners = new Set();
  return {
    get: () => value,
    set(next) {
      const previous = value;
      value = typeof next === "function" ? next(value) : next;
      if (value !== previous) for (const listener of [...listeners]) listener(value, previous);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** Return the value of a store, and render the component again when it changes. */
export function useStore(store) {
  const [value, setValue] = useState(store.get());
  useEffect(() => {
    setValue(() => store.get()); // It may have changed between the render and this effect.
    return store.subscribe((next) => setValue(() => next));
  }, [store]);
  return value;
}

/** Resolve when the store has a value that `condition` accepts; reject when the signal aborts. */
export function untilStore(store, condition, signal) {
  return new Promise((resolve, reject) => {
    const end = () => {
      unsubscribe();
      signal?.removeEventListener("abort", abort);
    };
    const abort = () => {
      end();
      reject(signal.reason);
    };
    const check = (value) => {
      if (!condition(value)) return;
      end();
      resolve();
    };
    const unsubscribe = store.subscribe(check);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort);
    check(store.get());
  });
}

/** Add up to a quarter to a time, so that not all browsers come back at the same moment. */
export const withJitter = (milliseconds) => milliseconds * (1 + Math.random() / 4);

/** Resolve after a time, or when `isOver` becomes true; reject when the signal aborts. */
export async function pause(milliseconds, signal, isOver = createStore(false)) {
  const timer = setTimeout(() => isOver.set(true), milliseconds);
  try {
    await untilStore(isOver, Boolean, signal);
  } finally {
    clearTimeout(timer);
  }
}

// --- Settings: only preferences, never a token or data.

const SETTINGS_KEY = "projectapp.console";
const CHOICES = {
  language: ["ko", "en"],
  theme: ["auto", "light", "dark"],
  zone: ["local", "utc"],
  letterKeys: [true, false],
};

function readSettings() {
  let stored = {};
  try {
    stored = JSON.parse(localStorage.getItem(SETTINGS_KEY)) ?? {};
  } catch {
    // Storage can be blocked, or hold a text of something else: the defaults work.
  }
  const browserLanguages = navigator.languages.map((tag) => tag.slice(0, 2));
  const defaults = {
    language: browserLanguages.find((tag) => CHOICES.language.includes(tag)) ?? "en",
    theme: "auto",
    zone: "local",
    letterKeys: true,
  };
  const requested = { language: new URLSearchParams(location.search).get("lang") };
  const settings = {};
  for (const [name, choices] of Object.entries(CHOICES)) {
    const candidates = [requested[name], stored[name], defaults[name]];
    settings[name] = candidates.find((value) => choices.includes(value));
  }
  return settings;
}

export const settings = createStore(readSettings());

export function changeSettings(changes) {
  settings.set((current) => ({ ...current, ...changes }));
  if (changes.language) go({ lang: null }, { push: false, force: true });
  try {
    localStorage.setItem(SETTINGS_KEY, JSON.stringify(settings.get()));
  } catch {
    // The setting then lasts as long as the page.
  }
}

addEventListener("storage", (event) => {
  if (event.key === SETTINGS_KEY) settings.set(readSettings());
});

// --- The URL. Its parameters have the names of the API's parameters, and four are the console's.

// Not location.pathname: after //console, a link to it would lead to a host with the name console.
export const PAGE_PATH = `${config.prefix}/console`;

const CONSOLE_PARAMETERS = ["resource", "view", "id", "lang"];

function readUrl() {
  return Object.fromEntries(new URLSearchParams(location.search));
}

/** The parameters of the URL: an object of strings. */
export const url = createStore(readUrl());

/** Return the parameters of the list's request that the URL has: q, sort and filters. */
export function listQuery(state = url.get()) {
  return Object.fromEntries(
    Object.entries(state).filter(([name]) => !CONSOLE_PARAMETERS.includes(name)),
  );
}

let guard = null;

/**
 * Call `isFree(next)` before the URL changes. If it returns false, the URL stays. A form with unsaved
 * text does so for a URL that would close it, asks the user, and then calls go(..., {force: true}).
 * Returns a function that removes the guard.
 */
export function guardUrl(isFree) {
  guard = isFree;
  return () => {
    if (guard === isFree) guard = null;
  };
}

export function urlOf(state) {
  const text = new URLSearchParams(state).toString();
  return PAGE_PATH + (text && "?" + text);
}

/**
 * Change the state in the URL. A value of null, undefined or "" removes the parameter.
 * push: false replaces the history entry, for typing. reset: true first removes all parameters.
 */
export function go(changes, { push = true, reset = false, force = false } = {}) {
  const next = reset ? {} : { ...url.get() };
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") delete next[name];
    else next[name] = String(value);
  }
  if (!force && guard && !guard(next)) return false;
  if (urlOf(next) !== urlOf(url.get())) {
    history[push ? "pushState" : "replaceState"](null, "", urlOf(next));
    url.set(next);
  }
  return true;
}

addEventListener("popstate", () => {
  const next = readUrl();
  if (guard && !guard(next)) history.pushState(null, "", urlOf(url.get()));
  else url.set(next);
});
