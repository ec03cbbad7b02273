// What the palette offers: the commands of the screens, and the rows that were opened last.
import { useEffect, useRef } from "./preact-htm.js";
import { onCallerEnd } from "./api.js";
import { createStore } from "./store.js";

const RECENT_ROWS = 8;
const sources = new Set();

/** Offer commands while the component is mounted: [{label, group: "go" or "do", keys, run}]. */
export function useCommands(commands) {
  const source = useRef();
  source.current = commands;
  useEffect(() => {
    sources.add(source);
    return () => sources.delete(source);
  }, []);
}

export const allCommands = () => [...sources].flatMap(({ current }) => current);

/** The rows that were opened last, the newest first: [{resource (a name), id, title}]. */
export const recentRows = createStore([]);

export function rememberRow(row) {
  recentRows.set((rows) => {
    const others = rows.filter(({ id }) => id !== row.id);
    return [row, ...others].slice(0, RECENT_ROWS);
  });
}

// Another user of this browser may not see these rows.
onCallerEnd(() => recentRows.set([]));
