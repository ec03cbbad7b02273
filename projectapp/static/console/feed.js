// The feed of changes: one connection for all tabs of a browser.
import { createStore } from "./store.js";

/** state: "off", "on", "lagging" or "lost". */
export const feed = createStore({ state: "off" });
