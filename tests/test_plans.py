"""The indexes and the numbers of rows that lists read, by EXPLAIN ANALYZE of 50 000 rows."""

import psycopg2
import pytest

from projectapp.auth import token_admin
from tests.conftest import PROJECTS, links
from tests.plans import executed

# Ten rows have the same timestamp. The older two thirds are archived; only they have the words
# "long ago". The owner "many" has a third of all rows, "block" almost a third, which follow
# each other in time.
INSERT_PROJECTS = """
SET session_replication_role = replica;  -- so that no trigger refuses or records anything
TRUNCATE projects CASCADE;
INSERT INTO projects (id, name, description, is_active, attributes, created_at, updated_at, owner)
SELECT gen_random_uuid(),
  (ARRAY['번역', 'project', '検索', 'Search'])[1 + n % 4] || ' ' || md5(n::text),
  CASE WHEN n < 30000 AND n % 9 = 0 THEN 'long ago' ELSE 'needed by 팀 ' || n % 100 END,
  n > 33000, jsonb_build_object('team', n % 3, 'part', n % 5, 'cost', n % 10000, 'old', n < 1500),
  '2026-01-01Z'::timestamptz + n / 10 * interval '1 s',
  '2026-01-02Z'::timestamptz + n / 10 * interval '1 s',
  CASE WHEN n % 3 = 0 THEN 'many' WHEN n % 500 = 1 THEN 'few' WHEN n % 3300 = 2 THEN 'ten'
    WHEN n BETWEEN 20001 AND 44000 THEN 'block' END
FROM generate_series(1, 50000) AS n
"""
CREATED, UPDATED, NAME = (f"projects_{key}_id_idx" for key in ("created_at", "updated_at", "name"))
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
    'attributes={"cost":77}&sort=-is_active,name': {IN_STATE.format("name"), ATTRIBUTES},
    'attributes={"old":true}': {CREATED, ATTRIBUTES},
    "q=ab0c1": {CREATED, BIGRAMS},
    "q=long ago": {CREATED, BIGRAMS},
    "q=needed": {CREATED, BIGRAMS},
    "q=needed&sort=name": {NAME},
    "q=nobody&sort=-name": {NAME, BIGRAMS},
    "q=ab0c1&is_active=true": {IN_STATE.format("created_at"), BIGRAMS},
}
# An index that begins with the owner and is_active has the rows of an owner in the order of each
# list. Without a filter for is_active, and unless the sort begins with it, the list merges both
# states.
OWNERS = {"many": 16666, "block": 15961, "few": 67, "ten": 16}  # and their numbers of rows
OF_OWNER = "projects_owner_is_active_{}_id_idx"
SORTS_OF_OWNER = {
    "-created_at": OF_OWNER.format("created_at"),
    "created_at": OF_OWNER.format("created_at"),
    "-created_at,name": OF_OWNER.format("created_at"),
    "name": OF_OWNER.format("name"),
    "-name": OF_OWNER.format("name"),
    "name,-created_at": OF_OWNER.format("name"),
    "updated_at": OF_OWNER.format("updated_at"),
    "-updated_at": OF_OWNER.format("updated_at"),
    "-updated_at,name": OF_OWNER.format("updated_at"),
    "is_active": "projects_owner_is_active_id_idx",
    "-is_active": "projects_owner_is_active_id_idx",
    "is_active,name": OF_OWNER.format("name"),
    "-is_active,-name": OF_OWNER.format("name"),
    "is_active,-created_at": OF_OWNER.format("created_at"),
    "-is_active,updated_at": OF_OWNER.format("updated_at"),
}
STATES = ("", "&is_active=true", "&is_active=false")
LISTS_OF_OWNER = [f"sort={sort}{state}" for sort in SORTS_OF_OWNER for state in STATES]
# No index has these rows in order. The list tries the next 4 000 rows of the owner; if there are
# fewer, these are all. Else it fetches all matches, if the tried rows do not fill the page.
IN_OTHER_ORDER_OF_OWNER = [
    "name=nobody",
    "updated_at[lt]=2026-01-02T00:30:00Z",
    "created_at[lt]=2026-01-01T00:30:00Z&sort=name",
    "updated_at[lt]=2026-01-02T00:30:00Z&sort=-is_active,created_at",
    'attributes={"part":1}',
    'attributes={"cost":77}&sort=name',
    'attributes={"cost":77}&sort=-is_active,updated_at',
    "q=needed",
    "q=project",
    "q=ab0c1",
    "q=nobody",
    "q=needed&sort=name",
    "q=project&sort=-is_active,name",
    "q=needed&is_active=true",
]
RETIRED = {"projects_owner_created_at_idx"}  # only the previous release uses it


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


