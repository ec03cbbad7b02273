"""Compare the speed of projectapp with that of its competitors: `make bench`; see README.md."""

import argparse
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import which
from typing import NamedTuple

import psycopg2
from check_same_answers import find_differences
from cpu import cpu_seconds
from report import (
    OWN,
    RUNS,
    WORKLOADS,
    Measurement,
    print_report,
    print_row,
    ratios,
    save,
)
from workers import ROOT, migrate

sys.path.insert(0, str(ROOT))

from faults.pg_proxy import Proxy
from projectapp.devdb import DevPostgres

FOLDERS = {"bin": Path(sys.executable).parent, "bench_bin": ROOT / "bench/.venv/bin"}
ID_PREFIX = "00000000-0000-7000-8000-000000"  # six digits follow
CONNECTIONS, WORKERS, DATABASE_POOL_SIZE = 8, 2, 4
PORT = 21100

# As in production, with a log line for each request. Like the competitors, without authentication.
SETTINGS = {
    "APP_ENV": "production",
    "AUTH": "none",
    "LOG_LEVEL": "info",
    "WEB_CONCURRENCY": str(WORKERS),
    "DATABASE_POOL_SIZE": str(DATABASE_POOL_SIZE),
}

# Every hundredth row contains the searched word, never at the beginning of the name. So all these
# rows have the same rank, and the newest come first.
FILL = """
INSERT INTO projects (id, name, description, is_active, attributes, created_at, updated_at)
SELECT ('00000000-0000-7000-8000-' || lpad((100000 + n)::text, 12, '0'))::uuid,
  'project ' || n || CASE WHEN n % 100 = 7 THEN ' 문서 번역을 검토' ELSE ' 회의 계획 会議' END,
  'Vierteljährliche Prüfung der Unterlagen, part ' || n % 1000,
  n % 10 <> 0, jsonb_build_object('team', 'team ' || n % 20, 'cost', n % 1000),
  at, at
FROM (SELECT n, now() - n / 5 * interval '1 second' AS at FROM generate_series(0, 99999) AS n) AS _
"""
# The ids of new rows are greater: they are UUIDs of versions 4 and 7.
DELETE_NEW_ROWS = "DELETE FROM projects WHERE id > '00000000-0000-7000-8000-000000199999'"
# Index-only scans need pages that VACUUM has marked as all-visible. It marks only pages on disk.
SETTLE = ("CHECKPOINT", "VACUUM ANALYZE projects")
RESTORE = {
    "create": [DELETE_NEW_ROWS],
    "keyed": [DELETE_NEW_ROWS, "TRUNCATE idempotency_keys"],
    "change": ["UPDATE projects SET version = 1 WHERE version > 1"],
}

HANDWRITTEN = "Flask by hand"
BEFORE = "projectapp before"  # another checkout of projectapp: --against

_PLAIN_GUNICORN = (
    f"{{bin}}/gunicorn --workers={WORKERS} --threads={DATABASE_POOL_SIZE} --config=/dev/null"
    " --worker-class=gthread --no-control-socket --bind=127.0.0.1:{port}"
)
# Commands. {bin} is the folder of the project's programs, {bench_bin} that of bench/.venv.
COMMANDS = {
    OWN: "{bin}/gunicorn wsgi:app",
    BEFORE: "{bin}/gunicorn wsgi:app",
    "projectapp on granian": f"{{bench_bin}}/granian --interface=wsgi --workers={WORKERS}"
    f" --no-access-log --blocking-threads={DATABASE_POOL_SIZE} --log-level=error --port={{port}}"
    " wsgi:app",
    "Flask by hand": f"{_PLAIN_GUNICORN} bench.competitors.handwritten:app",
    "Flask by hand, prepared": f"env PREPARE=1 {_PLAIN_GUNICORN} bench.competitors.handwritten:app",
    "Flask-SQLAlchemy": f"{_PLAIN_GUNICORN} bench.competitors.tutorial:app",
    "FastAPI": f"{{bench_bin}}/uvicorn --workers={WORKERS} --no-access-log --log-level=warning"
    " --port={port} bench.competitors.fastapi_app:app",
    "Hono": "node bench/competitors/hono/server.mjs",
}
WITHOUT_HISTORY = "projectapp without history"  # the same service, without the triggers
WITH_HISTORY = (OWN, "projectapp on granian")
PGBENCH = "pgbench"  # only PostgreSQL, with the statements that projectapp sends
MINIMUM_RATIO = 0.8  # to HANDWRITTEN; below it `make bench-quick` fails


class Service(NamedTuple):
    url: str
    pid: int


