"""Rehearse a deploy under load: `python -m faults.rehearsal --help`.

The previous release serves while the new one, which is the working tree, migrates the database,
takes over the port and stops the previous one. Clients work all the time and must notice nothing.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event

from faults.bulk_writers import MANY, MIXED
from faults.client import Client
from faults.cluster import make_template, run_migrations
from faults.environment import Environment
from faults.feed_readers import FeedReader, wait
from faults.feed_records import read_record
from faults.ledger import Attempt, longest_write_gap
from faults.processes import NotReady, wait_until
from faults.releases import (
    describe_commit,
    export_commit,
    export_working_tree,
    find_previous_release,
    migrations,
    run_git,
)
from faults.resources.projects import RESOURCE as PROJECTS
from faults.runner import Options, run_scenario, temporary_directory
from faults.scenarios import Scenario
from faults.service import Service

# The longest time of a request, and the longest time without an acknowledged write.
STALL_SECONDS = 1.2
HOLD_SECONDS = 3.0  # a reader holds the table that is migrated
# A previous release without idempotency keys may create two rows when a create is sent twice.
# Otherwise a key matters only after a failure, and any failure ends the rehearsal. It may also have
# no requests for many rows.
LOAD = {name: weight for name, weight in MIXED.items() if name not in {"create_twice", *MANY}}
FIRST_HISTORY = "0014_record_changes"  # a release without it writes no callers into the history
_FILL = """
INSERT INTO projects (id, name, description)
SELECT gen_random_uuid(), 'fill-' || n, 'Row ' || n || ' from before the deploy'
FROM generate_series(%s, %s) AS n RETURNING name, id::text
"""
_ROWS_PER_STATEMENT = 20_000  # within its statement timeout of 30 s
_FIND_MIGRATION = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'upgrade'"
_COUNT_LOCKS = """
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'projects'::regclass
"""


def main() -> int:
    arguments, start = _parse_arguments(), time.monotonic()
    old_commit = describe_commit(arguments.old or find_previous_release())
    changes = " and uncommitted changes" if run_git("status", "--porcelain") else ""
    print(f"from  {old_commit}\nto    {describe_commit('HEAD')}{changes}\nboth with {sys.prefix}")
    sys.stdout.flush()
    options = Options(PROJECTS, arguments.seconds, seed=0, keep=arguments.keep)
    with temporary_directory(options.keep) as folder:
        old, new, current = folder / "old", folder / "new", folder / "current"
        export_commit(old_commit.split()[0], old)
        export_working_tree(new)
        current.symlink_to(old)
        scenario = Scenario(
            0,
            "a deploy under load",
            partial(deploy, rows=arguments.rows, current=current, new=new),
            is_database_fault=False,
            minimum_writes=arguments.rows + 100,
            has_older_release=FIRST_HISTORY in migrations(new) - migrations(old),
        )
        template = make_template(folder, old)
        result = run_scenario(scenario, template, folder / "run", options, current)
    findings = result.findings
    if findings.acknowledged:
        writes = findings.acknowledged - arguments.rows
        lost = f"{len(findings.lost)} lost, {len(findings.duplicated)} duplicated"
        result.notes.append(f"{writes} acknowledged writes, {lost}")
    for line in [*result.notes, *(f"- {failure}" for failure in result.failures)]:
        print(line)
    word = "failed" if result.failures else "passed"
    print(f"{word} in {time.monotonic() - start:.0f} s")
    return bool(result.failures)


def deploy(env: Environment, rows: int, current: Path, new: Path) -> None:
    """Deploy the release in `new`; `current` is a link to the release that serves."""
    pending = sorted(migrations(new) - migrations(current))
    env.notes.append(f"migrations: {', '.join(pending) or 'none'}")
    _fill(env, rows)
    new_service = Service(env.folder / "new.log", code=new)
    new_service.database_url = env.service.database_url
    env.on_exit(new_service.end)
    with env.load(LOAD):
        start = time.monotonic()
        env.sleep_share(0.2)
        new_service.start()
        status = 503 if pending else 200
        _check_ready(env, new_service, status, "the new release before the migration")
        env.check(new_service.status("/health") == 200, "/health depends on the schema")
        _migrate(env, new)
        with _follow_feed(env, new_service):
            env.sleep_share(0.3)
        if FIRST_HISTORY in pending:
            _check_changes_of_old_release(env)
        _check_ready(env, env.service, 200, "the old release after the migration")
        _check_ready(env, new_service, 200, "the new release after the migration")
        new_service.end()
        env.sleep_share(0.1)
        link = current.with_name("next")
        link.symlink_to(new)
        link.replace(current)
        env.service.upgrade()
        env.sleep_share(0.3)
        folders = {Path(f"/proc/{pid}/cwd").resolve() for pid in env.service.worker_pids()}
        env.check(folders == {new}, "void: in the end it is not the new release that serves")
        _check_ready(env, env.service, 200, "the new release after the upgrade")
    attempts = [a for a in env.read_attempts() if a.sent_at >= start and a.done_at]
    failed = Counter(f"{a.method} {a.status or a.exception}" for a in attempts if _has_failed(a))
    feed_slowest, slowest = (
        max(a.duration_seconds for a in attempts if (a.kind == "feed") is is_feed)
        for is_feed in (True, False)
    )
    gap = longest_write_gap(attempts)
    env.notes += [
        f"{len(attempts)} requests, {failed.total()} failed",
        f"the longest request took {slowest:.2f} s, the longest of the feed {feed_slowest:.2f} s",
        f"no acknowledged write for {gap:.2f} s",
    ]
    env.check(not failed, f"requests failed: {dict(failed)}")
    limit = STALL_SECONDS + env.noise_seconds
    env.check(max(slowest, gap) < limit, f"a stall of {limit:.1f} s or more")


@contextmanager
def _follow_feed(env: Environment, service: Service) -> Iterator[None]:
    """Let a reader follow the feed of this service; later it goes on with the one that serves."""
    stop, client = Event(), Client(service.port, env.new_ledger(), PROJECTS, env.callers[0])
    path = env.ledgers / "next-release.feed"
    reader = FeedReader(client, path, stop)

    def has_changes() -> bool:
        return bool(reader.cursor) and read_record(path).has_changes

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(reader.run, wait, since_start=False)
        try:
            yield
            wait_until(has_changes, 60, "a change for the reader of the next release")
        finally:
            stop.set()
    reading.result()


def _check_changes_of_old_release(env: Environment) -> None:
    """Check that the history has the changes of the release that does not say who its callers are.

    The reader of the feed checks that none of them is missing.
    """
    rows = env.cluster.sql("SELECT credential, count(*) FROM changes GROUP BY credential")
    env.check([name for name, _ in rows] == ["role postgres"], f"changes by credential: {rows}")
    env.notes.append(f"changes of the old release in the history: {dict(rows)}")


def _has_failed(attempt: Attempt) -> bool:
    """Return whether it failed or is a refused write; a 412 for an append is no failure."""
    if attempt.kind == "append" and attempt.status == 412:
        return False
    return attempt.is_server_failure or (attempt.is_write and attempt.outcome != "ok")


def _fill(env: Environment, rows: int) -> None:
    """Create rows by SQL, and record them in a ledger as acknowledged creates."""
    created = []
    for first in range(1, rows + 1, _ROWS_PER_STATEMENT):
        created += env.cluster.sql(_FILL, first, min(rows, first + _ROWS_PER_STATEMENT - 1))
    env.cluster.sql("VACUUM ANALYZE projects")
    ledger, now = env.new_ledger(), time.monotonic()
    for name, row_id in created:
        attempt = ledger.record_request(
            operation=name, kind="create", method="SQL", path=PROJECTS.path, sent_at=now
        )
        ledger.record_response(attempt, status=201, id=row_id, etag='"1"', done_at=now)


def _migrate(env: Environment, new: Path) -> None:
    """Run the migrations while a reader holds the table; it lets go after HOLD_SECONDS."""
    url = env.database_url(env.cluster.port, options="&application_name=upgrade")
    with (
        ThreadPoolExecutor() as pool,
        closing(env.cluster.connect()) as reader,
        reader.cursor() as cursor,
    ):
        cursor.execute("BEGIN; SELECT count(*) FROM projects")
        start = time.monotonic()
        migration = pool.submit(lambda: (run_migrations(url, new), time.monotonic() - start))
        wait_until(
            lambda: migration.done() or env.cluster.sql(_FIND_MIGRATION), 30, "flask db upgrade"
        )
        time.sleep(HOLD_SECONDS)
        cursor.execute(_COUNT_LOCKS)
        (env.fault_count,) = cursor.fetchone()
        cursor.execute("COMMIT")
    process, seconds = migration.result()
    env.notes.append(f"flask db upgrade took {seconds:.1f} s. Its output:")
    env.notes += (f"    {line}" for line in process.stdout.splitlines())
    if process.returncode:
        code, output = process.returncode, process.stdout[-300:]
        raise NotReady(f"flask db upgrade ended with {code}: {output}")


def _check_ready(env: Environment, service: Service, expected: int, which: str) -> None:
    status = service.status("/ready")
    env.check(status == expected, f"/ready of {which}: {status}, not {expected}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults.rehearsal", description=__doc__)
    release = "the previous release; default: the last tag, or the commit before the last migration"
    parser.add_argument("--from", dest="old", metavar="REVISION", help=release)
    parser.add_argument("--seconds", type=float, default=15.0, help="of load, besides the steps")
    parser.add_argument("--rows", type=int, default=20_000, help="that exist before the deploy")
    parser.add_argument("--keep", action="store_true", help="keep logs, ledgers and data")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
