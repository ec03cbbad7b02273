"""Cursors: every row once, in every order, whatever happens meanwhile; and nothing but ours."""

import threading
from base64 import urlsafe_b64encode
from itertools import pairwise
from urllib.parse import quote

import pytest

from projectapp.resources.cursors import Position, encode_cursor
from tests.conftest import PROJECTS, links, walk

SOME_ID = "01900000-0000-7000-8000-000000000000"
PLAIN_LIST = {"sort": [], "resource": "projects"}  # what the cursor of a plain list is bound to
SORTS = (
    *("", "name", "-name", "created_at", "-updated_at", "is_active", "-is_active"),
    *("is_active,name", "-is_active,name", "-is_active,-created_at,name", "name,is_active"),
    *("name,-created_at", "-name,created_at", "updated_at,-name,is_active", "-updated_at,name"),
)


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json["items"]]


@pytest.fixture
def ties(client, sql):
    """60 projects with few different names, times a microsecond apart, and states."""
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
def test_a_walk_is_the_list_page_by_page(client, ties, query, size):
    whole = ids(client.get(f"{PROJECTS}{query}&page_size=100"))
    assert len(whole) == (60 if "q" not in query else 52)
    walked = [item["id"] for item in walk(client, f"{query}&page_size={size}")]
    assert walked == whole


@pytest.mark.parametrize("query", [*(f"?sort={s}" if s else "?" for s in SORTS), "?q=ab"])
def test_links_lead_to_the_end_and_back(client, ties, query):
    url, forth, back = f"{PROJECTS}{query}&page_size=7", [], []
    while url and len(forth) < 20:
        answer = client.get(url)
        forth.append(ids(answer))
        last, url = url, links(answer).get("next")
    url = last
    while url and len(back) < 20:
        answer = client.get(url)
        back.append(ids(answer))
        url = links(answer).get("prev")
    assert back[::-1] == forth
    assert len(forth) > 7


def test_a_page_says_where_it_is(client, ties):
    first = client.get(f"{PROJECTS}?page_size=20&is_active=true")
    assert links(first).keys() == {"first", "next"}
    assert "page=" not in links(first)["next"].replace("page_size=", "")
    assert first.json["next_cursor"] in links(first)["next"]
    second = client.get(links(first)["next"])
    assert second.json["page"] is None
    assert second.json["page_size"] == 20
    assert links(second).keys() == {"first", "prev"}
    assert second.json["next_cursor"] is None
    assert ids(client.get(links(second)["prev"])) == ids(first)
    assert ids(client.get(links(second)["first"])) == ids(first)


def test_a_full_last_page_has_no_next(client, ties):
    first = client.get(f"{PROJECTS}?page_size=30")
    assert client.get(links(first)["next"]).json["next_cursor"] is None


def test_page_size_and_fields_may_change_on_the_way(client, ties):
    whole = ids(client.get(f"{PROJECTS}?page_size=100"))
    cursor = client.get(f"{PROJECTS}?page_size=10").json["next_cursor"]
    answer = client.get(f"{PROJECTS}?page_size=25&fields=name&cursor={cursor}")
    assert ids(answer) == whole[10:35]
    assert answer.json["items"][0].keys() == {"id", "name"}


def test_a_cursor_stays_where_its_row_was(client, ties, sql):
    whole = ids(client.get(f"{PROJECTS}?page_size=100"))
    cursor = client.get(f"{PROJECTS}?page_size=10").json["next_cursor"]
    sql("DELETE FROM projects WHERE id = ANY(%s::uuid[])", whole[5:15])
    assert ids(client.get(f"{PROJECTS}?page_size=10&cursor={cursor}")) == whole[15:25]


def test_a_walk_back_to_deleted_rows_ends(client, ties, sql):
    first = client.get(f"{PROJECTS}?page_size=10")
    second = client.get(links(first)["next"])
    sql("DELETE FROM projects WHERE id = ANY(%s::uuid[])", ids(first))
    before = client.get(links(second)["prev"])
    assert (ids(before), links(before).keys()) == ([], {"first"})


@pytest.mark.parametrize(
    "query", ["?sort=-created_at", "?sort=name", "?q=stays", "?sort=-is_active"]
)
def test_rows_that_stay_are_seen_once_while_others_come_and_go(app, client, sql, query):
    sql("""
        INSERT INTO projects (id, name, is_active, created_at)
        SELECT gen_random_uuid(), 'stays ' || n % 17, n % 3 > 0, now() + n / 5 * interval '1 ms'
        FROM generate_series(1, 300) AS n
    """)
    stay = {str(i) for (i,) in sql("SELECT id FROM projects")}
    done, failed, written = threading.Event(), [], []

    def write():
        writer = app.test_client()
        while not done.is_set():
            made = writer.post(PROJECTS, json={"name": "stays 8 and goes"}).json
            moved = writer.put(
                f"{PROJECTS}/{made['id']}", json={"name": "stays 1", "is_active": False}
            )
            gone = writer.delete(f"{PROJECTS}/{made['id']}")
            written.append(made["id"])
            failed.extend(a.json for a in (moved, gone) if a.status_code >= 300)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        walks = 0
        while walks < 5 or len(written) < 6:  # on a busy machine a walk may be the first to end
            walks += 1
            seen = [item["id"] for item in walk(client, f"{query}&page_size=9")]
            assert sorted(i for i in seen if i in stay) == sorted(stay)
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert failed == []


