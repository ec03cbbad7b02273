"""Let a project have an owner, and keep API tokens."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0004"
down_revision = "0003"

# What a worker sends before each statement of a request that came with a token.
CHECK = """
CREATE FUNCTION api_token_check(bytea) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM api_tokens
        WHERE digest = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    ) THEN
        RAISE EXCEPTION 'this API token is unknown, expired or revoked' USING ERRCODE = 'PA401';
    END IF;
END
$$
"""


def upgrade() -> None:
    op.add_column("projects", sa.Column("owner", sa.String(255), nullable=True))
    time = sa.DateTime(timezone=True)
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("scopes", ARRAY(sa.Text()), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", time, server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", time, nullable=True),
        sa.Column("revoked_at", time, nullable=True),
        sa.Column("last_used_at", time, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.execute(CHECK)


def downgrade() -> None:
    op.execute("DROP FUNCTION api_token_check")
    op.drop_table("api_tokens")
    op.drop_column("projects", "owner")
