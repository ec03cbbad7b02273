"""Rehearse a deploy under traffic: `python -m faults.rehearsal --help`.

The previous release serves while the new one, which is the working tree, migrates its database,
takes its port over and sees it end. Clients work all the time and must notice nothing.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import config
from faults.client import PROJECTS
from faults.cluster import make_template, upgrade
from faults.ledger import Attempt, Ledger, longest_gap
from faults.playing import play, workshop
from faults.processes import NeverReady, until
from faults.rows import Row
from faults.service import Service
from faults.stage import Stage
from faults.workload import MIXED

STALL = 1.2  # seconds that a request may take, or that may pass without an acknowledged write
HOLD = 3.0  # seconds for which a reader holds the table that is to be migrated
# A release that knows no keys rightly creates twice what is asked twice. Else a key matters only
# after a failure, which breaks the rehearsal anyway.
LOAD = {name: weight for name, weight in MIXED.items() if name != "create_twice"}
_UNKNOWN = "There is no such release here; is this a whole clone? Name one with --from REVISION."
_FILL = """
INSERT INTO projects (id, name, description)
SELECT gen_random_uuid(), 'fill-' || n, 'Number ' || n || ' of those that were there before'
FROM generate_series(%s, %s) AS n RETURNING name, id::text
"""
_AT_ONCE = 20_000  # rows that one statement makes, within its 30 s
_MIGRATES = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'upgrade'"
_HELD = """
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'projects'::regclass
"""


def main() -> int:
    given, begun = _arguments(), time.monotonic()
    old_commit, head = _commit(given.old or _previous()), _commit("HEAD")
    changed = " and what is not committed" if _git("status", "--porcelain") else ""
    print(f"from  {old_commit}\nto    {head}{changed}\nboth with {sys.prefix}", flush=True)
    with workshop(given.keep) as home:
        old, new, current = home / "old", home / "new", home / "current"
        _export_commit(old_commit.split()[0], old)
        _export_tree(new)
        current.symlink_to(old)
        row = Row(
            0,
            "a deploy under traffic",
            partial(deploy, rows=given.rows, current=current, new=new),
            database=False,
            least=given.rows + 100,
        )
        verdict = play(row, make_template(home, old), home / "stage", given, current)
    found = verdict.findings
    if found.acknowledged:
        lost = f"{len(found.lost)} lost, {len(found.doubled)} doubled"
        verdict.remarks.append(f"{found.acknowledged - given.rows} acknowledged writes, {lost}")
    for line in [*verdict.remarks, *(f"- {sentence}" for sentence in verdict.broken)]:
        print(line)
    print(f"{'broken' if verdict.broken else 'kept'}, in {time.monotonic() - begun:.0f} s")
    return bool(verdict.broken)


def deploy(stage: Stage, rows: int, current: Path, new: Path) -> None:
    """The row: `current` links to the release that serves, `new` is the one that replaces it."""
    coming = sorted(_migrations(new) - _migrations(current))
    stage.remarks.append(f"migrations: {', '.join(coming) or 'none'}")
    _fill(stage, rows)
    beside = Service(stage.folder / "beside.log", code=new)
    beside.url = stage.service.url
    stage.at_end(beside.end)
    with stage.load(LOAD):
        begun = time.monotonic()
        stage.pass_time(0.2)
        beside.start()
        _ask(stage, beside, 503 if coming else 200, "the new release before the migration")
        stage.promise(beside.status("/health") == 200, "/health depends on the schema")
        _migrate(stage, new)
        stage.pass_time(0.3)
        _ask(stage, stage.service, 200, "the old release after the migration")
        _ask(stage, beside, 200, "the new release after the migration")
        beside.end()
        stage.pass_time(0.1)
        link = current.with_name("next")
        link.symlink_to(new)
        link.replace(current)
        stage.service.upgrade()
        stage.pass_time(0.3)
        serving = {Path(f"/proc/{pid}/cwd").resolve() for pid in stage.service.workers()}
        stage.promise(serving == {new}, "void: it is not the new release that serves in the end")
        _ask(stage, stage.service, 200, "the new release in the end")
    asked = [one for one in stage.attempts() if one.sent >= begun and one.done]
    failed = Counter(f"{one.method} {one.status or one.failure}" for one in asked if _failed(one))
    slowest, gap = max(one.done - one.sent for one in asked), longest_gap(asked)
    stage.remarks += [
        f"{len(asked)} requests, {failed.total()} failed",
        f"{slowest:.2f} s the longest request, {gap:.2f} s without an acknowledged write",
    ]
    stage.promise(not failed, f"requests failed: {dict(failed)}")
    most = STALL + stage.noise
    stage.promise(max(slowest, gap) < most, f"a stall of {most:.1f} s or more")


def _failed(one: Attempt) -> bool:
    """Whether it failed or was a write that was refused, but for an append that lost a race."""
    raced = one.kind == "append" and one.status == 412
    return one.failed or (one.is_write and one.outcome != "ok" and not raced)


def _fill(stage: Stage, rows: int) -> None:
    """Rows that were there before, in the ledger as any that were acknowledged."""
    made = []
    for first in range(1, rows + 1, _AT_ONCE):
        made += stage.cluster.sql(_FILL, first, min(rows, first + _AT_ONCE - 1))
    stage.cluster.sql("VACUUM ANALYZE projects")
    ledger, now = Ledger(stage.ledgers / "fill.jsonl"), time.monotonic()
    for name, id_ in made:
        attempt = ledger.before(op=name, kind="create", method="SQL", path=PROJECTS, sent=now)
        ledger.after(attempt, status=201, id=id_, etag='"1"', done=now)


def _migrate(stage: Stage, new: Path) -> None:
    """Migrate while a reader holds the table: for HOLD seconds from when the migration connects."""
    url = stage.url(stage.cluster.port, more="&application_name=upgrade")
    with (
        ThreadPoolExecutor() as pool,
        closing(stage.cluster.connect()) as reader,
        reader.cursor() as cursor,
    ):
        cursor.execute("BEGIN; SELECT count(*) FROM projects")
        begun = time.monotonic()
        migration = pool.submit(lambda: (upgrade(url, new), time.monotonic() - begun))
        until(lambda: migration.done() or stage.cluster.sql(_MIGRATES), 30, "flask db upgrade")
        time.sleep(HOLD)
        cursor.execute(_HELD)
        (stage.fired,) = cursor.fetchone()
        cursor.execute("COMMIT")
    ended, seconds = migration.result()
    stage.remarks.append(f"{seconds:.1f} s for flask db upgrade, which said:")
    stage.remarks += (f"    {line}" for line in ended.stdout.splitlines())
    if ended.returncode:
        raise NeverReady(f"flask db upgrade ended with {ended.returncode}: {ended.stdout[-300:]}")


def _ask(stage: Stage, service: Service, expected: int, who: str) -> None:
    said = service.status("/ready")
    stage.promise(said == expected, f"/ready of {who}: {said}, not {expected}")


def _migrations(code: Path) -> set[str]:
    return {path.stem for path in (code / "migrations" / "versions").glob("[0-9]*_*.py")}


def _previous() -> str:
    """The last tag; without one, the commit before the newest migration."""
    with suppress(SystemExit):
        return _git("describe", "--tags", "--abbrev=0")
    newest = f"migrations/versions/{max(_migrations(config.ROOT))}.py"
    added = _git("log", "--diff-filter=A", "--format=%H", "-1", "--", newest)
    return f"{added}^" if added else "HEAD"


def _commit(revision: str) -> str:
    """Its short hash and its subject."""
    return _git("show", "--no-patch", "--format=%h %s", f"{revision}^{{commit}}")


def _export_commit(revision: str, folder: Path) -> None:
    archive = folder.with_suffix(".tar")
    _git("archive", "--output", str(archive), revision)
    folder.mkdir()
    subprocess.run(["/usr/bin/env", "tar", "-xf", archive, "-C", folder], check=True)


def _export_tree(folder: Path) -> None:
    for name in _git("ls-files", "-co", "--exclude-standard", "-z").split("\0"):
        if (config.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(config.ROOT / name, folder / name)


def _git(*arguments: str) -> str:
    """What git says of this repository; SystemExit with a sentence if it knows no such thing."""
    command = ["/usr/bin/env", "git", "-C", str(config.ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except subprocess.CalledProcessError:
        raise SystemExit(_UNKNOWN) from None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults.rehearsal", description=__doc__)
    parser.set_defaults(seed=0)
    more = "the previous release; the last tag by default, or what the newest migration came after"
    parser.add_argument("--from", dest="old", metavar="REVISION", help=more)
    parser.add_argument("--seconds", type=float, default=15.0, help="of load besides the steps")
    parser.add_argument("--rows", type=int, default=20_000, help="that are there before")
    parser.add_argument("--keep", action="store_true", help="keep logs, ledgers and data")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
