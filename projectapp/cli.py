"""What the commands of all packages share."""

import functools
from collections.abc import Callable
from typing import Any

import click

from projectapp.problems import OutcomeUnknown, Problem, ServiceUnavailable


def report_problems(command: Callable[..., Any]) -> Callable[..., Any]:
    """Have a command end with what a Problem says, instead of a traceback.

    Every command can be run again without harm, unless an OutcomeUnknown has another remedy.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except OutcomeUnknown as problem:
            remedy = problem.remedy or "Run the command again: it does only what is left to do."
            raise click.ClickException(f"{problem.what} {remedy}") from problem
        except ServiceUnavailable as problem:
            raise click.ClickException(f"{problem.detail} `flask doctor` says more.") from problem
        except Problem as problem:
            raise click.ClickException(problem.detail) from problem

    return run


def printable_text(length: int) -> Callable[[Any, Any, str], str]:
    """A click callback for a text that fits its column, and can be a sub or stand in a log."""

    def check(context: Any, parameter: Any, value: str) -> str:
        if value is not None and not (0 < len(value) <= length and value.isprintable()):
            raise click.BadParameter(f"1 to {length} characters, all of them printable.")
        return value

    return check
