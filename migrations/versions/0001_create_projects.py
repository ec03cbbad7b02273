"""Create projects, and the merge of RFC 7396 that PATCH needs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

MERGE_PATCH = """
CREATE FUNCTION jsonb_merge_patch(target jsonb, patch jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN jsonb_typeof(patch) <> 'object' THEN patch ELSE
    (SELECT coalesce(jsonb_object_agg(key,
         CASE WHEN p.value IS NULL THEN t.value ELSE jsonb_merge_patch(t.value, p.value) END), '{}')
     FROM jsonb_each(CASE jsonb_typeof(target) WHEN 'object' THEN target ELSE '{}' END) AS t
       FULL JOIN jsonb_each(patch) AS p USING (key)
     WHERE p.value IS DISTINCT FROM 'null')
  END
$$
"""


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("description", sa.String(1000), nullable=True),
        sa.Column("is_active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("attributes", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.CheckConstraint("char_length(name) >= 1", name="name_not_empty"),
        sa.CheckConstraint("jsonb_typeof(attributes) = 'object'", name="attributes_object"),
        sa.CheckConstraint("octet_length(attributes::text) <= 16384", name="attributes_size"),
        sa.CheckConstraint("version >= 1", name="version_positive"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("projects_created_at_id_idx", "projects", ["created_at", "id"])
    op.execute(MERGE_PATCH)


def downgrade() -> None:
    op.execute("DROP FUNCTION jsonb_merge_patch")
    op.drop_table("projects")
