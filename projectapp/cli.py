"""Commands that are not about projects."""

import functools
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import click
from flask import Flask
from flask.cli import AppGroup, ScriptInfo
from werkzeug.local import LocalProxy

from config import ROOT
from projectapp import database, idempotency, operation
from projectapp.auth import issuing, tokens
from projectapp.auth.caller import OWNER_LENGTH
from projectapp.errors import OutcomeUnknown, Problem, Unavailable

_keys = AppGroup("idempotency", help="The keys of POST requests.")
_tokens = AppGroup("tokens", help="API tokens, for servers and scripts (AUTH=tokens).")


def told(command: Callable[..., Any]) -> Callable[..., Any]:
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
        except Unavailable as problem:
            raise click.ClickException(f"{problem.detail} `flask doctor` says more.") from problem
        except Problem as problem:
            raise click.ClickException(problem.detail) from problem

    return run


def text(length: int) -> Callable[[Any, Any, str], str]:
    """A click callback for a text that fits its column, and can be a sub or stand in a log."""

    def check(context: Any, parameter: Any, value: str) -> str:
        if value is not None and not (0 < len(value) <= length and value.isprintable()):
            raise click.BadParameter(f"1 to {length} characters, all of them printable.")
        return value

    return check


def _lifetime(context: Any, parameter: Any, value: str) -> timedelta | None:
    return None if value == "never" else _duration(context, parameter, value)


def _duration(context: Any, parameter: Any, value: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,5})([mhd])", value)
    if not found:
        raise click.BadParameter("A number of minutes, hours or days, such as 90d.")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[found[2]]
    return timedelta(**{unit: int(found[1])})


def _scopes(context: click.Context, parameter: Any, value: str) -> list[str]:
    known = operation.scopes(context.ensure_object(ScriptInfo).load_app())
    found = sorted({item.strip() for item in value.split(",")})
    if not set(found) <= known:
        raise click.BadParameter(f"A comma list of some of {', '.join(sorted(known))}.")
    return found


def _told_once(token: str) -> None:
    click.echo("This is the only time that the token is shown:", err=True)
    click.echo(token)


@_keys.command()
@told
def purge() -> None:
    """Delete the expired keys; those that come in take some with them anyway."""
    click.echo(f"{idempotency.purge()} expired keys are gone.")


@_tokens.command()
@click.option("--name", required=True, callback=text(tokens.NAME_LENGTH), help="What it is for.")
@click.option(
    "--owner",
    required=True,
    callback=text(OWNER_LENGTH),
    help="Whose projects it reads and makes: any name, or the sub of a user's JWT.",
)
@click.option(
    "--scope",
    "scopes",
    required=True,
    callback=_scopes,
    help="What it may do: a comma list of projects:read, projects:write, projects:all.",
)
@click.option(
    "--expires",
    "lifetime",
    default="90d",
    callback=_lifetime,
    show_default=True,
    help="After how long it ends: 30m, 12h, 90d, never.",
)
@told
def create(name: str, owner: str, scopes: list[str], lifetime: timedelta | None) -> None:
    """Make a token, and print it: once, and to standard output alone."""
    _told_once(issuing.create(name, owner, scopes, lifetime))


@_tokens.command("list")
@told
def show() -> None:
    """List all tokens, the newest first; of the tokens themselves nothing is kept."""
    rows = [[str(value or "-") for value in found.values()] for found in issuing.every()]
    rows.insert(0, list(issuing.SHOWN))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


@_tokens.command()
@click.argument("token_id", type=click.UUID)
@click.option(
    "--grace",
    default="24h",
    callback=_duration,
    show_default=True,
    help="How long the old one lives on: 0m, 24h, 7d.",
)
@told
def rotate(token_id: UUID, grace: timedelta) -> None:
    """Make a token to take the place of another, whose lifetime, owner and scopes it gets."""
    token = issuing.rotate(token_id, grace)
    if not token:
        raise click.ClickException("There is no such token, or it has ended.")
    _told_once(token)


@_tokens.command()
@click.argument("token_id", metavar="TOKEN_ID")
@told
def revoke(token_id: str) -> None:
    """End a token at once.

    With - for TOKEN_ID the token itself is read from standard input: one that was found somewhere
    is known by nothing else, and shall not stand in a list of processes.
    """
    if token_id == "-":  # noqa: S105
        name = issuing.revoke(token=sys.stdin.readline().strip())
    else:
        try:
            name = issuing.revoke(UUID(token_id))
        except ValueError:  # it may be a token, and is not repeated
            raise click.UsageError("TOKEN_ID is an id of `flask tokens list`, or -.") from None
    if name is None:
        raise click.ClickException("There is no such token.")
    click.echo(f"{name} is revoked.")


def init_app(app: Flask) -> None:
    app.cli.add_command(_keys)
    app.cli.add_command(_tokens)
    # A server would keep Alembic, 8 MiB of it, for nothing: it comes when it is asked for.
    app.extensions["migrate"] = LocalProxy(functools.partial(add_migrations, app))
    if click.get_current_context(silent=True):
        add_migrations(app)


def add_migrations(app: Flask) -> Any:
    """Add `flask db`, and return what Flask-Migrate knows of it."""
    from flask_migrate import Migrate

    Migrate(app, database.db, directory=str(ROOT / "migrations"))
    return app.extensions["migrate"]
