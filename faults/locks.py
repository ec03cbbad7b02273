"""Rows 13 to 16: locks, storms, and connections that run out."""

import threading
import time
from contextlib import ExitStack, closing, suppress

import psycopg2

from faults.ledger import Attempt
from faults.lines import fall_silent
from faults.rows import row
from faults.stage import CROWD, FEW, Stage

HELD = 5.0  # seconds that a lock is held
LOCKED = 1.6  # seconds after which a write that waits for it is answered: the limit is 1, and noise
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@row(13, "the table is locked")
def lock_table(stage: Stage) -> None:
    during = _hold(stage, "LOCK TABLE projects IN EXCLUSIVE MODE", FEW)
    reads = [one for one in during if one.kind in ("read", "walk")]
    _promise_short(stage, [one for one in during if one.is_write])
    stage.promise(reads and not any(one.status == 503 for one in reads), "reads were refused")


@row(13, "a row is locked")
def lock_row(stage: Stage) -> None:
    during = _hold(stage, "SELECT 1 FROM projects WHERE name = '{list0}' FOR UPDATE", FEW)
    others = [one for one in during if one.is_write and one.kind != "append"]
    # PostgreSQL counts each wait for itself, and a second writer has two: its turn, then the row.
    _promise_short(stage, [one for one in during if one.is_write], most=1 + LOCKED)
    stage.promise(others and not any(one.status == 503 for one in others), "others were refused")


@row(14, "sixteen clients change one row")
def storm(stage: Stage) -> None:
    with stage.load({"append": 1}, workers=CROWD, lists=1):
        stage.pass_time(1)
    stage.fired = sum(one.status == 412 for one in stage.attempts())


@row(14, "transactions lock rows in opposite orders")
def deadlocks(stage: Stage) -> None:
    stop = threading.Event()
    with stage.load({"append": 3, "create_keyed": 1}, workers=FEW):
        names = [stage.list_name(n) for n in (0, 1)]
        rivals = [
            threading.Thread(target=_lock_in_order, args=(stage, order, stop))
            for order in (names, names[::-1])
        ]
        for rival in rivals:
            rival.start()
        stage.pass_time(0.8)
        stop.set()
        for rival in rivals:
            rival.join()
        stage.healed()
        stage.pass_time(0.2)
    ((stage.fired,),) = stage.cluster.sql("SELECT sum(deadlocks)::int FROM pg_stat_database")


@row(15, "every connection waits for a lock")
def exhaust_pool(stage: Stage) -> None:
    during = _hold(stage, "LOCK TABLE projects IN ACCESS EXCLUSIVE MODE", CROWD)
    asked = [one for one in during if one.kind != "probe"]
    _promise_short(stage, asked, most=2.1 + LOCKED)  # the pool's wait, then the lock's


@row(15, "every thread waits for a silent database")
def exhaust_threads(stage: Stage) -> None:
    fall_silent(stage, CROWD)


@row(16, "no connection is left", postgres={"max_connections": "20"})
def exhaust_server(stage: Stage) -> None:
    with stage.load(), ExitStack() as taken:
        stage.pass_time(0.2)
        hog = taken.enter_context(closing(stage.cluster.connect()))
        end = time.monotonic() + HELD
        while time.monotonic() < end:
            with suppress(psycopg2.OperationalError):
                while True:
                    taken.enter_context(closing(stage.cluster.connect()))
            stage.fired += 1
            with hog.cursor() as cursor:  # whose places are taken at once
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name ~ '^projectapp'"
                )
            time.sleep(0.005)
        taken.close()
        stage.healed()
        stage.pass_time(0.4)


def _hold(stage: Stage, statement: str, workers: int) -> list[Attempt]:
    """Hold a lock in the midst of a load; the attempts that were sent while it was held."""
    with stage.load(workers=workers):
        stage.pass_time(0.2)
        with closing(stage.cluster.connect()) as holder, holder.cursor() as cursor:
            cursor.execute("BEGIN; " + statement.format(list0=stage.list_name(0)))
            begun = time.monotonic()
            while time.monotonic() < begun + HELD:
                time.sleep(HELD / 10)
                cursor.execute(_WAITING)
                stage.fired += cursor.fetchone()[0]
            cursor.execute("COMMIT")
        stage.healed()
        stage.pass_time(0.3)
    return [one for one in stage.attempts() if begun < one.sent < begun + HELD - LOCKED]


def _promise_short(stage: Stage, attempts: list[Attempt], most: float = LOCKED) -> None:
    longest, most = max((one.seconds for one in attempts), default=0), most + stage.noise
    stage.promise(longest <= most, f"a request waited {longest:.1f} s, not <= {most:.1f} s")


def _lock_in_order(stage: Stage, names: list[str], stop: threading.Event) -> None:
    with closing(stage.cluster.connect()) as link, link.cursor() as cursor:
        while not stop.is_set():
            with suppress(psycopg2.errors.DeadlockDetected):
                cursor.execute("BEGIN")
                for name in names:
                    cursor.execute("SELECT 1 FROM projects WHERE name = %s FOR UPDATE", [name])
                    time.sleep(0.05)
            cursor.execute("ROLLBACK")
            time.sleep(0.02)
