// Deleting a row, and bringing a deleted row back.
import { stringifyExact } from "./exact.js";
import {
  MAX_MERGES,
  hideRow,
  keepRest,
  readValid,
  reconcile,
  run,
  saveChanges,
  sendCreate,
  showWrittenRow,
} from "./form_actions.js";
import { deleteRow, restoreRow, valuesOf } from "./row_requests.js";
import { titleOf } from "./schema.js";
import { go } from "./store.js";
import { t } from "./texts.js";
import { toast } from "./ui.js";
import { pushUndo } from "./undo.js";

const DELETE_DELAY_MS = 6000; // for a resource that cannot restore a deleted row

/** Delete the row. The toast, or Ctrl+Z, brings it back. */
export const remove = (form) =>
  run(form, async () => {
    const { resource, id } = form;
    const { base } = form.state.get();
    const label = t("panel.deleted", { title: titleOf(resource, base.row) });
    if (!resource.has.restore) return removeLater(form, base, label);
    try {
      await deleteRow(resource, id, base.etag);
    } catch (error) {
      if (error.status !== 412 && error.status !== 404) throw error;
      await reconcile(form, 0);
      if (error.status === 412) toast({ kind: "error", text: t("panel.delete_changed") });
      return false;
    }
    hideRow(resource, id);
    pushUndo({ label, run: () => restoreDeleted(resource, id) });
    return true;
  });

/** Nothing brings this row back, so the request waits until undo is no longer offered. */
function removeLater({ resource, id }, base, label) {
  hideRow(resource, id);
  const timer = setTimeout(() => {
    deleteRow(resource, id, base.etag).catch((error) => {
      showWrittenRow(resource, base, { isNew: true });
      toast({ kind: "error", text: t("panel.delete_failed"), error });
    });
  }, DELETE_DELAY_MS);
  pushUndo({
    label,
    run: async () => {
      clearTimeout(timer);
      showWrittenRow(resource, base, { isNew: true });
    },
  });
  return true;
}

/** Bring a deleted row back, and return it. */
export async function restoreDeleted(resource, id) {
  const base = await restoreRow(resource, id);
  showWrittenRow(resource, base, { isNew: true });
  return base;
}

/** Create the deleted row of the form again, and save on top what was typed. */
export const recreate = (form) =>
  run(form, async () => {
    const { resource, id } = form;
    if (resource.has.restore) {
      await restoreDeleted(resource, id); // The form goes on with the restored row.
      return saveChanges(form, MAX_MERGES);
    }
    const { inputs, base: old } = form.state.get();
    const values = readValid(form);
    if (!values) return false;
    const body = stringifyExact({ ...valuesOf(resource, old.row), ...values });
    const parentId = old.row[resource.parent_field];
    const { base, isEarlier } = await sendCreate(form, body, parentId);
    keepRest(form, base, isEarlier ? {} : inputs);
    showWrittenRow(resource, base, { isNew: true });
    go({ id: base.row.id }, { push: false, force: true });
    return !isEarlier;
  });
