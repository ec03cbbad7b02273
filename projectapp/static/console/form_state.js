// The state of one form: what it began with, what was typed, and what happens to it. Nothing but
// the user's own action changes an input.
import { session } from "./api.js";
import { readDraft, removeDraft, writeDraft } from "./drafts.js";
import { stringifyExact } from "./exact.js";
import { compareChanges, defaultInputs, inputsOf, isChanged, readChanges } from "./form_values.js";
import {
  createRow,
  deleteRow,
  readNewestChange,
  readRow,
  restoreRow,
  saveRow,
  valuesOf,
} from "./row_requests.js";
import { insertRow, removeRow, replaceRow } from "./rows.js";
import { fieldOf, titleOf, writableFields } from "./schema.js";
import { createStore } from "./store.js";
import { t } from "./texts.js";
import { toast } from "./ui.js";
import { pushUndo } from "./undo.js";

export const NEW = "new";
const MAX_MERGES = 5; // of one save, while others save all the time

/** The last change that the feed reported: {resource (its name), change}. live.js sets it. */
export const reportedChange = createStore(null);

const makeKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");

/** A draft belongs to a caller, so the caller must be known first. */
function waitForSession() {
  const isKnown = ({ state }) => state === "open" || state === "none";
  if (isKnown(session.get())) return Promise.resolve();
  return new Promise((resolve) => {
    const unsubscribe = session.subscribe((value) => {
      if (!isKnown(value)) return;
      unsubscribe();
      resolve();
    });
  });
}

/**
 * Return the form of a row, or of a new one for the id NEW. Its store has
 *   status     "loading", "ready", "missing" (there is no such row) or "failed" (see `problem`)
 *   base       {row, etag} that the form began with; null for a new row
 *   initial    the inputs of the base; `inputs`: what the controls show now
 *   errors     by field: an InputError, or the messages of the server
 *   problem    the ApiError of the last action
 *   isSaving
 *   parent     {id, title} of a new child
 *   change     a newer change of the row, by the feed or a refused save
 *   isDeleted  the row was deleted while the form has unsaved text
 *   conflict   {theirs, change, names (both changed them), merged: {mine, theirs}, values}
 *   draftTime  when the restored draft was written
 */
