"""${message}

The previous release keeps serving while this migration runs, and after it (docs/migrations.md):
- Adding is safe. Drop, rename or change the type only of what no running release uses any more.
- A new column is nullable or has a constant default. On a table with rows, NOT NULL takes three
  migrations: CHECK ... NOT VALID; VALIDATE CONSTRAINT; SET NOT NULL and drop the CHECK.
- An index on a table with rows is alone in its migration: in a `with
  op.get_context().autocommit_block():`, postgresql_concurrently=True, if_not_exists=True.
- Change rows in batches, in a migration of its own that can be run again.
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
