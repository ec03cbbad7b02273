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
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from dataclasses import asdict

import click
from flask import Flask, current_app, g
from flask.cli import with_appcontext

import config as settings
from projectapp.doctor import url
from projectapp.doctor.finding import FAIL, OK, WARN, Finding

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
def _command(replicas: int, as_json: bool) -> None:
    """Examine the connection to the database; exits with 1 if something does not work."""
    sys.exit(_report(_in_time(_examine(replicas)), as_json))


def init_app(app: Flask) -> None:
    app.cli.add_command(_command)


def attended(load: Callable[[], settings.Config]) -> settings.Config:
    """The settings; if they are refused and it is the doctor who was called, the reason at length.

    No application comes about then, and with it no command of its own.
    """
    try:
        return load()
    except settings.ConfigError as error:
        if "doctor" not in sys.argv:
            raise
        found = list(url.examine())
        if all(finding.level != FAIL for finding in found):
            found.append(Finding(FAIL, "settings", str(error)))
        sys.exit(_report(found, "--json" in sys.argv))


def _examine(replicas: int) -> Iterator[Finding]:
    from projectapp.doctor import server  # and Alembic, as no server needs

    # Then it is over when a request's time would be, as all is that asks the database.
    g.started = time.monotonic() + SECONDS - current_app.config["REQUEST_TIMEOUT"]
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
        click.echo(
            f"\n{failed} to mend, {warned} to consider." if failed + warned else "\nAll well."
        )
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
