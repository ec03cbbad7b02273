"""Record how far each import has come, and which rows each pull created."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("processed_items", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_rows", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rejected_items", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_run", sa.Text(), nullable=True),
        sa.Column("errors_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("errors_crc32", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "pulled_rows",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("row_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("source", "row_id"),
    )


def downgrade() -> None:
    op.drop_table("pulled_rows")
    op.drop_table("imports")
