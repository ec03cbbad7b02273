"""What is served when more come than can be? wrk with ever more connections; see README.md."""

import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psycopg2
from workers import FILL, ROOT, migrated, serve

sys.path.insert(0, str(ROOT))

from projectapp.devdb import DevPostgres

CONNECTIONS, SECONDS, PROBES, PORT = (8, 16, 80, 160), 4, 40, 21020


def load(path: str, connections: int) -> tuple[float, float, str, str]:
    """Answers of 2xx and others a second, and their median and 99th percentile."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", path]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    [(count, seconds)] = re.findall(r"(\d+) requests in ([\d.]+)s", said)
    refused = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", said)))
    [middle], [late] = (re.findall(rf" {n}%\s+(\S+)", said) for n in (50, 99))
    return (int(count) - refused) / float(seconds), refused / float(seconds), middle, late


def probe(found: list[float]) -> None:
    """Add the seconds of each of PROBES requests of /health, over the time of a load."""
    for _ in range(PROBES):
        started = time.monotonic()
        urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=10).close()
        found.append(time.monotonic() - started)
        time.sleep(max(0, SECONDS * 0.9 / PROBES - found[-1]))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        connection = psycopg2.connect(**server.parameters)
        environ = migrated(
            server, AUTH="none", PORT=str(PORT), WEB_CONCURRENCY="2", DATABASE_POOL_SIZE="4"
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(FILL)
            cursor.execute("SELECT id FROM projects LIMIT 1")
            [project_id] = cursor.fetchone()
        connection.close()
        gunicorn = serve(environ)
        print("| request | connections | 2xx/s | 503/s | median | 99 % | slowest /health, ms |")
        print("|---|---|---|---|---|---|---|")
        try:
            for name, path in {"one": f"/{project_id}", "a search": "?q=pro"}.items():
                for connections in CONNECTIONS:
                    probes: list[float] = []
                    prober = threading.Thread(target=probe, args=(probes,))
                    prober.start()
                    url = f"http://127.0.0.1:{PORT}/api/v1/projects{path}"
                    good, refused, middle, late = load(url, connections)
                    prober.join()
                    print(
                        f"| {name} | {connections} | {good:.0f} | {refused:.0f} | {middle} | {late}"
                        f" | {max(probes) * 1000:.0f} |",
                        flush=True,
                    )
        finally:
            gunicorn.send_signal(signal.SIGTERM)
            gunicorn.wait()
            server.release()


if __name__ == "__main__":
    main()
