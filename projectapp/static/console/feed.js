// The state of the feed of changes. feed_tabs.js follows the feed; the first load does not wait for it.
import { createStore } from "./store.js";

/** state: "off", "on", "lagging" or "lost". */
export const feed = createStore({ state: "off" });

addEventListener("load", () => {
  import("./feed_tabs.js").then(
    ({ followPage }) => followPage(),
    () => feed.set({ state: "lost" }),
  );
});
