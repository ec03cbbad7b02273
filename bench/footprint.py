"""How much memory does a worker keep, how soon does the first answer come? See README.md."""

import re
import signal
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
from suite import CONNECTIONS, FILL, RESTORE, WORKS
from workers import ROOT, migrated, serve

sys.path.insert(0, str(ROOT))

from projectapp.devdb import DevPostgres

KINDS = [*WORKS, "forms", "bad"]
REQUESTS, STEP, STARTS, PORT = 100_000, 10_000, 7, 23200
BASE = f"http://127.0.0.1:{PORT}"
PATHS = {"/health": "/health", "a list": "/api/v1/projects"}
PRODUCTION = {
    **{"APP_ENV": "production", "AUTH": "none", "HOST": "127.0.0.1", "PORT": str(PORT)},
    **{"WEB_CONCURRENCY": "2", "DATABASE_POOL_SIZE": "4", "DRAIN_TIMEOUT": "0"},
}


def private(pid: int) -> float:
    """MiB that a process shares with nobody."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+)", rollup, re.M))) / 1024


def load(work: str, start: int) -> int:
    """The requests of a second of a kind of work: how many were answered."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d1s", "-s", "bench/load.lua", BASE, "--"]
    command += [work, str(start)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [answered] = map(int, re.findall(r"(\d+) requests in", said))
    refused = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", said)))
    if refused != (answered if work == "bad" else 0) or "Socket errors" in said:
        raise RuntimeError(f"{work}: {said}")
    return answered


def memory(environ: dict[str, str], connection: psycopg2.extensions.connection) -> None:
    gunicorn = serve(environ)
    children = Path(f"/proc/{gunicorn.pid}/task/{gunicorn.pid}/children")
    workers = children.read_text().split()
    rows, answered, start = [["0", *(f"{private(int(pid)):.1f}" for pid in workers)]], 0, 0
    try:
        while answered < REQUESTS:
            start += 1
            for work in KINDS:
                answered += load(work, start)
                with connection.cursor() as cursor:
                    for statement in RESTORE.get(work, []):
                        cursor.execute(statement)
            if answered >= len(rows) * STEP:
                rows.append([f"{answered}", *(f"{private(int(pid)):.1f}" for pid in workers)])
        if children.read_text().split() != workers:
            raise RuntimeError("A worker was replaced.")
    finally:
        stop(gunicorn)
    show(["requests", *(f"worker {n}, MiB" for n in range(1, 1 + len(workers)))], rows)


def starts(environ: dict[str, str]) -> None:
    rows = []
    for count in ("1", "2"):
        rows.append([count])
        for path in PATHS.values():
            found = sorted(
                start({**environ, "WEB_CONCURRENCY": count}, path) for _ in range(STARTS)
            )
            rows[-1].append(f"{statistics.median(found):.2f} ({found[0]:.2f}..{found[-1]:.2f})")
    show(["workers", *(f"s to {name}" for name in PATHS)], rows)


def start(environ: dict[str, str], path: str) -> float:
    """Seconds from the command to the first answer."""
    begun = time.perf_counter()
    gunicorn = serve(environ, path, 0.005)
    taken = time.perf_counter() - begun
    stop(gunicorn)
    return taken


def stop(gunicorn: subprocess.Popen[bytes]) -> None:
    gunicorn.send_signal(signal.SIGTERM)
    gunicorn.wait(30)


def imports(environ: dict[str, str]) -> None:
    """Of each distribution, the time of its own modules; the median of STARTS processes."""
    names = packages_distributions()
    command = [sys.executable, "-X", "importtime", "-c", "import wsgi"]
    found: list[Counter[str]] = []
    for _ in range(STARTS):
        said = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
        found.append(Counter())
        for own, module in re.findall(r"import time: +(\d+) \| +\d+ \| +(\w+)", said.stderr):
            library = "Python's own" if module in sys.stdlib_module_names else module
            found[-1][names.get(library, [library])[0]] += int(own)
        found[-1]["all"] = found[-1].total()
    medians = Counter({name: statistics.median(one[name] for one in found) for name in found[0]})
    show(["import", "ms"], [[name, f"{us / 1000:.0f}"] for name, us in medians.most_common(13)])


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        try:
            environ = migrated(server, **PRODUCTION)
            connection = psycopg2.connect(**server.parameters)
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(FILL)
                cursor.execute("VACUUM ANALYZE projects")
            imports(environ)
            starts(environ)
            memory(environ, connection)
            connection.close()
        finally:
            server.release()


if __name__ == "__main__":
    main()
