"""The commands of all resources: flask idempotency, history, RESOURCE assign, RESOURCE forget."""

from uuid import UUID

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext

from projectapp.cli import printable_text, report_problems
from projectapp.request_state import OWNER_LENGTH
from projectapp.resources import idempotency
from projectapp.resources.owners import assign_rows
from projectapp.resources.resource import Resource
from projectapp.resources.retention import forget_row, purge_changes

idempotency_cli = AppGroup("idempotency", help="Manage Idempotency-Keys.")
history_cli = AppGroup("history", help="Manage the history of all resources.")


@idempotency_cli.command()
@report_problems
def purge() -> None:
    """Delete expired keys. (Each new key also deletes two.)"""
    click.echo(f"Deleted {idempotency.purge()} expired keys.")


@history_cli.command("purge")
@report_problems
def purge_history() -> None:
    """Delete the changes that are older than HISTORY_RETENTION. Run it regularly."""
    retention = current_app.config["HISTORY_RETENTION"]
    if retention is None:
        raise click.ClickException(
            "HISTORY_RETENTION is not set, so all history is kept. To delete changes that are older"
            " than 90 days, set HISTORY_RETENTION=90d and run the command again."
        )
    total = 0
    for total in purge_changes(retention):
        click.echo(f"\rDeleted {total} changes", nl=False, err=True)
    click.echo("", err=True)
    click.echo(f"Deleted {total} changes of all resources.")


def forget_command(resource: Resource) -> click.Command:
    """Return the command that erases a row of a resource and its history."""
    name = resource.name

    @click.command(
        "forget",
        help=f"Delete a row of {name} and erase its history for good. It cannot be restored."
        " docs/operations.md says what remains.",
    )
    @click.argument("row_id", metavar="ID", type=click.UUID)
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @with_appcontext
    @report_problems
    def forget(row_id: UUID, yes: bool) -> None:
        if not yes:
            click.confirm(f"Erase {row_id} of {name} for good?", abort=True)
        if not forget_row(resource, row_id):
            raise click.ClickException(f"The database has nothing about {row_id} in {name}.")
        click.echo(f"Erased {row_id} of {name}.")

    return forget


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
