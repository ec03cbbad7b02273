"""Splits a JSON array of any size into the texts of its elements, in constant memory."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

MAX_ELEMENT_CHARACTERS = 2**20
_BLOCK_BYTES = 2**16
_SPACE = re.compile(r"[ \t\r\n]*")
# What follows a number that may continue after the window, as in `1`, `1.` and `1e+`.
_CUT_NUMBER = re.compile(r"[.eE]?[+-]?\Z")
# Finds only where an element ends; its numbers are not converted, as they may have many digits.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


class InvalidArray(ValueError):
    """The text is the end of a sentence, as in f"FILE {error}"."""


def split_array(file: BinaryIO) -> Iterator[bytes]:
    """Yield the texts of the elements of an array in UTF-8. A BOM is skipped.

    Raises InvalidArray if a text between the elements is invalid, or an element has no end.
    """
    return _ArrayReader(file).split()


class _ArrayReader:
    """Holds a window of the text, which moves through the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._text, self._start, self._is_end = file, "", 0, False
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()

    def split(self) -> Iterator[bytes]:
        if self._next_character() != "[":
            raise InvalidArray("is not a JSON array.")
        self._start += 1
        index = 0
        separator = self._next_character()
        while separator != "]":
            if index:
                if separator != ",":
                    raise InvalidArray(f"is not valid JSON after item {index - 1}.")
                self._start += 1
            yield self._read_element(index).encode()
            index += 1
            separator = self._next_character()
        self._start += 1
        if self._next_character():
            raise InvalidArray("has text after the JSON array.")

    def _next_character(self) -> str:
        """Skip white space; return the character there, or "" at the end of the file."""
        while True:
            self._start = _SPACE.match(self._text, self._start).end()  # type: ignore[union-attr]
            if self._start < len(self._text) or not self._read_block():
                return self._text[self._start : self._start + 1]

    def _read_element(self, index: int) -> str:
        self._next_character()
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._start)
            except (ValueError, RecursionError):
                end = 0
            if end and (self._is_end or not _CUT_NUMBER.match(self._text, end)):
                text, self._start = self._text[self._start : end], end
                return text
            is_too_long = len(self._text) - self._start > MAX_ELEMENT_CHARACTERS
            if is_too_long or not self._read_block():
                raise InvalidArray(
                    f"is not valid JSON: item {index} (the first is 0) is invalid, or longer than"
                    f" {MAX_ELEMENT_CHARACTERS} characters."
                )

    def _read_block(self) -> bool:
        """Add a block to the window, without the text that was read. False at the end."""
        if self._is_end:
            return False
        block = self._file.read(_BLOCK_BYTES)
        self._is_end = not block
        try:
            text = self._decoder.decode(block, self._is_end)
        except UnicodeDecodeError:
            raise InvalidArray("is not UTF-8, so it is not JSON.") from None
        self._text, self._start = self._text[self._start :] + text, 0
        return True
