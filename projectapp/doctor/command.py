"""`flask doctor`: what is wrong with the database's connection, why it matters, what to type.

It looks in the order in which things go wrong: the settings, the way to the server, the server.
"""

import json
import queue
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from contextvars import copy_context
from dataclasses import asdict

import click
from flask import Flask, current_app
from flask.cli import AppGroup, FlaskGroup, with_appcontext

import config as settings
from projectapp.doctor import url
from projectapp.doctor.finding import FAIL, OK, WARN, Finding
from projectapp.request_state import RequestState, set_request_state

SECONDS = 8  # for all of it, whatever does not answer
_COLOURS = {OK: "green", WARN: "yellow", FAIL: "red"}


@click.command("doctor")
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many servers run this release.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_appcontext
def doctor_command(replicas: int, as_json: bool) -> None:
    """Examine the connection to the database; exits with 1 if something does not work."""
    error = current_app.extensions.get("settings_error")
    findings = _explain(error) if error else _in_time(_examine(replicas))
    sys.exit(_report(findings, as_json))


class _DoctorOnly(AppGroup):
    """The commands where the settings are refused: of any other the error is the answer."""

    def __init__(self, error: settings.ConfigError) -> None:
        super().__init__()
        self._error = error

    def list_commands(self, ctx: click.Context) -> list[str]:
        raise self._error

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name != doctor_command.name:
            raise self._error
        return doctor_command


def create_doctor_app(error: settings.ConfigError) -> Flask:
    """Create an application that has only `flask doctor`, because the settings are refused.

    Raises `error`, unless the flask command is looking for the command that it was given.
    """
    context = click.get_current_context(silent=True)
    # For a command of Flask's own, such as `flask routes`, the context is that command's.
    if not context or not isinstance(context.command, FlaskGroup):
        raise error
    app = Flask(__name__)
    app.extensions["settings_error"] = error
    app.cli = _DoctorOnly(error)
    return app


def _explain(error: settings.ConfigError) -> Iterator[Finding]:
    """Say at length why the settings are refused."""
    level = OK
    with suppress(settings.ConfigError):  # a `.env` that cannot be read
        for finding in url.examine():
            level = FAIL if finding.level == FAIL else level
            yield finding
    if level != FAIL:
        yield Finding(FAIL, "settings", str(error))


def _examine(replicas: int) -> Iterator[Finding]:
    from projectapp.doctor import server  # and Alembic, as no server needs

    set_request_state(RequestState(deadline=time.monotonic() + SECONDS))
    try:
        yield from url.examine()
        yield from server.examine(replicas)
    except Exception as error:  # nobody is helped by a trace, which might have a secret in it
        yield Finding(FAIL, "doctor", f"It cannot go on: {type(error).__name__}.")


def _in_time(findings: Iterable[Finding]) -> Iterator[Finding]:
    """What is found within SECONDS, whatever it is that still waits then."""
    end = time.monotonic() + SECONDS
    found: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def search() -> None:
        for finding in findings:
            found.put(finding)
        found.put(None)

    threading.Thread(target=copy_context().run, args=(search,), daemon=True).start()
    try:
        while (finding := found.get(timeout=max(0, end - time.monotonic()))) is not None:
            yield finding
    except queue.Empty:
        why = "The server, or what is in the way, answers too slowly for the rest."
        yield Finding(FAIL, "doctor", f"It gives up after {SECONDS} s.", why)


def _report(findings: Iterable[Finding], as_json: bool) -> int:
    """Print the findings, each as soon as it is there; the exit code."""
    seen = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            _print(finding)
    failed, warned = (sum(one.level == level for one in seen) for level in (FAIL, WARN))
    if as_json:
        found = {"ok": not failed, "findings": [asdict(one) for one in seen]}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        click.echo(f"\nErrors: {failed}, warnings: {warned}." if failed + warned else "\nAll well.")
    return int(failed > 0)


def _print(finding: Finding) -> None:
    mark = click.style(f"{finding.level:4}", fg=_COLOURS[finding.level], bold=True)
    click.echo(f"{mark}  {click.style(f'{finding.check:<12}', bold=True)}{_wrapped(finding.what)}")
    if finding.why:
        click.echo(f"{'':18}{_wrapped(finding.why)}")
    if finding.do:
        lines = finding.do.replace("\n", f"\n{'':20}")  # not wrapped: they are to be copied
        click.echo(f"{'':18}{click.style('> ' + lines, fg='cyan')}")


def _wrapped(words: str) -> str:
    width = max(40, min(82, shutil.get_terminal_size((100, 24)).columns - 18))
    lines = textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False)
    return f"\n{'':18}".join(lines)
