"""The total: exact up to ten thousand matches, from there on the planner's estimate."""

import psycopg2
import pytest

from projectapp.resources.page_statement import EXACT_COUNT_LIMIT
from tests.conftest import PROJECTS
from tests.plans import executed


def total(client, query):
    answer = client.get(f"{PROJECTS}{query}")
    assert answer.status_code == 200, answer.text
    return answer.json["total"], answer.json.get("total_is_estimate", False)


def reads(node):
    return node.get("Relation Name") == "projects"


FILL = """
TRUNCATE projects;
INSERT INTO projects (id, name, is_active, attributes, created_at)
SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'even ' ELSE 'odd ' END || n, n % 100 > 0,
  jsonb_build_object('half', n % 2), '2026-01-01Z'::timestamptz + n * interval '1 s'
FROM generate_series(1, {}) AS n
"""


@pytest.fixture(scope="module")
def many(app, direct_url):
    """25 000 projects, half of them even, one in a hundred archived, a second apart."""
    connection = psycopg2.connect(direct_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(FILL.format(25_000) + "; ANALYZE projects")
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
def test_up_to_ten_thousand_matches_are_counted(many, query, matches, count):
    assert total(many, query + count) == (matches, False)


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        *(("?", 25_000), ("?is_active=true", 24_750), ("?sort=name&page=2000", 25_000)),
        *(("?created_at[gt]=2026-01-01T00:20:00Z", 23_800), ("?page=99999&is_active=true", 24_750)),
        *(("?q=ve", 12_500), ("?q=ev&sort=name", 12_500), ('?attributes={"half":0}', 12_500)),
    ],
)
def test_more_are_estimated_by_the_planner(many, query, matches):
    found, is_estimate = total(many, query)
    assert is_estimate
    assert found == pytest.approx(matches, rel=0.2)
    assert found > EXACT_COUNT_LIMIT
    assert total(many, f"{query}&count=exact") == (matches, False)


def test_more_are_told_exactly_where_they_had_to_be_fetched(many):
    assert total(many, "?q=dd&sort=name") == (12_500, False)


def test_no_total_is_asked_for(many):
    for query in ("?count=none", "?count=none&q=even", "?count=none&is_active=false&page=3"):
        assert total(many, query) == (None, False)


@pytest.mark.parametrize("query", ["?is_active=false", "?q=even 99", "?sort=name&q=ven"])
def test_a_walk_by_cursor_has_a_total_only_if_asked(many, query):
    cursor = many.get(f"{PROJECTS}{query}").json["next_cursor"]
    exact = many.get(f"{PROJECTS}{query}&count=exact").json["total"]
    assert total(many, f"{query}&cursor={cursor}") == (None, False)
    assert total(many, f"{query}&cursor={cursor}&count=none") == (None, False)
    assert total(many, f"{query}&cursor={cursor}&count=exact") == (exact, False)
    found, is_estimate = total(many, f"{query}&cursor={cursor}&count=auto")
    assert is_estimate == (exact > EXACT_COUNT_LIMIT)
    assert found == pytest.approx(exact, rel=0.2 * is_estimate)


@pytest.mark.parametrize(
    "query",
    ["?name=odd 7", "?q=even 2500", "?q=even 25", '?attributes={"half":3}', "?is_active=true"],
)
def test_what_is_known_or_clearly_more_is_not_counted(many, query):
    """Neither by the page itself, nor by fetching few matches, nor where the planner says it."""
    read = [node["Actual Rows"] for node in executed(many, PROJECTS + query) if reads(node)]
    assert sum(read) < 4_000 + 1_000, read


def test_what_is_not_known_is_counted_to_ten_thousand_at_most(many):
    read = [node["Actual Rows"] for node in executed(many, f"{PROJECTS}?q=ve") if reads(node)]
    assert 10_001 in read


def test_a_total_that_is_counted_past_ten_thousand_is_no_less_than_that(client, sql):
    sql(FILL.format(12_000))
    sql("ANALYZE projects")
    sql("UPDATE pg_class SET reltuples = 500, relpages = 10 WHERE relname = 'projects'")
    assert total(client, "?q=12&sort=name")[1] is False
    found, is_estimate = total(client, "?")
    assert is_estimate
    assert found >= EXACT_COUNT_LIMIT + 1


@pytest.mark.parametrize("rows", [EXACT_COUNT_LIMIT, EXACT_COUNT_LIMIT + 1])
def test_ten_thousand_is_the_limit_where_the_planner_has_no_idea(client, sql, rows):
    sql(FILL.format(rows))
    assert total(client, "?") == (rows, rows > EXACT_COUNT_LIMIT)


@pytest.mark.parametrize(
    "query",
    [
        *("SELECT 1; DROP TABLE projects", "SELECT 1; DROP TABLE projects; SELECT '[]'::json"),
        *("ANALYZE SELECT 1", "", "x", "SELECT 1) SELECT 2"),
    ],
)
def test_an_estimate_runs_nothing(sql, query):
    with pytest.raises(psycopg2.Error):
        sql("SELECT row_estimate(%s)", query)
    assert sql("SELECT row_estimate('SELECT 1')") == [(1,)]
    assert sql("SELECT count(*) FROM projects") == [(0,)]
