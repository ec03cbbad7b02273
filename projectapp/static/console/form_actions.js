// What a form does on the server: create, save, and settle a conflict. Each function gets a
// form of form_state.js and shows its errors there.
import { removeDraft, writeDraft } from "./drafts.js";
import { stringifyExact } from "./exact.js";
import { InputError, compareChanges, inputsOf, isChanged } from "./form_values.js";
import { writtenRow } from "./form_state.js";
import {
  createRow,
  deleteRow,
  readNewestChange,
  readRow,
  saveRow,
  valuesOf,
} from "./row_requests.js";
import { insertRow, removeRow, replaceRow } from "./rows.js";
import { currentResource, fieldOf, titleOf, writableFields } from "./schema.js";
import { go, url } from "./store.js";
import { t } from "./texts.js";
import { toast } from "./ui.js";
import { pushUndo } from "./undo.js";

export const MAX_MERGES = 5; // during one save, while others save all the time

const isListed = (resource) => currentResource(url.get()).name === resource.name;
const isOpen = (resource, id) => isListed(resource) && url.get().id === id;

/** Return who made a change: the caller or, outside of the API, the database role. */
export function authorOf(change) {
  const isAnonymous = !change?.caller && (change?.credential ?? "none") === "none"; // AUTH=none
  return isAnonymous ? t("author.unknown") : (change.caller ?? change.credential);
}

/** Show a row that was written outside of its form, in the list and in its form. */
export function showWrittenRow(resource, base, { isNew = false } = {}) {
  if (isListed(resource)) (isNew ? insertRow : replaceRow)(base.row);
  writtenRow.set({ resource: resource.name, base });
}

/** Run an action while the form says that it is saving. Returns false after an error. */
export async function run(form, action) {
  if (form.state.get().isSaving) return false;
  form.update({ isSaving: true, problem: null });
  try {
    return await action();
  } catch (error) {
    showProblem(form, error);
    return false;
  } finally {
    form.update({ isSaving: false });
  }
}

/** Show the messages of a 400 next to their fields, and every other error above the form. */
function showProblem(form, error) {
  const texts = (value) =>
    [value].flat().map((item) => (typeof item === "string" ? item : stringifyExact(item)));
  const entries = Object.entries(error.status === 400 ? error.details : {});
  const known = entries.filter(([name]) => fieldOf(form.resource, name));
  form.update({
    errors: Object.fromEntries(known.map(([name, value]) => [name, texts(value)])),
    problem: known.length ? null : error,
  });
}

/** Save the form. Returns true if everything in it is saved. */
export const save = (form) =>
  run(form, () => (form.isNew ? create(form) : saveChanges(form, MAX_MERGES)));

export function readValid(form) {
  const { values, errors } = form.readMine();
  if (form.isNew && form.resource.parent && !form.state.get().parent) {
    errors.parent = new InputError("parent");
  }
  form.update({ errors });
  return Object.keys(errors).length ? null : values;
}

async function create(form) {
  const { resource } = form;
  const values = readValid(form);
  if (!values) return false;
  const { inputs } = form.state.get();
  const { base, isEarlier } = await sendCreate(form, stringifyExact(values), form.state.get().parent?.id);
  keepRest(form, base, isEarlier ? {} : inputs);
  if (isListed(resource)) insertRow(base.row);
  const { id } = base.row;
  go({ id, view: null }, { push: false, force: true });
  if (isEarlier) toast({ kind: "info", text: t("panel.created_before") });
  pushUndo({
    label: t("panel.created", { title: titleOf(resource, base.row) }),
    run: async () => {
      await deleteRow(resource, id, base.etag);
      hideRow(resource, id);
    },
  });
  return !isEarlier;
}

/** Send a create. isEarlier: the row has the text of an earlier attempt, whose answer was lost. */
export async function sendCreate(form, body, parentId) {
  const { resource } = form;
  const { idempotencyKey, attempt } = form.draftKeys();
  if (attempt === null) form.setAttempt(body);
  try {
    return { base: await createRow(resource, parentId, body, idempotencyKey), isEarlier: false };
  } catch (error) {
    if (error.code === "idempotency_key_reused") {
      if (attempt === null) {
        form.renewKey(); // A copy of this tab has used the key for its own text.
        return sendCreate(form, body, parentId);
      }
      return { base: await createRow(resource, parentId, attempt, idempotencyKey), isEarlier: true };
    }
    const isRefused = error.status >= 400 && error.status < 500 && error.status !== 409;
    if (isRefused && attempt === null) form.setAttempt(null);
    throw error;
  }
}

