"""The command that imports a file: flask RESOURCE import FILE."""

from pathlib import Path
from typing import Any

import click
from flask.cli import with_appcontext

from projectapp.bulk.import_source import FORMATS
from projectapp.cli import printable_text, report_problems
from projectapp.request_state import OWNER_LENGTH
from projectapp.resources.resource import Resource
from projectapp.resources.schemas import ResourceSchema

SOME_REJECTED = 3  # the exit status; click uses 1 for errors and 2 for wrong options


def _parse_columns(_: Any, __: Any, values: tuple[str, ...]) -> dict[str, str]:
    """Parse --column "NAME=FIELD". The name of a column may contain =."""
    renamed = {}
    for value in values:
        column, _, field = value.rpartition("=")
        if not column or not field:
            raise click.BadParameter('Must be "NAME=FIELD", such as "이름=name".')
        renamed[column] = field
    return renamed


def import_command(resource: Resource, schema_class: type[ResourceSchema]) -> click.Command:
    """Return the command that imports a file into a resource."""
    name = resource.name

    @click.command(
        "import",
        help=f"Import {name} from FILE ({', '.join(FORMATS)}, or - for standard input). If it is"
        " interrupted, run it again: it continues. Exit status: 0 if all items are imported,"
        f" {SOME_REJECTED} if some were rejected. See docs/many-rows.md.",
    )
    @click.argument("path", metavar="FILE")
    @click.option("--dry-run", is_flag=True, help="Only report what would be rejected.")
    @click.option(
        "--owner", callback=printable_text(OWNER_LENGTH), help=f"The owner of the {name}."
    )
    @click.option("--errors", "errors_path", type=Path, help="Write rejected items to this file.")
    @click.option(
        "--keep-ids", is_flag=True, help="Keep ids, versions, times and owners of an export."
    )
    @click.option("--encoding", help="The encoding of a CSV file, such as cp949.")
    @click.option(
        *("--column", "renamed"),
        multiple=True,
        metavar="NAME=FIELD",
        callback=_parse_columns,
        help="Map a column of a CSV file to a field; repeatable.",
    )
    @click.option(
        "--unknown-into", metavar="FIELD", help="Put unknown columns into this JSON object."
    )
    @click.option("--again", is_flag=True, help="Import a file that was imported before.")
    @with_appcontext
    @report_problems
    def import_(**options: Any) -> None:
        from projectapp.bulk.import_file import import_file  # a server never loads it

        if import_file(resource, schema_class, **options):
            raise SystemExit(SOME_REJECTED)

    return import_
