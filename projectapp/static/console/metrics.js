// The metrics of the service: the text format of Prometheus, and what the charts compute from it.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };
const PREFIX = "projectapp_";

const unescapeLabel = (text) => text.replace(/\\[n"\\]/g, (escape) => ESCAPES[escape]);

/** Return {name: [{labels, value}]} of a text; the names are without "projectapp_". */
export function parseMetrics(text) {
  const samples = {};
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = SAMPLE.exec(line) ?? [];
    if (!name?.startsWith(PREFIX)) continue; // a comment, or a sample of something else
    const pairs = [...labels.matchAll(LABEL)].map(([, label, raw]) => [label, unescapeLabel(raw)]);
    (samples[name.slice(PREFIX.length)] ??= []).push({
      labels: Object.fromEntries(pairs),
      value: value === "+Inf" ? Infinity : Number(value),
    });
  }
  return samples;
}

/** Return the sum of the values of a metric. */
export const sumOf = (samples, name) =>
  (samples[name] ?? []).reduce((sum, { value }) => sum + value, 0);

/** Return the sums of the values of a metric by a label: a Map in the order of its values. */
export function sumsBy(samples, name, label) {
  const sums = new Map();
  for (const { labels, value } of samples[name] ?? []) {
    sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
  }
  return new Map([...sums].sort(([left], [right]) => left.localeCompare(right)));
}

/** Return the growth of a counter. A counter that is less than before began again at 0. */
export const growth = (before, after) => (after < before ? after : after - before);

/**
 * Return a quantile (0.5 or 0.95) in seconds of a histogram, or null if it has no observations
 * since `before`. Inside of a bucket it interpolates, as histogram_quantile() of Prometheus does.
 */
export function quantileOf(quantile, name, after, before = {}) {
  const countsAfter = bucketsOf(after, name);
  const countsBefore = bucketsOf(before, name);
  const buckets = [...countsAfter]
    .map(([bound, count]) => [bound, growth(countsBefore.get(bound) ?? 0, count)])
    .sort(([left], [right]) => left - right);
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total === 0) return null;
  const rank = quantile * total;
  const index = buckets.findIndex(([, count]) => count >= rank);
  const [lowerBound, countBelow] = buckets[index - 1] ?? [0, 0];
  const [upperBound, count] = buckets[index];
  if (upperBound === Infinity) return lowerBound; // The histogram only knows that it is more.
  return lowerBound + ((upperBound - lowerBound) * (rank - countBelow)) / (count - countBelow);
}

/** Return the cumulative counts of a histogram by the upper bound of the bucket in seconds. */
function bucketsOf(samples, name) {
  const sums = sumsBy(samples, `${name}_bucket`, "le");
  return new Map([...sums].map(([bound, count]) => [bound === "+Inf" ? Infinity : Number(bound), count]));
}
