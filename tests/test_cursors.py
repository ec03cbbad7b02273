"""Cursors: a list has every row once, in every order, also during writes; forged ones fail."""

import threading
from base64 import urlsafe_b64encode
from itertools import pairwise
from urllib.parse import quote

import pytest

from projectapp.resources.cursors import Position, encode_cursor
from tests.conftest import PROJECTS, all_items, links

SOME_ID = "01900000-0000-7000-8000-000000000000"
PLAIN_LIST = {"sort": [], "resource": "projects"}  # a cursor of a list without parameters has it
SORTS = (
    *("", "name", "-name", "created_at", "-updated_at", "is_active", "-is_active"),
    *("is_active,name", "-is_active,name", "-is_active,-created_at,name", "name,is_active"),
    *("name,-created_at", "-name,created_at", "updated_at,-name,is_active", "-updated_at,name"),
)


def ids_in(response):
    assert response.status_code == 200, response.text
    return [item["id"] for item in response.json["items"]]


@pytest.fixture
def sixty_projects(client, sql):
    """Projects with few different names and states, and times a microsecond apart."""
    sql("""
        INSERT INTO projects (id, name, description, is_active, created_at, updated_at)
        SELECT gen_random_uuid(), (ARRAY['ab', 'abc', 'xab', 'other', 'Ab'])[1 + n % 5],
          CASE n % 3 WHEN 0 THEN 'ab' END, n % 7 < 4,
          timestamptz '2026-01-01Z' + n / 9 * interval '1 microsecond',
          timestamptz '2026-01-01Z' + n % 4 * interval '1 microsecond'
        FROM generate_series(1, 60) AS n
    """)


@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("query", [*(f"?sort={s}" if s else "?" for s in SORTS), "?q=ab"])
def test_cursors_lead_through_the_whole_list(client, sixty_projects, query, size):
    all_ids = ids_in(client.get(f"{PROJECTS}{query}&page_size=100"))
    assert len(all_ids) == (52 if "q=" in query else 60)
    listed_ids = [item["id"] for item in all_items(client, f"{query}&page_size={size}")]
    assert listed_ids == all_ids


@pytest.mark.parametrize("query", [*(f"?sort={s}" if s else "?" for s in SORTS), "?q=ab"])
def test_links_lead_to_the_last_page_and_back(client, sixty_projects, query):
    url, pages_forward, pages_backward = f"{PROJECTS}{query}&page_size=7", [], []
    while url and len(pages_forward) < 20:
        response = client.get(url)
        pages_forward.append(ids_in(response))
        last, url = url, links(response).get("next")
    url = last
    while url and len(pages_backward) < 20:
        response = client.get(url)
        pages_backward.append(ids_in(response))
        url = links(response).get("prev")
    assert pages_backward[::-1] == pages_forward
    assert len(pages_forward) > 7


def test_a_page_by_cursor_has_a_null_page_and_links_to_the_other_pages(client, sixty_projects):
    first = client.get(f"{PROJECTS}?page_size=20&is_active=true")
    assert links(first).keys() == {"first", "next"}
    assert "page=" not in links(first)["next"].replace("page_size=", "")
    assert first.json["next_cursor"] in links(first)["next"]
    second = client.get(links(first)["next"])
    assert second.json["page"] is None
    assert second.json["page_size"] == 20
    assert links(second).keys() == {"first", "prev"}
    assert second.json["next_cursor"] is None
    assert ids_in(client.get(links(second)["prev"])) == ids_in(first)
    assert ids_in(client.get(links(second)["first"])) == ids_in(first)


def test_a_full_last_page_has_no_next_cursor(client, sixty_projects):
    first = client.get(f"{PROJECTS}?page_size=30")
    assert client.get(links(first)["next"]).json["next_cursor"] is None


def test_a_cursor_works_with_another_page_size_and_other_fields(client, sixty_projects):
    all_ids = ids_in(client.get(f"{PROJECTS}?page_size=100"))
    cursor = client.get(f"{PROJECTS}?page_size=10").json["next_cursor"]
    response = client.get(f"{PROJECTS}?page_size=25&fields=name&cursor={cursor}")
    assert ids_in(response) == all_ids[10:35]
    assert response.json["items"][0].keys() == {"id", "name"}


