// The history of a row: each change against the one before, and the row as it was at a time.
import { isSameValue } from "./exact.js";
import { Value } from "./fields.js";
import { authorOf, showWrittenRow, undoWrite } from "./form_actions.js";
import { isJson } from "./form_values.js";
import { html, useEffect, useState } from "./preact-htm.js";
import { deleteRow, readHistory, readRow, restoreRow, valuesOf } from "./row_requests.js";
import { canWrite, fieldLabel, fieldOf, titleOf, writableFields } from "./schema.js";
import { go, settings, useStore } from "./store.js";
import { t, timeOfInput, zoneName } from "./texts.js";
import { Banner, Button, Empty, ErrorText, Time } from "./ui.js";
import { pushUndo } from "./undo.js";

const PAGE_CHANGES = 20;

const isPlainObject = (value) =>
  value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype;

// Every object has a `toString`, but only some JSON has this name.
const partOf = (object, name) => (Object.hasOwn(object, name) ? object[name] : undefined);

/** Return [{path, before, after}] of the parts that differ; a part that is absent is undefined. */
function differences(before, after, path = []) {
  if (!isPlainObject(before) || !isPlainObject(after)) return [{ path: path.join("."), before, after }];
  return [...new Set([...Object.keys(before), ...Object.keys(after)])]
    .map((name) => [name, partOf(before, name), partOf(after, name)])
    .filter(([, old, now]) => (old === undefined) !== (now === undefined) || !isSameValue(old, now))
    .flatMap(([name, old, now]) => differences(old, now, [...path, name]));
}

/** Load pages of the history. Returns {items, hasMore, error, loadMore}. */
function useHistory(resource, id, version) {
  const [page, setPage] = useState({ items: null, cursor: null, error: null });
  const load = (previous, signal) =>
    readHistory(resource, id, { cursor: previous?.cursor, pageSize: PAGE_CHANGES, signal }).then(
      ({ items, next_cursor: cursor }) =>
        setPage({ items: [...(previous?.items ?? []), ...items], cursor, error: null }),
      (error) => signal?.aborted || setPage((current) => ({ ...current, error })),
    );
  useEffect(() => {
    const abort = new AbortController();
    load(null, abort.signal);
    return () => abort.abort();
  }, [resource, id, version]);
  return { ...page, hasMore: page.cursor !== null, loadMore: () => load(page) };
}

function Side({ kind, field, value }) {
  const isAbsent = value === undefined;
  return html`<div class=${`diff-side ${kind}`}>
    <span class="diff-sign" aria-hidden="true">${kind === "before" ? "−" : "+"}</span>
    <span class="hidden">${t(`history.${kind}`)}</span>
    ${isAbsent
      ? html`<span class="muted">${t("history.absent")}</span>`
      : html`<div class="diff-value"><${Value} field=${field} value=${value} /></div>`}
  </div>`;
}

/** What a change did to one field. The parts of a JSON object are shown one by one. */
function FieldChange({ field, before, after }) {
  const parts =
    isJson(field) && before && after ? differences(before, after) : [{ path: "", before, after }];
  return html`<div class="diff">
    <h3>${fieldLabel(field.name)}</h3>
    ${parts.map(
      (part) => html`<div class="diff-part" key=${part.path}>
        ${part.path && html`<code class="data">${part.path}</code>`}
        <${Side} kind="before" field=${field} value=${part.before} />
        <${Side} kind="after" field=${field} value=${part.after} />
      </div>`,
    )}
  </div>`;
}

/** All fields of a row as it was. */
function WholeRow({ resource, row }) {
  return html`<dl class="row-facts">
    ${resource.fields.map(
      (field) => html`<div key=${field.name}>
        <dt>${fieldLabel(field.name)}</dt>
        <dd><${Value} field=${field} value=${row[field.name]} /></dd>
      </div>`,
    )}
  </dl>`;
}

