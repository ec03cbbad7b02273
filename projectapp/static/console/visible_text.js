// Shows invisible characters in the texts of rows as codes. Otherwise two different texts could look
// the same, and a character could reverse the text around it.

// Controls, Hangul fillers, and characters that have no width or change the direction of the text.
// A joiner within an emoji is a part of its picture.
const INVISIBLE =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u2069\u3164\ufeff\uffa0]|(?<![\p{Extended_Pictographic}\p{Emoji_Modifier}]\ufe0f?)\u200d/gu;
const LINE_BREAK = /\r\n|\r|\n/g;
const MAX_SPACES = 20;

const codeOf = (character) =>
  "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

/** Return the codes of the invisible characters in a text, such as "U+202E", each once. */
export const invisibleCodes = (text) => [...new Set((text.match(INVISIBLE) ?? []).map(codeOf))];

/** Return a text with its lines, in which invisible characters are codes such as ⟦U+202E⟧. */
export function visibleLines(text) {
  if (/^ +$/.test(text)) return "␣".repeat(Math.min(text.length, MAX_SPACES));
  return text.replace(/\r\n/g, "\n").replace(INVISIBLE, (character) => `⟦${codeOf(character)}⟧`);
}

/** Return a text in one line: its line breaks and tabs become signs. */
export const visibleText = (text) =>
  visibleLines(text.replace(LINE_BREAK, "↵").replaceAll("\t", "⇥"));
