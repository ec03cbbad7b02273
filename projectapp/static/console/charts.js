// Charts of the service, from GET /metrics, with their numbers as tables. docs/monitoring.md
// explains the numbers.
import { html, useEffect, useState } from "./preact-htm.js";
import { request } from "./api.js";
import { BarTable, Chart, LineChart } from "./chart_parts.js";
import { growth, parseMetrics, quantileOf, sumOf, sumsBy } from "./metrics.js";
import { canRead, resourceLabel, resources } from "./schema.js";
import { config, settings, useStore } from "./store.js";
import { formatNumber, t } from "./texts.js";
import { Banner, Button, ErrorText } from "./ui.js";

const SAMPLE_SECONDS = 5;
const MAX_SAMPLES = 61; // five minutes
const RATE_SAMPLES = 6; // A rate is that of half a minute: one of five seconds is mostly noise.
const REQUESTS = "http_request_duration_seconds";

/** Read the metrics every few seconds while the page is visible: {samples, error, retry}. */
function useSamples() {
  const [state, setState] = useState({ samples: [], error: null, attempt: 0 });
  useEffect(() => {
    if (!config.metrics) return undefined;
    const abort = new AbortController();
    const { signal } = abort;
    let timer = null;
    const read = async () => {
      if (document.visibilityState === "visible") {
        try {
          const { body } = await request("GET", "/metrics", { raw: true, signal });
          const sample = { time: Date.now(), metrics: parseMetrics(await body.text()) };
          setState((current) => ({
            ...current,
            samples: [...current.samples, sample].slice(-MAX_SAMPLES),
            error: null,
          }));
        } catch (error) {
          if (signal.aborted) return;
          setState((current) => ({ ...current, error }));
          if (error.status === 403) return; // The same token would get the same answer.
        }
      }
      if (!signal.aborted) timer = setTimeout(read, SAMPLE_SECONDS * 1000);
    };
    read();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [state.attempt]);
  const retry = () => setState((current) => ({ ...current, error: null, attempt: current.attempt + 1 }));
  return { ...state, retry };
}

/** Return how many rows each resource has: {name: {total, isEstimate} or {error}}. */
function useTotals() {
  const [totals, setTotals] = useState({});
  useEffect(() => {
    const abort = new AbortController();
    for (const { name, path } of resources.filter(canRead)) {
      const set = (value) => setTotals((current) => ({ ...current, [name]: value }));
      request("GET", path, { query: { page_size: 1, fields: "id" }, signal: abort.signal }).then(
        ({ body }) => set({ total: body.total, isEstimate: body.total_is_estimate === true }),
        (error) => abort.signal.aborted || set({ error }),
      );
    }
    return () => abort.abort();
  }, []);
  return totals;
}

export function Charts() {
  useStore(settings); // the language of the numbers
  const { samples, error, retry } = useSamples();
  return html`<section class="charts" aria-label=${t("view.charts")}>
    <div class="charts-notices">
      ${!config.metrics && html`<${Banner}>${t("charts.off")}<//>`}
      ${error &&
      html`<${Banner} kind=${error.status === 403 ? "warning" : "error"}>
        <span>${error.status === 403 ? t("charts.no_scope") : html`<${ErrorText} error=${error} />`}</span>
        <${Button} onClick=${retry}>${t("retry")}<//>
      <//>`}
    </div>
    <div class="charts-grid">
      ${samples.length > 0 && html`<${ServiceCharts} samples=${samples} />`}
      <${RowChart} />
    </div>
  </section>`;
}

const twoDigits = (number) => formatNumber(Number(number.toPrecision(2)));
const perSecond = (rate) => t("charts.per_second", { rate: twoDigits(rate) });
const milliseconds = (seconds) => t("charts.ms", { ms: twoDigits(seconds * 1000) });

function ServiceCharts({ samples }) {
  const times = samples.map(({ time }) => time);
  const pairs = samples.map((sample, index) => [sample, samples[Math.max(0, index - RATE_SAMPLES)]]);
  const totals = samples.map(({ metrics }) => sumOf(metrics, `${REQUESTS}_count`));
  const rates = pairs.map(([after, before], index) => {
    const seconds = (after.time - before.time) / 1000;
    return seconds ? growth(totals[samples.indexOf(before)], totals[index]) / seconds : null;
  });
  const quantiles = (quantile) =>
    pairs.map(([after, before]) =>
      after === before ? null : quantileOf(quantile, REQUESTS, after.metrics, before.metrics),
    );
  const medians = quantiles(0.5);
  const slow = quantiles(0.95);
  const { metrics } = samples.at(-1);
  const now = (values, format) => (values.at(-1) === null ? t("charts.no_value") : format(values.at(-1)));
  return html`<${Chart} title=${t("charts.requests")} now=${now(rates, perSecond)}>
      <${LineChart}
        title=${t("charts.requests")}
        times=${times}
        lines=${[{ label: t("charts.rate"), values: rates }]}
        columns=${[{ label: t("charts.count"), texts: totals.map(formatNumber) }]}
        format=${perSecond}
      />
    <//>
    <${Chart} title=${t("charts.durations")} now=${`${now(medians, milliseconds)} · ${now(slow, milliseconds)}`}>
      <${LineChart}
        title=${t("charts.durations")}
        times=${times}
        lines=${[
          { label: t("charts.p50"), values: medians },
          { label: t("charts.p95"), values: slow },
        ]}
        format=${milliseconds}
      />
    <//>
    <${StatusChart} metrics=${metrics} />
    <${PoolChart} metrics=${metrics} />
    <${StreamChart} metrics=${metrics} />`;
}

/** Responses since the start by status, with the reasons of the requests that were not served. */
function StatusChart({ metrics }) {
  const statuses = [...sumsBy(metrics, `${REQUESTS}_count`, "status")];
  const reasons = [...sumsBy(metrics, "requests_refused_total", "reason")].filter(([, count]) => count > 0);
  const rows = statuses.map(([status, value]) => ({
    ...{ name: status, value, label: html`<code>${status}</code>` },
    kind: status >= "400" ? "error" : "",
  }));
  return html`<${Chart} title=${t("charts.statuses")}>
    <${BarTable}
      title=${t("charts.statuses")}
      columns=${[t("charts.status"), t("charts.count")]}
      rows=${rows}
      format=${formatNumber}
    />
    ${reasons.length > 0 &&
    html`<h3>${t("charts.refused")}</h3>
      <${BarTable}
        title=${t("charts.refused")}
        columns=${[t("charts.reason"), t("charts.count")]}
        rows=${reasons.map(([name, value]) => ({ name, value, label: html`<code>${name}</code>`, kind: "error" }))}
        format=${formatNumber}
      />`}
  <//>`;
}

function PoolChart({ metrics }) {
  const max = sumOf(metrics, "database_connections_max");
  const connections = sumsBy(metrics, "database_connections", "state");
  const threads = sumsBy(metrics, "threads", "state");
  const allThreads = sumOf(metrics, "threads");
  const rows = [
    { name: "in_use", value: connections.get("in_use") ?? 0, max },
    { name: "idle", value: connections.get("idle") ?? 0, max },
    { name: "max", value: max, hasBar: false },
    { name: "waiting", value: sumOf(metrics, "database_waiting_threads"), hasBar: false },
    { name: "busy", value: threads.get("busy") ?? 0, max: allThreads },
    { name: "queued", value: sumOf(metrics, "queued_requests"), hasBar: false },
  ];
  return html`<${FactChart} name="pool" rows=${rows} />`;
}

function StreamChart({ metrics }) {
  const max = sumOf(metrics, "streams_max");
  const kinds = [...sumsBy(metrics, "streams", "kind")];
  const seconds = (lag) => t("charts.seconds", { seconds: twoDigits(lag) });
  const rows = [
    ...kinds.map(([name, value]) => ({ name, value, max })),
    { name: "streams_max", value: max, hasBar: false },
    { name: "feed_lag", value: sumOf(metrics, "feed_lag_seconds"), hasBar: false, write: seconds },
  ];
  return html`<${FactChart} name="streams" rows=${rows} />`;
}

/** Numbers of now, each with a text of its own. */
function FactChart({ name: chart, rows }) {
  const title = t(`charts.${chart}`);
  return html`<${Chart} title=${title}>
    <${BarTable}
      title=${title}
      columns=${[t("charts.fact"), t("charts.count")]}
      rows=${rows.map((row) => ({ ...row, label: t(`charts.${row.name}`) }))}
      format=${formatNumber}
    />
  <//>`;
}

function RowChart() {
  const totals = useTotals();
  const rows = resources.filter(canRead).map((resource) => {
    const { total = null, isEstimate } = totals[resource.name] ?? {};
    const write = (value) => t(isEstimate ? "charts.about" : "charts.exactly", { value });
    return { name: resource.name, label: resourceLabel(resource), value: total, write };
  });
  return html`<${Chart} title=${t("charts.rows")}>
    <${BarTable} title=${t("charts.rows")} columns=${[t("resource"), t("charts.count")]} rows=${rows} />
  <//>`;
}
