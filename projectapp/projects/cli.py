"""flask projects ..."""

from uuid import UUID

import click

from projectapp.cli import printable_text, report_problems
from projectapp.projects import queries
from projectapp.projects.routes import bp
from projectapp.request_state import OWNER_LENGTH


@bp.cli.command()
@click.argument("owner", callback=printable_text(OWNER_LENGTH))
@click.argument("project_ids", nargs=-1, type=click.UUID)
@click.option(
    "--from", "giver", callback=printable_text(OWNER_LENGTH), help="Whose projects they are now."
)
@report_problems
def assign(owner: str, project_ids: tuple[UUID, ...], giver: str | None) -> None:
    """Give OWNER the projects of nobody, or of another owner: all of them, or some by their ids.

    Nobody's are those that were made while AUTH was none. It may be run again at any time.
    """
    count = queries.assign(owner, giver, project_ids)
    click.echo(f"{count} projects are {owner}'s now.")
