"""`flask doctor`: reports problems with the database, why they matter, and how to fix them.

It checks the settings, then the connection, then the server.
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

from projectapp.doctor.finding import FAIL, OK, WARN, Finding
from projectapp.doctor.url import check_urls
from projectapp.request_state import RequestState, set_request_state
from settings.config_error import ConfigError

DEADLINE_SECONDS = 8  # for all checks, even if the server does not answer
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
    """Check the settings and the database. Exits with 1 if there is an error."""
    error = current_app.extensions.get("settings_error")
    findings = _explain_refused_settings(error) if error else _with_deadline(_run_checks(replicas))
    sys.exit(_print_report(findings, as_json))


class _DoctorOnly(AppGroup):
    """Commands of an application with invalid settings: all except doctor raise the error."""

    def __init__(self, error: ConfigError) -> None:
        super().__init__()
        self._error = error

    def list_commands(self, ctx: click.Context) -> list[str]:
        raise self._error

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name != doctor_command.name:
            raise self._error
        return doctor_command


def create_doctor_app(error: ConfigError) -> Flask:
    """Return an application that has only `flask doctor`, for invalid settings.

    Raises `error` if the caller is not the flask command in search of the command that a user
    typed.
    """
    context = click.get_current_context(silent=True)
    # A command of Flask itself, such as `flask routes`, has its own context.
    if not context or not isinstance(context.command, FlaskGroup):
        raise error
    app = Flask(__name__)
    app.extensions["settings_error"] = error
    app.cli = _DoctorOnly(error)
    return app


def _explain_refused_settings(error: ConfigError) -> Iterator[Finding]:
    """Check the URLs, which explains their errors at length. Report `error` if they are valid."""
    has_failed = False
    with suppress(ConfigError):  # raised if `.env` cannot be read
        for finding in check_urls():
            has_failed = has_failed or finding.level == FAIL
            yield finding
    if not has_failed:
        yield Finding(FAIL, "settings", str(error))


def _run_checks(replicas: int) -> Iterator[Finding]:
    from projectapp.doctor.server import check_servers  # it imports Alembic

    set_request_state(RequestState(deadline=time.monotonic() + DEADLINE_SECONDS))
    try:
        yield from check_urls()
        yield from check_servers(replicas)
    except Exception as error:  # a traceback could contain a password
        summary = f"The doctor failed: {type(error).__name__}."
        yield Finding(FAIL, "doctor", summary, "This is a bug in the doctor. Please report it.")


def _with_deadline(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings for DEADLINE_SECONDS. A thread makes them, because a check may hang."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    results: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def collect() -> None:
        for finding in findings:
            results.put(finding)
        results.put(None)

    threading.Thread(target=copy_context().run, args=(collect,), daemon=True).start()
    try:
        while (finding := results.get(timeout=max(0, deadline - time.monotonic()))) is not None:
            yield finding
    except queue.Empty:
        reason = "The server or the network is too slow for the remaining checks."
        yield Finding(FAIL, "doctor", f"Stopped after {DEADLINE_SECONDS} s.", reason)


def _print_report(findings: Iterable[Finding], as_json: bool) -> int:
    """Print each finding as soon as it is there, and return the exit code."""
    printed = []
    for finding in findings:
        printed.append(finding)
        if not as_json:
            _print_finding(finding)
    levels = [finding.level for finding in printed]
    errors, warnings = levels.count(FAIL), levels.count(WARN)
    if as_json:
        report = {"ok": not errors, "findings": [asdict(finding) for finding in printed]}
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    elif errors + warnings:
        click.echo(f"\nErrors: {errors}, warnings: {warnings}.")
    else:
        click.echo("\nNo problems found.")
    return int(errors > 0)


def _print_finding(finding: Finding) -> None:
    level = click.style(f"{finding.level:4}", fg=_COLOURS[finding.level], bold=True)
    check = click.style(f"{finding.check:<12}", bold=True)
    click.echo(f"{level}  {check}{_wrap(finding.summary)}")
    if finding.reason:
        click.echo(f"{'':18}{_wrap(finding.reason)}")
    if finding.remedy:
        lines = finding.remedy.replace("\n", f"\n{'':20}")  # not wrapped, so that it can be copied
        click.echo(f"{'':18}{click.style('> ' + lines, fg='cyan')}")


def _wrap(text: str) -> str:
    width = max(40, min(82, shutil.get_terminal_size((100, 24)).columns - 18))
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return f"\n{'':18}".join(lines)
