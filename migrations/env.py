"""Runs the migrations, each in its own transaction; `flask db migrate` numbers them."""

from alembic import context
from alembic.operations.ops import MigrationScript
from alembic.script import ScriptDirectory

from projectapp import database


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
    "target_metadata": database.db.metadata,
    "process_revision_directives": number,
    "compare_server_default": True,
    "transaction_per_migration": True,
}

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    # Not AUTOCOMMIT as the application's: a migration is applied whole or not at all.
    engine = database.unlimited_engine()
    with engine.connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
