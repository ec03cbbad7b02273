"""${message}

The previous release serves while this runs, and after it (docs/migrations.md):
- Add. Drop, rename or retype only what no release that may still run uses.
- A new column is nullable, or has a constant default. What has rows becomes NOT NULL in three
  migrations: CHECK ... NOT VALID; VALIDATE CONSTRAINT; SET NOT NULL and the CHECK dropped.
- An index on a table that has rows is alone in its migration: in a `with
  op.get_context().autocommit_block():`, postgresql_concurrently=True, if_not_exists=True.
- Rows are changed in batches, in a migration of its own that can be run again.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
