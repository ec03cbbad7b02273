"""Scenarios 13 to 17: locks, changes at the same time, and no free connections or threads."""

import threading
import time
from contextlib import ExitStack, closing, suppress

import psycopg2

from faults.environment import FEW_WRITERS, MANY_WRITERS, Environment
from faults.ledger import Attempt
from faults.network_faults import silence_database
from faults.scenarios import scenario

HOLD_SECONDS = 5.0  # how long a lock is held
LOCK_WAIT_SECONDS = 1.6  # the service's lock timeout, which is 1, and a margin
POOL_WAIT_SECONDS = 2.1  # the same for its pool timeout, which is 2
_COUNT_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
_TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^projectapp'
"""
# A deferred trigger runs at the commit, after the trigger that writes the history.
_COMMIT_SLOWLY = """
CREATE FUNCTION commit_slowly() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(random() * 0.1); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER commit_slowly AFTER INSERT OR UPDATE ON {table}
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION commit_slowly()
"""
_COUNT_LATE_COMMITS = """
SELECT count(*) FROM (
  SELECT committed_at, lag(committed_at) OVER (ORDER BY seq) AS committed_before
  FROM (SELECT seq, pg_xact_commit_timestamp(xid::xid) AS committed_at FROM changes) AS changes
) AS changes WHERE committed_at < committed_before
"""


@scenario(13, "the table is locked")
def lock_table(env: Environment) -> None:
    statement = f"LOCK TABLE {env.resource.name} IN EXCLUSIVE MODE"
    attempts = _hold_lock(env, statement, FEW_WRITERS)
    reads = [attempt for attempt in attempts if attempt.kind in ("read", "walk")]
    _check_wait(env, [attempt for attempt in attempts if attempt.is_write], LOCK_WAIT_SECONDS)
    env.check(reads and not any(a.status == 503 for a in reads), "reads were refused")


@scenario(13, "a row is locked")
def lock_row(env: Environment) -> None:
    attempts = _hold_lock(env, _select_for_update(env), FEW_WRITERS)
    writes = [attempt for attempt in attempts if attempt.is_write]
    others = [attempt for attempt in writes if attempt.kind != "append"]
    # PostgreSQL's lock_timeout is for each wait. The second writer waits twice: for its place
    # behind the first writer, and for the row.
    _check_wait(env, writes, 1 + LOCK_WAIT_SECONDS)
    env.check(others and not any(a.status == 503 for a in others), "other writes were refused")


@scenario(14, "sixteen clients change one row")
def change_one_row(env: Environment) -> None:
    with env.load({"append": 1}, writers=MANY_WRITERS, shared_rows=1):
        env.sleep_share(1)
    env.fault_count = sum(attempt.status == 412 for attempt in env.read_attempts())


@scenario(14, "transactions lock rows in opposite orders")
def cause_deadlocks(env: Environment) -> None:
    stop = threading.Event()
    with env.load({"append": 3, "create_keyed": 1}, writers=FEW_WRITERS):
        rows = [env.shared_row(n) for n in (0, 1)]
        threads = [
            threading.Thread(target=_lock_in_order, args=(env, order, stop))
            for order in (rows, rows[::-1])
        ]
        for thread in threads:
            thread.start()
        env.sleep_share(0.8)
        stop.set()
        for thread in threads:
            thread.join()
        env.mark_recovered()
        env.sleep_share(0.2)
    ((env.fault_count,),) = env.cluster.sql("SELECT sum(deadlocks)::int FROM pg_stat_database")


@scenario(15, "every connection waits for a lock")
def exhaust_pool(env: Environment) -> None:
    statement = f"LOCK TABLE {env.resource.name} IN ACCESS EXCLUSIVE MODE"
    attempts = _hold_lock(env, statement, MANY_WRITERS)
    requests = [attempt for attempt in attempts if attempt.kind != "probe"]
    _check_wait(env, requests, POOL_WAIT_SECONDS + LOCK_WAIT_SECONDS)


@scenario(15, "every thread waits for a silent database")
def exhaust_threads(env: Environment) -> None:
    silence_database(env, MANY_WRITERS)


@scenario(16, "no connection is left", postgres_settings={"max_connections": "20"})
def exhaust_connections(env: Environment) -> None:
    with env.load(), ExitStack() as connections:
        env.sleep_share(0.2)
        first = connections.enter_context(closing(env.cluster.connect()))
        deadline = time.monotonic() + HOLD_SECONDS
        while time.monotonic() < deadline:
            with suppress(psycopg2.OperationalError):
                while True:
                    connections.enter_context(closing(env.cluster.connect()))
            env.fault_count += 1
            with first.cursor() as cursor:
                cursor.execute(_TERMINATE)  # the next round takes the places of these connections
            time.sleep(0.005)
        connections.close()
        env.mark_recovered()
        env.sleep_share(0.4)


@scenario(
    17,
    "transactions commit in another order than they write",
    postgres_settings={"track_commit_timestamp": "on"},
    is_database_fault=False,
)
def commit_in_another_order(env: Environment) -> None:
    with env.load(), closing(env.cluster.connect()) as holder, holder.cursor() as cursor:
        cursor.execute(_COMMIT_SLOWLY.format(table=env.resource.name))
        # A transaction that has an id stays open all the time. It must not hold up the feed.
        cursor.execute("BEGIN; SELECT pg_current_xact_id()")
        env.sleep_share(0.5)
    ((env.fault_count,),) = env.cluster.sql(_COUNT_LATE_COMMITS)


def _hold_lock(env: Environment, statement: str, writers: int) -> list[Attempt]:
    """Hold a lock during a load; return the attempts that were sent while it was held."""
    with env.load(writers=writers):
        env.sleep_share(0.2)
        with closing(env.cluster.connect()) as holder, holder.cursor() as cursor:
            # The first shared row, for a statement that locks a row.
            cursor.execute("BEGIN; " + statement, {"title": env.shared_row(0)})
            start = time.monotonic()
            while time.monotonic() < start + HOLD_SECONDS:
                time.sleep(HOLD_SECONDS / 10)
                cursor.execute(_COUNT_WAITING)
                env.fault_count += cursor.fetchone()[0]
            cursor.execute("COMMIT")
        env.mark_recovered()
        env.sleep_share(0.3)
    end = start + HOLD_SECONDS - LOCK_WAIT_SECONDS
    return [attempt for attempt in env.read_attempts() if start < attempt.sent_at < end]


def _select_for_update(env: Environment) -> str:
    table, title = env.resource.name, env.resource.title_field
    return f"SELECT 1 FROM {table} WHERE {title} = %(title)s FOR UPDATE"  # noqa: S608 - a Resource


def _check_wait(env: Environment, attempts: list[Attempt], limit_seconds: float) -> None:
    longest = max((attempt.duration_seconds for attempt in attempts), default=0)
    limit = limit_seconds + env.noise_seconds
    env.check(longest <= limit, f"a request waited {longest:.1f} s; the limit is {limit:.1f} s")


def _lock_in_order(env: Environment, titles: list[str], stop: threading.Event) -> None:
    """Lock the rows one after the other, again and again."""
    with closing(env.cluster.connect()) as connection, connection.cursor() as cursor:
        while not stop.is_set():
            with suppress(psycopg2.errors.DeadlockDetected):
                cursor.execute("BEGIN")
                for title in titles:
                    cursor.execute(_select_for_update(env), {"title": title})
                    time.sleep(0.05)
            cursor.execute("ROLLBACK")
            time.sleep(0.02)
