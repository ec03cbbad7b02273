// The columns of a list, from the declaration of its resource.
import { session } from "./api.js";
import { REM_PX } from "./grid_window.js";
import { titleField } from "./schema.js";

const WIDTHS_REM = {
  title: 11,
  string: 8,
  boolean: 6,
  enum: 6,
  timestamp: 12,
  uuid: 6,
  integer: 6,
  number: 6.5,
  object: 10,
  array: 8,
};
const LONG_TEXT = 255; // code points; a field with more is not a column from the start

/** Does the caller see the rows of all owners? Without sign-in, everybody does. */
export function seesAllOwners(resource) {
  const { state, scopes } = session.get();
  return state === "none" || Boolean(scopes?.includes(`${resource.name}:all`));
}

/** Return the names of the fields that a list shows if the URL names no others. */
export function defaultColumns(resource, seesAllOwners) {
  const title = titleField(resource)?.name;
  return resource.fields
    .filter(({ name, type, max_length: length }) => {
      if (name === title || name === "version" || name === "updated_at") return true;
      if (name === "id" || name === "created_at") return false;
      if (name === "owner") return seesAllOwners;
      return type === "string" ? length && length <= LONG_TEXT : !["object", "array"].includes(type);
    })
    .map(({ name }) => name);
}

/** Return the chosen fields, the title first. */
export function chosenColumns(resource, names) {
  const title = titleField(resource)?.name;
  const fields = resource.fields.filter(({ name }) => names.includes(name));
  return fields.sort((a, b) => (b.name === title) - (a.name === title));
}

const isTitle = (resource, field) => field.name === titleField(resource)?.name;

/** Return the columns that fit into a width in px. The title always stays, then flags and times. */
export function fittingColumns(resource, fields, widthPx) {
  const rank = ({ name, type }) => {
    if (name === titleField(resource)?.name) return 0;
    if (type === "boolean" || type === "enum") return 1;
    if (name === "updated_at") return 2;
    return name === "version" ? 4 : 3;
  };
  const chosen = new Set();
  let leftRem = widthPx / REM_PX;
  for (const field of fields.toSorted((a, b) => rank(a) - rank(b))) {
    leftRem -= columnWidth(resource, field);
    if (leftRem < 0 && chosen.size) break;
    chosen.add(field);
  }
  return fields.filter((field) => chosen.has(field));
}

const columnWidth = (resource, field) =>
  isTitle(resource, field) ? WIDTHS_REM.title : (WIDTHS_REM[field.type] ?? WIDTHS_REM.string);

/** Return the widths of columns for CSS: texts share the space that is left. */
export function columnTemplate(resource, fields) {
  return fields
    .map((field) => {
      const width = columnWidth(resource, field);
      if (isTitle(resource, field)) return `minmax(${width}rem, 3fr)`;
      return field.type === "string" ? `minmax(${width}rem, 1fr)` : `${width}rem`;
    })
    .join(" ");
}
