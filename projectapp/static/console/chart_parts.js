// The parts of the charts. A chart is an SVG, and its numbers are a table beside it: the SVG itself
// says nothing to a screen reader.
import { html } from "./preact-htm.js";
import { formatTime, t } from "./texts.js";

const TIME = { timeStyle: "medium" };
const WIDTH = 100;
const HEIGHT = 100;
const MIN_BAR_PERCENT = 2; // so that one request out of many is visible

export function Chart({ title, now, children }) {
  return html`<section class="chart">
    <h2>${title}</h2>
    ${now !== undefined && html`<p class="chart-now">${now}</p>`} ${children}
  </section>`;
}

/** Return the end of a scale that has readable numbers: 1, 2 or 5 and zeros. */
function scaleEnd(largest) {
  const unit = 10 ** Math.floor(Math.log10(largest || 1));
  return [1, 2, 5, 10].find((digit) => digit * unit >= largest) * unit;
}

/** Return the path of a line. A null is a gap in it. */
function pathOf(values, max) {
  const step = WIDTH / Math.max(1, values.length - 1);
  let path = "";
  values.forEach((value, index) => {
    if (value === null) return;
    const command = index === 0 || values[index - 1] === null ? "M" : "L";
    path += `${command}${(index * step).toFixed(2)} ${(HEIGHT * (1 - value / max)).toFixed(2)}`;
    // A point without neighbours would be invisible.
    if (command === "M" && (values[index + 1] ?? null) === null) path += "h0.5";
  });
  return path;
}

/**
 * Lines over time, and their table with the `title`. `lines` are {label, values}; `format` writes a
 * value; `times` are in ms. `columns` are {label, texts} that only the table has.
 */
export function LineChart({ title, times, lines, format, columns = [] }) {
  const max = scaleEnd(Math.max(...lines.flatMap(({ values }) => values), 0));
  const write = (value) => (value === null ? t("charts.no_value") : format(value));
  const classOf = (index) => (index ? "chart-line second" : "chart-line");
  if (times.length < 2) return html`<p class="muted">${t("charts.measuring")}</p>`;
  return html`<div class="chart-plot" aria-hidden="true">
      <div class="chart-scale">${[max, max / 2, 0].map((value) => html`<span key=${value}>${format(value)}</span>`)}</div>
      <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none">
        <path class="chart-lines" d=${`M0 0H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT}H${WIDTH}`} />
        ${lines.map(({ values }, index) => html`<path key=${index} class=${classOf(index)} d=${pathOf(values, max)} />`)}
      </svg>
      <div class="chart-times">
        <span>${formatTime(times[0], TIME)}</span><span>${formatTime(times.at(-1), TIME)}</span>
      </div>
    </div>
    ${lines.length > 1 &&
    html`<ul class="chart-legend" aria-hidden="true">
      ${lines.map(
        ({ label }, index) => html`<li key=${label}>
          <svg viewBox="0 0 24 4"><path class=${classOf(index)} d="M0 2H24" /></svg>${label}
        </li>`,
      )}
    </ul>`}
    <details>
      <summary>${t("charts.table")}</summary>
      <div class="chart-scroller" tabindex="0" role="group" aria-label=${title}>
        <table class="chart-table" aria-label=${title}>
          <thead>
            <tr>
              <th scope="col">${t("charts.time")}</th>
              ${[...columns, ...lines].map(({ label }) => html`<th key=${label} scope="col">${label}</th>`)}
            </tr>
          </thead>
          <tbody>
            ${times
              .map(
                (time, index) => html`<tr key=${time}>
                  <th scope="row">${formatTime(time, TIME)}</th>
                  ${columns.map(({ label, texts }) => html`<td key=${label}>${texts[index]}</td>`)}
                  ${lines.map(({ label, values }) => html`<td key=${label}>${write(values[index])}</td>`)}
                </tr>`,
              )
              .toReversed()}
          </tbody>
        </table>
      </div>
    </details>`;
}

/**
 * A table with a bar for each number. `rows` are {name, label, value, hasBar, max, kind}; a bar is as
 * long as value / max, by default the largest value. kind "error" has the colour of errors.
 */
export function BarTable({ title, columns, rows, format }) {
  const largest = Math.max(...rows.map(({ value }) => value ?? 0), 1);
  const header = (text) => html`<th scope="col"><span class="hidden">${text}</span></th>`;
  return html`<table class="chart-table bars" aria-label=${title}>
    <thead>
      <tr>${header(columns[0])}<td aria-hidden="true"></td>${header(columns[1])}</tr>
    </thead>
    <tbody>
      ${rows.map(({ name, label, value, hasBar = true, max = largest, kind = "", write = format }) => {
        const width = value && max ? Math.min(100, Math.max(MIN_BAR_PERCENT, (100 * value) / max)) : 0;
        return html`<tr key=${name} data-name=${name}>
          <th scope="row" colspan=${hasBar ? 1 : 2}>${label}</th>
          ${hasBar &&
          html`<td class="chart-bar" aria-hidden="true">
            <svg><rect class=${kind} width=${`${width}%`} height="100%" /></svg>
          </td>`}
          <td class="chart-value">${value === null ? "" : write(value)}</td>
        </tr>`;
      })}
    </tbody>
  </table>`;
}
