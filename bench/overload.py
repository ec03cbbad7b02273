"""Measure the service under overload: wrk with more and more connections; see README.md."""

import argparse
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

CONNECTIONS, SECONDS, PROBES, PORT = (8, 16, 120, 160), 4, 40, 21020


def load(url: str, connections: int) -> tuple[float, float, str, str]:
    """Return 2xx and other responses a second, and the median and p99 as wrk prints them."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    [(count, seconds)] = re.findall(r"(\d+) requests in ([\d.]+)s", output)
    refused = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", output)))
    [median], [p99] = (re.findall(rf" {n}%\s+(\S+)", output) for n in (50, 99))
    return (int(count) - refused) / float(seconds), refused / float(seconds), median, p99


def probe(port: int, times: list[float]) -> None:
    """Send PROBES requests to /health during a load; append the seconds of each to `times`."""
    for _ in range(PROBES):
        start = time.monotonic()
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).close()
        times.append(time.monotonic() - start)
        time.sleep(max(0, SECONDS * 0.9 / PROBES - times[-1]))


def measure(port: int, path: str, connections: int) -> tuple[str, ...]:
    times: list[float] = []
    prober = threading.Thread(target=probe, args=(port, times))
    prober.start()
    url = f"http://127.0.0.1:{port}/api/v1/projects{path}"
    served, refused, median, p99 = load(url, connections)
    prober.join()
    return f"{served:.0f}", f"{refused:.0f}", median, p99, f"{max(times) * 1000:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    against = parser.parse_args().against
    checkouts = {"this": ROOT, **({"before": against} if against else {})}
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        connection = psycopg2.connect(**server.parameters)
        environ = migrate(server, AUTH="none", WEB_CONCURRENCY="2", DATABASE_POOL_SIZE="4")
        with connection, connection.cursor() as cursor:
            cursor.execute(FILL)
            cursor.execute("SELECT id FROM projects LIMIT 1")
            [project_id] = cursor.fetchone()
        connection.close()
        ports = dict(zip(checkouts, range(PORT, PORT + 2), strict=False))
        services = [
            start_gunicorn({**environ, "PORT": str(ports[name])}, checkout=checkout)
            for name, checkout in checkouts.items()
        ]
        print(
            "| request | connections | code | 2xx/s | 503/s | median | 99 % | slowest /health, ms |"
        )
        print("|---|---|---|---|---|---|---|---|")
        try:
            for title, path in {"one": f"/{project_id}", "a search": "?q=pro"}.items():
                for connections in CONNECTIONS:
                    for name, port in ports.items():
                        cells = (title, str(connections), name, *measure(port, path, connections))
                        print(f"| {' | '.join(cells)} |", flush=True)
        finally:
            for service in services:
                stop(service)
            server.release()


if __name__ == "__main__":
    main()
