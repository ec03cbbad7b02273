"""The change feed: no change is missing, none comes twice, those of each project are in order."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from projectapp.database import prepared
from projectapp.resources.feed import FeedCursor, decode_feed_cursor
from projectapp.resources.feed_cursor import Snapshot
from tests.conftest import PROJECTS, all_items, parameters_of, url_of
from tests.feed_load import (
    CHANGES,
    Reader,
    open_transaction,
    stored_changes_by_id,
    writers_running,
)
from tests.plans import compare_plans, count_buffers, explain_sent, flatten, recorded
from tests.test_serving import until

INSERT = "INSERT INTO projects (id, name) VALUES ('00000000-0000-4000-8000-{:012}', '{}')"
RENAME = "UPDATE projects SET name = '{1}' WHERE id = '00000000-0000-4000-8000-{0:012}'"
INSERT_CHANGES = (
    "INSERT INTO changes (xid, at, row_id, version, resource, operation, owner, credential)"
    " SELECT pg_current_xact_id(), clock_timestamp(), gen_random_uuid(), 1, 'projects', 'create',"
    " '{}', 'test' FROM generate_series(1, {})"
)
PURGE = (
    "WITH purged AS (DELETE FROM changes WHERE seq <= {} RETURNING seq, xid)"
    " UPDATE histories SET purged_seq = (SELECT max(seq) FROM purged),"
    " purged_xid = (SELECT xid FROM purged ORDER BY xid DESC LIMIT 1)"
)


@pytest.fixture
def read(client):
    """Get a page after a cursor; check the status; return its JSON."""

    def get(since=None, limit=100, headers=None, client=client):
        query = f"limit={limit}" + (f"&since={since}" if since else "")
        response = client.get(f"{CHANGES}?{query}", headers=headers)
        assert response.status_code == 200, response.text
        return response.json

    return get


@pytest.fixture
def read_all(read):
    """Get all changes after a cursor, and the last cursor."""

    def get(since, limit=100, **options):
        items, page = [], {"next_cursor": since, "has_more": True}
        while page["has_more"]:
            page = read(page["next_cursor"], limit, **options)
            items += page["items"]
        return items, page["next_cursor"]

    return get


def names(items):
    return [item["project"]["name"] for item in items]


def changed(cursor, **values):
    """The text of a cursor with other values."""
    return decode_feed_cursor(cursor, "projects")._replace(**values).encode("projects")


def transaction(url, number):
    """A transaction that has an id: it has changed project `number`, which it inserts."""
    return open_transaction(url, INSERT.format(number, f"first of {number}"))


@pytest.fixture
def other_database_url(sql, direct_url):
    """The URL of another database of the same cluster, with a table `t`."""
    sql("DROP DATABASE IF EXISTS projectapp_test_other")
    sql("CREATE DATABASE projectapp_test_other")
    url = url_of({**parameters_of(direct_url), "dbname": "projectapp_test_other"})
    with open_transaction(url, "CREATE TABLE t (a int)"):
        pass
    yield url
    sql("DROP DATABASE projectapp_test_other")


@pytest.mark.parametrize(
    "seed", ["1", *(pytest.param(seed, marks=pytest.mark.slow) for seed in "234")]
)
def test_readers_beside_16_writers_get_each_change_once_and_in_order(
    app, client, sql, direct_url, other_database_url, seed
):
    open_seconds = 3
    stop = threading.Event()
    readers = [Reader(app, f"{seed} {n}", "start", stop) for n in range(4)]
    with ExitStack() as stack:
        writers = stack.enter_context(writers_running(direct_url, seed))
        for reader in readers:
            reader.start()
        update = "INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'slow')"
        with (
            open_transaction(other_database_url, "INSERT INTO t VALUES (1)"),
            open_transaction(direct_url, update) as cursor,
        ):
            # The transactions that are still open delay no other.
            counts = [len(reader.items) + 50 for reader in readers]
            time.sleep(open_seconds)
            for reader, count in zip(readers, counts, strict=True):
                until(lambda reader=reader, count=count: reader.error or len(reader.items) > count)
            cursor.execute(update)
        until(lambda: sum(writer.commits for writer in writers) > 100)
    stop.set()
    for reader in readers:
        reader.join()
    assert [reader.error for reader in readers] == [None] * 4
    stored = stored_changes_by_id(sql)
    projects = {p["id"]: p for p in all_items(client, "?page_size=100")}
    for reader in readers:
        assert reader.changes_by_id() == stored
        assert reader.copy() == projects


# Transactions get an id with their first change, and a `seq` with each. So the last change of an
# older transaction may have a larger `seq` than a change of a younger one that is still running.


@pytest.mark.slow  # other tests that run at the same time end transactions, too
def test_changes_of_a_transaction_that_began_after_the_last_that_ended_are_not_lost(
    read, direct_url
):
    """The cursor's snapshot does not list it: its id is not below the snapshot's xmax."""
    for n in range(0, 600, 10):
        since = read()["next_cursor"]
        with transaction(direct_url, n + 1) as older:
            with transaction(direct_url, n + 2) as younger, transaction(direct_url, n + 3):
                younger.execute("SELECT pg_current_xact_id()::text")
                [xid] = map(int, younger.fetchone())
                older.execute(INSERT.format(n + 4, "last of 1"))
                older.connection.commit()
                page = read(since)
                assert names(page["items"]) == [f"first of {n + 1}", "last of 1"]
            page_after = read(page["next_cursor"])
            assert sorted(names(page_after["items"])) == [f"first of {n + i}" for i in (2, 3)]
        cursor = decode_feed_cursor(page["next_cursor"], "projects")
        assert cursor.seen_next_xid >= xid + 2
        if Snapshot.parse(cursor.seen).xmax == xid:
            return  # no transaction of another database, which tests may use, ended just now
    raise AssertionError("The snapshot always lists the younger transactions.")


def test_changes_of_a_transaction_that_was_running_are_not_lost(client, read, direct_url):
    with transaction(direct_url, 1):
        with transaction(direct_url, 2):
            pass
        page = read("start")
        assert names(page["items"]) == ["first of 2"]
    with transaction(direct_url, 3):
        pass
    page = read(page["next_cursor"])
    assert names(page["items"]) == ["first of 1", "first of 3"]
    assert read(page["next_cursor"])["items"] == []


def test_changes_of_a_project_are_in_order_if_an_older_transaction_made_the_last_one(
    client, read, sql, direct_url
):
    sql(INSERT.format(9, "contested"))
    cursor = read()["next_cursor"]
    with transaction(direct_url, 1) as older:
        with transaction(direct_url, 2) as younger:
            younger.execute(RENAME.format(9, "by the younger"))
        older.execute(RENAME.format(9, "by the older"))
    page = read(cursor)
    assert names(page["items"]) == ["first of 1", "first of 2", "by the younger", "by the older"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_a_window_of_many_pages_has_each_change_once(client, read, read_all, direct_url, limit):
    with transaction(direct_url, 1) as slow:
        for number in (2, 3):
            with transaction(direct_url, number):
                pass
        page = read("start", 1)
        assert (names(page["items"]), page["has_more"]) == (["first of 2"], True)
        with transaction(direct_url, 4):
            slow.execute(INSERT.format(5, "last of 1"))
    items, cursor = read_all(page["next_cursor"], limit)
    assert names(items) == ["first of 3", "first of 1", "first of 4", "last of 1"]
    assert read_all(cursor)[0] == []


def test_without_since_the_page_is_empty_and_the_next_one_has_what_follows(
    read, make_project, direct_url
):
    make_project(name="before")
    with transaction(direct_url, 1):
        page = read()
        assert (page["items"], page["has_more"]) == ([], False)
        make_project(name="after")
    assert names(read(page["next_cursor"])["items"]) == ["first of 1", "after"]


def test_an_item_has_the_members_of_the_history_and_the_id(client, read, make_project):
    project = make_project(name="a")
    path = f"{PROJECTS}/{project['id']}"
    client.put(path, json={"name": "b"})
    client.delete(path)
    client.post(f"{path}/restore", json={})
    items = read("start")["items"]
    history = client.get(f"{path}/history").json["items"]
    assert [item.pop("id") for item in items] == [project["id"]] * 4
    assert items == history[::-1]
    assert [item["operation"] for item in items] == ["create", "update", "delete", "restore"]


def test_times_and_numbers_are_exact(client, make_project):
    project = make_project(attributes={})
    text = '{"attributes": {"a": 1.10, "b": 12345678901234567890123, "c": 1e-9, "d": "\\u2028\\""}}'
    path = f"{PROJECTS}/{project['id']}"
    bodies = [client.get(path).text]
    for body in (text, '{"name": "\ud55c\uae00 \U0001f600"}'):
        response = client.put(path, data=body.encode(), content_type="application/json")
        bodies.append(response.text)
    page = client.get(f"{CHANGES}?since=start").text
    assert [page.count(f'"project":{body}}}') for body in bodies] == [1, 1, 1]


def test_changes_of_another_resource_are_not_in_the_feed(read_all, make_project, sql):
    for name in "abcd":
        make_project(name=name)
    sql("UPDATE changes SET resource = 'tasks' WHERE seq % 2 = 0")
    kept = [
        name
        for (name,) in sql(
            "SELECT name FROM projects JOIN changes ON row_id = id AND resource = 'projects'"
            " ORDER BY seq"
        )
    ]
    for limit in (1, 2, 100):
        assert names(read_all("start", limit)[0]) == kept
    assert len(kept) == 2


def test_a_caller_with_one_change_in_30_000_gets_it_in_a_few_pages(
    auth_client, auth_headers, read, sql
):
    headers = auth_headers()
    sql(INSERT_CHANGES.format("bob", 20_000))
    auth_client.post(PROJECTS, json={"name": "mine"}, headers=headers)
    sql(INSERT_CHANGES.format("bob", 10_000))
    pages = [read("start", 1, headers, auth_client)]
    while pages[-1]["has_more"]:
        pages.append(read(pages[-1]["next_cursor"], 1, headers, auth_client))
    assert names(item for page in pages for item in page["items"]) == ["mine"]
    assert 4 < len(pages) < 10


def test_an_assignment_is_a_delete_for_the_old_owner_and_a_create_for_the_new_one(
    auth_app, auth_client, auth_headers, read_all
):
    alice, bob, root = auth_headers(), auth_headers("bob"), auth_headers("root", "projects:all")
    project = auth_client.post(PROJECTS, json={"name": "a"}, headers=alice).json
    path = f"{PROJECTS}/{project['id']}"
    auth_client.put(path, json={"name": "b"}, headers=alice)
    run = auth_app.test_cli_runner().invoke
    result = run(args=["projects", "assign", "bob", "--from", "alice"])
    assert result.exit_code == 0, result.output
    auth_client.put(path, json={"name": "c"}, headers=bob)
    run(args=["projects", "assign", "alice", "--from", "bob"])
    auth_client.delete(path, headers=alice)

    def seen(headers):
        items, _ = read_all("start", 2, headers=headers, client=auth_client)
        return [
            (item["version"], item["operation"], (item["project"] or {}).get("owner"))
            for item in items
        ]

    assert seen(alice) == [
        (1, "create", "alice"),
        (2, "update", "alice"),
        (3, "delete", None),
        (5, "create", "alice"),
        (6, "delete", None),
    ]
    assert seen(bob) == [(3, "create", "bob"), (4, "update", "bob"), (5, "delete", None)]
    assert seen(root) == [
        (1, "create", "alice"),
        (2, "update", "alice"),
        (3, "update", "bob"),
        (4, "update", "bob"),
        (5, "update", "alice"),
        (6, "delete", None),
    ]


def test_callers_get_only_the_changes_of_their_own_projects(
    auth_client, auth_headers, read_all, sql
):
    for owner in ("alice", "bob"):
        auth_client.post(PROJECTS, json={"name": owner}, headers=auth_headers(owner))
    sql(INSERT.format(1, "without owner"))
    for owner, scopes, expected in (
        ("alice", "projects:read", ["alice"]),
        ("bob", "projects:read", ["bob"]),
        ("carol", "projects:read", []),
        ("carol", "projects:all", ["alice", "bob", "without owner"]),
    ):
        headers = auth_headers(owner, scopes)
        assert names(read_all("start", headers=headers, client=auth_client)[0]) == expected


# Purged changes: 410, and never a gap.


@pytest.fixture
def end_older_transactions(sql):
    """A function that waits for the end of all transactions that have begun, in each database.

    Other tests that run at the same time use the same PostgreSQL, and snapshots list their
    transactions, too. A cursor that lists one that ends before the next page is a 410 after a
    purge, because it may be one of those that made the purged changes.
    """

    def wait():
        [[xid]] = sql("SELECT pg_current_xact_id()::text")
        oldest = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > %s::xid8"
        until(lambda: sql(oldest, xid) == [(True,)])

    return wait


@pytest.mark.slow  # transactions of other tests are in the cursors, too
def test_a_purge_of_changes_that_the_reader_has_changes_nothing(
    read, make_project, sql, end_older_transactions
):
    for name in "abc":
        make_project(name=name)
    end_older_transactions()
    cursor = read("start")["next_cursor"]
    in_window = read("start", 2)["next_cursor"]
    make_project(name="d")
    sql(PURGE.format("(SELECT max(seq) - 2 FROM changes)"))
    assert names(read(cursor)["items"]) == ["d"]
    assert names(read(in_window)["items"]) == ["c"]


@pytest.mark.slow  # transactions of other tests are in the cursors, too
def test_a_purge_of_changes_that_the_reader_lacks_is_a_410(
    client, read, make_project, sql, problem
):
    cursors = [read()["next_cursor"]]
    for name in "abc":
        make_project(name=name)
    cursors += [read("start", 1)["next_cursor"], read("start", 2)["next_cursor"]]
    make_project(name="d")
    last = read("start")["next_cursor"]
    sql(PURGE.format("(SELECT max(seq) - 1 FROM changes)"))
    for cursor in cursors:
        problem(client.get(f"{CHANGES}?since={cursor}"), 410, "cursor_gone")
    assert read(last)["items"] == []
    assert names(read("start")["items"]) == ["d"]


@pytest.mark.slow  # transactions of other tests are in the cursors, too
@pytest.mark.parametrize("in_window", [False, True])
def test_a_purge_of_changes_of_a_transaction_that_was_running_is_a_410(
    client, read, sql, direct_url, problem, in_window
):
    """Their `seq` is not larger than those that the reader has."""
    with transaction(direct_url, 1):
        for number in (2, 3):
            with transaction(direct_url, number):
                pass
        cursor = read("start", 1 if in_window else 100)["next_cursor"]
    sql(PURGE.format("(SELECT min(seq) FROM changes)"))
    problem(client.get(f"{CHANGES}?since={cursor}"), 410, "cursor_gone")


@pytest.mark.slow  # transactions of other tests are in the cursors, too
def test_a_purge_of_changes_of_a_transaction_that_the_snapshot_does_not_list_is_a_410(
    client, read, sql, direct_url, problem
):
    with transaction(direct_url, 1) as older:
        with transaction(direct_url, 2):
            older.execute(INSERT.format(3, "last of 1"))
            older.connection.commit()
            cursor = read("start")["next_cursor"]
        sql(PURGE.format("(SELECT max(seq) - 1 FROM changes)"))
    problem(client.get(f"{CHANGES}?since={cursor}"), 410, "cursor_gone")


@pytest.mark.slow  # transactions of other tests are in the cursors, too
def test_a_transaction_older_than_the_purged_changes_does_not_end_newer_cursors(
    client, read, make_project, sql, direct_url, problem, end_older_transactions
):
    end_older_transactions()
    with transaction(direct_url, 1):
        for name in "abc":
            make_project(name=name)
        sql(PURGE.format("(SELECT min(seq) FROM changes)"))
        in_window = read("start", 1)["next_cursor"]
        assert names(read(in_window)["items"]) == ["c"]
        cursor = read("start")["next_cursor"]
        make_project(name="d")
        assert names(read(cursor)["items"]) == ["d"]
    # Its changes may be among those that were purged.
    for old_cursor in (in_window, cursor):
        problem(client.get(f"{CHANGES}?since={old_cursor}"), 410, "cursor_gone")


@pytest.mark.slow  # transactions of other tests are in the cursors, too
def test_a_purge_between_any_two_pages_leaves_no_gap(
    client, make_project, sql, end_older_transactions
):
    for position in range(7):
        sql("DELETE FROM projects")
        sql("DELETE FROM changes")
        first = sql("SELECT nextval('changes_seq_seq')")[0][0]
        sql("UPDATE histories SET purged_seq = 0, purged_xid = '0'")
        for name in "abcdef":
            make_project(name=name)
        end_older_transactions()
        received, since = [], "start"
        for page_number in range(20):
            if page_number == position:
                sql(PURGE.format(first + 3))
            response = client.get(f"{CHANGES}?since={since}&limit=1")
            if response.status_code == 410:
                received, since = [], "start"
                continue
            received += names(response.json["items"])
            since = response.json["next_cursor"]
        assert "".join(received) in ("abcdef", "def"), position


@pytest.mark.slow  # transactions of other tests are in the cursors, too
@pytest.mark.parametrize("in_window", [False, True])
def test_a_purge_of_changes_from_a_dump_does_not_end_newer_cursors(
    read, make_project, sql, in_window
):
    """Their transaction ids may be larger than all ids of this database."""
    make_project(name="a")
    sql("UPDATE changes SET xid = '1000000000000'")
    sql("UPDATE histories SET restored_seq = (SELECT max(seq) FROM changes)")
    for name in "bc":
        make_project(name=name)
    cursor = read("start", 2 if in_window else 100)["next_cursor"]
    make_project(name="d")
    sql(PURGE.format("(SELECT min(seq) FROM changes)"))
    assert names(read(cursor)["items"]) == (["c"] if in_window else ["d"])


@pytest.mark.slow  # transactions of other tests are in the cursors, too
def test_a_purge_of_changes_from_a_dump_that_the_reader_lacks_is_a_410(
    client, read, make_project, sql, problem
):
    for name in "abc":
        make_project(name=name)
    sql("UPDATE changes SET xid = '3'")
    sql("UPDATE histories SET restored_seq = (SELECT max(seq) FROM changes)")
    cursor = read("start", 1)["next_cursor"]
    sql(PURGE.format("(SELECT max(seq) - 1 FROM changes)"))
    problem(client.get(f"{CHANGES}?since={cursor}"), 410, "cursor_gone")


# Another database: its snapshots and its `seq` have another meaning.


def test_a_cursor_of_another_database_is_a_410(client, read, make_project, problem):
    make_project()
    cursor = read("start")["next_cursor"]
    assert read(changed(cursor))["items"] == []
    problem(
        client.get(f"{CHANGES}?since={changed(cursor, epoch='0123456789ab')}"), 410, "cursor_gone"
    )


def test_a_cursor_with_changes_that_the_database_has_lost_is_a_410(
    client, read, make_project, problem
):
    """Such a database is an older copy of the files: it has the same identity."""
    make_project()
    cursor = read("start")["next_cursor"]
    seen, next_xid = Snapshot.parse(decode_feed_cursor(cursor, "projects").seen), 2**31
    later = {"seen": str(seen._replace(xmax=next_xid)), "seen_next_xid": next_xid}
    assert read(changed(cursor, **later))["items"] == []
    lost = changed(cursor, **later, seen_seq=2**40)
    problem(client.get(f"{CHANGES}?since={lost}"), 410, "cursor_gone")


def test_a_cursor_from_before_the_history_began_again_is_a_410(
    client, read, make_project, sql, problem
):
    make_project()
    cursors = read("start")["next_cursor"], read("start", 1)["next_cursor"]
    sql("UPDATE histories SET restored_seq = nextval('changes_seq_seq')")
    for cursor in cursors:
        problem(client.get(f"{CHANGES}?since={cursor}"), 410, "cursor_gone")
    cursor = read("start")["next_cursor"]
    make_project(name="new")
    assert names(read(cursor)["items"]) == ["new"]


def test_a_database_restored_from_a_dump_is_a_503_until_the_upgrade(
    client, make_project, sql, problem
):
    make_project()
    sql("UPDATE histories SET database_id = 'another'")
    for query in ("", "?since=start"):
        response = client.get(CHANGES + query)
        assert "flask db upgrade" in problem(response, 503, "unavailable")["detail"]
        assert response.headers["Retry-After"] == "30"
    sql("UPDATE histories SET database_id = history_database_id()")
    assert client.get(f"{CHANGES}?since=start").status_code == 200


@pytest.mark.parametrize("xid", ["3", "1000000000000"])
def test_changes_from_a_dump_come_once_although_their_transaction_ids_mean_nothing(
    read, read_all, make_project, sql, xid
):
    for name in "abc":
        make_project(name=name)
    sql("UPDATE changes SET xid = %s", xid)
    sql("UPDATE histories SET restored_seq = (SELECT max(seq) FROM changes)")
    cursor = read()["next_cursor"]
    make_project(name="d")
    for limit in (1, 2, 100):
        items, last = read_all("start", limit)
        assert names(items) == [*"abcd"]
        assert read(last)["items"] == []
    assert names(read(cursor)["items"]) == ["d"]


def test_changes_from_a_dump_do_not_come_again_with_a_transaction_of_the_same_id(
    read, make_project, sql, direct_url
):
    make_project(name="old")
    with transaction(direct_url, 1) as running:
        running.execute("SELECT pg_current_xact_id()::text")
        sql("UPDATE changes SET xid = %s", running.fetchone()[0])
        sql("UPDATE histories SET restored_seq = (SELECT max(seq) FROM changes)")
        page = read("start")
        assert names(page["items"]) == ["old"]
    assert names(read(page["next_cursor"])["items"]) == ["first of 1"]


def test_changes_whose_transaction_ids_were_in_use_before_a_crash_come_once(
    read, read_all, make_project, sql
):
    """A snapshot from before the crash lists them as ended."""
    for name in "abc":
        make_project(name=name)
    cursors = read("start")["next_cursor"], read("start", 1)["next_cursor"]
    make_project(name="d")
    sql(
        "UPDATE changes SET xid = (SELECT xid FROM changes ORDER BY seq LIMIT 1)"
        " WHERE seq = (SELECT max(seq) FROM changes)"
    )
    make_project(name="e")
    assert [names(read_all(cursor)[0]) for cursor in cursors] == [[*"de"], [*"bcde"]]


def test_a_resource_without_a_history_is_a_503(client, sql, problem):
    history = sql(
        "DELETE FROM histories WHERE resource = 'projects' RETURNING database_id, starts_at"
    )
    problem(client.get(CHANGES), 503, "unavailable")
    sql(
        "INSERT INTO histories (resource, database_id, starts_at) VALUES ('projects', %s, %s)",
        *history[0],
    )


# Parameters.


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("wait=-1", "wait"),
        ("wait=31", "wait"),
        ("wait=1.5", "wait"),
        ("since=", "since"),
        ("since=START", "since"),
        ("since=x", "since"),
        ("since=AAAA", "since"),
        ("since=%00", "since"),
        ("since=start&since=start", "since"),
        ("cursor=start", "cursor"),
    ],
)
def test_an_invalid_parameter_gets_a_400(client, problem, query, parameter):
    response = client.get(f"{CHANGES}?{query}")
    assert [*problem(response, 400, "validation_error")["details"]] == [parameter]


def test_a_modified_cursor_or_one_of_another_feed_gets_a_400(client, read, make_project, problem):
    make_project()
    make_project()
    for cursor in (read()["next_cursor"], read("start", 1)["next_cursor"]):
        others = [decode_feed_cursor(cursor, "projects").encode("tasks"), cursor + "=", cursor[:-2]]
        others += [
            cursor[:n] + ("A" if cursor[n] != "A" else "B") + cursor[n + 1 :]
            for n in range(len(cursor))
        ]
        for other in others:
            problem(client.get(f"{CHANGES}?since={other}"), 400, "validation_error")


def test_a_cursor_with_many_running_transactions_stays_short():
    running = tuple(range(2**40, 2**40 + 2000, 4))
    snapshot = str(Snapshot(running[0], 2**40 + 2001, running))
    cursor = FeedCursor("0" * 12, snapshot, 2**50, 2**40 + 2002, snapshot, 2**50, 2**40 + 2002, 7)
    text = cursor.encode("projects")
    assert decode_feed_cursor(text, "projects") == cursor
    assert len(text) < 1500


def test_a_page_is_one_statement(client, read, make_project):
    make_project()
    for since in (None, "start", read("start")["next_cursor"]):
        with recorded() as statements:
            read(since)
        assert len(statements) == 1


# Waiting.


def test_a_request_that_waits_gets_the_first_change(app, client, read, make_project):
    cursor = read()["next_cursor"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(app.test_client().get, f"{CHANGES}?since={cursor}&wait=25")
        time.sleep(0.6)
        assert not waiting.done()
        make_project(name="a")
        assert names(waiting.result().json["items"]) == ["a"]


def test_a_request_that_waits_in_vain_gets_an_empty_page(client, read, make_project):
    cursor = read()["next_cursor"]
    start = time.monotonic()
    page = client.get(f"{CHANGES}?since={cursor}&wait=1").json
    assert time.monotonic() - start >= 1
    assert (page["items"], page["has_more"]) == ([], False)
    make_project(name="a")
    assert names(read(page["next_cursor"])["items"]) == ["a"]


def test_a_request_that_has_waited_does_not_wait_again(client, read):
    cursor = read()["next_cursor"]
    with recorded() as statements:
        response = client.get(
            f"{CHANGES}?since={cursor}&wait=2", environ_overrides={"projectapp.has_waited": True}
        )
    assert (response.json["items"], len(statements)) == ([], 1)


def test_a_request_waits_no_longer_than_the_request_timeout_permits(make_app, sql):
    client = make_app(REQUEST_TIMEOUT="6").test_client()
    cursor = client.get(CHANGES).json["next_cursor"]
    response = client.get(f"{CHANGES}?since={cursor}&wait=30")
    assert (response.status_code, response.json["items"]) == (200, [])


def test_a_token_that_is_revoked_ends_the_wait(auth_app, auth_client, auth_headers, sql, problem):
    headers = auth_headers()
    cursor = auth_client.get(CHANGES, headers=headers).json["next_cursor"]
    with ThreadPoolExecutor(1) as pool:
        path = f"{CHANGES}?since={cursor}&wait=25"
        waiting = pool.submit(auth_app.test_client().get, path, headers=headers)
        time.sleep(0.5)
        sql("UPDATE api_tokens SET revoked_at = now()")
        problem(waiting.result(), 401, "invalid_token")


# Plans.


@pytest.fixture
def many_changes(sql):
    """A function that runs the statement of a page without statistics of the table."""
    sql("ALTER TABLE changes SET (autovacuum_enabled = off)")
    for _ in range(20):
        sql(INSERT_CHANGES.format("bob", 2500))
    yield
    sql("DELETE FROM pg_statistic WHERE starelid = 'changes'::regclass")
    sql("ALTER TABLE changes RESET (autovacuum_enabled)")


def page_plan(app, client, since, limit):
    with recorded() as statements:
        response = client.get(f"{CHANGES}?since={since}&limit={limit}")
    assert response.status_code == 200, response.text
    options = "BUFFERS, FORMAT JSON"
    [[[plan]]] = [explain_sent(app, s, options, "force_generic_plan") for s in statements]
    return response.json, plan["Plan"]


def test_each_page_costs_the_same_without_statistics(app, client, read, many_changes, sql):
    now = read()["next_cursor"]
    cursor, buffers = "start", []
    for _ in range(4):
        page, plan = page_plan(app, client, cursor, 100)
        nodes = [n for n in flatten(plan) if n.get("Relation Name") == "changes"]
        assert not [n for n in nodes if n["Node Type"] == "Seq Scan"]
        buffers.append(count_buffers(plan))
        # From somewhere else in the window.
        cursor = changed(
            page["next_cursor"],
            last_seq=decode_feed_cursor(page["next_cursor"], "projects").last_seq + 12_000,
        )
    assert len(page["items"]) == 100
    assert max(buffers) < 1.3 * min(buffers) + 50, buffers
    _, plan = page_plan(app, client, now, 100)
    assert count_buffers(plan) < 60


@pytest.mark.parametrize("statistics", [False, True])
def test_the_first_change_of_a_transaction_that_was_running_is_found_by_its_id(
    app, client, read, many_changes, sql, direct_url, statistics
):
    if statistics:  # as if one transaction had made all changes
        sql("UPDATE changes SET xid = pg_current_xact_id()")
        sql("ANALYZE changes")
    with transaction(direct_url, 1) as slow:
        with transaction(direct_url, 2):
            pass
        cursor = read()["next_cursor"]
        slow.execute(INSERT.format(3, "last of 1"))
    page, plan = page_plan(app, client, cursor, 100)
    assert names(page["items"]) == ["first of 1", "last of 1"]
    by_xid = [n for n in flatten(plan) if n.get("Index Name") == "changes_xid_idx"]
    assert by_xid
    assert count_buffers(plan) < 150


def test_the_next_change_of_a_project_is_found_by_its_id(
    app, client, read, many_changes, make_project, sql
):
    """The statistics are as if all changes had been made for one project."""
    sql("UPDATE changes SET row_id = (SELECT row_id FROM changes LIMIT 1)")
    sql("ANALYZE changes")
    cursor = read()["next_cursor"]
    for name in "abc":
        make_project(name=name)
    sql(INSERT_CHANGES.format("bob", 20_000))
    page, plan = page_plan(app, client, cursor, 100)
    assert names(page["items"][:3]) == [*"abc"]
    assert count_buffers(plan) < 1500


def test_a_poll_beside_a_large_transaction_does_not_read_its_changes(
    app, client, read, direct_url, sql
):
    cursor = read()["next_cursor"]
    with open_transaction(direct_url, INSERT_CHANGES.format("bob", 50_000)):
        sql("SELECT pg_current_xact_id()")
        cursor = read(cursor)["next_cursor"]
        for _ in range(2):
            sql("SELECT pg_current_xact_id()")
            page, plan = page_plan(app, client, cursor, 100)
            assert page["items"] == []
            assert count_buffers(plan) < 60
            cursor = page["next_cursor"]
    assert len(read(cursor, 1000)["items"]) == 1000


def test_the_prepared_page_reads_no_more_than_its_text(client, read, many_changes):
    for since in ("start", read("start", 1000)["next_cursor"], read()["next_cursor"]):
        compare_plans(client, [("GET", f"{CHANGES}?since={since}", {})] * 3)


def test_a_page_that_was_prepared_while_the_table_was_small_reads_indexes(
    app, client, read, sql, monkeypatch
):
    monkeypatch.setattr(prepared, "MAX_AGE_SECONDS", 1000)
    pool = app.extensions["database"].pool
    pool.close_idle()
    sql("ALTER TABLE changes SET (autovacuum_enabled = off)")
    sql(INSERT_CHANGES.format("bob", 30))
    for _ in range(3):
        cursor = read()["next_cursor"]
        read(cursor)
    sql(INSERT_CHANGES.format("bob", 20_000))
    with recorded() as statements:
        assert len(read(cursor, 1000)["items"]) == 1000
    [statement] = statements
    assert statement.sql.startswith("EXECUTE")
    connection = pool.take()  # the one of the requests, whose session has the plan
    try:
        with connection.cursor() as database_cursor:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.sql}"
            database_cursor.execute(explain, statement.parameters)
            [[[plan]]] = database_cursor.fetchall()
    finally:
        pool.put_back(connection)
    sql("ALTER TABLE changes RESET (autovacuum_enabled)")
    assert count_buffers(plan["Plan"]) < 20_000
