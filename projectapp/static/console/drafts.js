// Unsaved text survives a reload: it is kept in the sessionStorage of the tab until it is saved or
// discarded. A draft has the inputs of a form and the row it began with, never a token. Each caller
// has drafts of their own: after another one has signed in, they are neither shown nor replaced.
import { session } from "./api.js";
import { parseExact, stringifyExact } from "./exact.js";
import { config } from "./store.js";

const PREFIX = `projectapp.draft ${config.prefix} `;
const keyOf = (resource, id) => {
  const { caller = null } = session.get();
  return PREFIX + JSON.stringify([resource.name, id, caller]);
};

/**
 * Keep {inputs, base, idempotencyKey, attempt, parent} of a form. `base` is null for a new row.
 * Returns false if the browser's storage is blocked or full.
 */
export function writeDraft(resource, id, draft) {
  const text = stringifyExact({ ...draft, at: new Date().toISOString() });
  try {
    sessionStorage.setItem(keyOf(resource, id), text);
    return true;
  } catch {
    return false;
  }
}

/** Return the draft of a form with the time `at`, or null. */
export function readDraft(resource, id) {
  try {
    return parseExact(sessionStorage.getItem(keyOf(resource, id)) ?? "null");
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

/** Remove the drafts of this tab, for the sign-out. An expired sign-in keeps them. */
export function removeDrafts() {
  try {
    for (const key of Object.keys(sessionStorage)) {
      if (key.startsWith(PREFIX)) sessionStorage.removeItem(key);
    }
  } catch {
    // Without storage there is no draft.
  }
}