/** What was typed after the create was sent becomes the draft of the new row. */
export function keepRest({ resource, id, state }, base, sentInputs) {
  const { inputs } = state.get();
  const initial = inputsOf(resource, base.row);
  const rest = writableFields(resource)
    .filter(({ name }) => inputs[name] !== sentInputs[name])
    .filter((field) => isChanged(field, inputs[field.name], initial[field.name]))
    .map(({ name }) => [name, inputs[name]]);
  removeDraft(resource, id);
  if (rest.length) writeDraft(resource, base.row.id, { inputs: Object.fromEntries(rest), base });
}

export async function saveChanges(form, mergesLeft) {
  const { resource, id } = form;
  const values = readValid(form);
  if (!values) return false;
  const { base, inputs } = form.state.get();
  if (!Object.keys(values).length) return true;
  let saved;
  try {
    saved = await saveRow(resource, id, values, base.etag);
  } catch (error) {
    const isChangedOrDeleted = error.status === 412 || error.status === 404;
    if (isChangedOrDeleted && mergesLeft) return reconcile(form, mergesLeft);
    throw error;
  }
  form.rebase(saved, inputs);
  if (isListed(resource)) replaceRow(saved.row);
  pushUndo({
    label: t("panel.saved", { title: titleOf(resource, saved.row) }),
    run: () => undoWrite(resource, base.row, saved, Object.keys(values)),
  });
  return true;
}

/** Write the former values of these fields, if nothing has changed since. */
export async function undoWrite(resource, before, written, names) {
  const values = valuesOf(resource, before, names);
  const base = await saveRow(resource, before.id, values, written.etag);
  showWrittenRow(resource, base);
}

/**
 * Compare the form with the row as it is now. Changes of different fields are merged; with
 * `mergesLeft`, they are then saved. Otherwise the form gets a conflict, or it is deleted.
 */
export async function reconcile(form, mergesLeft) {
  const { resource, id, state } = form;
  let theirs;
  try {
    theirs = await readRow(resource, id);
  } catch (error) {
    if (error.status !== 404) throw error;
    form.update({ isDeleted: true, change: await readNewestChange(resource, id) });
    return false;
  }
  const change = await readNewestChange(resource, id);
  const { base, inputs } = state.get();
  const { values, errors } = form.readMine();
  for (const name of Object.keys(errors)) values[name] = inputs[name];
  const comparison = compareChanges(resource, base.row, theirs.row, values);
  if (comparison.both.length) {
    form.update({ change, conflict: { theirs, change, values, ...comparison } });
    return false;
  }
  form.rebase(theirs);
  if (isListed(resource)) replaceRow(theirs.row);
  if (!mergesLeft) return true;
  if (comparison.theirNames.length) {
    toast({ kind: "info", text: t("conflict.merged", { author: authorOf(change) }) });
  }
  return saveChanges(form, mergesLeft - 1);
}

/** Look at a change of somebody else, without saving. */
export const look = (form) => run(form, () => reconcile(form, 0));

/** Save the form on top of the other change. `theirNames`: fields that keep the other value. */
export function settleConflict(form, theirNames) {
  const { theirs } = form.state.get().conflict;
  form.rebase(theirs);
  for (const name of theirNames) form.setInput(name, form.state.get().initial[name]);
  if (isListed(form.resource)) replaceRow(theirs.row);
  return save(form);
}

/** Show the row as it is now, without what was typed. The undo brings the text back. */
export function takeTheirs(form) {
  const { theirs } = form.state.get().conflict;
  const bringBack = form.discard();
  form.rebase(theirs);
  if (isListed(form.resource)) replaceRow(theirs.row);
  pushUndo({ label: t("panel.discarded"), run: async () => bringBack() });
}

export function discard(form) {
  const bringBack = form.discard();
  const { resource, id } = form;
  const run = async () => {
    bringBack();
    if (isListed(resource)) go({ id, view: null });
    else go({ resource: resource.name, id }, { reset: true });
  };
  pushUndo({ label: t("panel.discarded"), run });
}

/** Remove a deleted row from the list, and close its panel. */
export function hideRow(resource, id) {
  if (isListed(resource)) removeRow(id);
  if (isOpen(resource, id)) go({ id: null, view: null }, { force: true });
}
