"""Measure what METRICS costs a request: the service with it and without it, in interleaved rounds.

It prints the processor time of the worker for a request, and the requests a second. The budget is
15 us, and 0.97 of the rate. The two services run at the same time, but only one gets requests.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psycopg2  # noqa: E402 - the path comes first

from bench.cpu import cpu_seconds  # noqa: E402
from bench.workers import FILL, PORT, migrate, request_rate, start_gunicorn, stop  # noqa: E402
from projectapp.devdb import DevPostgres  # noqa: E402

ROUNDS, SECONDS = 20, 2
# The second "off" shows the noise.
MODES = {"on": "on", "off": "off", "off again": "off"}


def measure(pid: int, url: str) -> tuple[float, float]:
    """Return the microseconds of processor time of a request, and the requests a second."""
    before, started = cpu_seconds(pid), time.monotonic()
    rate = request_rate(url, seconds=SECONDS)
    requests = rate * (time.monotonic() - started)
    return (cpu_seconds(pid) - before) / requests * 1e6, rate


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        environ = migrate(server, WEB_CONCURRENCY="1", LOG_LEVEL="info")
        connection = psycopg2.connect(**server.parameters)
        with connection, connection.cursor() as cursor:
            cursor.execute(FILL)
            cursor.execute("SELECT id FROM projects LIMIT 1")
            [project_id] = cursor.fetchone()
        connection.close()
        services: dict[str, tuple[subprocess.Popen[bytes], str]] = {}
        for number, (name, mode) in enumerate(MODES.items()):
            port = str(PORT + number)
            process = start_gunicorn({**environ, "METRICS": mode, "PORT": port})
            url = f"http://127.0.0.1:{port}/api/v1/projects/{project_id}"
            services[name] = process, url
            request_rate(url, seconds=1)
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in MODES}
        for number in range(ROUNDS):
            names = [*services] if number % 2 else [*reversed(services)]
            for name in names:
                process, url = services[name]
                results[name].append(measure(process.pid, url))
        for process, _ in services.values():
            stop(process)
        server.release()
    print("| METRICS | CPU us a request | more | requests a second | rate (5..95 %) |")
    print("|---|---|---|---|---|")
    for name, pairs in results.items():
        more = statistics.median(a[0] - b[0] for a, b in zip(pairs, results["off"], strict=True))
        ratios = [a[1] / b[1] for a, b in zip(pairs, results["off"], strict=True)]
        cuts = statistics.quantiles(ratios, n=20)
        cpu, rate = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(
            f"| {name} | {cpu:.0f} | {more:+.1f} | {rate:.0f}"
            f" | {statistics.median(ratios):.3f} ({cuts[0]:.2f}..{cuts[-1]:.2f}) |"
        )


if __name__ == "__main__":
    main()
