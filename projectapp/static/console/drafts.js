// Unsaved text survives a reload: it is kept in the sessionStorage of the tab until it is saved or
// discarded. A draft has the inputs of a form and the row it began with, never a token.
import { session } from "./api.js";
import { parseExact, stringifyExact } from "./exact.js";
import { config } from "./store.js";

const PREFIX = `projectapp.draft ${config.prefix} `;
const keyOf = (resource, id) => `${PREFIX}${resource.name} ${id}`;
const currentCaller = () => session.get().caller ?? null;

/**
 * Keep {inputs, base, idempotencyKey, attempt, parent} of a form. `base` is null for a new row.
 * Returns false if the browser's storage is blocked or full.
 */
export function writeDraft(resource, id, draft) {
  const text = stringifyExact({ ...draft, at: new Date().toISOString(), caller: currentCaller() });
  try {
    sessionStorage.setItem(keyOf(resource, id), text);
    return true;
  } catch {
    return false;
  }
}

/** Return the draft of a form with the time `at`, or null. Another caller's draft is not shown. */
export function readDraft(resource, id) {
  try {
    const draft = parseExact(sessionStorage.getItem(keyOf(resource, id)) ?? "null");
    return draft?.caller === currentCaller() ? draft : null;
  } catch {
    return null;
  }
}

export function removeDraft(resource, id) {
  try {
    sessionStorage.removeItem(keyOf(resource, id));
  } catch {
    // Without storage there is no draft.
  }
}

function removeAllDrafts() {
  try {
    for (const key of Object.keys(sessionStorage)) {
      if (key.startsWith(PREFIX)) sessionStorage.removeItem(key);
    }
  } catch {
    // Without storage there is no draft.
  }
}

// Signing out removes all drafts. An expired sign-in keeps them.
session.subscribe((next, previous) => {
  if (previous.state === "open" && next.state === "signed_out") removeAllDrafts();
});
