// Every text of the console, in Korean and English, and how numbers and times are written.
import { settings } from "./store.js";
import charts from "./texts_charts.js";
import errors from "./texts_errors.js";
import frame from "./texts_frame.js";
import help from "./texts_help.js";
import list from "./texts_list.js";
import live from "./texts_live.js";
import panel from "./texts_panel.js";

const all = { ko: {}, en: {} };
for (const { ko, en } of [charts, errors, frame, help, list, live, panel]) {
  Object.assign(all.ko, ko);
  Object.assign(all.en, en);
}

/**
 * Return the text of a key in the language of the page. {name} is replaced by values.name, and
 * numbers are written as the language writes them. A text with the forms {one, other} depends on
 * values.count.
 */
export function t(key, values = {}) {
  const { language } = settings.get();
  let text = all[language][key];
  if (typeof text === "object") {
    text = text[intlFormat("PluralRules", language).select(values.count)] ?? text.other;
  }
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? formatNumber(value) : String(value);
  });
}

export const hasText = (key) => key in all.en;

const formats = new Map();

/** Return a format of Intl. Making one takes longer than the work for all cells of a row. */
function intlFormat(kind, language, options) {
  const key = kind + language + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl[kind](language, options));
  return formats.get(key);
}

export const formatNumber = (number, options) =>
  intlFormat("NumberFormat", settings.get().language, options).format(number);

/** Return a timestamp of the API as a text in the zone of the settings, and the zone's name. */
export function formatTime(timestamp, options = { dateStyle: "medium", timeStyle: "short" }) {
  const { language, zone } = settings.get();
  const timeZone = zone === "utc" ? "UTC" : undefined;
  return intlFormat("DateTimeFormat", language, { ...options, timeZone }).format(new Date(timestamp));
}

/** The last time of an input: with it, a browser takes years of four digits only. */
export const LAST_INPUT_TIME = "9999-12-31T23:59:59";

/** Return the time of the API for the value of an input in the zone of the settings. */
export const timeOfInput = (text) =>
  new Date(settings.get().zone === "utc" ? `${text}Z` : text).toISOString();

/** Return a time of the API as the value of an input, in the zone of the settings and in seconds. */
export function inputOfTime(timestamp) {
  const time = new Date(timestamp);
  if (Number.isNaN(time.getTime())) return "";
  const offsetMinutes = settings.get().zone === "utc" ? 0 : time.getTimezoneOffset();
  return new Date(time.getTime() - offsetMinutes * 60_000).toISOString().slice(0, 19);
}

/** Return the name of the zone in which times are shown, such as GMT+9: at a time of the API, or now. */
export function zoneName({ zone = settings.get().zone, at } = {}) {
  const { language } = settings.get();
  if (zone === "utc") return "UTC";
  const format = intlFormat("DateTimeFormat", language, { timeZoneName: "short" });
  return format.formatToParts(Date.parse(at) || undefined).find((part) => part.type === "timeZoneName").value;
}
