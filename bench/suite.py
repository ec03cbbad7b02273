"""How fast is projectapp beside what people would pick instead? `make bench`; see README.md."""

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
from pathlib import Path
from shutil import which

import psycopg2
from agree import disagreements
from chart import draw
from workers import ROOT, migrated

sys.path.insert(0, str(ROOT))

from faults.pg_proxy import Proxy
from projectapp.devdb import DevPostgres

BIN = Path(sys.executable).parent
THEIRS = ROOT / "bench/.venv/bin"
WORKS = {
    "one": "reading one",
    "ten": "ten and a total",
    "hundred": "a hundred and a total",
    "filtered": "ten archived",
    "deep": "page 5000",
    "search": "a search of two syllables",
    "create": "creating",
    "keyed": "creating with a key",
    "change": "changing with If-Match",
}
ROWS = "00000000-0000-7000-8000-000000"  # and six digits
CONNECTIONS, WORKERS, DATABASE_POOL_SIZE = 8, 2, 4
PORT = 21100

# As in production, with a line in the log for each request; for whoever comes, as the others.
SETTINGS = {
    **{"APP_ENV": "production", "AUTH": "none"},
    **{
        "LOG_LEVEL": "info",
        "WEB_CONCURRENCY": str(WORKERS),
        "DATABASE_POOL_SIZE": str(DATABASE_POOL_SIZE),
    },
}

# Every hundredth row has the word, and none at its beginning: all rank alike, the newest first.
FILL = """
INSERT INTO projects (id, name, description, is_active, attributes, created_at, updated_at)
SELECT ('00000000-0000-7000-8000-' || lpad((100000 + n)::text, 12, '0'))::uuid,
  'project ' || n || CASE WHEN n % 100 = 7 THEN ' 문서 번역을 검토' ELSE ' 회의 계획 会議' END,
  'Vierteljährliche Prüfung der Unterlagen, part ' || n % 1000,
  n % 10 <> 0, jsonb_build_object('team', 'team ' || n % 20, 'cost', n % 1000),
  at, at
FROM (SELECT n, now() - n / 5 * interval '1 second' AS at FROM generate_series(0, 99999) AS n) AS _
"""
# The contenders make their ids by versions 4 and 7, which come later.
MADE = "DELETE FROM projects WHERE id > '00000000-0000-7000-8000-000000199999'"
# What is not on disk is not yet said to be visible to all, which a scan of an index alone needs.
SETTLE = ("CHECKPOINT", "VACUUM ANALYZE projects")
RESTORE = {
    "create": [MADE],
    "keyed": [MADE, "TRUNCATE idempotency_keys"],
    "change": ["UPDATE projects SET version = 1 WHERE version > 1"],
}

_GUNICORN = [str(BIN / "gunicorn"), f"--workers={WORKERS}", f"--threads={DATABASE_POOL_SIZE}"]
_STOCK = [*_GUNICORN, "--config=/dev/null", "--worker-class=gthread", "--no-control-socket"]
CONTENDERS = {
    "projectapp": [str(BIN / "gunicorn"), "wsgi:app"],
    "projectapp on granian": [
        *(str(THEIRS / "granian"), "--interface=wsgi", f"--workers={WORKERS}", "--no-access-log"),
        *(
            f"--blocking-threads={DATABASE_POOL_SIZE}",
            "--log-level=error",
            "--port={port}",
            "wsgi:app",
        ),
    ],
    "Flask by hand": [*_STOCK, "--bind=127.0.0.1:{port}", "bench.contenders.handwritten:app"],
    "Flask-SQLAlchemy": [*_STOCK, "--bind=127.0.0.1:{port}", "bench.contenders.tutorial:app"],
    "FastAPI": [
        *(str(THEIRS / "uvicorn"), f"--workers={WORKERS}", "--no-access-log"),
        *("--log-level=warning", "--port={port}", "bench.contenders.fastapi_app:app"),
    ],
    "Hono": ["node", "bench/contenders/hono/server.mjs"],
}
OURS, FLOOR = "projectapp", "Flask by hand"
LIMIT = "pgbench"  # PostgreSQL alone, with our very statements
BOUND = 0.5  # below it `make bench-quick` fails: noise is never so much