export function createForm(resource, id, parentId = null) {
  const abort = new AbortController();
  const { signal } = abort;
  const isNew = id === NEW;
  const state = createStore({ status: "loading", inputs: {}, initial: {}, errors: {}, base: null });
  const update = (changes) => state.set((current) => ({ ...current, ...changes }));
  let idempotencyKey = makeKey();
  let attempt = null; // The text of a create whose outcome is not known.

  function changedInputs({ inputs, initial } = state.get()) {
    const fields = writableFields(resource);
    return Object.fromEntries(
      fields
        .filter((field) => isChanged(field, inputs[field.name], initial[field.name]))
        .map(({ name }) => [name, inputs[name]]),
    );
  }

  const isDirty = (current) => Object.keys(changedInputs(current)).length > 0;

  const readMine = () => {
    const { inputs, initial, base } = state.get();
    return readChanges(resource, inputs, initial, base?.row ?? null);
  };

  function keepDraft() {
    if (!isDirty() && !attempt) return removeDraft(resource, id);
    const { base, parent } = state.get();
    const draft = { inputs: changedInputs(), base, parent, idempotencyKey, attempt };
    return writeDraft(resource, id, draft);
  }

  async function load() {
    update({ status: "loading", problem: null });
    try {
      await waitForSession();
      const draft = readDraft(resource, id);
      const base = isNew ? null : await readRow(resource, id, { signal });
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
    idempotencyKey = draft?.idempotencyKey ?? idempotencyKey;
    attempt = draft?.attempt ?? null;
    update({
      status: "ready",
      base,
      initial,
      inputs: { ...initial, ...draft?.inputs },
      parent: draft?.parent ?? (parentId && { id: parentId, title: parentId }),
      draftTime: draft?.at ?? null,
    });
  }

  async function showMissing() {
    const change = await readNewestChange(resource, id, { signal }).catch(() => null);
    const draft = readDraft(resource, id);
    if (draft?.base) {
      show(draft.base, draft);
      update({ isDeleted: true, change });
    } else update({ status: "missing", change });
  }

  const noteNewestChange = async () =>
    update({ change: await readNewestChange(resource, id, { signal }) });

  const unsubscribe = reportedChange.subscribe((report) => {
    const { base, status, isDeleted } = state.get();
    if (report?.resource !== resource.name || report.change.id !== id || !base) return;
    if (report.change.version <= base.row.version) return;
    const isDelete = report.change.operation === "delete";
    if (isDelete && !isDirty() && status === "ready") {
      update({ status: "missing", change: report.change });
    } else update({ change: report.change, isDeleted: isDelete || (isDeleted && false) });
  });

  function setInput(name, input) {
    const { inputs, errors } = state.get();
    const { [name]: _, ...otherErrors } = errors;
    update({ inputs: { ...inputs, [name]: input }, errors: otherErrors });
    keepDraft();
  }

  function setParent(parent) {
    update({ parent, problem: null });
    keepDraft();
  }

  /** Begin with another version of the row. What was typed stays. `sent`: inputs that are saved. */
  function rebase(base, sent = {}) {
    const { inputs } = state.get();
    const mine = changedInputs();
    for (const name of Object.keys(sent)) if (inputs[name] === sent[name]) delete mine[name];
    const initial = inputsOf(resource, base.row);
    update({
      ...{ status: "ready", base, initial, inputs: { ...initial, ...mine } },
      ...{ errors: {}, problem: null, conflict: null, isDeleted: false, draftTime: null },
      change: null,
    });
    keepDraft();
  }

  function discard() {
    const { initial } = state.get();
    const typed = changedInputs();
    attempt = null;
    idempotencyKey = makeKey();
    update({ inputs: initial, errors: {}, problem: null, draftTime: null });
    removeDraft(resource, id);
    return () => {
      update({ inputs: { ...state.get().inputs, ...typed } });
      keepDraft();
    };
  }

  /** Save, and return true if the row has been saved. */
  async function save() {
    if (state.get().isSaving || state.get().status !== "ready") return false;
    update({ isSaving: true, problem: null });
    try {
      return isNew ? await create() : await saveChanges(MAX_MERGES);
    } catch (error) {
      showProblem(error);
      return false;
    } finally {
      update({ isSaving: false });
    }
  }

  function showProblem(error) {
    if (error.status !== 400) return update({ problem: error });
    const known = Object.entries(error.details).filter(([name]) => fieldOf(resource, name));
    const messages = (value) => [value].flat().map((item) => item?.toString?.() ?? "");
    update({
      errors: Object.fromEntries(known.map(([name, value]) => [name, messages(value)])),
      problem: known.length ? null : error,
    });
  }

  async function create() {
    const { values, errors } = readMine();
    update({ errors });
    if (Object.keys(errors).length) return false;
    const { parent, inputs } = state.get();
    const body = stringifyExact(values);
    let created;
    try {
      attempt ??= body;
      keepDraft();
      created = await createRow(resource, parent?.id, body, idempotencyKey);
    } catch (error) {
      if (error.code === "idempotency_key_reused" && attempt !== body) {
        // The row exists with the text of an earlier attempt, whose answer was lost.
        created = await createRow(resource, parent?.id, attempt, idempotencyKey);
        inputs.isEarlier = true;
      } else {
        const isRefused = error.kind === "http" && error.status < 500 && error.status !== 409;
        if (isRefused) attempt = null;
        keepDraft();
        throw error;
      }
    }
    return created;
  }

  async function saveChanges(mergesLeft) {
    const { values, errors } = readMine();
    const { base, inputs } = state.get();
    update({ errors });
    if (Object.keys(errors).length) return false;
    if (!Object.keys(values).length) return true;
    let saved;
    try {
      saved = await saveRow(resource, id, values, base.etag);
    } catch (error) {
      if (error.status === 404 || error.status === 412) return reconcile(mergesLeft);
      throw error;
    }
    rebase(saved, inputs);
    replaceRow(resource, saved.row);
    offerUndo(base.row, saved, Object.keys(values));
    return true;
  }
}
