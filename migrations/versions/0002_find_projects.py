"""Find projects: search in every language, attributes, every order, and an estimate of how many.

The previous release goes on serving while this runs: it neither writes nor reads what is added. The
new column rewrites the table, which is locked meanwhile.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# NFC, lower case, NFC. What lower() knows depends on its collation: the first found of PostgreSQL
# 17's own and ICU's knows every alphabet, the database's own has to do where there is neither.
# Final sigma and the dotted I are the two letters that they lower differently.
SEARCH_FOLD = r"""
DO $do$
BEGIN
  EXECUTE format($create$
    CREATE FUNCTION search_fold(given text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
    DECLARE
      folded text := given;
    BEGIN
      IF folded IS NOT NFC NORMALIZED THEN
        folded := normalize(folded, NFC);
      END IF;
      folded := translate(lower(translate(folded, 'İ', 'i') COLLATE %I), 'ς', 'σ');
      IF folded IS NOT NFC NORMALIZED THEN
        folded := normalize(folded, NFC);
      END IF;
      RETURN folded;
    END
    $$
  $create$, coalesce((
    SELECT collname FROM pg_collation
    WHERE collname IN ('pg_c_utf8', 'und-x-icu')
      AND collencoding IN (-1, pg_char_to_encoding('UTF8'))
    ORDER BY collname LIMIT 1
  ), 'default'));
END
$do$
"""

# Every two neighbours of a text, but blanks, each behind a mark.
SEARCH_BIGRAMS = """
CREATE FUNCTION search_bigrams(folded text, mark text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$
DECLARE
  letters text[] := string_to_array(folded, NULL);
BEGIN
  RETURN coalesce((
    SELECT array_agg(mark || a || b)
    FROM unnest(letters, letters[2:]) AS pair(a, b)
    WHERE a <> ' ' AND b <> ' '
  ), '{}');
END
$$
"""

# Name and description, each behind U+001F, which no word of a search holds.
PROJECT_TEXT = r"""
CREATE FUNCTION project_text(name varchar, description varchar) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN search_fold(
  E'\x1f' || translate(name, E'\x1f', ' ')
  || E'\x1f' || coalesce(translate(description, E'\x1f', ' '), '')
)
"""

# The bigrams of both, and again those of the name, marked, with where it begins and ends.
PROJECT_BIGRAMS = r"""
CREATE FUNCTION project_bigrams(project_text text) RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN search_bigrams(project_text, '')
  || search_bigrams(E'\x1f' || split_part(project_text, E'\x1f', 2) || E'\x1f', E'\x1f')
"""

ROW_ESTIMATE = """
CREATE FUNCTION row_estimate(query text) RETURNS bigint LANGUAGE plpgsql STRICT AS $$
DECLARE
  plan json;
BEGIN
  EXECUTE 'EXPLAIN (FORMAT JSON) ' || query INTO plan;
  RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
END
$$
"""

ORDERS = (
    ["name"],
    ["updated_at"],
    *(["is_active", key] for key in ("name", "created_at", "updated_at")),
)

# A search reads all of an index's pending list, so that is kept short.
PENDING = {"gin_pending_list_limit": 256}


def upgrade() -> None:
    for function in (SEARCH_FOLD, SEARCH_BIGRAMS, PROJECT_TEXT, PROJECT_BIGRAMS, ROW_ESTIMATE):
        op.execute(function)
    text = sa.Computed("project_text(name, description)", persisted=True)
    op.add_column("projects", sa.Column("search", sa.Text(collation="C"), text, nullable=False))
    op.execute("ALTER TABLE projects ALTER search SET STATISTICS 0")  # plans need none of it
    for keys in ORDERS:
        op.create_index(f"projects_{'_'.join(keys)}_id_idx", "projects", [*keys, "id"])
    op.create_index(
        "projects_attributes_idx",
        "projects",
        ["attributes"],
        postgresql_using="gin",
        postgresql_ops={"attributes": "jsonb_path_ops"},
        postgresql_with=PENDING,
    )
    op.create_index(
        "projects_search_idx",
        "projects",
        [sa.text("project_bigrams(search)")],
        postgresql_using="gin",
        postgresql_with=PENDING,
    )


def downgrade() -> None:
    for keys in ORDERS:
        op.drop_index(f"projects_{'_'.join(keys)}_id_idx", "projects")
    op.drop_index("projects_attributes_idx", "projects")
    op.drop_index("projects_search_idx", "projects")
    op.drop_column("projects", "search")
    for function in (
        "row_estimate(text)",
        "project_bigrams(text)",
        "project_text(varchar, varchar)",
        "search_bigrams(text, text)",
        "search_fold(text)",
    ):
        op.execute(f"DROP FUNCTION {function}")