class Bench:
    """A temporary PostgreSQL with 100 000 projects, on which the competitors are measured."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.server = DevPostgres(folder / "postgresql", temporary=True)
        self.server.start()
        stack.callback(self.server.release)
        self.environ = migrate(self.server, **SETTINGS)
        self.connection = psycopg2.connect(**self.server.parameters)
        self.connection.autocommit = True
        # This connection fires no triggers: what it does between rounds is not a change to record.
        self.run("SET session_replication_role = replica")
        # autovacuum must not run during a round.
        self.run("ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
        self.run(FILL, *SETTLE)
        self.proxy = Proxy(self.server.parameters)
        stack.callback(self.proxy.close)
        self.statements: dict[str, str] = {}
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_read_file('postmaster.pid')")
            self.postgres_pid = int(cursor.fetchone()[0].split()[0])

    def run(self, *statements: str) -> None:
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def restore(self, workload: str) -> None:
        """Undo the workload's changes of the table."""
        if workload in RESTORE:
            time.sleep(0.1)  # wrk does not wait for its last requests
            self.run(*RESTORE[workload], "TRUNCATE changes", *SETTLE)

    @contextmanager
    def serving(
        self, folders: Mapping[str, Path], is_far: bool = False
    ) -> Iterator[dict[str, Service]]:
        """Start competitors in their folders; if `is_far`, the database is behind the proxy."""
        # asyncpg does not know `sslmode`.
        far_url = self.proxy.url.partition("?")[0]
        url = far_url if is_far else self.environ["DATABASE_URL"]
        processes, services = [], {}
        try:
            for port, (name, folder) in enumerate(folders.items(), PORT):
                command = [part.format(port=port, **FOLDERS) for part in COMMANDS[name].split()]
                environ = {**self.environ, "DATABASE_URL": url, "PORT": str(port)}
                no_output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                process = subprocess.Popen(command, cwd=folder, env=environ, **no_output)
                processes.append(process)
                services[name] = Service(f"http://127.0.0.1:{port}", process.pid)
            for name, service in services.items():
                wait_until_ready(name, service.url)
            yield services
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait(30)

    def load(self, url: str, workload: str, seconds: float, start: int) -> tuple[int, float]:
        """Return how many requests were answered, and how many a second."""
        self.proxy.queries.clear()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", "bench/load.lua"]
        text = run_command([*command, url, "--", workload, str(start)])
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        if refused or "Socket errors" in text:
            raise RuntimeError(f"{url} {workload}: {text}")
        [(count, rate)] = re.findall(r"(\d+) requests in .*Requests/sec: +([\d.]+)", text, re.S)
        return int(count), float(rate)

    def measure(
        self, name: str, service: Service, workload: str, seconds: float, start: int
    ) -> Measurement:
        # Only projectapp keeps a history, so only its writes pay for the triggers.
        action = "ENABLE" if name in WITH_HISTORY else "DISABLE"
        self.run(f"ALTER TABLE projects {action} TRIGGER USER")
        pids = (service.pid, self.postgres_pid)
        before = [cpu_seconds(pid) for pid in pids]
        count, rate = self.load(service.url, workload, seconds, start)
        after = [cpu_seconds(pid) for pid in pids]
        self.restore(workload)
        us = (1e6 * (b - a) / count for a, b in zip(before, after, strict=True))
        return Measurement(rate, *us)

    def run_pgbench(self, workload: str, seconds: float, is_far: bool) -> Measurement:
        """Measure pgbench's transactions with projectapp's statement for the workload."""
        script = self.folder / f"{workload}.sql"
        script.write_text(self.statements[workload])
        server = {**self.server.parameters}
        if is_far:
            server |= {"host": "127.0.0.1", "port": str(self.proxy.port)}
        text = run_command(
            [
                *("env", "PGOPTIONS=-c plan_cache_mode=force_generic_plan"),  # as projectapp
                *(str(self.server.binaries / "pgbench"), "--no-vacuum", f"--file={script}"),
                "--define=is_prepared=false",
                *(f"--client={CONNECTIONS}", f"--time={seconds}", f"--host={server['host']}"),
                *(f"--port={server['port']}", f"--username={server['user']}", server["dbname"]),
            ]
        )
        self.restore(workload)
        return Measurement(float(re.findall(r"tps = ([\d.]+)", text)[0]), 0, 0)

    def count_round_trips(self, services: Mapping[str, Service], workloads: Sequence[str]) -> None:
        """Print the round trips of a request, and record projectapp's statements for pgbench."""
        print_row("round trips", *services)
        print_row(*["---"] * (1 + len(services)))
        for workload in workloads:
            counts = []
            for name, (url, _) in services.items():
                self.load(url, workload, 1, 1)  # opens the connections
                if name == OWN:
                    self.statements[workload] = make_pgbench_script(self.proxy.queries[-1])
                self.restore(workload)
                before = self.proxy.round_trips
                count, _ = self.load(url, workload, 1, 2)
                counts.append(f"{(self.proxy.round_trips - before) / count:.2f}")
                self.restore(workload)
            print_row(WORKLOADS[workload], *counts)

    def compare(
        self,
        services: Mapping[str, Service],
        workloads: Sequence[str],
        rounds: int,
        seconds: float,
        is_far: bool = False,
    ) -> dict[str, dict[str, list[Measurement]]]:
        """Measure in interleaved rounds: each round measures all competitors once."""
        results: dict[str, dict[str, list[Measurement]]] = {}
        names = [*services, WITHOUT_HISTORY, *([PGBENCH] if self.statements else [])]
        for workload in workloads:
            results[workload] = {name: [] for name in names}
            for number in range(rounds):
                for name in names[:: -1 if number % 2 else 1]:
                    if name == PGBENCH:
                        self.run("ALTER TABLE projects ENABLE TRIGGER USER")
                        measurement = self.run_pgbench(workload, seconds, is_far)
                    else:
                        measurement = self.measure(
                            name, services.get(name, services[OWN]), workload, seconds, 1 + number
                        )
                    results[workload][name].append(measurement)
            print(f"{WORKLOADS[workload]}: done", file=sys.stderr)
        return results