function Change({ resource, change, previous, current, isDeleted, onRestore }) {
  const [isOpen, setOpen] = useState(false);
  const after = change[resource.singular];
  const before = previous?.[resource.singular] ?? null;
  const fields = change.changed.map((name) => fieldOf(resource, name)).filter(Boolean);
  // A create, or a delete, is the whole row; only a change has two sides.
  const isDiff = after !== null && before !== null;
  const changesNothing =
    !isDeleted && current && after && isSameValue(valuesOf(resource, after), valuesOf(resource, current));
  return html`<li class=${`change ${change.operation}`}>
    <header>
      <strong>${t(`history.${change.operation}`)}</strong>
      <span class="muted">${t("history.version", { version: change.version })}</span>
      <span class="spacer"></span>
      <${Time} value=${change.at} />
    </header>
    <p class="muted">
      <bdi>${authorOf(change)}</bdi>${change.caller && html` · <bdi>${change.credential}</bdi>`}
    </p>
    ${isDiff &&
    fields.map(
      (field) => html`<${FieldChange}
        key=${field.name}
        field=${field}
        before=${before[field.name]}
        after=${after[field.name]}
      />`,
    )}
    ${isOpen && after && html`<${WholeRow} resource=${resource} row=${after} />`}
    ${after &&
    html`<div class="change-actions">
      <${Button} kind="quiet" aria-expanded=${isOpen} onClick=${() => setOpen(!isOpen)}>
        ${t(isOpen ? "history.hide_row" : "history.show_row")}
      <//>
      ${changesNothing
        ? html`<span class="muted">${t("history.same_as_now")}</span>`
        : resource.has.restore &&
          canWrite(resource) &&
          html`<${Button} icon="undo" class="restore" onClick=${() => onRestore(change)}>
            ${t("history.restore_version", { version: change.version })}
          <//>`}
    </div>`}
  </li>`;
}

/** The row as it was at a time that the user enters. */
function AsOf({ resource, id }) {
  const [time, setTime] = useState("");
  const [answer, setAnswer] = useState(null); // {row, at} or {error}
  const show = async (event) => {
    event.preventDefault();
    if (!time) return; // The input has no complete time.
    const at = timeOfInput(time);
    try {
      const { row } = await readRow(resource, id, { asOf: at });
      setAnswer({ row, at });
    } catch (error) {
      setAnswer({ error });
    }
  };
  return html`<form class="as-of" onSubmit=${show}>
    <label>
      ${t("history.as_of")} <small class="zone">${zoneName()}</small>
      <input class="input" type="datetime-local" step="1" value=${time} onInput=${(event) => setTime(event.target.value)} />
    </label>
    <button class="button">${t("history.show")}</button>
    ${answer?.error &&
    html`<div class="field-error" role="alert">
      ${answer.error.status === 404 ? t("history.no_row_then") : html`<${ErrorText} error=${answer.error} />`}
    </div>`}
    ${answer?.row &&
    html`<section class="as-of-row" aria-label=${t("history.as_of")}>
      <h3>
        <${Time} value=${answer.at} />
        <${Button} kind="quiet" icon="close" label=${t("close")} onClick=${() => setAnswer(null)} />
      </h3>
      <${WholeRow} resource=${resource} row=${answer.row} />
    </section>`}
  </form>`;
}

/** Make the row what it was after a change, and offer to undo that. */
async function restore(form, change) {
  const { resource, id } = form;
  const { base, status, isDeleted } = form.state.get();
  const isGone = isDeleted || status === "missing";
  const { version } = change;
  const restored = await restoreRow(resource, id, { version, etag: isGone ? undefined : base.etag });
  showWrittenRow(resource, restored, { isNew: isGone });
  const names = writableFields(resource).map(({ name }) => name);
  pushUndo({
    label: t("history.restored", { title: titleOf(resource, restored.row), version }),
    run: async () => {
      if (!isGone) return undoWrite(resource, base.row, restored, names);
      await deleteRow(resource, id, restored.etag);
      return go({ id: null, view: null }, { force: true });
    },
  });
}

export function History({ form, state }) {
  useStore(settings);
  const { resource, id } = form;
  const { base, change, status } = state;
  const isDeleted = state.isDeleted || status === "missing";
  const version = `${base?.row.version} ${change?.version}`;
  const { items, hasMore, error, loadMore } = useHistory(resource, id, version);
  const [restoreError, setRestoreError] = useState(null);
  const onRestore = async (item) => {
    setRestoreError(null);
    try {
      await restore(form, item);
    } catch (reason) {
      setRestoreError(reason);
      if (reason.status === 412) await form.noteNewestChange();
    }
  };
  const failure = restoreError ?? error;
  // The last change of a page is shown with the next page, which has the change before it.
  const shown = items && (hasMore ? items.slice(0, -1) : items);
  return html`<section class="history" aria-label=${t("view.history")}>
    ${failure && html`<${Banner} kind="error"><${ErrorText} error=${failure} /><//>`}
    ${!items && !error && html`<p class="panel-loading" role="status">${t("loading")}</p>`}
    ${shown && html`<${AsOf} resource=${resource} id=${id} />`}
    ${items?.length === 0 && html`<${Empty} title=${t("history.empty")} />`}
    <ol class="changes">
      ${shown?.map(
        (item, index) => html`<${Change}
          key=${item.version}
          ...${{ resource, change: item, previous: items[index + 1], current: base?.row, isDeleted, onRestore }}
        />`,
      )}
    </ol>
    ${hasMore && html`<${Button} onClick=${loadMore}>${t("history.more")}<//>`}
  </section>`;
}
