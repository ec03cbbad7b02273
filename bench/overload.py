"""Measure the service under overload: wrk with more and more connections; see README.md."""

import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psycopg2
from workers import FILL, ROOT, migrate, start_gunicorn, stop

sys.path.insert(0, str(ROOT))

from projectapp.devdb import DevPostgres

CONNECTIONS, SECONDS, PROBES, PORT = (8, 16, 80, 160), 4, 40, 21020


def load(url: str, connections: int) -> tuple[float, float, str, str]:
    """Return 2xx and other responses a second, and the median and p99 as wrk prints them."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    [(count, seconds)] = re.findall(r"(\d+) requests in ([\d.]+)s", output)
    refused = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", output)))
    [median], [p99] = (re.findall(rf" {n}%\s+(\S+)", output) for n in (50, 99))
    return (int(count) - refused) / float(seconds), refused / float(seconds), median, p99


def probe(times: list[float]) -> None:
    """Send PROBES requests to /health during a load; append the seconds of each to `times`."""
    for _ in range(PROBES):
        start = time.monotonic()
        urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=10).close()
        times.append(time.monotonic() - start)
        time.sleep(max(0, SECONDS * 0.9 / PROBES - times[-1]))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        connection = psycopg2.connect(**server.parameters)
        environ = migrate(
            server, AUTH="none", PORT=str(PORT), WEB_CONCURRENCY="2", DATABASE_POOL_SIZE="4"
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(FILL)
            cursor.execute("SELECT id FROM projects LIMIT 1")
            [project_id] = cursor.fetchone()
        connection.close()
        gunicorn = start_gunicorn(environ)
        print("| request | connections | 2xx/s | 503/s | median | 99 % | slowest /health, ms |")
        print("|---|---|---|---|---|---|---|")
        try:
            for name, path in {"one": f"/{project_id}", "a search": "?q=pro"}.items():
                for connections in CONNECTIONS:
                    times: list[float] = []
                    prober = threading.Thread(target=probe, args=(times,))
                    prober.start()
                    url = f"http://127.0.0.1:{PORT}/api/v1/projects{path}"
                    served, refused, median, p99 = load(url, connections)
                    prober.join()
                    print(
                        f"| {name} | {connections} | {served:.0f} | {refused:.0f} | {median}"
                        f" | {p99} | {max(times) * 1000:.0f} |",
                        flush=True,
                    )
        finally:
            stop(gunicorn)
            server.release()


if __name__ == "__main__":
    main()
