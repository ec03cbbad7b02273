"""The change feed: no change is missing, none comes twice, those of each project are in order."""

import threading
import time
from contextlib import ExitStack

import pytest

from tests.conftest import PROJECTS, all_items, parameters_of, url_of
from tests.feed_load import (
    CHANGES,
    Reader,
    open_transaction,
    stored_changes_by_id,
    writers_running,
)


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


def test_readers_beside_16_writers_get_each_change_once_and_in_order(
    app, client, sql, direct_url, other_database_url, seed="1"
):
    writer_seconds, open_seconds = 6, 5
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
            received_before = [len(reader.items) for reader in readers]
            time.sleep(open_seconds)
            cursor.execute(update)
            # The transaction that is still open delays no other.
            received = [len(reader.items) for reader in readers]
            assert all(after > before + 50 for before, after in zip(received_before, received, strict=True))
        time.sleep(writer_seconds - open_seconds)
    stop.set()
    for reader in readers:
        reader.join()
    assert [reader.error for reader in readers] == [None] * 4
    stored = stored_changes_by_id(sql)
    projects = {p["id"]: p for p in all_items(client, "?page_size=100")}
    print(sum(map(len, stored.values())), "changes", sum(w.commits for w in writers))
    for reader in readers:
        assert reader.changes_by_id() == stored
        assert reader.copy() == projects
