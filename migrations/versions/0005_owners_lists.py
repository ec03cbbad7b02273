"""Make an owner's list, the newest first, cost what they have of it."""

from alembic import op

revision = "0005"
down_revision = "0004"

INDEX = "projects_owner_created_at_idx"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index(
            INDEX,
            "projects",
            ["owner", "created_at", "id"],
            postgresql_where="owner IS NOT NULL",
            postgresql_concurrently=True,
            if_not_exists=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, postgresql_concurrently=True)
