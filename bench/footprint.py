"""Measure the memory of workers, the time of a start and of the imports; see README.md."""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

import psycopg2
from report import WORKLOADS
from suite import CONNECTIONS, FILL, RESTORE
from workers import ROOT, migrate, start_gunicorn, stop

sys.path.insert(0, str(ROOT))

from projectapp.devdb import DevPostgres

ALL_WORKLOADS = [*WORKLOADS, "forms", "bad"]
REQUESTS, STEP, STARTS, PORT = 100_000, 10_000, 7, 23200
BASE = f"http://127.0.0.1:{PORT}"
PATHS = {"/health": "/health", "a list": "/api/v1/projects"}
PRODUCTION = {
    **{"APP_ENV": "production", "AUTH": "none", "HOST": "127.0.0.1", "PORT": str(PORT)},
    **{"WEB_CONCURRENCY": "2", "DATABASE_POOL_SIZE": "4", "DRAIN_TIMEOUT": "0"},
}


def private_mebibytes(pid: str | int) -> float:
    """Return the memory that a process does not share, in MiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+)", rollup, re.M))) / 1024


def load(workload: str, start: int) -> int:
    """Send requests for a second; return how many were answered."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d1s", "-s", "bench/load.lua", BASE, "--"]
    command += [workload, str(start)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [answered] = map(int, re.findall(r"(\d+) requests in", output))
    refused = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", output)))
    if refused != (answered if workload == "bad" else 0) or "Socket errors" in output:
        raise RuntimeError(f"{workload}: {output}")
    return answered


def measure_memory(environ: dict[str, str], connection: psycopg2.extensions.connection) -> None:
    gunicorn = start_gunicorn(environ)
    children = Path(f"/proc/{gunicorn.pid}/task/{gunicorn.pid}/children")
    workers = children.read_text().split()

    def make_row(answered: int) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'projectapp'")
            backends = [private_mebibytes(pid) for (pid,) in cursor.fetchall()]
        own = (f"{private_mebibytes(pid):.1f}" for pid in workers)
        return [str(answered), *own, f"{max(backends, default=0):.1f}"]

    rows, answered, start = [make_row(0)], 0, 0
    try:
        while answered < REQUESTS:
            start += 1
            for workload in ALL_WORKLOADS:
                answered += load(workload, start)
                with connection.cursor() as cursor:
                    for statement in RESTORE.get(workload, []):
                        cursor.execute(statement)
            if answered >= len(rows) * STEP:
                rows.append(make_row(answered))
        if children.read_text().split() != workers:
            raise RuntimeError("A worker was replaced.")
    finally:
        stop(gunicorn)
    columns = [f"worker {n}, MiB" for n in range(1, 1 + len(workers))]
    print_table(["requests", *columns, "largest server process of PostgreSQL, MiB"], rows)


def measure_starts(environ: dict[str, str]) -> None:
    rows = []
    for count in ("1", "2"):
        rows.append([count])
        for path in PATHS.values():
            service_environ = {**environ, "WEB_CONCURRENCY": count}
            times = sorted(start_seconds(service_environ, path) for _ in range(STARTS))
            rows[-1].append(f"{statistics.median(times):.2f} ({times[0]:.2f}..{times[-1]:.2f})")
    print_table(["workers", *(f"s to {name}" for name in PATHS)], rows)


def start_seconds(environ: dict[str, str], path: str) -> float:
    """Return the seconds from the command to the first response."""
    start = time.perf_counter()
    gunicorn = start_gunicorn(environ, path, 0.005)
    seconds = time.perf_counter() - start
    stop(gunicorn)
    return seconds


def measure_imports(environ: dict[str, str]) -> None:
    """Print how long the modules of each distribution take, as the median of STARTS processes."""
    distributions = packages_distributions()
    command = [sys.executable, "-X", "importtime", "-c", "import wsgi"]
    runs: list[Counter[str]] = []
    for _ in range(STARTS):
        process = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
        run = Counter[str]()
        for own, module in re.findall(r"import time: +(\d+) \| +\d+ \| +(\w+)", process.stderr):
            library = "Python's own" if module in sys.stdlib_module_names else module
            run[distributions.get(library, [library])[0]] += int(own)
        run["all"] = run.total()
        runs.append(run)
    medians = Counter({name: statistics.median(run[name] for run in runs) for name in runs[0]})
    rows = [[name, f"{us / 1000:.0f}"] for name, us in medians.most_common(13)]
    print_table(["import", "ms"], rows)


def measure_changes(connection: psycopg2.extensions.connection) -> None:
    """Print the bytes of a change in the history, with its part of the indexes."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), pg_table_size('changes') / count(*),"
            " pg_indexes_size('changes') / count(*) FROM changes"
        )
        row = [str(value) for value in cursor.fetchone()]
    print_table(["changes", "bytes each", "bytes each in indexes"], [row])


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        try:
            environ = migrate(server, **PRODUCTION)
            connection = psycopg2.connect(**server.parameters)
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SET session_replication_role = replica")  # fires no triggers
                cursor.execute(FILL)
                cursor.execute("VACUUM ANALYZE projects")
            measure_imports(environ)
            measure_starts(environ)
            measure_memory(environ, connection)
            measure_changes(connection)
            connection.close()
        finally:
            server.release()


if __name__ == "__main__":
    main()
