// Undo of the last saves and deletes: a stack, a toast with a button, and Ctrl+Z.
import { onCallerEnd } from "./api.js";
import { t } from "./texts.js";
import { toast } from "./ui.js";

const MAX_STEPS = 50;
const FINAL_STATUSES = [403, 404, 409, 410, 412]; // The same undo would fail again.
const steps = [];

/**
 * Show that something was done, and offer to undo it. `label` says what was done; `run` undoes it
 * and may throw ApiError.
 */
export function pushUndo({ label, run }) {
  const step = { label, run, isRunning: false };
  steps.push(step);
  if (steps.length > MAX_STEPS) steps.shift();
  toast({
    kind: "success",
    text: label,
    action: { label: t("undo"), run: () => runStep(step) },
  });
}

async function runStep(step) {
  if (step.isRunning || !steps.includes(step)) return;
  step.isRunning = true;
  try {
    await step.run();
    remove(step);
    toast({ kind: "success", text: t("undo.done", { label: step.label }) });
  } catch (error) {
    if (FINAL_STATUSES.includes(error.status)) remove(step);
    const key = error.status === 412 ? "undo.changed" : "undo.failed";
    toast({ kind: "error", text: t(key, { label: step.label }), error });
  } finally {
    step.isRunning = false;
  }
}

function remove(step) {
  const index = steps.indexOf(step);
  if (index >= 0) steps.splice(index, 1);
}

/** Undo the newest step. Returns false if there is none, so that the browser gets the key. */
export function undo() {
  const step = steps.at(-1);
  if (!step) return false;
  runStep(step);
  return true;
}

// Another caller must not undo these steps.
onCallerEnd(() => (steps.length = 0));
