"""`flask history purge` and `flask projects forget` delete history, and only that."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from projectapp import database
from projectapp.resources import retention
from projectapp.resources.retention import forget_row
from tests.conftest import PROJECTS
from tests.test_resource_kinds import BOXES, create
from tests.test_resource_kinds import kinds as _kinds
from tests.test_resource_kinds import kinds_app as _kinds_app
from tests.test_resource_kinds import rows_removed as _rows_removed
from tests.test_resource_kinds import tables as _tables

kinds, kinds_app, rows_removed, tables = _kinds, _kinds_app, _rows_removed, _tables

MAKE_CHANGES = """
INSERT INTO changes (xid, at, row_id, version, resource, operation, credential)
SELECT pg_current_xact_id(), now() - interval '1 hour' * n, gen_random_uuid(), 1,
  'projects', 'create', 'test' FROM generate_series(%s, %s, -1) AS n
"""


@pytest.fixture
def flask(make_app, sql):
    """Run a `flask` command; return its exit code, standard output and error."""

    def run(*arguments, **environ):
        result = make_app(**environ).test_cli_runner().invoke(args=arguments)
        assert not result.exception or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.stdout.strip(), result.stderr.strip()

    return run


def ages(sql):
    return [
        age
        for (age,) in sql(
            "SELECT round(extract(epoch FROM now() - at) / 3600)::integer FROM changes ORDER BY seq"
        )
    ]


def test_purge_deletes_old_changes_and_raises_the_limits_of_the_history(sql, flask, monkeypatch):
    monkeypatch.setattr(retention, "_BATCH_ROWS", 10)
    for first in (48, 33):  # two transactions
        sql(MAKE_CHANGES, first, first - 14)
    limits = "SELECT max(seq), (array_agg(xid ORDER BY xid DESC))[1]::text, max(at) FROM changes"
    [expected] = sql(f"{limits} WHERE at < now() - interval '24 hours'")
    code, output, error = flask("history", "purge", HISTORY_RETENTION="24h")
    assert (code, output) == (0, "Deleted 25 changes of all resources.")
    assert "Deleted 25 changes" in error
    assert ages(sql) == [23, 22, 21, 20, 19]
    limits_of_history = (
        "SELECT purged_seq, purged_xid::text, greatest(starts_at, %s) FROM histories"
    )
    [(seq, xid, _)] = sql(limits_of_history, expected[2])
    assert (seq, xid) == expected[:2]
    assert flask("history", "purge", HISTORY_RETENTION="24h")[1].startswith("Deleted 0 changes")
    assert sql(limits_of_history, expected[2])[0][:2] == (seq, xid)


def test_purge_moves_the_start_of_the_history_to_the_last_deleted_change(sql, flask):
    sql("UPDATE histories SET starts_at = '2026-01-01'")
    sql(MAKE_CHANGES, 4, 1)
    [(last,)] = sql("SELECT max(at) FROM changes WHERE at < now() - interval '2 hours'")
    flask("history", "purge", HISTORY_RETENTION="2h")
    assert sql("SELECT starts_at FROM histories") == [(last,)]


def test_purge_stops_at_the_first_change_that_is_new_enough(sql, flask):
    sql(MAKE_CHANGES, 5, 5)
    sql(MAKE_CHANGES, 1, 1)
    sql(MAKE_CHANGES, 9, 9)
    flask("history", "purge", HISTORY_RETENTION="2h")
    assert ages(sql) == [1, 9]


def test_purges_at_the_same_time_delete_each_change_once(app, sql):
    sql(MAKE_CHANGES, 9000, 1)

    def purge(_):
        with app.app_context():
            return [*retention.purge_changes(timedelta(hours=24))]

    with ThreadPoolExecutor(3) as pool:
        assert any(pool.map(purge, range(3)))
    assert ages(sql) == [*range(23, 0, -1)]


def test_purge_without_a_retention_says_what_to_set(sql, flask):
    sql(MAKE_CHANGES, 9, 9)
    code, _, error = flask("history", "purge")
    assert (code, ages(sql)) == (1, [9])
    assert "set HISTORY_RETENTION=90d and run the command again" in error


def history_of(sql, row_id):
    return sql(
        "SELECT operation, version, owner, created_at, old_updated_at, caller, credential,"
        " request_id, old_values FROM changes WHERE row_id = %s ORDER BY seq",
        row_id,
    )


def test_forget_leaves_only_the_deletion_without_values(sql, flask, client, make_project):
    other = make_project(name="Other")
    created = client.post(PROJECTS, json={"name": "Secret"}, headers={"Idempotency-Key": "k"}).json
    client.patch(f"{PROJECTS}/{created['id']}", json={"name": "Very secret"})
    sql("UPDATE changes SET caller = 'alice', request_id = 'r' WHERE version = 2")
    for _ in range(2):
        result = flask("projects", "forget", created["id"], "--yes")
        assert result[:2] == (0, f"Erased {created['id']} of projects.")
        assert history_of(sql, created["id"]) == [
            ("delete", 3, None, None, None, None, "forgotten", None, None)
        ]
    assert client.get(f"{PROJECTS}/{created['id']}").status_code == 404
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
    assert len(history_of(sql, other["id"])) == 1
    for table in ("projects", "changes", "idempotency_keys"):
        assert sql(f"SELECT t FROM {table} AS t WHERE t::text ~* 'secret'") == []  # noqa: S608


def test_forget_of_an_unknown_row_says_so_and_needs_a_confirmation(sql, flask, make_project):
    project = make_project()
    unknown = str(uuid.uuid4())
    code, _, error = flask("projects", "forget", unknown, "--yes")
    assert (code, error) == (1, f"Error: The database has nothing about {unknown} in projects.")
    assert flask("projects", "forget", project["id"])[0] == 1  # there is no answer to the question
    assert len(history_of(sql, project["id"])) == 1


def test_forget_erases_children_that_do_not_exist_any_more(sql, kinds_app, kinds, monkeypatch):
    monkeypatch.setattr(retention, "_SCAN_ROWS", 2)
    retention._find_deleted_children.cache_clear()
    boxes = [create(kinds, "/boxes") for _ in range(2)]
    shelves = [create(kinds, f"/boxes/{box['id']}/shelves") for box in (*boxes, boxes[0])]
    books = [
        create(kinds, f"/shelves/{shelf['id']}/books", title=title)
        for shelf, title in zip(
            (shelves[0], shelves[0], shelves[1], shelves[2]), "abcd", strict=True
        )
    ]
    kinds.delete(f"/books/{books[0]['id']}")  # earlier than its parents
    kinds.delete(f"/shelves/{shelves[0]['id']}")  # with the second book
    with kinds_app.app_context():
        assert forget_row(BOXES, uuid.UUID(boxes[0]["id"]))
    retention._find_deleted_children.cache_clear()
    for row in (boxes[0], shelves[0], books[0], books[1]):
        [change] = history_of(sql, row["id"])
        assert (change[0], change[-3], change[-1]) == ("delete", "forgotten", None)
    # The third shelf still exists, without a box (ON DELETE SET NULL), and so does its book.
    assert [c[0] for c in history_of(sql, shelves[2]["id"])] == ["create", "update"]
    for row in (boxes[1], shelves[1], books[2], books[3]):
        assert [c[0] for c in history_of(sql, row["id"])] == ["create"]


def test_forget_without_the_privilege_for_the_history_has_no_effect(
    sql, make_app, direct_url, make_project
):
    sql(MAKE_CHANGES, 9, 9)
    project = make_project()
    role = f"forgetful_{uuid.uuid4().hex[:8]}"
    sql(f"CREATE ROLE {role}; GRANT ALL ON projects, idempotency_keys TO {role}")
    sql(f"GRANT SELECT ON changes, histories TO {role}")
    separator = "&" if "?" in direct_url else "?"
    try:
        app = make_app(DATABASE_URL=f"{direct_url}{separator}options=-c%20role%3D{role}")
        arguments = ("projects", "forget", project["id"], "--yes")
        result = app.test_cli_runner().invoke(args=arguments)
        assert result.exit_code == 1
        assert "docs/roles.md" in result.stderr
        purge = make_app(
            DATABASE_URL=f"{direct_url}{separator}options=-c%20role%3D{role}",
            HISTORY_RETENTION="1h",
        )
        assert "docs/roles.md" in purge.test_cli_runner().invoke(args=("history", "purge")).stderr
        assert sql("SELECT count(*) FROM projects") == [(1,)]
        for one_app in (app, purge):
            with one_app.app_context():
                database.db.engine.dispose()
    finally:
        sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert [c[0] for c in history_of(sql, project["id"])] == ["create"]
