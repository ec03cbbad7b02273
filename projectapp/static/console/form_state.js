// The state of one form: what it began with, and what was typed. Only the user's own actions change
// an input. form_actions.js has the actions that write to the server.
import { isOpen, makeRandomId, session } from "./api.js";
import { readDraft, removeDraft, writeDraft } from "./drafts.js";
import { defaultInputs, inputsOf, isChanged, readChanges } from "./form_values.js";
import { readNewestChange, readRow } from "./row_requests.js";
import { writableFields } from "./schema.js";
import { createStore, untilStore } from "./store.js";

const NEW = "new";

/** The newest change that the feed reported: {resource: its name, change}. */
export const reportedChange = createStore(null);

/** The newest write of this page outside of a form, such as an undo: {resource, base}. */
export const writtenRow = createStore(null);

/** The newest draft that an undo has brought back: {resource: its name, id}. */
const restoredDraft = createStore(null);

/**
 * Return the form of a row, or of a new one for the id NEW. Its store `state` has
 *   status     "loading", "ready", "missing" (there is no such row) or "failed" (see `problem`)
 *   base       {row, etag} that the form began with; null for a new row
 *   initial    the inputs of the base; `inputs`: what the controls show now
 *   errors     by field: an InputError, or the messages of the server
 *   problem    the ApiError of the last action, or null
 *   isSaving
 *   parent     {id, title} of a new child, or null
 *   change     the newest change, if it is newer than the base; null otherwise
 *   isDeleted  the row was deleted after the form began
 *   conflict   {theirs, change, mine, theirNames, both, values}, or null
 *   draftTime  when the restored draft was written, or null
 * `draftKeys` has the Idempotency-Key of a new row and the text of a create without an outcome.
 */
export function createForm(resource, id) {
  const abort = new AbortController();
  const { signal } = abort;
  const isNew = id === NEW;
  const state = createStore({
    ...{ status: "loading", base: null, initial: {}, inputs: {}, errors: {}, problem: null },
    ...{ isSaving: false, parent: null, change: null, isDeleted: false, conflict: null },
    draftTime: null,
  });
  const update = (changes) => state.set((current) => ({ ...current, ...changes }));
  let draftKeys = { idempotencyKey: makeRandomId(), attempt: null };

  function changedInputs() {
    const { inputs, initial } = state.get();
    return Object.fromEntries(
      writableFields(resource)
        .filter((field) => isChanged(field, inputs[field.name], initial[field.name]))
        .map(({ name }) => [name, inputs[name]]),
    );
  }

  const isDirty = () =>
    Object.keys(changedInputs()).length > 0 || (isNew && state.get().parent !== null);

  function readMine() {
    const { inputs, initial, base } = state.get();
    return readChanges(resource, inputs, initial, base?.row ?? null);
  }

  function keepDraft() {
    const { base, parent } = state.get();
    if (!isDirty() && !draftKeys.attempt) removeDraft(resource, id);
    else writeDraft(resource, id, { inputs: changedInputs(), base, parent, ...draftKeys });
  }

  async function load() {
    update({ status: "loading", problem: null });
    try {
      await untilStore(session, isOpen, signal); // A draft belongs to a caller.
      const base = isNew ? null : await readRow(resource, id, { signal });
      const draft = readDraft(resource, id);
      show(draft?.base ?? base, draft);
      if (draft?.base && draft.base.row.version !== base.row.version) await noteNewestChange();
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404) await showMissing();
      else update({ status: "failed", problem: error });
    }
  }

  function show(base, draft) {
    const initial = base ? inputsOf(resource, base.row) : defaultInputs(resource);
    const { idempotencyKey, attempt } = draft ?? draftKeys;
    draftKeys = { idempotencyKey, attempt };
    update({
      ...{ status: "ready", base, initial, inputs: { ...initial, ...draft?.inputs } },
      ...{ parent: draft?.parent ?? null, draftTime: draft?.at ?? null },
    });
  }

  async function showMissing() {
    const draft = readDraft(resource, id);
    if (draft?.base) show(draft.base, draft);
    else update({ status: "missing" });
    await noteNewestChange().catch(() => null); // It only says who deleted the row, and when.
    update({ isDeleted: true });
  }

  const noteNewestChange = async () =>
    update({ change: await readNewestChange(resource, id, { signal }) });

  function noteReport(report) {
    const { base } = state.get();
    if (report.resource !== resource.name || report.change.id !== id || !base) return;
    if (report.change.version <= base.row.version) return;
    update({ change: report.change, isDeleted: report.change.operation === "delete" });
  }

  function setInput(name, input) {
    const { inputs, errors } = state.get();
    const { [name]: _, ...otherErrors } = errors;
    update({ inputs: { ...inputs, [name]: input }, errors: otherErrors });
    keepDraft();
  }

  function setParent(parent) {
    const { parent: _, ...errors } = state.get().errors;
    update({ parent, errors });
    keepDraft();
  }

  /** Go on with another version of the row. What was typed stays, except for the saved inputs. */
  function rebase(base, savedInputs = {}) {
    const { inputs, change } = state.get();
    const mine = Object.entries(changedInputs()).filter(([name]) => inputs[name] !== savedInputs[name]);
    const initial = inputsOf(resource, base.row);
    update({
      ...{ status: "ready", base, initial, inputs: { ...initial, ...Object.fromEntries(mine) } },
      ...{ errors: {}, problem: null, conflict: null, isDeleted: false, draftTime: null },
      change: change?.version > base.row.version ? change : null,
    });
    keepDraft();
  }

  /** Forget what was typed. Returns a function that brings it back. */
  function discard() {
    const { initial, parent } = state.get();
    const typed = changedInputs();
    const oldKeys = draftKeys;
    draftKeys = { idempotencyKey: makeRandomId(), attempt: null };
    update({ inputs: initial, parent: null, errors: {}, problem: null, draftTime: null });
    keepDraft();
    return () => {
      draftKeys = oldKeys;
      update({ inputs: { ...state.get().inputs, ...typed }, parent });
      keepDraft();
      restoredDraft.set({ resource: resource.name, id });
    };
  }

  function setAttempt(attempt) {
    draftKeys = { ...draftKeys, attempt };
    keepDraft();
  }

  function renewKey() {
    draftKeys = { idempotencyKey: makeRandomId(), attempt: null };
    keepDraft();
  }

  const unsubscribes = [
    reportedChange.subscribe(noteReport),
    // Of an earlier form of this row: its panel was closed.
    restoredDraft.subscribe((draft) => {
      if (draft.resource === resource.name && draft.id === id && !isDirty()) load();
    }),
    writtenRow.subscribe(({ resource: name, base }) => {
      if (name === resource.name && base.row.id === id) rebase(base);
    }),
  ];

  function dispose() {
    abort.abort();
    for (const unsubscribe of unsubscribes) unsubscribe();
  }

  return {
    ...{ resource, id, isNew, state, update, load, dispose, discard, rebase, keepDraft },
    ...{ changedInputs, isDirty, readMine, setInput, setParent, setAttempt, renewKey, noteNewestChange },
    draftKeys: () => draftKeys,
  };
}
