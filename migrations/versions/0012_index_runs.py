"""Index runs of a letter, such as 777, so that a search for 777777 need not read every 77.

The next migration computes the bigrams of existing rows again. Until then the previous release
finds all rows, because it searches for bigrams that all rows have.
"""

from alembic import context, op

revision = "0012"
down_revision = "0011"

# The bigrams of a text, as search_bigrams() returns them, but the first letters of a run of three
# or more equal letters are a key of their own: the letter with a number that no letter has. The
# last two letters of the run are a bigram as before.
SEARCH_KEYS = """
CREATE FUNCTION search_keys(folded text, sign integer) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
  letters text[] := string_to_array(folded, NULL);
BEGIN
  RETURN ARRAY(
    SELECT sign * ((ascii(a) * 1000003::bigint
      + CASE WHEN a = b AND b = c THEN 1114112 ELSE ascii(b) END) % 2147483647)::integer
    FROM unnest(letters, letters[2:], letters[3:]) AS triple(a, b, c)
    WHERE a <> ' ' AND b <> ' '
  );
END
$$
"""


def project_bigrams(function: str) -> str:
    before = context.script.get_revision("0002").module
    statement = before.PROJECT_BIGRAMS.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    return statement.replace("search_bigrams", function)


def upgrade() -> None:
    op.execute(SEARCH_KEYS)
    op.execute(project_bigrams("search_keys"))


def downgrade() -> None:
    op.execute(project_bigrams("search_bigrams"))
    op.execute("DROP FUNCTION search_keys")