def make_pgbench_script(query: str) -> str:
    """Make a script that repeats the statement, each time with another id or key.

    `query` may also begin with a PREPARE. Then each of pgbench's connections runs it once.
    """
    preparation = ""
    if prepare := re.search(r"PREPARE .*?; (?=EXECUTE )", query, re.S):
        query = query[query.rindex("EXECUTE ") :]
        preparation = f"\\if not :is_prepared\n\\set is_prepared true\n{prepare[0]}\n\\endif\n"
    query = re.sub(r"(-0000000?)\d{6}'", r"\1:n'", query)
    query = re.sub(r"'[0-9a-f]{8}-[0-9a-f-]{27}'(::uuid)?", "gen_random_uuid()", query)
    query = re.sub(r"'\d+-\d+'", "':key'", query)
    variables = {"n": "random(100000, 199999)", "key": "random(1, 1000000000000)"}
    sets = "".join(f"\\set {name} {value}\n" for name, value in variables.items())
    return f"{preparation}{sets}{query};\n"


def run_command(command: Sequence[str]) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def wait_until_ready(name: str, base: str) -> None:
    for _ in range(400):
        try:
            urllib.request.urlopen(f"{base}/api/v1/projects").close()  # noqa: S310 - http
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{name} does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="compare only with Flask by hand")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--workloads", nargs="*", default=[*WORKLOADS], choices=WORKLOADS)
    parser.add_argument(
        "--delays",
        nargs="*",
        default=["0", "1", "5"],
        help="ms that each packet from and to the database is delayed; default: 0 1 5",
    )
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="compare with another checkout of projectapp"
    )
    options = parser.parse_args()
    missing = [tool for tool in ("wrk", *([] if options.quick else ["node"])) if not which(tool)]
    if missing:
        sys.exit(f"Install {' and '.join(missing)} first (Debian: wrk, nodejs).")
    names = [OWN, HANDWRITTEN] if options.quick else [n for n in COMMANDS if n != BEFORE]
    folders = dict.fromkeys(names, ROOT)
    if options.against:
        folders[BEFORE] = options.against
    measurement = (options.workloads, options.rounds, options.seconds)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bench = Bench(Path(folder), stack)
        if options.quick:
            with bench.serving(folders) as services:
                results = bench.compare(services, *measurement)
            print_report([{"0": results}])
            slow = [WORKLOADS[name] for name, rounds in results.items() if is_slow(rounds)]
            sys.exit(
                f"Less than {MINIMUM_RATIO} of Flask by hand: {', '.join(slow)}." if slow else 0
            )
        with bench.serving(folders, is_far=True) as services:
            urls = {name: service.url for name, service in services.items()}
            if differences := find_differences(urls, f"{ID_PREFIX}100777"):
                sys.exit("\n".join(differences))
            bench.run(DELETE_NEW_ROWS, "TRUNCATE idempotency_keys", *SETTLE)
            bench.count_round_trips(services, options.workloads)
        run = {}
        for delay in options.delays:
            bench.proxy.delay = float(delay) / 1000
            is_far = bench.proxy.delay > 0
            with bench.serving(folders, is_far) as services:
                run[delay] = bench.compare(services, *measurement, is_far)
    save(run, RUNS / f"{datetime.now(UTC):%Y-%m-%dT%H%M}.json")
    print_report([run])


def is_slow(rounds: Mapping[str, Sequence[Measurement]]) -> bool:
    own_to_other = ratios(rounds[OWN], rounds[HANDWRITTEN], lambda m: m.rate)
    return statistics.median(own_to_other) < MINIMUM_RATIO


if __name__ == "__main__":
    main()