class Bench:
    """A PostgreSQL of its own, filled and migrated, and who is measured on it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.server = DevPostgres(folder / "postgresql", temporary=True)
        self.server.start()
        stack.callback(self.server.release)
        self.environ = migrated(self.server, **SETTINGS)
        self.connection = psycopg2.connect(**self.server.parameters)
        self.connection.autocommit = True
        # Not amid a round.
        self.run("ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
        self.run(FILL, *SETTLE)
        self.proxy = Proxy(self.server.parameters)
        stack.callback(self.proxy.close)
        self.statements: dict[str, str] = {}

    def run(self, *statements: str) -> None:
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def restore(self, work: str) -> None:
        """Have the table as it was before the work."""
        if work in RESTORE:
            time.sleep(0.1)  # what wrk did not wait for is under way still
            self.run(*RESTORE[work], *SETTLE)

    @contextmanager
    def serving(self, names: Sequence[str], far: bool) -> Iterator[dict[str, str]]:
        """Have the contenders answer, `far` ones behind the proxy; yields their URLs."""
        url = self.proxy.url if far else self.environ["DATABASE_URL"]
        running, urls = [], {}
        try:
            for port, name in enumerate(names, PORT):
                command = [part.format(port=port) for part in CONTENDERS[name]]
                environ = {**self.environ, "DATABASE_URL": url, "PORT": str(port)}
                silence = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                running.append(subprocess.Popen(command, cwd=ROOT, env=environ, **silence))
                urls[name] = f"http://127.0.0.1:{port}"
            for name, base in urls.items():
                wait(name, base)
            yield urls
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(30)

    def load(self, base: str, work: str, seconds: float, start: int) -> tuple[int, float]:
        """How many requests were answered, and how many a second."""
        self.proxy.queries.clear()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", "bench/load.lua"]
        said = output([*command, base, "--", work, str(start)])
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
        if refused or "Socket errors" in said:
            raise RuntimeError(f"{base} {work}: {said}")
        self.restore(work)
        [(count, rate)] = re.findall(r"(\d+) requests in .*Requests/sec: +([\d.]+)", said, re.S)
        return int(count), float(rate)

    def limit(self, work: str, seconds: float, far: bool) -> float:
        """Transactions a second that pgbench gets of the statement that the work is."""
        script = self.folder / f"{work}.sql"
        script.write_text(self.statements[work])
        place = {**self.server.parameters}
        if far:
            place |= {"host": "127.0.0.1", "port": str(self.proxy.port)}
        said = output(
            [
                *(str(self.server.binaries / "pgbench"), "--no-vacuum", f"--file={script}"),
                *(f"--client={CONNECTIONS}", f"--time={seconds}", f"--host={place['host']}"),
                *(f"--port={place['port']}", f"--username={place['user']}", place["dbname"]),
            ]
        )
        self.restore(work)
        return float(re.findall(r"tps = ([\d.]+)", said)[0])

    def trips(self, urls: Mapping[str, str], works: Sequence[str]) -> None:
        """Print the round trips that a request takes; keeps our statements for `limit`."""
        show("round trips", *urls)
        show(*["---"] * (1 + len(urls)))
        for work in works:
            counts = []
            for name, base in urls.items():
                self.load(base, work, 1, 1)  # its connections are open then
                before = self.proxy.trips
                count, _ = self.load(base, work, 1, 2)
                counts.append(f"{(self.proxy.trips - before) / count:.2f}")
                if name == OURS:
                    self.statements[work] = as_script(self.proxy.queries[-1])
            show(WORKS[work], *counts)

    def rounds(
        self, urls: Mapping[str, str], works: Sequence[str], rounds: int, seconds: float, far: bool
    ) -> dict[str, dict[str, list[float]]]:
        """Requests a second by work and contender, one of each round; prints them as a table."""
        found: dict[str, dict[str, list[float]]] = {}
        others = [name for name in urls if name != OURS] + ([LIMIT] if self.statements else [])
        show("work", "a second", *(f"to {name}" for name in others))
        show(*["---"] * (2 + len(others)))
        for work in works:
            found[work] = {name: [] for name in (OURS, *others)}
            for number in range(rounds):
                for name in sorted(found[work], reverse=bool(number % 2)):
                    if name == LIMIT:
                        rate = self.limit(work, seconds, far)
                    else:
                        _, rate = self.load(urls[name], work, seconds, 1 + number)
                    found[work][name].append(rate)
            ours = found[work][OURS]
            ratios = [[a / b for a, b in zip(ours, found[work][o], strict=True)] for o in others]
            show(WORKS[work], f"{statistics.median(ours):.0f}", *map(spread, ratios))
        return found


def as_script(query: str) -> str:
    """A statement as pgbench repeats it: with another id each time, or another key."""
    query = re.sub(r"(-0000000?)\d{6}'", r"\1:n'", query)
    query = re.sub(r"'[0-9a-f]{8}-[0-9a-f-]{27}'(::uuid)?", "gen_random_uuid()", query)
    query = re.sub(r"'\d+-\d+'", "':key'", query)
    variables = {"n": "random(100000, 199999)", "key": "random(1, 1000000000000)"}
    sets = "".join(f"\\set {name} {value}\n" for name, value in variables.items())
    return f"{sets}{query};\n"


def output(command: Sequence[str]) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def wait(name: str, base: str) -> None:
    for _ in range(400):
        try:
            urllib.request.urlopen(f"{base}/api/v1/projects").close()  # noqa: S310 - http
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{name} does not answer")


def spread(ratios: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}..{high:.2f})"


def show(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only beside Flask by hand")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--works", nargs="*", default=[*WORKS], choices=WORKS)
    options = parser.parse_args()
    missing = [tool for tool in ("wrk", *([] if options.quick else ["node"])) if not which(tool)]
    if missing:
        sys.exit(f"Needed, and not here: {' and '.join(missing)} (Debian: wrk, nodejs).")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bench = Bench(Path(folder), stack)
        measure = (options.works, options.rounds, options.seconds)
        if options.quick:
            with bench.serving([OURS, FLOOR], far=False) as urls:
                rates = bench.rounds(urls, *measure, far=False)
            slow = [WORKS[work] for work, found in rates.items() if is_slow(found)]
            sys.exit(f"Below {BOUND} of the views by hand: {', '.join(slow)}." if slow else 0)
        with bench.serving([*CONTENDERS], far=True) as urls:
            if differences := disagreements(urls, f"{ROWS}100777"):
                sys.exit("\n".join(differences))
            bench.run(MADE, "TRUNCATE idempotency_keys", *SETTLE)
            bench.trips(urls, options.works)
        with bench.serving([*CONTENDERS], far=False) as urls:
            print()
            rates = bench.rounds(urls, *measure, far=False)
        draw(ROOT / "docs/benchmarks.svg", rates, WORKS)
        with bench.serving([*CONTENDERS], far=True) as urls:
            for bench.proxy.delay in (0.001, 0.005):
                print(f"\n{bench.proxy.delay * 1000:.0f} ms a packet\n")
                bench.rounds(urls, *measure, far=True)


def is_slow(found: Mapping[str, list[float]]) -> bool:
    pairs = zip(found[OURS], found[FLOOR], strict=True)
    return statistics.median(ours / floor for ours, floor in pairs) < BOUND


if __name__ == "__main__":
    main()
