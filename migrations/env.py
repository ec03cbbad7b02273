"""Runs the migrations, each in its own transaction; `flask db migrate` numbers them."""

import logging

from alembic import context
from alembic.operations.ops import MigrationScript
from alembic.script import ScriptDirectory

from projectapp.database import db, migrating

log = logging.getLogger("projectapp.migrations")


def number(migration_context, revision, directives: list[MigrationScript]) -> None:
    """Give a new revision the next number, and make none where nothing changed."""
    (script,) = directives
    if getattr(context.config.cmd_opts, "autogenerate", False) and script.upgrade_ops.is_empty():
        print("The models and the migrations agree: there is nothing to migrate.")
        directives.clear()
        return
    head = ScriptDirectory.from_config(context.config).get_current_head()
    script.rev_id = f"{int(head or 0) + 1:04}"


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


def is_done(connection) -> bool:
    """Whether the schema is where `flask db upgrade` leads, or a later release has it ahead."""
    context.configure(connection=connection, **options)
    if context.get_context().opts["fn"].__name__ != "upgrade":  # but downgrade or stamp
        return False
    at = max(context.get_context().get_current_heads(), default="")
    connection.rollback()
    head = context.get_head_revision()
    if at > head == target():
        log.info("The schema is at %s, ahead of this release, which needs %s.", at, head)
    return at >= head == target()


def run(connection) -> None:
    # Not inside a transaction: Alembic would take it for one that spans all migrations.
    context.configure(connection=connection, **options)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    # Named parameters: the style of psycopg2 would double each % of the SQL.
    named = {"paramstyle": "named"}
    context.configure(dialect_name="postgresql", dialect_opts=named, literal_binds=True, **options)
    with context.begin_transaction():
        context.execute(migrating.SET)
        context.run_migrations()
        context.execute(migrating.close_tables())
else:
    with migrating.connect() as connection:
        if target() == "":
            run(connection)
        elif not is_done(connection) or migrating.has_tables_to_close(connection):
            migrating.alone(connection, lambda: is_done(connection) or run(connection))
