"""Helpers for the commands of all packages."""

import functools
from collections.abc import Callable
from typing import Any

import click

from projectapp.problems import OutcomeUnknown, Problem, ServiceUnavailable


def report_problems(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command: a Problem ends it with a message, without a traceback.

    Every command is safe to run again, except if an OutcomeUnknown has a `remedy`.
    """

    @functools.wraps(command)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except OutcomeUnknown as problem:
            remedy = problem.remedy or "Run the command again: it does only what is still missing."
            raise click.ClickException(f"{problem.summary} {remedy}") from problem
        except ServiceUnavailable as problem:
            raise click.ClickException(
                f"{problem.detail} Run `flask doctor` to find the cause."
            ) from problem
        except Problem as problem:
            raise click.ClickException(problem.detail) from problem
        except click.ClickException as error:
            # Parts of it may come from a file.
            error.message = escape_unprintable(error.message)  # type: ignore[misc]
            raise

    return wrapper


def escape_unprintable(text: str) -> str:
    """Replace characters with which a text from outside could control a terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def printable_text(max_length: int) -> Callable[[Any, Any, str], str]:
    """Return a click callback that accepts 1 to `max_length` printable characters.

    Such a text fits its column, and is safe as a `sub` claim and in a log line.
    """

    def check(context: Any, parameter: Any, value: str) -> str:
        if value is not None and not (0 < len(value) <= max_length and value.isprintable()):
            raise click.BadParameter(f"Must be 1 to {max_length} printable characters.")
        return value

    return check