def test_a_cursor_keeps_its_place_when_its_row_is_deleted(client, sixty_projects, sql):
    all_ids = ids_in(client.get(f"{PROJECTS}?page_size=100"))
    cursor = client.get(f"{PROJECTS}?page_size=10").json["next_cursor"]
    sql("DELETE FROM projects WHERE id = ANY(%s::uuid[])", all_ids[5:15])
    assert ids_in(client.get(f"{PROJECTS}?page_size=10&cursor={cursor}")) == all_ids[15:25]


def test_a_prev_link_to_deleted_rows_gets_an_empty_page(client, sixty_projects, sql):
    first = client.get(f"{PROJECTS}?page_size=10")
    second = client.get(links(first)["next"])
    sql("DELETE FROM projects WHERE id = ANY(%s::uuid[])", ids_in(first))
    before = client.get(links(second)["prev"])
    assert (ids_in(before), links(before).keys()) == ([], {"first"})


@pytest.mark.parametrize(
    "query", ["?sort=-created_at", "?sort=name", "?q=stays", "?sort=-is_active"]
)
def test_unchanged_rows_are_listed_once_during_concurrent_writes(app, client, sql, query):
    sql("""
        INSERT INTO projects (id, name, is_active, created_at)
        SELECT gen_random_uuid(), 'stays ' || n % 17, n % 3 > 0, now() + n / 5 * interval '1 ms'
        FROM generate_series(1, 300) AS n
    """)
    unchanged_ids = {str(i) for (i,) in sql("SELECT id FROM projects")}
    is_done, failures, written_ids = threading.Event(), [], []

    def write():
        writer = app.test_client()
        while not is_done.is_set():
            created = writer.post(PROJECTS, json={"name": "stays 8 and goes"}).json
            url = f"{PROJECTS}/{created['id']}"
            updated = writer.put(url, json={"name": "stays 1", "is_active": False})
            deleted = writer.delete(url)
            written_ids.append(created["id"])
            failures.extend(r.json for r in (updated, deleted) if r.status_code >= 300)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        rounds = 0
        while rounds < 5 or len(written_ids) < 6:  # on a busy machine the lists may end first
            rounds += 1
            listed_ids = [item["id"] for item in all_items(client, f"{query}&page_size=9")]
            assert sorted(i for i in listed_ids if i in unchanged_ids) == sorted(unchanged_ids)
    finally:
        is_done.set()
        for writer in writers:
            writer.join()
    assert failures == []


def test_times_that_differ_by_microseconds_are_sorted(client, sixty_projects, sql):
    times = [item["created_at"] for item in all_items(client, "?sort=created_at&page_size=4")]
    assert times == sorted(times)
    assert len(set(times)) == 7
    assert all(a[:-7] == b[:-7] for a, b in pairwise(times))


@pytest.fixture
def cursor(client, sixty_projects):
    return client.get(f"{PROJECTS}?sort=name&q=ab&page_size=5").json["next_cursor"]


def assert_cursor_is_refused(problem, response):
    assert problem(response, 400, "validation_error")["details"].keys() == {"cursor"}


@pytest.mark.parametrize(
    "query",
    [
        *("sort=-name&q=ab", "sort=created_at&q=ab", "q=ab", "sort=name", "sort=name&q=abc"),
        *("sort=name,created_at&q=ab", "sort=name&q=ab&is_active=true", "sort=name&q=ab&name=ab"),
        *("sort=name&q=ab&attributes={}", "sort=name&q=ab&created_at[lt]=2027-01-01T00:00:00Z"),
    ],
)
def test_a_cursor_with_another_sort_or_filter_gets_a_400(client, problem, cursor, query):
    assert client.get(f"{PROJECTS}?sort=name&q=ab&cursor={cursor}").status_code == 200
    assert_cursor_is_refused(problem, client.get(f"{PROJECTS}?{query}&cursor={cursor}"))


