"""Shows the progress of a long command on standard error."""

import sys
import time
from types import TracebackType
from typing import Any

import click

_LINE_INTERVAL_SECONDS = 5


class Progress:
    """Shows how many rows are done, and how fast. Use it in a `with` block.

    On a terminal it is a bar with the remaining time, or without a `length` a line that is written
    again and again. Otherwise it is a plain line every 5 seconds. `verb` is a participle, such as
    "Imported". `length` is the size of the work in any unit, such as bytes.
    """

    def __init__(self, verb: str, length: int | None = None) -> None:
        self._verb, self._length = verb, length
        self._rows = self._position = 0
        self._first_position: int | None = None
        self._started_at = self._shown_at = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._bar: Any = None
        if self._is_terminal and length:
            self._bar = click.progressbar(
                length=length,
                label=verb,
                file=sys.stderr,
                show_percent=True,
                item_show_func=lambda _: self._rate_text(),
            )

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.__enter__()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.__exit__(error_type, error, traceback)
        elif self._is_terminal:
            click.echo(err=True)

    def update(self, rows: int, position: int = 0) -> None:
        """Add `rows` to those that are done. `position` is the part of `length` that is done.

        The first call says where the work begins: an import that continues begins in the middle.
        """
        now = time.monotonic()
        if self._first_position is None:
            self._first_position = self._position = position
            self._started_at = now
            if self._bar:
                self._bar.pos = position
        self._rows += rows
        step, self._position = position - self._position, position
        if self._bar:
            self._bar.update(step)
        elif self._is_terminal or now - self._shown_at >= _LINE_INTERVAL_SECONDS:
            self._shown_at = now
            text = f"{self._verb} {self._rate_text()}{self._remaining_text(now)}"
            click.echo(
                f"\r{text}\033[K" if self._is_terminal else text, nl=not self._is_terminal, err=True
            )

    def rows_per_second(self) -> int:
        return int(self._rows / max(time.monotonic() - self._started_at, 0.001))

    def _rate_text(self) -> str:
        return f"{self._rows} rows, {self.rows_per_second()} rows/s"

    def _remaining_text(self, now: float) -> str:
        done = self._position - (self._first_position or 0)
        if not self._length or done <= 0:
            return ""
        seconds = (now - self._started_at) / done * (self._length - self._position)
        percent = 100 * self._position // self._length
        minutes, seconds = divmod(int(seconds), 60)
        return f", {percent} %, {minutes}:{seconds:02} left"