@pytest.mark.parametrize("q", ["0000000", "fffffff", "team 4444444"])
def test_a_search_for_a_run_of_a_letter_reads_only_rows_with_a_run(loaded_client, q):
    """Of the names, 12 % have two of these letters in succession, and 0.7 % have three."""
    indexes, rows = scans(loaded_client, f"q={q}")
    assert BIGRAMS in indexes
    assert rows < 4_000 + 1_000


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


@pytest.fixture(scope="module")
def request_as(loaded_client, auth_app):
    """Return a client and headers for an owner: with a token of the owner, or with `?owner=`."""
    with auth_app.app_context():
        tokens = {
            owner: token_admin.create_token("plans", owner, ["projects:read"], None)
            for owner in OWNERS
        }
    auth_client = auth_app.test_client()

    def get_arguments(owner, is_restricted):
        if is_restricted:
            return auth_client, "", {"Authorization": f"Bearer {tokens[owner]}"}
        return loaded_client, f"owner={owner}&", None

    return get_arguments


def index_of(query):
    return SORTS_OF_OWNER[query.removeprefix("sort=").partition("&")[0]]


is_large = pytest.mark.parametrize("owner", ["many", "block"])
by_token_or_filter = pytest.mark.parametrize(
    ("owner", "is_restricted"), [*((owner, True) for owner in OWNERS), ("many", False)]
)


@by_token_or_filter
@pytest.mark.parametrize("query", LISTS_OF_OWNER)
def test_a_list_of_one_owner_reads_only_its_page(request_as, query, owner, is_restricted):
    client, prefix, headers = request_as(owner, is_restricted)
    indexes, rows = scans(client, prefix + query, headers)
    if OWNERS[owner] > 100:
        assert indexes == {index_of(query)}
        assert rows <= 2 * (11 + 10), "from each of two states, with the rows of a timestamp"
    else:
        assert rows <= OWNERS[owner], "the planner may read all rows of the owner, and sort them"


@is_large
@pytest.mark.parametrize("page", [2, 1400])
@pytest.mark.parametrize("query", LISTS_OF_OWNER)
def test_a_page_of_one_owner_by_cursor_reads_only_its_rows(request_as, query, owner, page):
    client, _, headers = request_as(owner, True)
    cursor = client.get(f"{PROJECTS}?{query}&page={page}", headers=headers).json["next_cursor"]
    if cursor is None:  # of one state there are fewer pages
        cursor = client.get(f"{PROJECTS}?{query}&page=20", headers=headers).json["next_cursor"]
    assert cursor
    indexes, rows = scans(client, f"{query}&cursor={cursor}", headers)
    assert indexes == {index_of(query)}
    assert rows <= 2 * (11 + 10)


@is_large
@pytest.mark.parametrize(
    "query", [q for q in LISTS_OF_OWNER if ",name" not in q and "e,-c" not in q]
)
def test_a_page_of_one_owner_with_a_high_number_fetches_only_its_rows(request_as, query, owner):
    client, _, headers = request_as(owner, True)
    nodes = executed(client, f"{PROJECTS}?count=none&{query}&page=120", headers)
    of_table = [node for node in nodes if node.get("Relation Name") == "projects"]
    skipping = [node for node in of_table if node["Node Type"] == "Index Only Scan"]
    assert {node["Index Name"] for node in skipping} == {index_of(query)}
    rows = [node["Actual Loops"] * node["Actual Rows"] for node in of_table if node not in skipping]
    assert sum(rows) == 11, "a page and one row more"


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("query", LISTS_OF_OWNER)
def test_the_total_of_a_restricted_caller_is_counted_in_an_index_of_the_owner(
    request_as, query, owner
):
    client, _, headers = request_as(owner, True)
    response = client.get(f"{PROJECTS}?{query}&count=exact", headers=headers).json
    nodes = executed(client, f"{PROJECTS}?{query}&count=auto", headers)
    of_table = [node for node in nodes if node.get("Relation Name") == "projects"]
    counts = [node for node in of_table if node["Node Type"] == "Index Only Scan"]
    counted = sum(node["Actual Loops"] * node["Actual Rows"] for node in counts)
    if response["total"] > 100:
        assert {node["Index Name"] for node in of_table} == {index_of(query)}
        assert counted == min(response["total"], 10_001)
    assert counted <= 10_001
    assert sum(node["Heap Fetches"] for node in counts) == 0
    others = [node["Actual Loops"] * node["Actual Rows"] for node in of_table if node not in counts]
    assert sum(others) <= 2 * OWNERS["few"]


@by_token_or_filter
@pytest.mark.parametrize("query", IN_OTHER_ORDER_OF_OWNER)
def test_a_list_of_one_owner_in_another_order_tries_at_most_4_000_rows(
    request_as, query, owner, is_restricted
):
    client, prefix, headers = request_as(owner, is_restricted)
    path = f"{PROJECTS}?{prefix}{query}&count=exact"
    matches = client.get(path, headers=headers).json["total"]
    indexes, rows = scans(client, prefix + query, headers)
    assert indexes & {*SORTS_OF_OWNER.values()}
    assert not indexes & {CREATED, UPDATED}
    number = OWNERS[owner]
    if number < 4_000:
        assert rows <= 2 * number, "the tried rows, and the count that says that they are all"
    else:
        assert rows <= 3 * 4_000 + 3 * min(matches, 4_000) + 100


