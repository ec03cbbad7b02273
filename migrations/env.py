"""Alembic runs this file for each `flask db` command.

It differs from a usual env.py:
- Each migration is a transaction of its own, and revisions are numbers: 0001, 0002, ...
- `flask db upgrade` takes no lock if the schema is up to date, or ahead of this release.
- Otherwise one process migrates, and others wait for it (projectapp/database/migrations.py).
- Migrations of two branches and databases of other applications are refused (migration_checks.py).
- After each change, tables are protected from Supabase's public API (supabase.py).
- Resources get the triggers of their history, and a restored dump is recognized
  (projectapp/resources/history_migrations.py).
"""

import logging

from alembic import context
from alembic.operations.ops import MigrationScript
from alembic.util import CommandError
from sqlalchemy import inspect, text

from projectapp.database import db, migration_checks, migrations, schema, supabase
from projectapp.resources.history_migrations import adopt_restored_history, is_adoption_needed

log = logging.getLogger("projectapp.migrations")


def assign_revision_number(migration_context, revision, directives: list[MigrationScript]) -> None:
    """Give a new migration the next number. `flask db migrate` writes none if nothing changed."""
    (script,) = directives
    if getattr(context.config.cmd_opts, "autogenerate", False) and script.upgrade_ops.is_empty():
        print("The models and the migrations agree: there is nothing to migrate.")
        directives.clear()
        return
    script.rev_id = f"{int(context.script.get_current_head() or 0) + 1:04}"


def log_step(*, step, heads, **_) -> None:
    """Log a migration that was run. Its transaction is still open."""
    if step.is_stamp:
        log.info("alembic_version is now %s.", ", ".join(sorted(heads)) or "empty")
        return
    action = "Applied" if step.is_upgrade else "Reverted"
    log.info("%s %s: %s", action, step.up_revision_id, " ".join(step.up_revision.doc.split()))


context_options = {
    "target_metadata": db.metadata,
    "process_revision_directives": assign_revision_number,
    "compare_server_default": True,
    "transaction_per_migration": True,
}


def changes_schema() -> bool:
    """Whether the command is upgrade, downgrade or stamp: only these have a target revision."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def read_revision(connection) -> str:
    """Configure Alembic, and return the schema's revision, or "" for an empty database.

    Raises CommandError if the database does not belong to this service.
    """
    context.configure(connection=connection, on_version_apply=log_step, **context_options)
    # One snapshot for all queries, or another process could migrate between two of them.
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    is_migrated = inspect(connection).has_table("alembic_version")
    revisions = connection.scalar(schema.REVISIONS) if is_migrated else []
    migration_checks.check_database(connection, revisions)
    return max(revisions, default="")


def is_up_to_date(connection) -> bool:
    """Whether the command is `flask db upgrade`, and the schema is up to date or ahead."""
    revision, head = read_revision(connection), context.get_head_revision()
    is_upgrade = context.get_context().opts["fn"].__name__ == "upgrade"
    if not is_upgrade or context.get_revision_argument() != head or revision < head:
        return False
    if revision > head:
        log.info("The schema is at %s, ahead of this release, which needs %s.", revision, head)
    else:
        log.info("The schema is at %s: up to date.", revision)
    return True


def run_migrations(connection) -> None:
    revision, head = read_revision(connection), context.get_head_revision()
    is_stamp = context.get_context().opts["fn"].__name__ == "do_stamp"
    if revision > head and not is_stamp:
        raise CommandError(
            f"The schema is at {revision}, ahead of this release, whose newest migration is {head}."
            f" Use the release that has migration {revision}."
        )
    if changes_schema():
        log.info(f"The schema is at {revision}." if revision else "The database is empty.")
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    with migrations.connect() as connection:

        def migrate() -> None:
            # Another process may have migrated while this one waited for the lock.
            if not is_up_to_date(connection):
                run_migrations(connection)
            adopt_restored_history(connection)

        if not changes_schema():
            run_migrations(connection)
        elif (
            not is_up_to_date(connection)
            or supabase.has_tables_to_protect(connection)
            or is_adoption_needed(connection)
        ):
            migrations.run_exclusively(connection, migrate)


def run_migrations_offline() -> None:
    """Print the SQL instead of running it: `flask db upgrade --sql`."""
    # Named parameters, because the style of psycopg2 doubles each % in the SQL.
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        **context_options,
    )
    with context.begin_transaction():
        context.execute(migrations.SET_SESSION)
        context.run_migrations()
        context.execute(supabase.protect_tables_sql())


migration_checks.check_files(context.script)
if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
