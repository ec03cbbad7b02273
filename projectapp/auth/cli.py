"""The commands `flask tokens`."""

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

tokens_cli = AppGroup("tokens", help="Manage API tokens for servers and scripts (AUTH=tokens).")


class ScopeOption(click.Option):
    """An option whose help lists the application's scopes, as each resource adds some."""

    def get_help_record(self, context: click.Context) -> tuple[str, str] | None:
        self.help = (
            f"What the token permits: a comma-separated list of {', '.join(_scopes(context))}."
        )
        return super().get_help_record(context)


def _scopes(context: click.Context) -> list[str]:
    return sorted(all_scopes(context.ensure_object(ScriptInfo).load_app()))


def _parse_scopes(context: click.Context, parameter: Any, value: str) -> list[str]:
    scopes = sorted({item.strip() for item in value.split(",")})
    permitted = _scopes(context)
    if not set(scopes) <= set(permitted):
        raise click.BadParameter(f"Must be a comma-separated list of {', '.join(permitted)}.")
    return scopes


def _parse_lifetime(context: Any, parameter: Any, value: str) -> timedelta | None:
    return None if value == "never" else _parse_duration(context, parameter, value)


def _parse_duration(context: Any, parameter: Any, value: str) -> timedelta:
    parts = re.fullmatch(r"([0-9]{1,5})([mhd])", value)
    if not parts:
        raise click.BadParameter("Must be a number of minutes, hours or days, such as 90d.")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[parts[2]]
    return timedelta(**{unit: int(parts[1])})


def _print_token(token: str) -> None:
    click.echo("Copy the token now. It is not stored and cannot be shown again:", err=True)
    click.echo(token)


@tokens_cli.command()
@click.option(
    "--name",
    required=True,
    callback=printable_text(tokens.NAME_LENGTH),
    help="A name for the token, such as the script that uses it.",
)
@click.option(
    "--owner",
    required=True,
    callback=printable_text(OWNER_LENGTH),
    help="The owner of the rows that it creates: any name, or the `sub` of a user's JWT.",
)
@click.option("--scope", "scopes", cls=ScopeOption, required=True, callback=_parse_scopes)
@click.option(
    "--expires",
    "lifetime",
    default="90d",
    callback=_parse_lifetime,
    show_default=True,
    help="The lifetime: for instance 30m, 12h, 90d, or never.",
)
@report_problems
def create(name: str, owner: str, scopes: list[str], lifetime: timedelta | None) -> None:
    """Create a token and print it once, alone on the standard output."""
    _print_token(token_admin.create_token(name, owner, scopes, lifetime))


@tokens_cli.command("list")
@report_problems
def list_() -> None:
    """List all tokens, newest first. The tokens themselves are not stored."""
    rows = [[str(value or "-") for value in row.values()] for row in token_admin.list_tokens()]
    rows.insert(0, list(token_admin.LIST_COLUMNS))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


@tokens_cli.command()
@click.argument("token_id", type=click.UUID)
@click.option(
    "--grace",
    default="24h",
    callback=_parse_duration,
    show_default=True,
    help="How long the old token stays valid: for instance 0m, 24h, 7d.",
)
@report_problems
def rotate(token_id: UUID, grace: timedelta) -> None:
    """Replace a token: print a new one with the same name, owner, scopes and lifetime."""
    token = token_admin.rotate_token(token_id, grace)
    if not token:
        raise click.ClickException("There is no such token, or it is expired or revoked.")
    _print_token(token)


@tokens_cli.command()
@click.argument("token_id", metavar="TOKEN_ID")
@report_problems
def revoke(token_id: str) -> None:
    """Revoke a token at once.

    TOKEN_ID is an id from `flask tokens list`. If you have only the token itself, for instance
    because it has leaked, write - instead, and the token to the standard input. As an argument it
    would appear in the list of processes.
    """
    if token_id == "-":  # noqa: S105
        name = token_admin.revoke_token(token=sys.stdin.readline().strip())
    else:
        try:
            name = token_admin.revoke_token(UUID(token_id))
        except ValueError:  # it may be a token, so the message must not contain it
            raise click.UsageError("TOKEN_ID is an id from `flask tokens list`, or -.") from None
    if name is None:
        raise click.ClickException("There is no such token.")
    click.echo(f"{name} is revoked.")
