"""Find projects: search in every language, attributes, every order, and an estimate of how many.

The new columns rewrite the table, which nobody can read or write until this is through: 70 s for a
million rows. After it the previous release goes on serving, as it knows nothing of what is added.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

# NFC, lower case, NFC. What lower() knows depends on its collation: of the first two, PostgreSQL
# 17's own and ICU's, each knows every alphabet; where neither is, the database's own has to do.
# The dotted I and the final sigma are the letters that they treat differently.
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

# Every two neighbours in a text, but blanks, as a number that hardly any other two have.
SEARCH_BIGRAMS = """
CREATE FUNCTION search_bigrams(folded text, sign integer) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
  letters text[] := string_to_array(folded, NULL);
BEGIN
  RETURN coalesce((
    SELECT array_agg(sign * ((ascii(a) * 1000003::bigint + ascii(b)) % 2147483647)::integer)
    FROM unnest(letters, letters[2:]) AS pair(a, b)
    WHERE a <> ' ' AND b <> ' '
  ), '{}');
END
$$
"""

# Name and description, each behind U+001F, which no word of a search holds, with plain blanks.
PROJECT_TEXT = r"""
CREATE FUNCTION project_text(name varchar, description varchar) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN search_fold(
  E'\x1f' || translate(name, E'\x1f\t\n\r\u00a0\u3000', '      ')
  || E'\x1f' || coalesce(translate(description, E'\x1f\t\n\r\u00a0\u3000', '      '), '')
)
"""

# The bigrams of both and, negative, those of the name once more, with its two ends.
PROJECT_BIGRAMS = r"""
CREATE FUNCTION project_bigrams(project_text text) RETURNS integer[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN search_bigrams(project_text, 1)
  || search_bigrams(E'\x1f' || split_part(project_text, E'\x1f', 2) || E'\x1f', -1)
"""

# As a cursor, a query is one statement, whoever gives it.
ROW_ESTIMATE = """
CREATE FUNCTION row_estimate(query text) RETURNS bigint LANGUAGE plpgsql STRICT AS $$
DECLARE
  plan json;
BEGIN
  FOR plan IN EXECUTE 'EXPLAIN (FORMAT JSON) ' || query LOOP
    RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
  END LOOP;
END
$$
"""

# A list plans for matches of every frequency, so its cost looks high where it is not; PostgreSQL
# would compile such a plan for a tenth of a second.
NO_JIT = """
DO $$
BEGIN
  EXECUTE format('ALTER DATABASE %I SET jit = off', current_database());
EXCEPTION WHEN insufficient_privilege THEN
  RAISE WARNING 'Only the owner of the database can set jit = off, which frequent words need.';
END
$$
"""

# One statement, or the table would be rewritten twice. No plan needs what is in the text.
COLUMNS = """
ALTER TABLE projects
  ADD search text COLLATE "C" NOT NULL
    GENERATED ALWAYS AS (project_text(name, description)) STORED,
  ADD bigrams integer[] NOT NULL
    GENERATED ALWAYS AS (project_bigrams(project_text(name, description))) STORED,
  ALTER search SET STATISTICS 0
"""

ORDERS = (
    *(["name"], ["updated_at"], ["is_active"]),
    *(["is_active", key] for key in ("name", "created_at", "updated_at")),
)
SETS = {"attributes": {"attributes": "jsonb_path_ops"}, "bigrams": {}}


def upgrade() -> None:
    for statement in (
        *(SEARCH_FOLD, SEARCH_BIGRAMS, PROJECT_TEXT, PROJECT_BIGRAMS),
        *(COLUMNS, ROW_ESTIMATE, NO_JIT),
    ):
        op.execute(statement)
    for keys in ORDERS:
        op.create_index(f"projects_{'_'.join(keys)}_id_idx", "projects", [*keys, "id"])
    for column, operators in SETS.items():
        op.create_index(
            f"projects_{column}_idx",
            "projects",
            [column],
            postgresql_using="gin",
            postgresql_ops=operators,
            # KiB that every search reads through until an insert sorts them in; 4096 by default.
            postgresql_with={"gin_pending_list_limit": 1024},
        )


def downgrade() -> None:
    op.execute(NO_JIT.replace("SET jit = off'", "RESET jit'"))
    for column in SETS:
        op.drop_index(f"projects_{column}_idx", "projects")
    for keys in ORDERS:
        op.drop_index(f"projects_{'_'.join(keys)}_id_idx", "projects")
    op.drop_column("projects", "bigrams")
    op.drop_column("projects", "search")
    op.execute("DROP FUNCTION row_estimate, project_bigrams, project_text")
    op.execute("DROP FUNCTION search_bigrams, search_fold")
