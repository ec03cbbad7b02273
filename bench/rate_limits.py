"""Measure what RATE_LIMIT costs a request, in interleaved rounds in process; see README.md."""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import flask_migrate  # noqa: E402 - the path comes first
from werkzeug.test import EnvironBuilder  # noqa: E402

import config  # noqa: E402
from projectapp import create_app  # noqa: E402
from projectapp.devdb import DevPostgres  # noqa: E402

ROUNDS, REQUESTS, COUNTS = 40, 100, 5000
RATE = "100000000/minute"
REDIS_URLS = sys.argv[1:]  # none or one


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder) / "postgres", None, temporary=True)
        server.start()
        user, host, port = (server.parameters[name] for name in ("user", "host", "port"))
        url = f"postgresql://{user}@/postgres?host={quote(host)}&port={port}"
        try:
            measure(url)
        finally:
            server.release()


def measure(url: str) -> None:
    def make_app(**environ: str):
        return create_app(
            config.Development({"DATABASE_URL": url, "LOG_LEVEL": "error", **environ})
        )

    apps = {"off": make_app(), "off again": make_app(), "this host": make_app(RATE_LIMIT=RATE)}
    if REDIS_URLS:
        apps["redis"] = make_app(RATE_LIMIT=RATE, RATE_LIMIT_REDIS_URL=REDIS_URLS[0])
    try:
        from flask_limiter import Limiter
        from flask_limiter.util import get_remote_address
    except ImportError:
        print("flask-limiter is not installed")
    else:
        for name in ("fixed-window", "moving-window", "sliding-window-counter"):
            apps[f"flask-limiter, {name}"] = app = make_app()
            Limiter(
                get_remote_address,
                app=app,
                default_limits=[RATE],
                strategy=name,
                headers_enabled=True,
                storage_uri="memory://",
            )
    with apps["off"].app_context():
        flask_migrate.upgrade()
    client = apps["off"].test_client()
    path = client.post("/api/v1/projects", json={"name": "x"}).headers["Location"]

    times: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(ROUNDS):
        for name, app in apps.items():
            times[name].append(request_microseconds(app, path))
    print("| limit | us a request | more | rate, compared with off (5..95 %) |\n|---|---|---|---|")
    for name, own_times in times.items():
        pairs = list(zip(own_times, times["off"], strict=True))
        more = statistics.median(own - off for own, off in pairs)
        ratios = [off / own for own, off in pairs]
        cuts = statistics.quantiles(ratios, n=20)
        print(
            f"| {name} | {statistics.median(own_times):.0f} | {more:+.0f}"
            f" | {statistics.median(ratios):.3f} ({cuts[0]:.2f}..{cuts[-1]:.2f}) |"
        )
    for name in apps:
        if "rate_limiter" in apps[name].extensions:
            store = apps[name].extensions["rate_limiter"].stores[0]
            caller = uuid4().bytes
            start = time.perf_counter()
            for _ in range(COUNTS):
                store.count(caller)
            print(f"{name}: {(time.perf_counter() - start) / COUNTS * 1e6:.1f} us a count")


def request_microseconds(app, path: str) -> float:
    """Return the microseconds of a request, as the mean of REQUESTS."""
    environ = EnvironBuilder(path, environ_base={"REMOTE_ADDR": "192.0.2.1"}).get_environ()
    start = time.perf_counter()
    for _ in range(REQUESTS):
        for _ in app(dict(environ), lambda status, headers, error=None: None):
            pass
    return (time.perf_counter() - start) / REQUESTS * 1e6


os.environ["FLASK_SKIP_DOTENV"] = "1"
if __name__ == "__main__":
    main()
