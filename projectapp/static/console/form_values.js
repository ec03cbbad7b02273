// The values of a form. An input is what a control shows: text, a boolean, or null.

import {
  JsonError,
  depthOf,
  isSameValue,
  makeNumber,
  parseExact,
  storedBytes,
  stringifyExact,
} from "./exact.js";
import { writableFields } from "./schema.js";

const LINE_BREAK = /\r\n|\r|\n/g;
const INTEGER = /^-?\d+$/;
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

export const isJson = (field) => field.type === "object" || field.type === "array";
export const isText = (field) => field.type === "string";
const countCodePoints = (text) => [...text].length;

// A control shows every line break as \n. readInput puts the original ones back.
const withPlainBreaks = (text) => text.replace(LINE_BREAK, "\n");

// A time is an input in UTC and in seconds: it stays the same time in another zone of the settings.
export const timeInput = (value) => `${new Date(value).toISOString().slice(0, 19)}Z`;

// Return what the control shows for a value.
function toInput(field, value) {
  if (value === null || value === undefined) return null;
  if (field.type === "boolean") return value;
  if (isJson(field)) return stringifyExact(value, 2);
  if (field.type === "timestamp") return timeInput(value);
  return withPlainBreaks(String(value));
}

export function inputsOf(resource, row) {
  return Object.fromEntries(
    writableFields(resource).map((field) => [field.name, toInput(field, row[field.name])]),
  );
}

// Return the inputs of a new form.
export function defaultInputs(resource) {
  const emptyInput = (field) => {
    if (field.nullable) return null;
    if (field.type === "boolean") return false;
    if (isJson(field)) return field.type === "object" ? "{}" : "[]";
    return field.type === "enum" ? (field.choices[0] ?? "") : "";
  };
  return Object.fromEntries(
    writableFields(resource).map((field) => [
      field.name,
      toInput(field, field.default) ?? emptyInput(field),
    ]),
  );
}

// Return `text` with the line breaks of `original` wherever nothing was edited. The rest gets the
// first line break of the original, or \n.
function restoreLineBreaks(text, original) {
  const breaks = original.match(LINE_BREAK) ?? [];
  const lines = text.split("\n");
  const originalLines = original.split(LINE_BREAK);
  let head = 0;
  const limit = Math.min(lines.length, originalLines.length) - 1;
  while (head < limit && lines[head] === originalLines[head]) head += 1;
  let tail = 0;
  while (tail < limit - head && lines.at(-1 - tail) === originalLines.at(-1 - tail)) tail += 1;
  return lines
    .map((line, index) => {
      if (index === lines.length - 1) return line;
      const fromEnd = lines.length - 1 - index;
      if (index < head) return line + breaks[index];
      return line + ((fromEnd <= tail ? breaks.at(-fromEnd) : breaks[0]) ?? "\n");
    })
    .join("");
}

// An input that has no value. `key` is the key of a text, `values` fill it.
export class InputError extends Error {
  constructor(key, values = {}) {
    super(key);
    Object.assign(this, { key, values });
  }
}

function readJson(field, input) {
  let value;
  try {
    value = parseExact(input);
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    const { line, column, found } = error;
    throw new InputError(`json_${error.reason}`, { line, column, found });
  }
  const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
  if (field.type === "object" ? depthOf(value) === 0 || !isObject : !Array.isArray(value)) {
    throw new InputError(`json_not_${field.type}`);
  }
  return value;
}

// Return the value of an input. `original` is the value that the form began with. Throws InputError.
function readInput(field, input, original) {
  if (input === null || field.type === "boolean") return input;
  if (isJson(field)) return readJson(field, input);
  if (isText(field)) return restoreLineBreaks(input, original ?? "");
  const text = input.trim();
  if (text === "") throw new InputError("missing");
  if (field.type === "integer") {
    if (!INTEGER.test(text)) throw new InputError("integer");
    return makeNumber(text.replace(/^(-?)0+(?=\d)/, "$1"));
  }
  if (field.type === "number") {
    if (!NUMBER.test(text)) throw new InputError("number");
    return makeNumber(text);
  }
  if (field.type === "timestamp") {
    const time = new Date(text);
    if (Number.isNaN(time.getTime())) throw new InputError("timestamp");
    return time.toISOString();
  }
  return text;
}

// A JSON text that differs only in its spaces has not changed.
export function isChanged(field, input, initialInput) {
  if (input === initialInput) return false;
  if (!isJson(field) || input === null || initialInput === null) return true;
  try {
    return !isSameValue(parseExact(input), parseExact(initialInput));
  } catch {
    return true;
  }
}

// Return {values, errors} of the fields that changed. `row` is the row that the form began with,
// or null for a new one.
export function readChanges(resource, inputs, initialInputs, row) {
  const values = {};
  const errors = {};
  for (const field of writableFields(resource)) {
    const input = inputs[field.name];
    if (!isChanged(field, input, initialInputs[field.name])) continue;
    try {
      values[field.name] = readInput(field, input, row?.[field.name]);
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      errors[field.name] = error;
    }
  }
  return { values, errors };
}

// Return the sizes of an input and their limits: [{key, size, limit}].
export function sizesOf(field, input, original) {
  if (typeof input !== "string") return [];
  if (isText(field)) {
    const size = countCodePoints(restoreLineBreaks(input, original ?? ""));
    return field.max_length ? [{ key: "size.characters", size, limit: field.max_length }] : [];
  }
  if (!isJson(field)) return [];
  try {
    const value = parseExact(input);
    return [
      { key: "size.bytes", size: storedBytes(value), limit: field.max_bytes },
      { key: "size.levels", size: depthOf(value), limit: field.max_depth },
    ].filter(({ limit }) => limit);
  } catch {
    return [];
  }
}

// Compare three rows. Return {mine, theirNames, both}: the names of the fields that only I changed,
// that only the others changed, and that both changed to different values.
export function compareChanges(resource, base, theirs, myValues) {
  const result = { mine: [], theirNames: [], both: [] };
  for (const { name } of writableFields(resource)) {
    const isMine = name in myValues && !isSameValue(myValues[name], base[name]);
    const isTheirs = !isSameValue(theirs[name], base[name]);
    if (isMine && isTheirs) {
      if (!isSameValue(myValues[name], theirs[name])) result.both.push(name);
    } else if (isMine) result.mine.push(name);
    else if (isTheirs) result.theirNames.push(name);
  }
  return result;
}
