"""The indexes and the numbers of rows that lists read, by EXPLAIN ANALYZE of 50 000 rows."""

import psycopg2
import pytest

from projectapp.auth import token_admin
from tests.conftest import PROJECTS
from tests.plans import executed

# Ten rows have the same timestamp. The older two thirds are archived; only they have the words
# "long ago". The owner "many" has a third of all rows, the owner "few" a hundred.
INSERT_PROJECTS = """
TRUNCATE projects CASCADE;
INSERT INTO projects (id, name, description, is_active, attributes, created_at, updated_at, owner)
SELECT gen_random_uuid(),
  (ARRAY['번역', 'project', '検索', 'Search'])[1 + n % 4] || ' ' || md5(n::text),
  CASE WHEN n < 30000 AND n % 9 = 0 THEN 'long ago' ELSE 'needed by 팀 ' || n % 100 END,
  n > 33000, jsonb_build_object('team', n % 3, 'cost', n % 10000, 'old', n < 1500),
  '2026-01-01Z'::timestamptz + n / 10 * interval '1 s',
  '2026-01-02Z'::timestamptz + n / 10 * interval '1 s',
  CASE WHEN n % 3 = 0 THEN 'many' WHEN n % 500 = 1 THEN 'few' END
FROM generate_series(1, 50000) AS n
"""
CREATED, UPDATED, NAME = (f"projects_{key}_id_idx" for key in ("created_at", "updated_at", "name"))
OWNER = "projects_owner_created_at_idx"
IN_STATE = "projects_is_active_{}_id_idx"
ATTRIBUTES, BIGRAMS = "projects_attributes_idx", "projects_bigrams_idx"
IN_INDEX_ORDER = {
    "": CREATED,
    "sort=created_at": CREATED,
    "sort=-created_at,name": CREATED,
    "fields=name": CREATED,
    "sort=name": NAME,
    "sort=-name,is_active": NAME,
    "sort=updated_at": UPDATED,
    "sort=-updated_at,name": UPDATED,
    "is_active=true": IN_STATE.format("created_at"),
    "is_active=false&sort=name": IN_STATE.format("name"),
    "is_active=false&sort=-updated_at": IN_STATE.format("updated_at"),
    "sort=is_active,-created_at": IN_STATE.format("created_at"),
    "sort=-is_active,name": IN_STATE.format("name"),
    "sort=-is_active,-updated_at": IN_STATE.format("updated_at"),
    "sort=is_active": "projects_is_active_id_idx",
    "sort=-is_active": "projects_is_active_id_idx",
    "is_active=true&sort=-is_active": "projects_is_active_id_idx",
    "is_active=false&sort=is_active,name": IN_STATE.format("name"),
    "is_active=true&sort=updated_at,is_active": IN_STATE.format("updated_at"),
    "created_at[gte]=2026-01-01T00:30:00Z": CREATED,
    "created_at[lt]=2026-01-01T00:30:00Z&sort=created_at": CREATED,
    "updated_at[gt]=2026-01-02T00:30:00Z&sort=-updated_at": UPDATED,
    "is_active=false&created_at[gt]=2026-01-01T00:30:00Z": IN_STATE.format("created_at"),
}
# No index has these rows in order. The list reads the next 4 000 rows in order and, if they do not
# fill the page, all matches through the index of the filter.
IN_OTHER_ORDER = {
    "name=nobody": {CREATED, NAME},
    "updated_at[lt]=2026-01-02T00:00:30Z": {CREATED, UPDATED},
    "created_at[lt]=2026-01-01T00:00:03Z&sort=name": {NAME, CREATED},
    'attributes={"cost":77}': {CREATED, ATTRIBUTES},
    'attributes={"team":1}': {CREATED},
    'attributes={"team":1}&sort=name': {NAME},
    'attributes={"cost":77}&sort=-is_active,name': {NAME, ATTRIBUTES},
    'attributes={"old":true}': {CREATED, ATTRIBUTES},
    "q=ab0c1": {CREATED, BIGRAMS},
    "q=long ago": {CREATED, BIGRAMS},
    "q=needed": {CREATED, BIGRAMS},
    "q=needed&sort=name": {NAME},
    "q=nobody&sort=-name": {NAME, BIGRAMS},
    "q=ab0c1&is_active=true": {IN_STATE.format("created_at"), BIGRAMS},
}
# The newest rows of an owner are in the order of the owner's index. In another order, the list
# reads the next 4 000 rows and, if they do not fill the page, all rows of the owner through that
# index. In a search the planner may use the index of bigrams, too.
OF_ONE_OWNER = [
    ("few", {OWNER}, ""),
    ("many", {OWNER}, ""),
    ("few", {OWNER}, "sort=created_at"),
    ("many", {OWNER}, "created_at[lt]=2026-01-01T00:30:00Z"),
    ("few", {NAME, OWNER}, "sort=name"),
    ("many", {NAME}, "sort=name"),
    ("few", {UPDATED, OWNER}, "sort=-updated_at"),
    ("few", {NAME, OWNER}, "sort=-is_active,name"),
    ("few", {CREATED, OWNER}, "sort=-is_active,created_at"),
    ("few", {OWNER}, "is_active=true"),
    ("many", {OWNER}, "is_active=true"),
    ("few", {OWNER}, "q=needed"),
    ("many", {OWNER}, "q=needed"),
    ("few", {OWNER}, "q=project"),
    ("few", {OWNER}, 'attributes={"team":1}'),
]


