// A run of many requests: an action on selected rows, or an import. It has progress, can be stopped,
// and pauses after an error until the user continues.
import { html } from "./preact-htm.js";
import { createStore } from "./store.js";
import { t } from "./texts.js";
import { Button } from "./ui.js";

export class Run {
  /** `state` has what the screen of the run shows. */
  constructor(state) {
    this.store = createStore({ ...state, done: 0, phase: "running", error: null });
  }

  get state() {
    return this.store.get();
  }

  update(changes) {
    this.store.set({ ...this.state, ...changes });
  }

  get isStopped() {
    return this.state.phase === "stopping";
  }

  /** Show the error, and wait until the user continues or stops. */
  async pause(error) {
    if (this.isStopped) return;
    this.update({ phase: "paused", error });
    await new Promise((resolve) => {
      this.resume = resolve;
    });
  }

  continue() {
    this.update({ phase: "running", error: null });
    this.resume?.();
  }

  /** Stop after the request that is under way, so that its outcome is known. */
  stop() {
    this.update({ phase: "stopping" });
    this.resume?.();
  }

  finish() {
    this.update({ phase: this.isStopped ? "stopped" : "finished", error: null });
  }
}

/** Return the numbers of the items that an error names, each with its messages by field. */
export function itemErrors(error) {
  const items = new Map();
  for (const [name, messages] of Object.entries(error.details ?? {})) {
    const [, number, , field = ""] = /^(\d+)(\.(.*))?$/s.exec(name) ?? [];
    if (number === undefined) continue;
    const errors = items.get(Number(number)) ?? [];
    errors.push({ field, message: [messages].flat().join(" ") });
    items.set(Number(number), errors);
  }
  return items;
}

export function Progress({ done, total }) {
  return html`<progress max=${Math.max(1, total)} value=${done} aria-label=${t("progress")} />`;
}

/** The buttons of a run that is not over. */
export function RunButtons({ run, phase }) {
  return html`<${Button} disabled=${phase === "stopping"} onClick=${() => run.stop()}>${t("run.stop")}<//>
    ${phase === "paused" &&
    html`<${Button} kind="primary" onClick=${() => run.continue()}>${t("run.continue")}<//>`}`;
}
