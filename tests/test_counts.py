"""The total of a list: exact up to 10 000 matches, above that the planner's estimate."""

import psycopg2
import pytest

from projectapp.resources.page_statement import EXACT_COUNT_LIMIT
from tests.conftest import PROJECTS
from tests.plans import executed


def total_of(client, query):
    response = client.get(f"{PROJECTS}{query}")
    assert response.status_code == 200, response.text
    return response.json["total"], response.json.get("total_is_estimate", False)


def rows_read_by(client, query):
    """Return the number of projects that each node of the list's plan returned."""
    nodes = executed(client, PROJECTS + query)
    return [node["Actual Rows"] for node in nodes if node.get("Relation Name") == "projects"]


INSERT_PROJECTS = """
SET session_replication_role = replica;  -- so that no trigger refuses or records anything
TRUNCATE projects CASCADE;
INSERT INTO projects (id, name, is_active, attributes, created_at)
SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'even ' ELSE 'odd ' END || n, n % 100 > 0,
  jsonb_build_object('half', n % 2), '2026-01-01Z'::timestamptz + n * interval '1 s'
FROM generate_series(1, {}) AS n
"""


@pytest.fixture(scope="module")
def loaded_client(app, direct_url):
    """A client of 25 000 projects: every second is even, every hundredth archived."""
    connection = psycopg2.connect(direct_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(INSERT_PROJECTS.format(25_000) + "; ANALYZE projects")
    connection.close()
    return app.test_client()


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        *(("?is_active=false", 250), ("?is_active=false&page=26", 250), ("?name=odd 7", 1)),
        *(("?q=even&is_active=false", 250), ('?attributes={"half":1}&is_active=false', 0)),
        *(("?q=even 2500", 4), ("?q=even 99", 215), ("?q=nothing", 0), ("?page=9&q=nothing", 0)),
        *(("?created_at[lt]=2026-01-01T02:00:00Z", 7199), ("?q=even 10&page_size=100", 1007)),
    ],
)
@pytest.mark.parametrize("count", ["", "&count=auto", "&count=exact"])
def test_up_to_10_000_matches_get_an_exact_total(loaded_client, query, matches, count):
    assert total_of(loaded_client, query + count) == (matches, False)


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        *(("?", 25_000), ("?is_active=true", 24_750), ("?sort=name&page=2000", 25_000)),
        *(("?created_at[gt]=2026-01-01T00:20:00Z", 23_800), ("?page=99999&is_active=true", 24_750)),
        *(("?q=ve", 12_500), ("?q=ev&sort=name", 12_500), ('?attributes={"half":0}', 12_500)),
    ],
)
def test_more_than_10_000_matches_get_an_estimated_total(loaded_client, query, matches):
    estimate, is_estimate = total_of(loaded_client, query)
    assert is_estimate
    assert estimate == pytest.approx(matches, rel=0.2)
    assert estimate > EXACT_COUNT_LIMIT
    assert total_of(loaded_client, f"{query}&count=exact") == (matches, False)


def test_a_total_is_exact_if_the_page_had_to_fetch_all_matches(loaded_client):
    assert total_of(loaded_client, "?q=dd&sort=name") == (12_500, False)


def test_count_none_gets_no_total(loaded_client):
    for query in ("?count=none", "?count=none&q=even", "?count=none&is_active=false&page=3"):
        assert total_of(loaded_client, query) == (None, False)


@pytest.mark.parametrize("query", ["?is_active=false", "?q=even 99", "?sort=name&q=ven"])
def test_a_page_by_cursor_gets_a_total_only_with_count(loaded_client, query):
    cursor = loaded_client.get(f"{PROJECTS}{query}").json["next_cursor"]
    exact = loaded_client.get(f"{PROJECTS}{query}&count=exact").json["total"]
    assert total_of(loaded_client, f"{query}&cursor={cursor}") == (None, False)
    assert total_of(loaded_client, f"{query}&cursor={cursor}&count=none") == (None, False)
    assert total_of(loaded_client, f"{query}&cursor={cursor}&count=exact") == (exact, False)
    estimate, is_estimate = total_of(loaded_client, f"{query}&cursor={cursor}&count=auto")
    assert is_estimate == (exact > EXACT_COUNT_LIMIT)
    assert estimate == pytest.approx(exact, rel=0.2 * is_estimate)


@pytest.mark.parametrize(
    "query",
    ["?name=odd 7", "?q=even 2500", "?q=even 25", '?attributes={"half":3}', "?is_active=true"],
)
def test_a_total_that_the_page_or_the_planner_gives_is_not_counted(loaded_client, query):
    """The page fetched all matches, or few, or the planner estimates far more than 10 000."""
    rows_read = rows_read_by(loaded_client, query)
    assert sum(rows_read) < 4_000 + 1_000, rows_read


def test_counting_stops_after_10_000_matches(loaded_client):
    assert 10_001 in rows_read_by(loaded_client, "?q=ve")


def test_an_estimate_is_at_least_the_number_of_counted_matches(client, sql):
    sql(INSERT_PROJECTS.format(12_000))
    sql("ANALYZE projects")
    sql("UPDATE pg_class SET reltuples = 500, relpages = 10 WHERE relname = 'projects'")
    assert total_of(client, "?q=12&sort=name")[1] is False
    estimate, is_estimate = total_of(client, "?")
    assert is_estimate
    assert estimate >= EXACT_COUNT_LIMIT + 1


@pytest.mark.parametrize("rows", [EXACT_COUNT_LIMIT, EXACT_COUNT_LIMIT + 1])
def test_without_statistics_a_total_is_exact_up_to_10_000(client, sql, rows):
    sql(INSERT_PROJECTS.format(rows))
    assert total_of(client, "?") == (rows, rows > EXACT_COUNT_LIMIT)


@pytest.mark.parametrize(
    "query",
    [
        *("SELECT 1; DROP TABLE projects", "SELECT 1; DROP TABLE projects; SELECT '[]'::json"),
        *("ANALYZE SELECT 1", "", "x", "SELECT 1) SELECT 2"),
    ],
)
def test_row_estimate_refuses_anything_but_one_select_and_runs_nothing(sql, query):
    with pytest.raises(psycopg2.Error):
        sql("SELECT row_estimate(%s)", query)
    assert sql("SELECT row_estimate('SELECT 1')") == [(1,)]
    assert sql("SELECT count(*) FROM projects") == [(0,)]
