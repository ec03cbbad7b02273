// Undo of the last save or delete of this page.
import { toast } from "./ui.js";

const steps = [];

/** Remember how to undo something: {label, run}. */
export const pushUndo = (step) => steps.push(step);

/** Undo the last step; returns false if there is none. */
export async function undo() {
  const step = steps.pop();
  if (!step) return false;
  try {
    await step.run();
    toast({ kind: "success", text: step.label });
  } catch (error) {
    toast({ kind: "error", text: step.label, error });
  }
}