@pytest.mark.parametrize("query", ['attributes={"team":1}', "q=needed&sort=name"])
def test_a_list_of_frequent_matches_tries_no_more_rows_than_its_page_needs(loaded_client, query):
    _, rows = scans(loaded_client, query)
    assert rows < 100


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("query", LISTS_OF_OWNER)
def test_the_pages_of_a_restricted_caller_have_the_rows_of_the_owner_in_order(
    request_as, direct_url, query, owner
):
    client, _, headers = request_as(owner, True)
    sort, _, state = query.removeprefix("sort=").partition("&is_active=")
    keys = [*sort.split(","), "-id" if sort.rpartition(",")[2].startswith("-") else "id"]
    order = ", ".join(f"{k.lstrip('-')} {'DESC' if k.startswith('-') else 'ASC'}" for k in keys)
    where = f"owner = %s AND is_active IN ({state or 'true, false'})"
    connection = psycopg2.connect(direct_url)
    with connection, connection.cursor() as cursor:
        statement = f"SELECT id::text FROM projects WHERE {where} ORDER BY {order}"  # noqa: S608
        cursor.execute(statement, (owner,))
        expected = [row_id for (row_id,) in cursor.fetchall()]
    connection.close()

    def get(parameters):
        return client.get(f"{PROJECTS}?{query}&page_size=100&{parameters}", headers=headers)

    response = get("count=exact")
    assert response.json["total"] == len(expected)
    for number in (1, 2, 60):
        response = get(f"page={number}")
        ids = [item["id"] for item in response.json["items"]]
        assert ids == expected[number * 100 - 100 : number * 100]
        if response.json["next_cursor"]:
            following = get(f"cursor={response.json['next_cursor']}")
            ids = [item["id"] for item in following.json["items"]]
            assert ids == expected[number * 100 : number * 100 + 100]
            previous = client.get(links(following)["prev"], headers=headers).json
            assert previous["items"] == response.json["items"]


@is_large
@pytest.mark.parametrize("query", IN_OTHER_ORDER_OF_OWNER)
def test_a_restricted_caller_gets_the_rows_of_the_list_of_all_in_its_order(
    request_as, loaded_client, query, owner
):
    client, _, headers = request_as(owner, True)
    page = client.get(f"{PROJECTS}?{query}&page_size=100", headers=headers).json
    rows, path = [], f"{PROJECTS}?{query}&page_size=100"
    while path and len(rows) < 100:
        response = loaded_client.get(path)
        rows += [item for item in response.json["items"] if item["owner"] == owner]
        path = links(response).get("next")
    assert page["items"] == rows[:100]
    if not path:
        assert (page["total"], page.get("total_is_estimate")) == (len(rows), None)


@pytest.mark.parametrize("owner", ["few", "ten"])
@pytest.mark.parametrize("query", IN_OTHER_ORDER_OF_OWNER)
def test_an_owner_of_few_rows_gets_all_that_match(request_as, direct_url, query, owner):
    client, _, headers = request_as(owner, True)
    conditions = {
        "name=nobody": "false",
        "q=nobody": "false",
        "updated_at[lt]": "updated_at < '2026-01-02T00:30:00Z'",
        "created_at[lt]": "created_at < '2026-01-01T00:30:00Z'",
        'attributes={"part":1}': "attributes @> '{\"part\": 1}'",
        'attributes={"cost":77}': "attributes @> '{\"cost\": 77}'",
        **{f"q={word}": f"search LIKE '%%{word}%%'" for word in ("needed", "project", "ab0c1")},
        "is_active=true": "is_active",
    }
    where = " AND ".join(sql for part, sql in conditions.items() if part in query)
    connection = psycopg2.connect(direct_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT id::text FROM projects WHERE owner = %s AND {where}", (owner,))  # noqa: S608
        expected = {row_id for (row_id,) in cursor.fetchall()}
    connection.close()
    items, path = [], f"{PROJECTS}?{query}&page_size=7&count=auto"
    while path:
        response = client.get(path, headers=headers)
        assert response.json["total"] == len(expected)
        assert "total_is_estimate" not in response.json
        items += [item["id"] for item in response.json["items"]]
        path = links(response).get("next")
    assert len(items) == len(expected)
    assert {*items} == expected


def test_every_index_is_used_by_a_list(loaded_client, sql):
    indexes = {n for (n,) in sql("SELECT indexname FROM pg_indexes WHERE tablename = 'projects'")}
    used = {*IN_INDEX_ORDER.values(), *SORTS_OF_OWNER.values()}.union(*IN_OTHER_ORDER.values())
    assert indexes - RETIRED - {"projects_pkey"} == used
