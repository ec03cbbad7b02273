"""Index lists of one owner by name, with and without a filter for is_active.

NULLS FIRST keeps the planner from other indexes (docs/decisions/0007). No value is null.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

INDEX = "projects_owner_is_active_name_id_idx"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index(
            INDEX,
            "projects",
            ["owner", "is_active", sa.text("name NULLS FIRST"), sa.text("id NULLS FIRST")],
            postgresql_where="owner IS NOT NULL",
            postgresql_concurrently=True,
            if_not_exists=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, postgresql_concurrently=True)
