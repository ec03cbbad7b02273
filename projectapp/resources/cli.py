"""The commands of all resources: flask idempotency purge, flask RESOURCE assign."""

from uuid import UUID

import click
from flask.cli import AppGroup, with_appcontext

from projectapp.cli import printable_text, report_problems
from projectapp.request_state import OWNER_LENGTH
from projectapp.resources import idempotency
from projectapp.resources.owners import assign_rows
from projectapp.resources.resource import Resource

idempotency_cli = AppGroup("idempotency", help="Manage Idempotency-Keys.")


@idempotency_cli.command()
@report_problems
def purge() -> None:
    """Delete expired keys. (Each new key also deletes two.)"""
    click.echo(f"Deleted {idempotency.purge()} expired keys.")


def assign_command(resource: Resource) -> click.Command:
    """Return the command that assigns rows of a resource to another owner."""
    name = resource.name

    @click.command(
        "assign",
        help=f"Assign {name} to OWNER: all without an owner (created with AUTH=none), with --from"
        f" those of another owner, with IDs only these. It can be repeated.",
    )
    @click.argument("owner", callback=printable_text(OWNER_LENGTH))
    @click.argument("ids", nargs=-1, type=click.UUID)
    @click.option(
        "--from", "old_owner", callback=printable_text(OWNER_LENGTH), help="The present owner."
    )
    @with_appcontext
    @report_problems
    def assign(owner: str, ids: tuple[UUID, ...], old_owner: str | None) -> None:
        count = assign_rows(resource, owner, old_owner, ids)
        click.echo(f"Assigned {count} {name} to {owner}.")

    return assign
