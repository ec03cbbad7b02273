"""Update the search text of existing rows (about 20 s for a million rows).

Only rows whose text is folded differently are written, a thousand ids at a time.
"""

from alembic import context, op

revision = "0007"
down_revision = "0006"

# Setting the name makes PostgreSQL compute what is generated of it.
FOLD_AGAIN = """
DO $$
DECLARE
  last uuid := '00000000-0000-0000-0000-000000000000';
  batch uuid[];
BEGIN
  LOOP
    batch := ARRAY(SELECT id FROM projects WHERE id >= last ORDER BY id LIMIT 1000);
    UPDATE projects SET name = name
    WHERE id = ANY(batch) AND search COLLATE "C" IS DISTINCT FROM project_text(name, description);
    COMMIT;
    EXIT WHEN cardinality(batch) < 1000;
    last := batch[1000];
  END LOOP;
END
$$
"""


def upgrade() -> None:
    # A downgrade of 0006 that was cut short has left the old functions here.
    context.script.get_revision("0006").module.upgrade()
    with op.get_context().autocommit_block():
        op.execute(FOLD_AGAIN)


def downgrade() -> None:
    pass  # 0006 does it, once it has the functions of before
