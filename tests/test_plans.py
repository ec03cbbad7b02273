"""Every index is there for a list that would be slow without it: plans at 50 000 rows, analysed."""

import psycopg2
import pytest

from projectapp.auth import token_admin
from tests.conftest import PROJECTS
from tests.plans import executed

# Ten rows a timestamp; the older two thirds are archived, and only they have the words "long ago".
# One owner has a third of all, one a hundred.
FILL = """
TRUNCATE projects;
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
IN_ORDER = {
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
    "created_at[gte]=2026-01-01T00:30:00Z": CREATED,
    "created_at[lt]=2026-01-01T00:30:00Z&sort=created_at": CREATED,
    "updated_at[gt]=2026-01-02T00:30:00Z&sort=-updated_at": UPDATED,
    "is_active=false&created_at[gt]=2026-01-01T00:30:00Z": IN_STATE.format("created_at"),
}
# What no index holds in order is tried on the next 4 000 rows and, if that is in vain, found by an
# index of its own.
TRIED = {
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
# An owner's newest are in the order of their own index. In another order the next 4 000 rows are
# tried; if that is in vain, all that the owner has are fetched by that index. Of words the planner
# may take theirs as well.
OWNED = [
    ("few", {OWNER}, ""),
    ("many", {OWNER}, ""),
    ("few", {OWNER}, "sort=created_at"),
    ("many", {OWNER}, "created_at[lt]=2026-01-01T00:30:00Z"),
    ("few", {NAME, OWNER}, "sort=name"),
    ("many", {NAME}, "sort=name"),
    ("few", {UPDATED, OWNER}, "sort=-updated_at"),
    ("few", {NAME, OWNER}, "sort=-is_active,name"),
    ("few", {OWNER}, "is_active=true"),
    ("many", {OWNER}, "is_active=true"),
    ("few", {OWNER}, "q=needed"),
    ("many", {OWNER}, "q=needed"),
    ("few", {OWNER}, "q=project"),
    ("few", {OWNER}, 'attributes={"team":1}'),
]


@pytest.fixture(scope="module")
def many(app, direct_url):
    connection = psycopg2.connect(direct_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        # What is not on disk VACUUM does not yet say to be visible to all.
        for statement in (FILL, "CHECKPOINT", "VACUUM ANALYZE projects"):
            cursor.execute(statement)
    connection.close()
    return app.test_client()


def scans(client, query, headers=None):
    """The indexes that are read, and how many rows of the table, also those that are dropped."""
    nodes = executed(client, f"{PROJECTS}?count=none&{query}", headers)
    of_table = [node for node in nodes if node.get("Relation Name") == "projects"]
    indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
    assert not [node for node in of_table if node["Node Type"] == "Seq Scan"]
    counts = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return indexes, sum(
        node["Actual Loops"] * node.get(count, 0) for node in of_table for count in counts
    )


@pytest.mark.parametrize("query", IN_ORDER)
def test_a_list_in_the_order_of_an_index_reads_its_page_alone(many, query):
    indexes, rows = scans(many, query)
    assert indexes == {IN_ORDER[query]}
    assert rows <= 11 + 10, "a page, one row more, and those that share its last timestamp"


# The first 1 700 pages by -is_active are of active projects, the first 3 300 by is_active are not.
@pytest.mark.parametrize("page", [2, 1699, 2500, 3299, 4999])
@pytest.mark.parametrize("query", [q for q in IN_ORDER if "[" not in q and "is_active=" not in q])
def test_every_page_by_cursor_reads_no_more_than_the_first(many, query, page):
    cursor = many.get(f"{PROJECTS}?{query}&page={page}").json["next_cursor"]
    assert len(many.get(f"{PROJECTS}?{query}&cursor={cursor}").json["items"]) == 10
    _, rows = scans(many, f"{query}&cursor={cursor}")
    assert rows <= 11 + 10


# Of those no single index has all keys.
LOOSE = {"sort=-created_at,name", "sort=-name,is_active", "sort=-updated_at,name"}


@pytest.mark.parametrize("query", [q for q in IN_ORDER if q not in LOOSE])
def test_a_page_far_down_fetches_its_own_rows_alone(many, query):
    nodes = executed(many, f"{PROJECTS}?count=none&{query}&page=1400")
    of_table = [node for node in nodes if node.get("Relation Name") == "projects"]
    skipping = [node for node in of_table if node["Node Type"] == "Index Only Scan"]
    assert {node["Index Name"] for node in skipping} == {IN_ORDER[query]}
    rows = [node["Actual Loops"] * node["Actual Rows"] for node in of_table if node not in skipping]
    assert sum(rows) == 11, "a page, and one row more"


@pytest.mark.parametrize("query", IN_ORDER)
def test_a_page_far_down_is_the_one_that_is_there(many, query):
    hundred = many.get(f"{PROJECTS}?{query}&page=11&page_size=100").json["items"]
    assert many.get(f"{PROJECTS}?{query}&page=104").json["items"] == hundred[30:40]
    for page in (1399, 1699, 1700):
        before, there = (many.get(f"{PROJECTS}?{query}&page={n}").json for n in (page, page + 1))
        cursor = before["next_cursor"]
        after = cursor and many.get(f"{PROJECTS}?{query}&cursor={cursor}").json["items"]
        assert there["items"] == (after or [])


@pytest.mark.parametrize("query", TRIED)
def test_a_list_in_another_order_reads_some_rows_and_its_matches(many, query):
    matches = many.get(f"{PROJECTS}?count=exact&{query}").json["total"]
    indexes, rows = scans(many, query)
    assert indexes == TRIED[query]
    assert rows <= 4_000 + matches + 50, "and some that have the letters elsewhere"


def test_a_part_without_matches_is_not_walked_to_its_end(many):
    """All 1 500 matches are archived; 17 000 projects are active, and stand first."""
    query = 'attributes={"old":true}&sort=-is_active,created_at'
    indexes, rows = scans(many, query)
    assert ATTRIBUTES in indexes
    assert rows < 3 * 4_000 + 2 * 1_500


def test_words_are_found_by_their_index_where_a_sort_begins_with_is_active(many):
    indexes, rows = scans(many, "q=ago&sort=-is_active,created_at")
    assert BIGRAMS in indexes
    assert rows < 3 * 4_000 + 2 * 3_400


def test_a_name_that_is_begun_often_is_looked_for_whole_by_its_end(many):
    """12 500 names begin with it, and none is it."""
    indexes, rows = scans(many, "q=project")
    assert BIGRAMS in indexes
    assert rows < 4_000 + 50


def test_the_last_page_of_a_frequent_word_reads_no_more_than_the_first(many):
    """It is in the descriptions of 46 667 projects; ten a page, the last one has seven."""
    cursor = many.get(f"{PROJECTS}?q=needed&page=4666").json["next_cursor"]
    assert len(many.get(f"{PROJECTS}?q=needed&cursor={cursor}").json["items"]) == 7
    _, rows = scans(many, f"q=needed&cursor={cursor}")
    assert rows < 4_000 + 4_000 + 50


def test_a_walk_through_old_matches_tries_where_it_is(many):
    """None of the 3 333 matches is among the newest rows, but one in nine where they are."""
    cursor = many.get(f"{PROJECTS}?q=long ago").json["next_cursor"]
    _, rows = scans(many, f"q=long ago&cursor={cursor}")
    assert rows < 4_000 + 4_000 + 50


@pytest.mark.parametrize(("owner", "indexes", "query"), OWNED)
def test_an_owners_list_reads_some_rows_and_their_own(many, guarded_app, owner, indexes, query):
    with guarded_app.app_context():
        token = token_admin.create_token("plans", owner, ["projects:read"], None)
    client = guarded_app.test_client()
    found, rows = scans(client, query, {"Authorization": f"Bearer {token}"})
    assert indexes <= found <= indexes | {BIGRAMS}
    assert rows < 3 * 4_000 + 200


@pytest.mark.parametrize(("owner", "indexes", "query"), OWNED)
def test_one_owners_list_for_a_caller_who_sees_all_reads_as_much(many, owner, indexes, query):
    found, rows = scans(many, f"owner={owner}&{query}")
    assert indexes <= found <= indexes | {BIGRAMS}
    assert rows < 3 * 4_000 + 200


@pytest.mark.parametrize("query", ["owner=few", "owner=many", "owner=many&sort=created_at"])
def test_one_owners_newest_are_read_in_the_order_of_their_index(many, query):
    indexes, rows = scans(many, query)
    assert indexes == {OWNER}
    assert rows <= 11


def test_there_is_no_index_without_a_list(many, sql):
    there = {n for (n,) in sql("SELECT indexname FROM pg_indexes WHERE tablename = 'projects'")}
    of_lists = {*IN_ORDER.values()}.union(*TRIED.values(), *(found for _, found, _ in OWNED))
    assert there - {"projects_pkey"} == of_lists
