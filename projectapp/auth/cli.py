"""flask tokens ..."""

import re
import sys
from datetime import timedelta
from typing import Any
from uuid import UUID

import click
from flask.cli import AppGroup, ScriptInfo

from projectapp.auth import token_admin, tokens
from projectapp.auth.access import all_scopes
from projectapp.cli import printable_text, report_problems
from projectapp.request_state import OWNER_LENGTH

tokens_cli = AppGroup("tokens", help="API tokens, for servers and scripts (AUTH=tokens).")


def _lifetime(context: Any, parameter: Any, value: str) -> timedelta | None:
    return None if value == "never" else _duration(context, parameter, value)


def _duration(context: Any, parameter: Any, value: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,5})([mhd])", value)
    if not found:
        raise click.BadParameter("A number of minutes, hours or days, such as 90d.")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[found[2]]
    return timedelta(**{unit: int(found[1])})


def _scopes(context: click.Context, parameter: Any, value: str) -> list[str]:
    known = all_scopes(context.ensure_object(ScriptInfo).load_app())
    found = sorted({item.strip() for item in value.split(",")})
    if not set(found) <= known:
        raise click.BadParameter(f"A comma list of some of {', '.join(sorted(known))}.")
    return found


def _told_once(token: str) -> None:
    click.echo("This is the only time that the token is shown:", err=True)
    click.echo(token)


@tokens_cli.command()
@click.option(
    "--name", required=True, callback=printable_text(tokens.NAME_LENGTH), help="What it is for."
)
@click.option(
    "--owner",
    required=True,
    callback=printable_text(OWNER_LENGTH),
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
@report_problems
def create(name: str, owner: str, scopes: list[str], lifetime: timedelta | None) -> None:
    """Make a token, and print it: once, and to standard output alone."""
    _told_once(token_admin.create_token(name, owner, scopes, lifetime))


@tokens_cli.command("list")
@report_problems
def show() -> None:
    """List all tokens, the newest first; of the tokens themselves nothing is kept."""
    rows = [[str(value or "-") for value in found.values()] for found in token_admin.list_tokens()]
    rows.insert(0, list(token_admin.SHOWN))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


@tokens_cli.command()
@click.argument("token_id", type=click.UUID)
@click.option(
    "--grace",
    default="24h",
    callback=_duration,
    show_default=True,
    help="How long the old one lives on: 0m, 24h, 7d.",
)
@report_problems
def rotate(token_id: UUID, grace: timedelta) -> None:
    """Make a token to take the place of another, whose lifetime, owner and scopes it gets."""
    token = token_admin.rotate_token(token_id, grace)
    if not token:
        raise click.ClickException("There is no such token, or it has ended.")
    _told_once(token)


@tokens_cli.command()
@click.argument("token_id", metavar="TOKEN_ID")
@report_problems
def revoke(token_id: str) -> None:
    """End a token at once.

    With - for TOKEN_ID the token itself is read from standard input: one that was found somewhere
    is known by nothing else, and shall not stand in a list of processes.
    """
    if token_id == "-":  # noqa: S105
        name = token_admin.revoke_token(token=sys.stdin.readline().strip())
    else:
        try:
            name = token_admin.revoke_token(UUID(token_id))
        except ValueError:  # it may be a token, and is not repeated
            raise click.UsageError("TOKEN_ID is an id of `flask tokens list`, or -.") from None
    if name is None:
        raise click.ClickException("There is no such token.")
    click.echo(f"{name} is revoked.")