def test_a_cursor_with_an_altered_letter_gets_a_400(client, problem, cursor):
    for n, letter in enumerate(cursor):
        altered = cursor[:n] + ("A" if letter != "A" else "B") + cursor[n + 1 :]
        assert_cursor_is_refused(problem, client.get(f"{PROJECTS}?sort=name&q=ab&cursor={altered}"))


@pytest.mark.parametrize(
    "malform",
    [
        *(lambda c: c[:-1], lambda c: c[1:], lambda c: c + "=", lambda c: c + "A", lambda c: c * 2),
        *(lambda c: "", lambda c: "x", lambda c: "번역", lambda c: " " + c, lambda c: c + "\n"),
        *(lambda c: c[:20] + "!" + c[20:], lambda c: "A" * 5000, lambda c: "%00"),
    ],
)
def test_a_malformed_cursor_gets_a_400(client, problem, cursor, malform):
    malformed = quote(malform(cursor), safe="%")
    assert_cursor_is_refused(problem, client.get(f"{PROJECTS}?sort=name&q=ab&cursor={malformed}"))


@pytest.mark.parametrize(
    "values",
    [
        *([], [0], [0, "ab"], ["0", "ab", SOME_ID], [True, "ab", SOME_ID], [1, "ab", SOME_ID]),
        *([-1, "ab", SOME_ID], [0.0, "ab", SOME_ID], [None, "ab", SOME_ID], [0, None, SOME_ID]),
        *(
            [0, 1, SOME_ID],
            [0, "ab", "x"],
            [0, "ab", 1],
            [0, "ab", SOME_ID, 1],
            [[0], "ab", SOME_ID],
        ),
        *(
            [0, "a\0b", SOME_ID],
            [0, "ab", SOME_ID + "0"],
            [{}, "ab", SOME_ID],
        ),
    ],
)
def test_a_forged_cursor_with_a_valid_checksum_gets_a_400(client, problem, values):
    list_key = {"q": "ab", "sort": ["name"], "resource": "projects"}
    forged = encode_cursor(Position(values), list_key)
    assert_cursor_is_refused(problem, client.get(f"{PROJECTS}?sort=name&q=ab&cursor={forged}"))


@pytest.mark.parametrize("value", ["[" * 900 + '"\\u0041"' + "]" * 900, '"\\ud800"'])
def test_a_cursor_with_deep_json_or_a_surrogate_gets_a_400(client, problem, value):
    raw = f"[1, false, {value}]".encode()
    cursor = urlsafe_b64encode(b"checksum" + raw).decode().rstrip("=")
    assert_cursor_is_refused(problem, client.get(f"{PROJECTS}?cursor={cursor}"))


@pytest.mark.parametrize("backward", [None, 0, 1, "", "x", [0], {}])
def test_a_forged_direction_gets_a_400(client, problem, backward):
    forged = encode_cursor(
        Position([0, "2026-01-01T00:00:00Z", SOME_ID], backward),
        PLAIN_LIST,
    )
    assert_cursor_is_refused(problem, client.get(f"{PROJECTS}?cursor={forged}"))


@pytest.mark.parametrize(
    "value",
    [
        *("yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01", "", 1, None),
        *(True, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
    ],
)
def test_a_forged_time_gets_a_400(client, problem, value):
    forged = encode_cursor(Position([0, value, SOME_ID]), PLAIN_LIST)
    assert_cursor_is_refused(problem, client.get(f"{PROJECTS}?cursor={forged}"))


def test_a_cursor_of_another_format_version_gets_a_400(
    client, problem, monkeypatch, sixty_projects
):
    monkeypatch.setattr("projectapp.resources.cursors._VERSION", 2)
    stale = encode_cursor(Position([0, "2026-01-01T00:00:00Z", SOME_ID]), PLAIN_LIST)
    assert client.get(f"{PROJECTS}?cursor={stale}").status_code == 200
    monkeypatch.undo()
    assert_cursor_is_refused(problem, client.get(f"{PROJECTS}?cursor={stale}"))


def test_a_page_and_a_cursor_together_get_a_400(client, problem, cursor):
    assert_cursor_is_refused(
        problem, client.get(f"{PROJECTS}?sort=name&q=ab&page=1&cursor={cursor}")
    )
