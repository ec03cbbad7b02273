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


def rate(url: str, header: str = "X-None: none", seconds: int = SECONDS) -> float:
    """Requests a second that wrk got answered with 200."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-H", header, url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said:
        raise RuntimeError(said)
    return float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0])


def migrated(server: DevPostgres, **more: str) -> dict[str, str]:
    """The environment of a service on the server's database, which has the schema then."""
    host = quote(server.parameters["host"])
    environ = {
        **os.environ,
        "DATABASE_URL": f"postgresql://postgres@/postgres?host={host}&port=5432",
        "MIGRATIONS_DATABASE_URL": "",
        "LOG_LEVEL": "warning",
        **more,
    }
    subprocess.run([*FLASK, "db", "upgrade"], cwd=ROOT, env=environ, check=True)
    return environ


def serve(
    environ: dict[str, str], path: str = "/health", pause: float = 0.05
) -> subprocess.Popen[bytes]:
    """A gunicorn that answers a path already, on the PORT of its environment."""
    served = subprocess.Popen(
        [Path(sys.executable).with_name("gunicorn"), "wsgi:app"],
        cwd=ROOT,
        env=environ,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(int(10 / pause)):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{environ['PORT']}{path}").close()
            break
        except OSError:
            time.sleep(pause)
    return served


def measure(environ: dict[str, str], path: str) -> float:
    gunicorn = serve(environ)
    try:
        rate(f"http://127.0.0.1:{PORT}{path}", seconds=1)  # its connections are open then
        return rate(f"http://127.0.0.1:{PORT}{path}")
    finally:
        gunicorn.send_signal(signal.SIGTERM)
        gunicorn.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        environ = migrated(server, PORT=str(PORT))
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
            for pair, found in rates.items():
                ratios = [a / b for a, b in zip(found, rates[DEFAULT], strict=True)]
                print(
                    f"  {pair[0]} workers x {pair[1]:2} threads: {statistics.median(found):6.0f}/s"
                    f"  ratio {statistics.median(ratios):.2f}"
                    f" ({min(ratios):.2f}..{max(ratios):.2f})"
                )
        server.release()


if __name__ == "__main__":
    main()
