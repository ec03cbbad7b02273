"""Compare values of WEB_CONCURRENCY and DATABASE_POOL_SIZE in interleaved rounds of wrk."""

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import psycopg2

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from projectapp.devdb import DevPostgres  # noqa: E402 - the path comes first

PAIRS = [(1, 4), (2, 1), (2, 2), (2, 4), (2, 8)]
DEFAULT = (2, 4)
ROUNDS, SECONDS, CONNECTIONS, PORT = 5, 3, 8, 21000
FLASK = [sys.executable, "-m", "flask"]
FILL = """
INSERT INTO projects (id, name, created_at)
SELECT gen_random_uuid(), 'project ' || n, now() - n * interval '1 second'
FROM generate_series(1, 10000) AS n
"""


def request_rate(url: str, header: str = "X-None: none", seconds: int = SECONDS) -> float:
    """Return wrk's requests a second; raise RuntimeError if a response is not 2xx or 3xx."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-H", header, url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output:
        raise RuntimeError(output)
    return float(re.findall(r"Requests/sec:\s+([\d.]+)", output)[0])


def migrate(server: DevPostgres, **settings: str) -> dict[str, str]:
    """Create the schema; return the environment variables of a service on this server."""
    host = quote(server.parameters["host"])
    environ = {
        **os.environ,
        "DATABASE_URL": f"postgresql://postgres@/postgres?host={host}&port=5432",
        "MIGRATIONS_DATABASE_URL": "",
        "LOG_LEVEL": "warning",
        **settings,
    }
    subprocess.run([*FLASK, "db", "upgrade"], cwd=ROOT, env=environ, check=True)
    return environ


def start_gunicorn(
    environ: dict[str, str],
    path: str = "/health",
    pause_seconds: float = 0.05,
    checkout: Path = ROOT,
) -> subprocess.Popen[bytes]:
    """Start gunicorn on PORT of the environment; return when it answers a GET of `path`."""
    gunicorn = subprocess.Popen(
        [Path(sys.executable).with_name("gunicorn"), "wsgi:app"],
        cwd=checkout,
        env=environ,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(int(10 / pause_seconds)):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{environ['PORT']}{path}").close()
            break
        except OSError:
            time.sleep(pause_seconds)
    return gunicorn


def stop(gunicorn: subprocess.Popen[bytes]) -> None:
    gunicorn.send_signal(signal.SIGTERM)
    gunicorn.wait(30)


def measure(environ: dict[str, str], path: str) -> float:
    """Return the requests a second of a new service."""
    gunicorn = start_gunicorn(environ)
    try:
        request_rate(f"http://127.0.0.1:{PORT}{path}", seconds=1)  # opens its connections
        return request_rate(f"http://127.0.0.1:{PORT}{path}")
    finally:
        stop(gunicorn)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        environ = migrate(server, PORT=str(PORT))
        connection = psycopg2.connect(**server.parameters)
        with connection, connection.cursor() as cursor:
            cursor.execute(FILL)
            cursor.execute("SELECT id FROM projects LIMIT 1")
            [project_id] = cursor.fetchone()
        connection.close()
        for path in (f"/api/v1/projects/{project_id}", "/api/v1/projects"):
            rates = {pair: [] for pair in PAIRS}
            for _ in range(ROUNDS):
                for pair in PAIRS:
                    sizes = {"WEB_CONCURRENCY": str(pair[0]), "DATABASE_POOL_SIZE": str(pair[1])}
                    rates[pair].append(measure({**environ, **sizes}, path))
            print(path)
            for pair, own_rates in rates.items():
                ratios = [a / b for a, b in zip(own_rates, rates[DEFAULT], strict=True)]
                print(
                    f"  {pair[0]} workers x {pair[1]:2} threads:"
                    f" {statistics.median(own_rates):6.0f}/s"
                    f"  ratio {statistics.median(ratios):.2f}"
                    f" ({min(ratios):.2f}..{max(ratios):.2f})"
                )
        server.release()


if __name__ == "__main__":
    main()
