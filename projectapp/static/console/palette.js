// The palette: every command by its name.
import { html, useState } from "./preact-htm.js";
import { allCommands, recentRows } from "./commands.js";
import { useKeys } from "./keys.js";
import { go, settings, useStore } from "./store.js";
import { t } from "./texts.js";
import { Dialog, Keys } from "./ui.js";

const GROUPS = ["go", "do", "recent"];

/** Fold a text for comparing: case and the composed or decomposed form of Hangul do not matter. */
const fold = (text) => text.normalize("NFKC").toLocaleLowerCase(settings.get().language);

function matchingCommands(rows, text) {
  const recent = rows.map(({ resource, id, title }) => ({
    group: "recent",
    label: title,
    run: () => go({ resource, id, view: null }),
  }));
  const words = fold(text).split(/\s+/);
  const matches = [...allCommands(), ...recent].filter(({ label }) =>
    words.every((word) => fold(label).includes(word)),
  );
  return GROUPS.flatMap((group) => matches.filter((command) => command.group === group));
}

export function Palette({ onClose }) {
  const [text, setText] = useState("");
  const [selected, setSelected] = useState(0);
  const commands = matchingCommands(useStore(recentRows), text);
  const index = Math.min(selected, commands.length - 1);
  const move = (step) => () => setSelected((index + step + commands.length) % commands.length || 0);
  useKeys({ ArrowDown: move(1), ArrowUp: move(-1) }, { scope: "dialog", inText: true });
  const run = (command) => {
    onClose();
    command?.run();
  };
  return html`<${Dialog} title=${t("palette")} class="palette" onClose=${onClose}>
    <form
      onSubmit=${(event) => {
        event.preventDefault();
        run(commands[index]);
      }}
    >
      <input
        class="input"
        role="combobox"
        aria-label=${t("palette")}
        aria-expanded="true"
        aria-controls="palette-list"
        aria-activedescendant=${commands.length ? `command-${index}` : undefined}
        autocomplete="off"
        data-autofocus
        placeholder=${t("palette_hint")}
        value=${text}
        onInput=${(event) => {
          setText(event.target.value);
          setSelected(0);
        }}
      />
    </form>
    <ul id="palette-list" role="listbox" aria-label=${t("palette")}>
      ${commands.map(
        (command, position) => html`<li
          id=${`command-${position}`}
          role="option"
          aria-selected=${position === index ? "true" : "false"}
          ref=${(element) => position === index && element?.scrollIntoView({ block: "nearest" })}
          onClick=${() => run(command)}
        >
          <span class="group">${t(`group.${command.group}`)}</span>
          <bdi class="label">${command.label}</bdi>
          ${command.keys && html`<${Keys} keys=${command.keys} />`}
        </li>`,
      )}
    </ul>
    <p role="status" class=${commands.length ? "hidden" : "muted"}>
      ${commands.length ? "" : t("palette_empty")}
    </p>
  <//>`;
}
