"""The history and the feed after unusual purges and changes: none is hidden, none is invented."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from projectapp.resources.feed_cursor import decode_feed_cursor
from tests.conftest import PROJECTS
from tests.feed_load import CHANGES, open_transaction
from tests.test_serving import until
from tests.test_streams import SETTINGS, EventStream

# Time for another stream to come before the second turn.
SLOW_TURNS = """
exec(open("gunicorn.conf.py").read())


def post_worker_init(worker):
    from projectapp.resources import feed_streams

    feed_streams.TURN_SECONDS = 2.0
"""


@pytest.fixture
def purge(make_app):
    """Purge the changes that are older than a day."""

    def run():
        runner = make_app(HISTORY_RETENTION="1d").test_cli_runner()
        result = runner.invoke(args=["history", "purge"])
        assert result.exit_code == 0, result.output

    return run


@pytest.mark.slow  # transactions of other tests are in the cursors, too
@pytest.mark.parametrize("since", ["", "since=start"])
def test_a_new_cursor_is_valid_after_a_purge_of_all_changes(
    client, make_project, sql, purge, since
):
    make_project(name="old")
    sql("UPDATE changes SET at = now() - interval '2 days'")
    purge()
    cursor = client.get(f"{CHANGES}?{since}").json["next_cursor"]
    response = client.get(f"{CHANGES}?since={cursor}")
    assert (response.status_code, response.json.get("items")) == (200, [])
    make_project(name="new")
    items = client.get(f"{CHANGES}?since={cursor}").json["items"]
    assert [item["project"]["name"] for item in items] == ["new"]


@pytest.mark.slow  # transactions of other tests are in the cursors, too
def test_purged_changes_from_a_dump_do_not_end_cursors_after_a_later_purge(
    client, make_project, sql, purge
):
    """Their transaction ids may be larger than all ids of this database."""
    make_project(name="from a dump")
    sql("UPDATE changes SET xid = '1000000000000'")
    sql("UPDATE histories SET restored_seq = (SELECT max(seq) FROM changes)")
    for _ in range(2):
        sql("UPDATE changes SET at = now() - interval '2 days'")
        purge()
        make_project()
    cursor = client.get(f"{CHANGES}?since=start").json["next_cursor"]
    make_project(name="new")
    response = client.get(f"{CHANGES}?since={cursor}")
    assert response.status_code == 200, response.json
    assert [item["project"]["name"] for item in response.json["items"]] == ["new"]


@pytest.fixture
def parent_trigger(sql):
    """A table whose trigger changes a project, as programs beside the service have them."""
    sql("CREATE TABLE notes (project_id uuid)")
    sql(
        "CREATE FUNCTION change_project() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " EXECUTE format('UPDATE projects SET %s WHERE id = %L', TG_ARGV[0], NEW.project_id);"
        " RETURN NULL; END $$"
    )
    yield lambda assignments: sql(
        "CREATE TRIGGER change_project AFTER INSERT ON notes FOR EACH ROW"
        f" EXECUTE FUNCTION change_project($a${assignments}$a$)"
    )
    sql("DROP TABLE notes")
    sql("DROP FUNCTION change_project")


@pytest.mark.parametrize(
    "assignments",
    [
        "updated_at = clock_timestamp()",
        "version = version + 1",
        "version = version + 1, updated_at = clock_timestamp()",
        "version = 7, updated_at = clock_timestamp()",
        "name = name, version = version + 1",
        "name = quote_ident($n$B$n$)",
    ],
)
def test_a_change_by_a_trigger_of_another_table_is_recorded(
    client, make_project, sql, parent_trigger, assignments
):
    project = make_project()
    path = f"{PROJECTS}/{project['id']}"
    parent_trigger(assignments)
    sql("INSERT INTO notes VALUES (%s)", project["id"])
    now = client.get(path).json
    items = client.get(f"{path}/history").json["items"]
    assert now["version"] == 2
    assert [item["version"] for item in items] == [2, 1]
    assert [item["project"] for item in items] == [now, project]


@pytest.mark.parametrize("operation", ["delete", "create", 'x","operation":"y'])
def test_a_role_cannot_choose_the_operation(client, make_project, sql, operation):
    project = make_project()
    sql("SELECT set_config('projectapp.change', E'\\n\\n\\n' || %s, false)", operation)
    sql("UPDATE projects SET name = 'B'")
    items = client.get(f"{PROJECTS}/{project['id']}/history").json["items"]
    assert [item["operation"] for item in items] == ["update", "create"]


@pytest.mark.parametrize(
    "snapshot", ["10:20:20", "10:20:10,10", "10:10:10", f"1:{2**63 - 1}:1,{2**62}"]
)
def test_a_forged_cursor_gets_no_500(client, make_project, snapshot):
    make_project()
    page = client.get(f"{CHANGES}?since=start").json
    cursor = decode_feed_cursor(page["next_cursor"], "projects")
    window = {"until": snapshot, "until_next_xid": 2**63 - 1, "until_seq": 2**63 - 1}
    for values in (
        {"seen": snapshot, "seen_next_xid": 2**63 - 1},
        {**window, "last_seq": 0},
        {**window, "last_seq": 2**63 - 1},
    ):
        since = cursor._replace(**values).encode("projects")
        for _ in range(3):
            response = client.get(f"{CHANGES}?since={since}")
            assert response.status_code in (200, 400, 410), response.json
            since = response.json.get("next_cursor", since)


def test_a_restore_that_began_before_a_forget_brings_nothing_back(
    app, client, make_project, sql, direct_url, make_app
):
    project = make_project(name="secret")
    path = f"{PROJECTS}/{project['id']}"
    client.delete(path)
    lock = "SELECT pg_advisory_xact_lock(hashtextextended('projects' || %s, 0))"
    forget = ["projects", "forget", project["id"], "--yes"]
    with ThreadPoolExecutor(2) as pool:
        with open_transaction(direct_url, "SELECT 1") as held:
            held.execute(lock, [project["id"]])
            restore = pool.submit(app.test_client().post, f"{path}/restore", json={})
            wait_for_locks(sql, 1)  # the restore has read the values
            forgetting = pool.submit(make_app().test_cli_runner().invoke, args=forget)
            wait_for_locks(sql, 2)
        assert forgetting.result().exit_code == 0, forgetting.result().output
        assert restore.result().status_code == 404
    assert client.get(path).status_code == 404
    [change] = sql("SELECT operation, old_values FROM changes")
    assert change == ("delete", None)


def wait_for_locks(sql, count):
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    until(lambda: sql(waiting) == [(count,)])


@pytest.mark.slow
def test_a_stream_with_a_forged_cursor_does_not_end_others(
    serve, client, make_project, sql, tmp_path
):
    for name in "abc":
        make_project(name=name)
    sql("UPDATE histories SET purged_seq = 1")
    cursor = client.get(f"{CHANGES}?since=start&limit=2").json["next_cursor"]
    forged = decode_feed_cursor(cursor, "projects")._replace(until_seq=0).encode("projects")
    (tmp_path / "conf.py").write_text(SLOW_TURNS)
    with serve("-c", str(tmp_path / "conf.py"), **SETTINGS) as server, ExitStack() as stack:
        bad = stack.enter_context(EventStream(server, f"?since={forged}"))
        good = stack.enter_context(EventStream(server, "?since=start"))
        assert list(bad.events()) == []
        make_project(name="d")
        assert good.names(4) == [*"abcd"]
