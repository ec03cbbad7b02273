"""The command `flask RESOURCE pull`."""

from collections.abc import Callable
from typing import Any

import click
from flask.cli import with_appcontext

from projectapp.bulk.import_command import SOME_REJECTED
from projectapp.cli import printable_text, report_problems
from projectapp.request_state import OWNER_LENGTH
from projectapp.resources.resource import Resource
from projectapp.resources.schemas import ResourceSchema


def pull_command(
    resource: Resource,
    schema: type[ResourceSchema],
    path: str,
    adapt: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> click.Command:
    """Return the command that takes over the rows of a running backend.

    `path` is the path of the list in the old backend. `adapt` makes a row of the old backend more
    like one of this resource: it gets a row, and returns a new dict.
    """
    if resource.parent:
        raise TypeError("Only resources without a parent can be pulled.")
    name = resource.name

    @click.command(
        "pull",
        help=f"Take over the {name} of a running backend of the tutorial, which stays as it is."
        " URL is its address, such as http://localhost:8000. If you run the command again, it"
        f" stores what has changed there since. Changes and deletions that were made here stay."
        f" Exit status {SOME_REJECTED}: some {name} were rejected. See docs/moving-in.md.",
    )
    @click.argument("url")
    @click.option(
        "--time-zone",
        help="The zone of times without one: UTC, +09:00, or a name such as Asia/Seoul.",
    )
    @click.option(
        "--owner", callback=printable_text(OWNER_LENGTH), help="The owner of the new rows."
    )
    @click.option(
        "--errors",
        "errors_file",
        type=click.File("w", encoding="utf-8", errors="backslashreplace", lazy=False),
        help="Write the rejected rows to this file, one JSON object on each line.",
    )
    @click.option(
        "--cut-over",
        is_flag=True,
        help="Say when to switch the front end, then pull what has changed there until then.",
    )
    @click.option(
        "--delete-missing",
        is_flag=True,
        help=f"Delete {name} that do not exist there any more, even if most of them are missing.",
    )
    @click.option("--dry-run", is_flag=True, help="Only report what the command would do.")
    @with_appcontext
    @report_problems
    def pull(**options: Any) -> None:
        from projectapp.bulk.pull_run import pull_rows  # a server never loads it

        if pull_rows(resource, schema(), path, adapt, **options):
            raise SystemExit(SOME_REJECTED)

    return pull
