"""What does RATE_LIMIT cost a request? Interleaved rounds in process; see README.md."""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder: a library is called limits, too

import flask_migrate  # noqa: E402 - the path comes first
from werkzeug.test import EnvironBuilder  # noqa: E402

import config  # noqa: E402
from projectapp import create_app  # noqa: E402
from projectapp.devdb import DevPostgres  # noqa: E402

ROUNDS, REQUESTS, COUNT_MODES = 40, 100, 5000
RATE = "100000000/minute"
REDIS = sys.argv[1:]  # its URL, if that is to be measured


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder) / "postgres", None, temporary=True)
        server.start()
        here = server.parameters
        url = (
            f"postgresql://{here['user']}@/postgres?host={quote(here['host'])}&port={here['port']}"
        )
        try:
            measure(url)
        finally:
            server.release()


def measure(url: str) -> None:
    def make(**environ: str):
        return create_app(
            config.Development({"DATABASE_URL": url, "LOG_LEVEL": "error", **environ})
        )

    apps = {"off": make(), "off again": make(), "this host": make(RATE_LIMIT=RATE)}
    if REDIS:
        apps["redis"] = make(RATE_LIMIT=RATE, RATE_LIMIT_REDIS_URL=REDIS[0])
    try:
        from flask_limiter import Limiter
        from flask_limiter.util import get_remote_address
    except ImportError:
        print("flask-limiter is not installed")
    else:
        for name in ("fixed-window", "moving-window", "sliding-window-counter"):
            apps[f"flask-limiter, {name}"] = app = make()
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

    taken: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(ROUNDS):
        for name, app in apps.items():
            taken[name].append(microseconds(app, path))
    print("| limit | us a request | more | rate to off (5..95 %) |\n|---|---|---|---|")
    for name, found in taken.items():
        more = statistics.median(one - off for one, off in zip(found, taken["off"], strict=True))
        ratios = [off / one for one, off in zip(found, taken["off"], strict=True)]
        cuts = statistics.quantiles(ratios, n=20)
        print(
            f"| {name} | {statistics.median(found):.0f} | {more:+.0f}"
            f" | {statistics.median(ratios):.3f} ({cuts[0]:.2f}..{cuts[-1]:.2f}) |"
        )
    for name in apps:
        if "rate_limiter" in apps[name].extensions:
            store = apps[name].extensions["rate_limiter"].stores[0]
            caller = uuid4().bytes
            started = time.perf_counter()
            for _ in range(COUNT_MODES):
                store.count(caller)
            print(f"{name}: {(time.perf_counter() - started) / COUNT_MODES * 1e6:.1f} us a count")


def microseconds(app, path: str) -> float:
    """What one of REQUESTS takes."""
    environ = EnvironBuilder(path, environ_base={"REMOTE_ADDR": "192.0.2.1"}).get_environ()
    started = time.perf_counter()
    for _ in range(REQUESTS):
        for _ in app(dict(environ), lambda status, headers, error=None: None):
            pass
    return (time.perf_counter() - started) / REQUESTS * 1e6


os.environ["FLASK_SKIP_DOTENV"] = "1"
if __name__ == "__main__":
    main()
