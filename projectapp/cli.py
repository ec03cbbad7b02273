"""Commands that are not about projects."""

import click
from flask import Flask
from flask.cli import AppGroup

from projectapp import idempotency

_keys = AppGroup("idempotency", help="The keys of POST requests.")


@_keys.command()
def purge() -> None:
    """Delete the expired keys; those that come in take some with them anyway."""
    click.echo(f"{idempotency.purge()} expired keys are gone.")


def init_app(app: Flask) -> None:
    app.cli.add_command(_keys)