def test_the_order_is_that_of_microseconds(client, ties, sql):
    times = [item["created_at"] for item in walk(client, "?sort=created_at&page_size=4")]
    assert times == sorted(times)
    assert len(set(times)) == 7
    assert all(a[:-7] == b[:-7] for a, b in pairwise(times))


@pytest.fixture
def cursor(client, ties):
    return client.get(f"{PROJECTS}?sort=name&q=ab&page_size=5").json["next_cursor"]


def refused(problem, answer):
    found = problem(answer, 400, "validation_error")
    assert found["details"].keys() == {"cursor"}


@pytest.mark.parametrize(
    "query",
    [
        *("sort=-name&q=ab", "sort=created_at&q=ab", "q=ab", "sort=name", "sort=name&q=abc"),
        *("sort=name,created_at&q=ab", "sort=name&q=ab&is_active=true", "sort=name&q=ab&name=ab"),
        *("sort=name&q=ab&attributes={}", "sort=name&q=ab&created_at[lt]=2027-01-01T00:00:00Z"),
    ],
)
def test_a_cursor_is_bound_to_its_order_and_filters(client, problem, cursor, query):
    assert client.get(f"{PROJECTS}?sort=name&q=ab&cursor={cursor}").status_code == 200
    refused(problem, client.get(f"{PROJECTS}?{query}&cursor={cursor}"))


def test_an_altered_cursor_is_refused(client, problem, cursor):
    for n, letter in enumerate(cursor):
        altered = cursor[:n] + ("A" if letter != "A" else "B") + cursor[n + 1 :]
        refused(problem, client.get(f"{PROJECTS}?sort=name&q=ab&cursor={altered}"))


@pytest.mark.parametrize(
    "change",
    [
        *(lambda c: c[:-1], lambda c: c[1:], lambda c: c + "=", lambda c: c + "A", lambda c: c * 2),
        *(lambda c: "", lambda c: "x", lambda c: "번역", lambda c: " " + c, lambda c: c + "\n"),
        *(lambda c: c[:20] + "!" + c[20:], lambda c: "A" * 5000, lambda c: "%00"),
    ],
)
def test_what_is_no_cursor_is_refused(client, problem, cursor, change):
    refused(
        problem, client.get(f"{PROJECTS}?sort=name&q=ab&cursor={quote(change(cursor), safe='%')}")
    )


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
            [0, "\ud800", SOME_ID],
            [0, "ab", SOME_ID + "0"],
            [{}, "ab", SOME_ID],
        ),
    ],
)
def test_a_forged_cursor_with_a_good_checksum_is_refused(client, problem, values):
    try:
        forged = encode_cursor(
            Position(values), {"q": "ab", "sort": ["name"], "resource": "projects"}
        )
    except UnicodeEncodeError:
        forged = "x"
    refused(problem, client.get(f"{PROJECTS}?sort=name&q=ab&cursor={forged}"))


def test_a_deep_cursor_is_refused(client, problem):
    deep = "[" * 900 + '"\\u0041"' + "]" * 900
    raw = f"[1, false, {deep}]".encode()
    cursor = urlsafe_b64encode(b"checksum" + raw).decode().rstrip("=")
    refused(problem, client.get(f"{PROJECTS}?cursor={cursor}"))


@pytest.mark.parametrize("backward", [None, 0, 1, "", "x", [0], {}])
def test_a_forged_direction_is_refused(client, problem, backward):
    forged = encode_cursor(
        Position([0, "2026-01-01T00:00:00Z", SOME_ID], backward),
        PLAIN_LIST,
    )
    refused(problem, client.get(f"{PROJECTS}?cursor={forged}"))


@pytest.mark.parametrize(
    "value",
    [
        *("yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01", "", 1, None),
        *(True, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
    ],
)
def test_a_forged_time_is_refused(client, problem, value):
    forged = encode_cursor(Position([0, value, SOME_ID]), PLAIN_LIST)
    refused(problem, client.get(f"{PROJECTS}?cursor={forged}"))


def test_a_cursor_of_another_version_is_stale(client, problem, monkeypatch, ties):
    monkeypatch.setattr("projectapp.resources.cursors._VERSION", 2)
    stale = encode_cursor(Position([0, "2026-01-01T00:00:00Z", SOME_ID]), PLAIN_LIST)
    assert client.get(f"{PROJECTS}?cursor={stale}").status_code == 200
    monkeypatch.undo()
    refused(problem, client.get(f"{PROJECTS}?cursor={stale}"))


def test_a_page_and_a_cursor_exclude_each_other(client, problem, cursor):
    refused(problem, client.get(f"{PROJECTS}?sort=name&q=ab&page=1&cursor={cursor}"))
