// Server-sent events (HTML standard, 9.2) from a response of fetch. EventSource gives neither
// the status nor Retry-After.

/**
 * Return a function that takes the next part of an event stream, and returns the events that it
 * completes: {id, data}. `data` is null for an event that only gives an id. A comment is no event.
 */
function createEventParser() {
  let rest = "";
  let id = null;
  let idOfLastEvent = null;
  let data = [];
  function readLine(line, events) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "id") id = value;
    else if (name === "data") data.push(value);
    else if (line === "") {
      if (data.length) events.push({ id, data: data.join("\n") });
      else if (id !== idOfLastEvent) events.push({ id, data: null });
      idOfLastEvent = id;
      data = [];
    }
  }
  return (text) => {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop();
    const events = [];
    for (const line of lines) readLine(line, events);
    return events;
  };
}

/** Read an event stream to its end, and call `onPart` with the events of each part that arrives. */
export async function readEvents(response, onPart) {
  const parse = createEventParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done: hasEnded, value } = await reader.read();
    if (hasEnded) return;
    onPart(parse(value));
  }
}
