// Reads a file to import: its records as text, and parts of records that one request can send.
// Nothing is converted, so that numbers keep their digits and cells their quotes.

const PART_RECORDS = 1000; // what the API takes at most
const PART_SPARE_BYTES = 1024;
const RECORD_CHARACTERS = 2 ** 20; // a quote without an end must not take the rest of the file
const QUOTED_CELL = /"(?:[^"]|"")*"(?!")/y;
const CELL = /(?:"(?:[^"]|"")*"(?!")|[^",\r\n]*)(,|\r\n?|\n|$)/y;
const LINE = /[^\r\n]*(?:\r\n|\r|\n)/y;
const LINE_END = /\r\n|\r|\n/g;

/** The file cannot be imported. `code` is the key of the text that says why. */
export class FileError extends Error {
  constructor(code, values = {}) {
    super(code);
    this.code = code;
    this.values = values;
  }
}

/**
 * Read the whole file once. Returns {format: "csv", "ndjson" or "json", encoding, count, header}.
 * Text that is not UTF-8 is read as EUC-KR (CP949), in which Korean spreadsheets save CSV.
 */
export async function inspectFile(file) {
  for (const encoding of ["utf-8", "euc-kr"]) {
    try {
      const format = await findFormat(file, encoding);
      const source = { file, format, encoding, header: null };
      let count = 0;
      for await (const record of readRecords(source)) {
        if (format === "csv" && source.header === null) source.header = record.text;
        else count++;
      }
      if (!count) throw new FileError("import.no_rows");
      return { ...source, count };
    } catch (error) {
      // TextDecoderStream throws a TypeError for bytes of another encoding.
      if (!(error instanceof TypeError)) throw error;
    }
  }
  throw new FileError("import.not_text");
}

async function findFormat(file, encoding) {
  const extension = file.name.split(".").at(-1).toLowerCase();
  if (extension === "ndjson" || extension === "jsonl") return "ndjson";
  if (extension === "csv" || extension === "json") return extension;
  const start = new TextDecoder(encoding).decode(await file.slice(0, 4096).arrayBuffer());
  return { "[": "json", "{": "ndjson" }[start.trimStart()[0]] ?? "csv";
}

/**
 * Yield the records of a file: {line, text}. For CSV the first one is the header row. `line` counts
 * from 1; in a JSON array it is the number of the item.
 */
export async function* readRecords({ file, format, encoding }) {
  if (format === "json") {
    yield* splitArray(new TextDecoder(encoding, { fatal: true }).decode(await file.arrayBuffer()));
    return;
  }
  const lines = readLines(file, encoding);
  let number = 0;
  let pending = []; // the lines of a CSV record whose quote is still open
  const take = function* (line) {
    pending.push(line);
    while (pending.length && !(format === "csv" && isOpen(pending))) {
      const text = pending.join("");
      const first = number + 1;
      number += pending.length;
      pending = [];
      if (text.trim()) yield { line: first, text: text.replace(/[\r\n]+$/, "") };
    }
  };
  for await (const line of lines) {
    yield* take(line);
    if (pending.length > 1 && pending.join("").length > RECORD_CHARACTERS) yield* giveUp();
  }
  while (pending.length) yield* giveUp();

  /** The closing quote is missing: the first line is a record, which the server refuses. */
  function* giveUp() {
    const [first, ...following] = pending;
    pending = [];
    number++;
    yield { line: number, text: first.replace(/[\r\n]+$/, "") };
    for (const line of following) yield* take(line);
  }
}

/** Does the record go on in the next line, because a cell's quote is open? */
function isOpen(lines) {
  // A line without a quote, or with pairs of them, cannot close the cell that the first one opens.
  const quotes = lines.at(-1).split('"').length - 1;
  if (lines.length > 1 && quotes % 2 === 0) return true;
  if (lines.length === 1 && quotes === 0) return false;
  const text = lines.join("");
  CELL.lastIndex = 0;
  while (CELL.lastIndex < text.length) {
    const start = CELL.lastIndex;
    const cell = CELL.exec(text);
    QUOTED_CELL.lastIndex = start;
    if (!cell) return text[start] === '"' && !QUOTED_CELL.test(text);
    if (cell[1] !== ",") return false;
  }
  return false;
}

async function* readLines(file, encoding) {
  const decoder = new TextDecoderStream(encoding, { fatal: true });
  const reader = file.stream().pipeThrough(decoder).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    text += value ?? "";
    // A carriage return at the end may be half of a line end.
    const end = done || !text.endsWith("\r") ? text.length : text.length - 1;
    let start = 0;
    for (;;) {
      LINE.lastIndex = start;
      const line = LINE.exec(text);
      if (!line || LINE.lastIndex > end) break;
      yield line[0];
      start += line[0].length;
    }
    text = text.slice(start);
    if (done) break;
  }
  if (text) yield text;
}

/** Yield the elements of a JSON array as text; an object is an array of one. */
function* splitArray(text) {
  if (text.trimStart()[0] !== "[") text = `[${text}]`;
  let depth = 0;
  let from = text.indexOf("[") + 1;
  let line = 0;
  for (let index = from; index < text.length; index++) {
    const character = text[index];
    if (character === '"') {
      for (index++; index < text.length && text[index] !== '"'; index++) {
        if (text[index] === "\\") index++;
        else if (text[index] < " ") throw new FileError("import.not_json");
      }
    } else if (character === "{" || character === "[") depth++;
    else if ((character === "}" || character === "]") && depth > 0) depth--;
    else if (depth === 0 && (character === "," || character === "]")) {
      const element = toLine(text.slice(from, index));
      if (element) yield { line: ++line, text: element };
      else if (character === ",") throw new FileError("import.not_json");
      if (character === "]") {
        if (text.slice(index + 1).trim()) throw new FileError("import.not_json");
        return;
      }
      from = index + 1;
    }
  }
  throw new FileError("import.not_json");
}

// Line breaks in a JSON string are escaped, so all others are space.
const toLine = (text) => text.trim().replace(/[\r\n]+/g, " ");

/** Yield lists of records that fit into one request of `maxBytes`. */
export async function* readParts(records, header, maxBytes) {
  const encoder = new TextEncoder();
  const sizeOf = (text) => encoder.encode(text).length + 1;
  const start = sizeOf(header ?? "") + PART_SPARE_BYTES;
  let part = [];
  let bytes = start;
  for await (const record of records) {
    const size = sizeOf(record.text);
    if (part.length && (part.length === PART_RECORDS || bytes + size > maxBytes)) {
      yield part;
      part = [];
      bytes = start;
    }
    part.push(record);
    bytes += size;
  }
  if (part.length) yield part;
}

const countLines = (text) => (text.match(LINE_END)?.length ?? 0) + 1;

/** Return the body of a part, and the record in each of its lines, by the number of the line. */
export function makeBody(part, header) {
  const recordByLine = new Map();
  let line = header === null ? 1 : 1 + countLines(header);
  for (const record of part) {
    const lines = header === null ? 1 : countLines(record.text);
    for (let offset = 0; offset < lines; offset++) recordByLine.set(line++, record);
  }
  const texts = part.map((record) => record.text);
  return { body: (header === null ? texts : [header, ...texts]).join("\n"), recordByLine };
}
