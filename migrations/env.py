"""Runs the migrations, each in its own transaction; `flask db migrate` numbers them."""

import logging

from alembic import context
from alembic.operations.ops import MigrationScript
from alembic.util import CommandError
from sqlalchemy import inspect

from projectapp.database import db, migrations, schema

log = logging.getLogger("projectapp.migrations")


def number(migration_context, revision, directives: list[MigrationScript]) -> None:
    """Give a new revision the next number, and make none where nothing changed."""
    (script,) = directives
    if getattr(context.config.cmd_opts, "autogenerate", False) and script.upgrade_ops.is_empty():
        print("The models and the migrations agree: there is nothing to migrate.")
        directives.clear()
        return
    script.rev_id = f"{int(context.script.get_current_head() or 0) + 1:04}"


def report(*, step, heads, **_) -> None:
    """Say what was done, while the transaction that does it is still open."""
    if step.is_stamp:
        log.info("alembic_version says %s now.", ", ".join(sorted(heads)) or "nothing")
        return
    done = "Applied" if step.is_upgrade else "Reverted"
    log.info("%s %s: %s", done, step.up_revision_id, " ".join(step.up_revision.doc.split()))


options = {
    "target_metadata": db.metadata,
    "process_revision_directives": number,
    "compare_server_default": True,
    "transaction_per_migration": True,
}


def target() -> str | None:
    """The revision to which the command leads; "" for one that changes no schema."""
    try:
        return context.get_revision_argument()
    except KeyError:
        return ""


def read_revision(connection) -> str:
    """The schema's revision, or "". Raises CommandError unless the database is this service's."""
    context.configure(connection=connection, on_version_apply=report, **options)
    is_migrated = inspect(connection).has_table("alembic_version")
    revisions = connection.scalar(schema.REVISIONS) if is_migrated else []
    connection.rollback()
    migrations.check_database(connection, revisions)
    return max(revisions, default="")


def is_done(connection) -> bool:
    """Whether the schema is where `flask db upgrade` leads, or a later release has it ahead."""
    at, head = read_revision(connection), context.get_head_revision()
    is_upgrade = context.get_context().opts["fn"].__name__ == "upgrade"  # not downgrade or stamp
    if not (is_upgrade and at >= head == target()):
        return False
    if at > head:
        log.info("The schema is at %s, ahead of this release, which needs %s.", at, head)
    else:
        log.info("The schema is at %s: up to date.", at)
    return True


def run(connection) -> None:
    # Not inside a transaction: Alembic would take it for one that spans all migrations.
    at, head = read_revision(connection), context.get_head_revision()
    if at > head and context.get_context().opts["fn"].__name__ != "do_stamp":
        raise CommandError(
            f"The schema is at {at}, ahead of this release, which knows up to {head}: use the"
            " release that brought it there."
        )
    if target() != "":
        log.info(f"The schema is at {at}." if at else "The database is empty.")
    with context.begin_transaction():
        context.run_migrations()


migrations.check_files(context.script)
if context.is_offline_mode():
    # Named parameters: the style of psycopg2 would double each % of the SQL.
    named = {"paramstyle": "named"}
    context.configure(dialect_name="postgresql", dialect_opts=named, literal_binds=True, **options)
    with context.begin_transaction():
        context.execute(migrations.SET)
        context.run_migrations()
        context.execute(migrations.close_tables())
else:
    with migrations.connect() as connection:
        if target() == "":
            run(connection)
        elif not is_done(connection) or migrations.has_tables_to_close(connection):
            migrations.alone(connection, lambda: is_done(connection) or run(connection))
