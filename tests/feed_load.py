"""Concurrent writers of projects, and readers of their feed who lose answers."""

import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from flask import Flask

from tests.conftest import PROJECTS, parameters_of

CHANGES = f"{PROJECTS}/changes"


class Writer(threading.Thread):
    """Changes projects with transactions of several statements until `stop` is set.

    A transaction sleeps, rolls back to savepoints, changes several rows, and may roll back. Deleted
    projects are inserted again with the same id.
    """

    def __init__(
        self, url: str, seed: str, ids: list[str], stop: threading.Event, max_sleep_seconds: float
    ) -> None:
        super().__init__()
        self.url, self.ids, self.stop = url, ids, stop
        self.max_sleep_seconds = max_sleep_seconds
        self.random = random.Random(seed)  # noqa: S311
        self.commits = 0

    def run(self) -> None:
        connection = psycopg2.connect(**parameters_of(self.url))
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("SET deadlock_timeout = '30ms'; SET lock_timeout = '1s'")
            connection.commit()
            while not self.stop.is_set():
                try:
                    self.run_transaction(cursor)
                    if self.random.random() < 0.15:
                        connection.rollback()
                    else:
                        connection.commit()
                        self.commits += 1
                except psycopg2.OperationalError:  # a deadlock or a lock timeout
                    connection.rollback()

    def run_transaction(self, cursor: Any) -> None:
        for _ in range(self.random.randint(1, 4)):
            has_savepoint = self.random.random() < 0.3
            if has_savepoint:
                cursor.execute("SAVEPOINT a")
            self.run_statement(cursor)
            if self.random.random() < 0.3:
                time.sleep(self.random.uniform(0, self.max_sleep_seconds))
            if has_savepoint and self.random.random() < 0.5:
                cursor.execute("ROLLBACK TO a")

    def run_statement(self, cursor: Any) -> None:
        kind = self.random.random()
        ids = self.random.sample(self.ids, 3)
        if kind < 0.25:
            insert = "INSERT INTO projects (id, name) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING"
            cursor.execute(insert, (ids[0], uuid.uuid4().hex))
        elif kind < 0.4:
            cursor.execute("DELETE FROM projects WHERE id = %s", ids[:1])
        elif kind < 0.6:
            update = "UPDATE projects SET is_active = NOT is_active WHERE id = ANY(%s::uuid[])"
            cursor.execute(update, (ids,))
        else:
            update = "UPDATE projects SET name = %s WHERE id = %s"
            cursor.execute(update, (uuid.uuid4().hex, ids[0]))


class Reader(threading.Thread):
    """Follows the feed in pages of 1 to 300 until `stop` is set and nothing is left.

    It loses a tenth of the answers, and then sends the old cursor again.
    """

    def __init__(self, app: Flask, seed: str, cursor: str, stop: threading.Event) -> None:
        super().__init__()
        self.app, self.cursor, self.stop = app, cursor, stop
        self.random = random.Random(seed)  # noqa: S311
        self.items: list[Any] = []
        self.error: str | None = None

    def run(self) -> None:
        client = self.app.test_client()
        has_stopped = False
        while not self.error:
            limit = self.random.choice([1, 2, 5, 20, 100, 300])
            response = client.get(f"{CHANGES}?since={self.cursor}&limit={limit}")
            if response.status_code != 200:
                self.error = response.text
            elif self.random.random() > 0.1:
                self.items += response.json["items"]
                self.cursor = response.json["next_cursor"]
                if not response.json["has_more"]:
                    if has_stopped:
                        return
                    has_stopped = self.stop.is_set()
                    time.sleep(self.random.uniform(0, 0.05))

    def changes_by_id(self) -> dict[str, list[Any]]:
        changes = defaultdict(list)
        for item in self.items:
            changes[item["id"]].append((item["version"], item["operation"], item["at"]))
        return changes

    def copy(self) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for item in self.items:
            if item["operation"] == "delete":
                del copy[item["id"]]
            else:
                copy[item["id"]] = item["project"]
        return copy


@contextmanager
def writers_running(
    url: str, seed: str, count: int = 16, rows: int = 100
) -> Iterator[list[Writer]]:
    stop = threading.Event()
    ids = [str(uuid.UUID(int=number)) for number in range(1, rows + 1)]
    writers = [
        Writer(url, f"{seed} {number}", ids, stop, max_sleep_seconds=0.4 if number % 2 else 0.02)
        for number in range(count)
    ]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        stop.set()
        for writer in writers:
            writer.join()


@contextmanager
def open_transaction(url: str, *statements: str) -> Iterator[Any]:
    """A transaction that has written and stays open while the block runs; then it commits."""
    with closing(psycopg2.connect(**parameters_of(url))) as connection:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            yield cursor
        connection.commit()


def stored_changes_by_id(sql: Any) -> dict[str, list[Any]]:
    """The changes of each project in order, as Reader.changes_by_id has them."""
    rows = sql(
        "SELECT row_id::text, array_agg(ARRAY[version::text, operation,"
        """ to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')] ORDER BY seq)"""
        " FROM changes GROUP BY row_id"
    )
    return {
        row_id: [(int(version), operation, at) for version, operation, at in changes]
        for row_id, changes in rows
    }
