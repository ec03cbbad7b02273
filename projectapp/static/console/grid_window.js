// Which rows of the grid are in the document, for a place of its scroll area.
/** The unit rem in px: larger if the browser is set to larger text. */
export const REM_PX = parseFloat(getComputedStyle(document.documentElement).fontSize);
export const ROW_PX = 2 * REM_PX; // as in console.css

const MAX_ROWS = 58; // in the document
const STEP_ROWS = 4; // The rows in the document change after so many rows.
const SPARE_ROWS = 2; // above the view, and at least as many under it
const MAX_HEIGHT_PX = 8_000_000; // a browser ends an element at 17 to 33 million

/** Return the first row in the document when this row is at the top of the view. */
export const firstRow = (top) => Math.max(0, Math.floor((top - SPARE_ROWS) / STEP_ROWS) * STEP_ROWS);

/**
 * Return the window of `count` rows for a view: {top, height} in px. `top` is the row at the top of
 * the view, `first` to `last` (excluded) are in the document. With very many rows, a px of the scroll
 * area stands for `scale` px of rows: the view then begins `offsetPx` after the first row.
 */
export function windowOf(count, view) {
  const contentPx = count * ROW_PX;
  const heightPx = Math.min(contentPx, MAX_HEIGHT_PX);
  const scale =
    contentPx > heightPx ? (contentPx - view.height) / Math.max(1, heightPx - view.height) : 1;
  const offsetPx = view.top * scale;
  const top = Math.max(0, Math.min(count - 1, Math.floor(offsetPx / ROW_PX)));
  const first = firstRow(top);
  const rowsInView = Math.max(1, Math.floor(view.height / ROW_PX));
  const shownRows = Math.min(MAX_ROWS, rowsInView + 2 * SPARE_ROWS + STEP_ROWS);
  const last = Math.max(first, Math.min(count, first + shownRows));
  return { heightPx, scale, offsetPx, top, first, last, rowsInView };
}
