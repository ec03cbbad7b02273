// The rows of a list as a grid that scrolls through any number of rows: only those in view, and a
// few around them, are in the document.
import { html, useLayoutEffect, useMemo, useRef, useState } from "./preact-htm.js";
import { columnTemplate, fittingColumns } from "./columns.js";
import { createRowRenderer, GapRow, Head } from "./grid_rows.js";
import { firstRow, ROW_PX, windowOf } from "./grid_window.js";
import { useKeys } from "./keys.js";
import {
  canLoadEnd,
  countRows,
  findIndex,
  hasGap,
  isComplete,
  loadEnd,
  loadMore,
  placeOf,
  rowAt,
  rows,
} from "./rows.js";
import { clearSelection, selection, selectRows, toggleRow } from "./selection.js";
import { settings, useStore } from "./store.js";
import { t } from "./texts.js";

const LOAD_AHEAD_ROWS = 40;
const CHECKBOX_PX = 40;

// The place in the list outlives the grid, so that another view and back keeps it.
const place = { key: null, top: 0, activeId: null, activeIndex: 0 };

export function Grid({ resource, columns, openId, onOpen, onSort, sortKey }) {
  const list = useStore(rows);
  const selected = useStore(selection);
  const preferences = useStore(settings);
  const [view, setView] = useState({ top: place.top, height: 600, width: 1000 });
  const [active, setActive] = useState({ id: place.activeId, index: place.activeIndex });
  const grid = useRef();
  const body = useRef();
  const anchor = useRef(null); // the row at the top of the view

  const count = countRows(list);
  const { heightPx, scale, offsetPx, top, first, last, rowsInView } = windowOf(count, view);
  const gapIndex = hasGap(list) ? list.head.length : -1;
  const columnNames = columns.map(({ name }) => name).join();
  const [fields, template] = useMemo(() => {
    const fitting = fittingColumns(resource, columns, view.width - CHECKBOX_PX);
    return [fitting, `${CHECKBOX_PX}px ${columnTemplate(resource, fitting)}`];
  }, [resource, columnNames, view.width]);
  const renderRow = useMemo(createRowRenderer, []);
  const activeIndex = findIndex(list, active.id, active.index);

  const scrollTo = (index) => {
    const element = body.current;
    const target = index * ROW_PX;
    const from = element.scrollTop * scale;
    if (target < from) element.scrollTop = target / scale;
    else if (target + ROW_PX > from + element.clientHeight) {
      element.scrollTop = (target + ROW_PX - element.clientHeight) / scale;
    }
  };
  const activate = (index) => {
    const { list: current } = latest.current;
    const next = Math.max(0, Math.min(countRows(current) - 1, index));
    const row = rowAt(current, next);
    Object.assign(place, { activeId: row?.id ?? null, activeIndex: next });
    setActive({ id: row?.id ?? null, index: next });
    scrollTo(next);
    return row;
  };
  // Handlers that outlive a render read from here.
  const latest = useRef();
  latest.current = { list, active: { ...active, index: activeIndex < 0 ? active.index : activeIndex } };

  useLayoutEffect(() => {
    const element = body.current;
    element.scrollTop = place.top;
    const observer = new ResizeObserver(() => {
      const { clientHeight: height, clientWidth: width } = element;
      if (!height) return; // On a phone the panel hides the list, which loses its place.
      element.scrollTop = place.top;
      setView((current) => ({ ...current, height, width }));
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  // Another list begins at its first row; rows that are added above the view do not move it.
  const listKey = JSON.stringify([resource.name, list.query]);
  useLayoutEffect(() => {
    const element = body.current;
    if (list.isStale || list.status === "loading") return;
    if (place.key !== listKey) {
      Object.assign(place, { key: listKey, activeId: null, activeIndex: 0 });
      setActive({ id: null, index: 0 });
      element.scrollTop = 0;
    } else if (anchor.current && rowAt(list, anchor.current.index)?.id !== anchor.current.id) {
      const index = findIndex(list, anchor.current.id, anchor.current.index);
      const moved = (index - anchor.current.index) * ROW_PX;
      if (index < 0 || element.scrollTop === 0) return;
      element.scrollTop += moved / scale;
      place.top = element.scrollTop;
      setView((current) => ({ ...current, top: place.top }));
    }
  }, [list]);
  useLayoutEffect(() => {
    anchor.current = { id: rowAt(list, top)?.id, index: top };
  });

  useLayoutEffect(() => {
    if (list.status !== "ready") return;
    const isNearEnd = last > list.head.length - LOAD_AHEAD_ROWS;
    if (gapIndex < 0 || top < gapIndex) isNearEnd && loadMore();
    else if (first <= gapIndex + LOAD_AHEAD_ROWS) loadEnd();
  }, [list, first, last, top < gapIndex]);

  const onScroll = () => {
    if (!body.current.clientHeight) return;
    place.top = body.current.scrollTop;
    // Nothing changes in the document while the same rows are in view.
    setView((current) =>
      scale === 1 && firstRow(current.top / ROW_PX) === firstRow(place.top / ROW_PX)
        ? current
        : { ...current, top: place.top },
    );
  };
  const move = (by) => () => activate(latest.current.active.index + by);
  const start = () => activate(latest.current.active.id ? latest.current.active.index : 0);
  const step = (by) => () => (latest.current.active.id ? move(by)() : start());
  const extend = (by) => () => {
    const before = rowAt(latest.current.list, latest.current.active.index);
    const row = move(by)();
    selectRows([before, row].filter(Boolean));
  };
  const toEnd = async () => {
    const { list: current } = latest.current;
    if (!isComplete(current) && canLoadEnd(current) && !current.tail.length) await loadEnd();
    // The rows of the answer are rendered before the last of them is in view.
    requestAnimationFrame(() => activate(countRows(rows.get()) - 1));
  };
  const withRow = (act) => () => {
    const row = rowAt(latest.current.list, latest.current.active.index);
    if (!latest.current.active.id || !row) return false;
    return act(row);
  };
  const isOnButton = (event) => event.target.closest("button, input");
  useKeys(
    {
      j: step(1),
      k: step(-1),
      ArrowDown: step(1),
      ArrowUp: step(-1),
      PageDown: step(rowsInView - 1),
      PageUp: step(1 - rowsInView),
      "Shift+ArrowDown": extend(1),
      "Shift+ArrowUp": extend(-1),
      Home: () => void activate(0),
      End: () => void toEnd(),
      Enter: (event) => !isOnButton(event) && withRow((row) => void onOpen(row))(),
      x: withRow((row) => void toggleRow(row)),
      " ": (event) => !isOnButton(event) && withRow((row) => void toggleRow(row))(),
      Escape: () => (selection.get().size ? void clearSelection() : false),
    },
    { scope: "list" },
  );

  // Before anything has the focus, the keys of the list lead into it.
  const enter = () => {
    if (document.activeElement !== document.body) return false;
    grid.current.focus();
    return void start();
  };
  useKeys({ j: enter, ArrowDown: enter });

  /** Select the rows from the active one to this one, as far as they are loaded without a gap. */
  const selectTo = (index) => {
    const from = latest.current.active.id ? latest.current.active.index : index;
    const range = [];
    for (let at = index; ; at += Math.sign(from - index)) {
      const row = rowAt(latest.current.list, at);
      if (!row) break;
      range.push(row);
      if (at === from) break;
    }
    selectRows(range);
  };
  const onClick = (event) => {
    const element = event.target.closest("[data-index]");
    if (!element) return;
    const index = Number(element.dataset.index);
    const row = rowAt(list, index);
    if (!row) return;
    const isCheckbox = event.target.closest(".select");
    if (event.shiftKey) {
      getSelection().removeAllRanges();
      selectTo(index);
    } else if (isCheckbox || event.ctrlKey || event.metaKey) toggleRow(row);
    activate(index);
    if (!isCheckbox && !event.shiftKey && !event.ctrlKey && !event.metaKey) onOpen(row);
  };

  const indexes = Array.from({ length: last - first }, (_, number) => first + number);
  const rowCount = list.total === null ? -1 : Math.max(list.total, count) + 1;
  const activeRow = rowAt(list, activeIndex);
  const head = useMemo(
    () => html`<${Head} ...${{ list, selected, resource, fields, sortKey, onSort }} />`,
    [list, selected, resource, fields, sortKey, onSort, preferences],
  );
  return html`<div
    ref=${grid}
    class=${`grid ${list.isStale ? "stale" : ""}`}
    role="grid"
    tabindex="0"
    data-keys="list"
    style=${{ "--columns": template }}
    aria-label=${t("list.label")}
    aria-rowcount=${rowCount}
    aria-colcount=${fields.length + 1}
    aria-multiselectable="true"
    aria-busy=${list.status === "loading" ? "true" : "false"}
    aria-activedescendant=${activeIndex >= first && activeIndex < last && activeRow
      ? `row-${activeRow.id}`
      : undefined}
  >
    ${head}
    <div role="rowgroup" class="grid-body" ref=${body} onScroll=${onScroll} onClick=${onClick}>
      <div class="grid-space" role="presentation" style=${{ height: `${heightPx}px` }}>
        <div
          class="grid-window"
          role="presentation"
          style=${{ transform: `translateY(${view.top + first * ROW_PX - offsetPx}px)` }}
        >
          ${indexes.map((index) => {
            const row = rowAt(list, index);
            if (!row) return html`<${GapRow} key="gap" ...${{ list, columns: fields.length + 1 }} />`;
            const { id } = row;
            const states = { isActive: id === active.id, isOpen: id === openId, isSelected: selected.has(id) };
            const values = { row, index, place: placeOf(list, index), mark: list.marks.get(id) };
            // A row that comes into view takes over the elements of one that leaves it.
            return renderRow(index % (last - first), { resource, fields, preferences, ...values, ...states });
          })}
        </div>
      </div>
    </div>
  </div>`;
}