@pytest.fixture(scope="module")
def loaded_client(app, direct_url):
    connection = psycopg2.connect(direct_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        # VACUUM marks a page as visible to all only if it is on disk.
        for statement in (INSERT_PROJECTS, "CHECKPOINT", "VACUUM ANALYZE projects"):
            cursor.execute(statement)
    connection.close()
    return app.test_client()


def scans(client, query, headers=None):
    """Return the indexes that a list reads, and the number of rows, before they are filtered."""
    nodes = executed(client, f"{PROJECTS}?count=none&{query}", headers)
    of_table = [node for node in nodes if node.get("Relation Name") == "projects"]
    indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
    assert not [node for node in of_table if node["Node Type"] == "Seq Scan"]
    counts = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return indexes, sum(
        node["Actual Loops"] * node.get(count, 0) for node in of_table for count in counts
    )


@pytest.mark.parametrize("query", IN_INDEX_ORDER)
def test_a_list_in_index_order_reads_only_its_page(loaded_client, query):
    indexes, rows = scans(loaded_client, query)
    assert indexes == {IN_INDEX_ORDER[query]}
    assert rows <= 11 + 10, "a page, one row more, and the rows with its last timestamp"


# By -is_active the first 1 700 pages are active, by is_active the first 3 300 are archived.
@pytest.mark.parametrize("page", [2, 1699, 2500, 3299, 4999])
@pytest.mark.parametrize(
    "query", [q for q in IN_INDEX_ORDER if "[" not in q and "is_active=" not in q]
)
def test_a_page_by_cursor_reads_no_more_rows_than_the_first_page(loaded_client, query, page):
    cursor = loaded_client.get(f"{PROJECTS}?{query}&page={page}").json["next_cursor"]
    assert len(loaded_client.get(f"{PROJECTS}?{query}&cursor={cursor}").json["items"]) == 10
    _, rows = scans(loaded_client, f"{query}&cursor={cursor}")
    assert rows <= 11 + 10


# No single index has all keys of these.
WITHOUT_ONE_INDEX = {"sort=-created_at,name", "sort=-name,is_active", "sort=-updated_at,name"}


@pytest.mark.parametrize("query", [q for q in IN_INDEX_ORDER if q not in WITHOUT_ONE_INDEX])
def test_a_page_with_a_high_number_fetches_only_its_rows(loaded_client, query):
    nodes = executed(loaded_client, f"{PROJECTS}?count=none&{query}&page=1400")
    of_table = [node for node in nodes if node.get("Relation Name") == "projects"]
    skipping = [node for node in of_table if node["Node Type"] == "Index Only Scan"]
    assert {node["Index Name"] for node in skipping} == {IN_INDEX_ORDER[query]}
    rows = [node["Actual Loops"] * node["Actual Rows"] for node in of_table if node not in skipping]
    assert sum(rows) == 11, "a page and one row more"


@pytest.mark.parametrize("query", IN_INDEX_ORDER)
def test_a_page_with_a_high_number_equals_the_page_by_cursor(loaded_client, query):
    def get(parameters):
        return loaded_client.get(f"{PROJECTS}?{query}&{parameters}").json

    assert get("page=104")["items"] == get("page=11&page_size=100")["items"][30:40]
    for number in (1399, 1699, 1700):
        cursor = get(f"page={number}")["next_cursor"]
        expected = get(f"cursor={cursor}")["items"] if cursor else []
        assert get(f"page={number + 1}")["items"] == expected


@pytest.mark.parametrize("query", IN_OTHER_ORDER)
def test_a_list_in_another_order_reads_at_most_4_000_rows_and_its_matches(loaded_client, query):
    matches = loaded_client.get(f"{PROJECTS}?count=exact&{query}").json["total"]
    indexes, rows = scans(loaded_client, query)
    assert indexes == IN_OTHER_ORDER[query]
    assert rows <= 4_000 + matches + 50, "and some rows with the same bigrams in other places"


def test_a_segment_without_matches_is_not_read_to_its_end(loaded_client):
    """All 1 500 matches are archived; 17 000 projects are active and come first."""
    query = 'attributes={"old":true}&sort=-is_active,created_at'
    indexes, rows = scans(loaded_client, query)
    assert ATTRIBUTES in indexes
    assert rows < 3 * 4_000 + 2 * 1_500


def test_a_search_sorted_by_is_active_uses_the_index_of_bigrams(loaded_client):
    indexes, rows = scans(loaded_client, "q=ago&sort=-is_active,created_at")
    assert BIGRAMS in indexes
    assert rows < 3 * 4_000 + 2 * 3_400


def test_a_search_for_a_frequent_prefix_reads_at_most_4_000_rows(loaded_client):
    """12 500 names begin with it, and no name equals it."""
    indexes, rows = scans(loaded_client, "q=project")
    assert BIGRAMS in indexes
    assert rows < 4_000 + 50


def test_the_last_page_of_a_frequent_word_reads_at_most_8_000_rows(loaded_client):
    """46 667 descriptions have it; the last of the pages of ten has seven."""
    cursor = loaded_client.get(f"{PROJECTS}?q=needed&page=4666").json["next_cursor"]
    assert len(loaded_client.get(f"{PROJECTS}?q=needed&cursor={cursor}").json["items"]) == 7
    _, rows = scans(loaded_client, f"q=needed&cursor={cursor}")
    assert rows < 4_000 + 4_000 + 50


def test_a_cursor_among_old_matches_reads_at_most_8_000_rows(loaded_client):
    """None of the 3 333 matches is new; among the old rows every ninth is a match."""
    cursor = loaded_client.get(f"{PROJECTS}?q=long ago").json["next_cursor"]
    _, rows = scans(loaded_client, f"q=long ago&cursor={cursor}")
    assert rows < 4_000 + 4_000 + 50


@pytest.mark.parametrize(("owner", "indexes", "query"), OF_ONE_OWNER)
def test_the_list_of_a_restricted_caller_reads_at_most_12_000_rows(
    loaded_client, auth_app, owner, indexes, query
):
    with auth_app.app_context():
        token = token_admin.create_token("plans", owner, ["projects:read"], None)
    client = auth_app.test_client()
    used, rows = scans(client, query, {"Authorization": f"Bearer {token}"})
    assert indexes <= used <= indexes | {BIGRAMS}
    assert rows < 3 * 4_000 + 200


@pytest.mark.parametrize(("owner", "indexes", "query"), OF_ONE_OWNER)
def test_a_list_filtered_by_owner_reads_at_most_12_000_rows(loaded_client, owner, indexes, query):
    used, rows = scans(loaded_client, f"owner={owner}&{query}")
    assert indexes <= used <= indexes | {BIGRAMS}
    assert rows < 3 * 4_000 + 200


@pytest.mark.parametrize("query", ["owner=few", "owner=many", "owner=many&sort=created_at"])
def test_the_newest_rows_of_an_owner_are_read_in_index_order(loaded_client, query):
    indexes, rows = scans(loaded_client, query)
    assert indexes == {OWNER}
    assert rows <= 11


def test_every_index_is_used_by_a_list(loaded_client, sql):
    indexes = {n for (n,) in sql("SELECT indexname FROM pg_indexes WHERE tablename = 'projects'")}
    used = {*IN_INDEX_ORDER.values()}.union(
        *IN_OTHER_ORDER.values(), *(names for _, names, _ in OF_ONE_OWNER)
    )
    assert indexes - {"projects_pkey"} == used
