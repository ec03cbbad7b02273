// JSON whose numbers keep their digits. JSON.parse would change 12345678901234567890 and 1.0.

// A number that JavaScript would write with other digits.
class ExactNumber {
  constructor(text) {
    this.text = text;
  }

  toString() {
    return this.text;
  }

  // For JSON.stringify, which may lose digits. Requests use stringifyExact.
  toJSON() {
    return Number(this.text);
  }
}

// `reason` is the end of a text's key: unexpected, end, name, duplicate, control, escape, deep.
// `line` and `column` begin with 1.
export class JsonError extends SyntaxError {
  constructor(reason, text, position) {
    const before = text.slice(0, position).split("\n");
    const line = before.length;
    const column = [...before[line - 1]].length + 1;
    const code = text.codePointAt(position);
    const found = code === undefined ? "" : String.fromCodePoint(code);
    super(`Line ${line}, column ${column}: ${reason} ${found}`);
    Object.assign(this, { reason, line, column, found, position });
  }
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const PLAIN_CHARACTERS = /[^"\\\u0000-\u001f]*/y;
const MAX_LEVELS = 500; // far more than any resource stores, and no risk for the stack
const SPACE = /[ \t\n\r]*/y;
const WORDS = { true: true, false: false, null: null };
const ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };

export function makeNumber(text) {
  const number = Number(text);
  return String(number) === text ? number : new ExactNumber(text);
}

// Return the value of a JSON text. Throws JsonError. A name must not come twice in an object: the
// service refuses this, and one of the two values would be lost.
export function parseExact(text) {
  let position = 0;
  let level = 0;

  function fail(reason, at = position) {
    throw new JsonError(at < text.length ? reason : "end", text, at);
  }

  function match(pattern) {
    pattern.lastIndex = position;
    const matched = pattern.exec(text);
    if (matched) position = pattern.lastIndex;
    return matched ? matched[0] : null;
  }

  function skip(character) {
    match(SPACE);
    const isNext = text[position] === character;
    if (isNext) position += 1;
    return isNext;
  }

  function readString() {
    let value = "";
    position += 1;
    for (;;) {
      value += match(PLAIN_CHARACTERS);
      const character = text[position];
      if (character === '"') {
        position += 1;
        return value;
      }
      if (character !== "\\") fail("control");
      const escape = text[position + 1];
      const hex = text.slice(position + 2, position + 6);
      if (escape === "u" && /^[0-9a-fA-F]{4}$/.test(hex)) {
        value += String.fromCharCode(parseInt(hex, 16));
        position += 6;
      } else if (escape in ESCAPES) {
        value += ESCAPES[escape];
        position += 2;
      } else fail("escape");
    }
  }

  function readObject() {
    const pairs = new Map();
    position += 1;
    if (skip("}")) return {};
    do {
      match(SPACE);
      const start = position;
      if (text[position] !== '"') fail("name");
      const name = readString();
      if (pairs.has(name)) fail("duplicate", start);
      if (!skip(":")) fail("unexpected");
      pairs.set(name, readValue());
    } while (skip(","));
    if (!skip("}")) fail("unexpected");
    return Object.fromEntries(pairs);
  }

  function readArray() {
    const items = [];
    position += 1;
    if (skip("]")) return items;
    do items.push(readValue());
    while (skip(","));
    if (!skip("]")) fail("unexpected");
    return items;
  }

  function readValue() {
    match(SPACE);
    const character = text[position];
    if (character === "{" || character === "[") {
      level += 1;
      if (level > MAX_LEVELS) fail("deep");
      const value = character === "{" ? readObject() : readArray();
      level -= 1;
      return value;
    }
    if (character === '"') return readString();
    const number = match(NUMBER);
    if (number !== null) return makeNumber(number);
    for (const word of Object.keys(WORDS)) {
      if (text.startsWith(word, position)) {
        position += word.length;
        return WORDS[word];
      }
    }
    return fail("unexpected");
  }

  const value = readValue();
  match(SPACE);
  if (position < text.length) fail("unexpected");
  return value;
}

function write(value, indent, level, comma, colon) {
  if (value instanceof ExactNumber) return value.text;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const parts = Array.isArray(value)
    ? value.map((item) => write(item, indent, level + 1, comma, colon))
    : Object.entries(value)
        .filter(([, item]) => item !== undefined)
        .map(([name, item]) => JSON.stringify(name) + colon + write(item, indent, level + 1, comma, colon));
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!parts.length) return open + close;
  if (!indent) return open + parts.join(comma) + close;
  const margin = "\n" + " ".repeat(indent * level);
  const inner = margin + " ".repeat(indent);
  return open + inner + parts.join("," + inner) + margin + close;
}

// Return JSON text; with `indent`, the number of spaces for each level, on several lines.
export function stringifyExact(value, indent = 0) {
  return write(value, indent, 0, ",", indent ? ": " : ":");
}

// Return the size as PostgreSQL's jsonb writes it. The service limits this size.
export function storedBytes(value) {
  return new TextEncoder().encode(write(value, 0, 0, ", ", ": ")).length;
}

// Return the number of levels: 0 for a scalar, 1 for {}, 2 for {"a": []}.
export function depthOf(value) {
  if (value === null || typeof value !== "object" || value instanceof ExactNumber) return 0;
  return 1 + Math.max(0, ...Object.values(value).map(depthOf));
}

// Compare JSON values. The order of names does not matter, the digits of numbers do.
export function isSameValue(left, right) {
  if (left instanceof ExactNumber || right instanceof ExactNumber) {
    return String(left) === String(right) && typeof left !== "string" && typeof right !== "string";
  }
  if (left === null || right === null || typeof left !== "object" || typeof right !== "object") {
    return left === right;
  }
  const names = Object.keys(left);
  return (
    Array.isArray(left) === Array.isArray(right) &&
    names.length === Object.keys(right).length &&
    names.every((name) => Object.hasOwn(right, name) && isSameValue(left[name], right[name]))
  );
}
