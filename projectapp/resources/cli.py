"""flask idempotency ..."""

import click
from flask.cli import AppGroup

from projectapp.cli import report_problems
from projectapp.resources import idempotency

idempotency_cli = AppGroup("idempotency", help="The keys of POST requests.")


@idempotency_cli.command()
@report_problems
def purge() -> None:
    """Delete the expired keys; those that come in take some with them anyway."""
    click.echo(f"{idempotency.purge()} expired keys are gone.")
