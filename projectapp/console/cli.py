"""The command `flask console`."""

import re
import sys

import click
from flask import current_app
from flask.cli import with_appcontext

_WILDCARD_ADDRESSES = {"0.0.0.0": "localhost", "::": "localhost"}  # noqa: S104


@click.command("console")
@click.option(
    "--url",
    help="The URL of the service, as a browser reaches it. Default: this computer.",
)
@with_appcontext
def console_command(url: str | None) -> None:
    """Print the URL of the console, which signs in with a token from the standard input.

    The token is in the part of the URL after #, which a browser sends to no server, but keeps in
    its history. So use one that expires soon:

      flask tokens create ... --expires 12h | flask console
    """
    config = current_app.config
    if not config["CONSOLE"]:
        raise click.ClickException("The console is off. Set CONSOLE=on.")
    if not url:
        host = _WILDCARD_ADDRESSES.get(config["HOST"], config["HOST"])
        host = f"[{host}]" if ":" in host else host
        url = f"http://{host}:{config['PORT']}{config['SCRIPT_NAME']}"
    url = url.rstrip("/") + "/console"
    if not config["AUTH"]:
        click.echo(url)
        return
    token = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    if not token:
        click.echo(url)
        click.echo("To sign in, enter a token there, or send one to this command:", err=True)
        click.echo("  flask console < FILE_WITH_THE_TOKEN", err=True)
        return
    if not re.fullmatch(r"[A-Za-z0-9\-._~+/]+=*", token):
        raise click.ClickException("The standard input must be one token, and nothing else.")
    message = (
        "Open this URL. It contains the token, so keep it secret. The browser's history keeps it:"
        " use a token that expires soon (--expires)."
    )
    click.echo(message, err=True)
    click.echo(f"{url}#token={token}")
