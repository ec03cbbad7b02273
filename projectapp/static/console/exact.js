// JSON whose numbers keep their digits: 12345678901234567890 and 1.0 stay what they are.

/** Parse JSON. A number that JavaScript would change becomes a JSON.rawJSON object. */
export function parseExact(text) {
  if (!JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (key, value, context) =>
    typeof value === "number" && String(value) !== context.source
      ? JSON.rawJSON(context.source)
      : value,
  );
}

/** Return the JSON text of a value from parseExact. */
export function stringifyExact(value, indent) {
  return JSON.stringify(value, null, indent);
}
