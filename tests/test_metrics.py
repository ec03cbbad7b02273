"""GET /metrics: its format, who may read it, and what makes each number rise."""

import json
import os
import re
import subprocess
import sys
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest
from joserfc.jwk import OctKey

import config
from faults.pg_proxy import Proxy
from projectapp.metrics import definitions
from projectapp.metrics.recording import BUCKETS, all_metrics
from projectapp.server.request_framing import MAX_HEAD_BYTES
from tests.conftest import PROJECTS, parameters_of
from tests.issuer import AUDIENCE, bearer, sign
from tests.prometheus import Scrape, scrape, until_sample
from tests.test_export_server import INSERT, ROWS, begin_export
from tests.test_export_server import export as read_export
from tests.test_serving import children, until
from tests.test_streams import CHANGES, EventStream
from tests.test_worker import connect, exchange, statuses

KEY = {"Idempotency-Key": "a key"}
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
REQUESTS = "projectapp_http_request_duration_seconds_count"
# One worker with one database connection and two threads, and with room for one stream.
SETTINGS = {
    "METRICS": "open",
    "WEB_CONCURRENCY": "1",
    "DATABASE_POOL_SIZE": "1",
    "STREAMS": "1",
    "DATABASE_LOCK_TIMEOUT": "90",
    "DATABASE_STATEMENT_TIMEOUT": "100",
    "DATABASE_POOL_TIMEOUT": "110",
    "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "110",
    "REQUEST_TIMEOUT": "120",
    "GRACEFUL_TIMEOUT": "150",
    "QUEUE_TIMEOUT": "100",
}


@pytest.fixture(scope="module")
def proxy(database_url):
    proxy = Proxy(parameters_of(database_url))
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def server(serve, proxy):
    with serve(**SETTINGS, DATABASE_URL=proxy.url) as running:
        yield running


def folder_of(server):
    """Return the folder of a server. An ended service may have left another one for the port."""
    folders = SHARED_MEMORY.glob(f"projectapp-metrics-{os.geteuid()}-{server.port}-*")
    return max(folders, key=lambda folder: folder.stat().st_mtime)


# The format.


def test_output_is_prometheus_text_with_all_metrics_and_conventional_names(server, sql):
    server.request("POST", PROJECTS, {"name": "x"})
    with connect(server) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in head
    assert b"\r\nCache-Control: no-store" in head
    families = Scrape(body.decode()).families
    names = {name.removesuffix("_total") for name in all_metrics}
    assert families.keys() == names | {"projectapp_info"}
    for name, metric in all_metrics.items():
        family = families[name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert re.fullmatch("projectapp_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (metric.kind == "counter")
        assert metric.kind != "histogram" or name.endswith("_seconds")
        assert re.fullmatch(r"[A-Z].*\.", metric.help)
        assert not {"le", "quantile", "job", "instance"} & metric.labels.keys()


def test_buckets_of_a_histogram_are_cumulative_and_end_with_the_count(server, sql):
    for _ in range(20):
        server.request("GET", PROJECTS)
    family = scrape(server).families["projectapp_database_statement_duration_seconds"]
    reads = [s for s in family.samples if s.labels.get("kind") == "read"]
    counts = [s.value for s in reads if s.name.endswith("_bucket")]
    bounds = [s.labels["le"] for s in reads if s.name.endswith("_bucket")]
    assert [float(bound) for bound in bounds] == [*BUCKETS, float("inf")]
    assert counts == sorted(counts)
    [count], [total] = (
        [s.value for s in reads if s.name.endswith(end)] for end in ("_count", "_sum")
    )
    assert counts[-1] == count >= 20
    assert 0 < total < 100 * count


def test_numbers_with_known_labels_begin_with_zero(serve, sql):
    with serve(METRICS="open") as server:
        text = scrape(server).text
    assert 'projectapp_requests_refused_total{reason="queue_timeout"} 0.0\n' in text
    assert "projectapp_idempotent_replays_total 0.0\n" in text


# Who may read it.


def test_metrics_open_needs_no_token_and_metrics_on_needs_its_scope(make_app, auth_headers):
    by_mode = {mode: make_app(AUTH="tokens", METRICS=mode).test_client() for mode in ("open", "on")}
    assert by_mode["open"].get("/metrics").status_code == 200
    assert by_mode["on"].get("/metrics").status_code == 401
    for scopes, status in (
        ("metrics:read", 200),
        ("projects:read,projects:write", 403),
        ("projects:all", 403),
    ):
        response = by_mode["on"].get("/metrics", headers=auth_headers(scopes=scopes))
        assert response.status_code == status, scopes


def test_metrics_off_gets_404_and_has_no_link_no_documentation_and_no_file(serve):
    with serve(METRICS="off") as server:
        assert server.request("GET", "/metrics")[0] == 404
        assert "metrics" not in server.request("GET", "/")[2]["links"]
        assert "/metrics" not in server.request("GET", "/openapi.json")[2]["paths"]
        assert not [*SHARED_MEMORY.glob(f"projectapp-metrics-*-{server.port}-*")]


def test_jwt_without_a_scope_claim_cannot_read_metrics(make_app, sql):
    secret = "s" * 32
    app = make_app(
        AUTH="jwt", JWT_ISSUER="https://i.example", JWT_AUDIENCE=AUDIENCE, JWT_SECRET=secret
    )
    claims = {"iss": "https://i.example", "aud": AUDIENCE, "sub": "ann", "exp": 2**32}
    for more, metrics_status, projects_status in (
        ({}, 403, 200),
        ({"scope": "metrics:read"}, 200, 403),
    ):
        key = OctKey.import_key(secret)
        headers = bearer(sign({"alg": "HS256"}, {**claims, **more}, key))
        assert app.test_client().get("/metrics", headers=headers).status_code == metrics_status
        assert app.test_client().get(PROJECTS, headers=headers).status_code == projects_status


# Labels.


def test_unknown_paths_and_methods_have_one_label_value(server, sql):
    before = scrape(server)
    for number in range(30):
        server.request("GET", f"/nothing/{uuid.uuid4()}")
        server.request("GET", f"{PROJECTS}/{uuid.uuid4()}")
        exchange(
            server, f"BREW{number} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
    after = scrape(server)
    for labels in (
        {"method": "GET", "route": "(unknown route)", "status": "404"},
        {"method": "GET", "route": f"{PROJECTS}/<uuid:project_id>", "status": "404"},
        {"method": "other"},
    ):
        assert after.sum(REQUESTS, **labels) - before.sum(REQUESTS, **labels) == 30
    assert len(after.samples) - len(before.samples) <= 3 * (len(BUCKETS) + 3)


def test_requests_of_all_workers_are_counted_by_method_route_and_status(serve, sql):
    with serve(METRICS="open", WEB_CONCURRENCY="3") as server:
        until_sample(server, lambda value: value == 3, "projectapp_workers")
        for number in range(90):
            server.request("POST", PROJECTS, {"name": str(number)} if number % 3 else {})
        result = scrape(server)
        values = [
            (s.labels["status"], s.value)
            for s in result.samples
            if s.name == REQUESTS and s.labels["method"] == "POST"
        ]
        files = len([*folder_of(server).iterdir()])
    assert sorted(values) == [("201", 60), ("400", 30)]
    assert files == 3


# What makes each number rise.


class Rise:
    """Measures how much a number has risen since the start of the test."""

    def __init__(self, server):
        self.server, self.start = server, scrape(server)

    def __call__(self, name, **labels):
        return scrape(self.server).sum(name, **labels) - self.start.sum(name, **labels)


@pytest.fixture
def rise(server, sql):
    return Rise(server)


COVERED = set()  # the metrics that the tests below name


def covers(*metrics):
    COVERED.update(metric.name for metric in metrics)
    return lambda test: test


def test_each_metric_has_a_test_that_makes_it_rise():
    assert all_metrics.keys() == COVERED


@covers(
    definitions.REQUEST_DURATION,
    definitions.THREAD_WAIT,
    definitions.STATEMENT_DURATION,
    definitions.CPU_SECONDS,
)
def test_a_create_is_one_request_and_one_write(server, rise):
    server.request("POST", PROJECTS, {"name": "x"})
    labels = {"method": "POST", "route": PROJECTS, "status": "201"}
    assert rise(REQUESTS, **labels) == 1
    assert rise("projectapp_database_statement_duration_seconds_count", kind="write") == 1
    assert rise("projectapp_database_statement_duration_seconds_count", kind="read") == 0
    assert rise("projectapp_thread_wait_seconds_count") >= 1
    until(lambda: rise("projectapp_cpu_seconds_total") > 0)


@covers(definitions.IDEMPOTENT_REPLAYS)
def test_a_repeated_key_is_a_replay(server, rise):
    for expected in (0, 1, 2):
        server.request("POST", PROJECTS, {"name": "x"}, **KEY)
        assert rise("projectapp_idempotent_replays_total") == expected


@covers(
    definitions.DATABASE_CONNECTIONS,
    definitions.DATABASE_CONNECTIONS_MAX,
    definitions.DATABASE_WAITING,
    definitions.DATABASE_WAIT,
    definitions.THREADS,
    definitions.QUEUED_REQUESTS,
)
def test_requests_that_wait_for_a_lock_keep_the_connection_and_the_threads(server, sql, rise):
    server.request("GET", PROJECTS)
    until_sample(server, lambda n: n == 1, "projectapp_database_connections", state="idle")
    sql("BEGIN; LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
    threads = [threading.Thread(target=server.request, args=("GET", PROJECTS)) for _ in range(4)]
    for thread in threads:
        thread.start()
    # All threads wait, and /metrics is answered.
    until_sample(server, lambda n: n == 1, "projectapp_database_connections", state="in_use")
    until_sample(server, lambda n: n == 1, "projectapp_database_waiting_threads")
    until_sample(server, lambda n: n == 2, "projectapp_threads", state="busy")
    until_sample(server, lambda n: n == 2, "projectapp_queued_requests")
    until_sample(server, lambda n: n == 1, "projectapp_database_connections_max")
    assert rise("projectapp_database_connection_wait_seconds_count") == 0
    sql("COMMIT")
    for thread in threads:
        thread.join()
    assert rise("projectapp_database_connection_wait_seconds_count") >= 1
    assert rise("projectapp_database_connection_wait_seconds_sum") > 0.5
    assert rise("projectapp_thread_wait_seconds_sum") > 0.5
    until_sample(server, lambda n: n == 0, "projectapp_database_connections", state="in_use")
    until_sample(server, lambda n: n == 0, "projectapp_queued_requests")


@covers(definitions.STREAMS, definitions.STREAMS_MAX, definitions.FEED_LAG)
def test_a_stream_is_counted_and_lags_while_the_database_is_silent(server, proxy, rise):
    until_sample(server, lambda n: n == 1, "projectapp_streams_max")
    with EventStream(server):
        until_sample(server, lambda n: n == 1, "projectapp_streams", kind="event_stream")
        with EventStream(server) as refused:
            assert refused.status == 503
        assert rise("projectapp_requests_refused_total", reason="streams_full") == 1
        proxy.is_silent = True
        until_sample(server, lambda seconds: seconds > 2, "projectapp_feed_lag_seconds")
        proxy.is_silent = False
        until_sample(server, lambda seconds: 0 <= seconds < 1, "projectapp_feed_lag_seconds")
    until_sample(server, lambda n: n == 0, "projectapp_streams")
    until_sample(server, lambda seconds: seconds == 0, "projectapp_feed_lag_seconds")


def test_a_long_poll_is_counted_while_it_waits_and_is_one_request(server, rise):
    cursor = server.request("GET", CHANGES)[2]["next_cursor"]
    arguments = ("GET", f"{CHANGES}?since={cursor}&wait=30")
    thread = threading.Thread(target=server.request, args=arguments)
    thread.start()
    until_sample(server, lambda n: n == 1, "projectapp_streams", kind="long_poll")
    server.request("POST", PROJECTS, {"name": "x"})
    thread.join()
    assert rise(REQUESTS, route=CHANGES, status="200") == 2  # the first one got the cursor
    assert rise("projectapp_http_request_duration_seconds_bucket", route=CHANGES, le="5.0") == 2


@covers(definitions.DOWNLOADS)
def test_exports_end_complete_or_aborted(server, sql, rise):
    sql(INSERT, ROWS)
    assert read_export(server).count(b"\n") == ROWS
    until(lambda: rise("projectapp_downloads_total", result="complete") == 1)
    with ExitStack() as stack:
        begin_export(stack, server)
        until_sample(server, lambda n: n == 1, "projectapp_streams", kind="download")
        with connect(server) as connection:
            connection.sendall(f"GET {PROJECTS}/export HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert statuses(connection.recv(1000)[:20]) == [503]
        assert rise("projectapp_requests_refused_total", reason="downloads_full") == 1
    until(lambda: rise("projectapp_downloads_total", result="aborted") == 1)
    assert rise("projectapp_downloads_total") == 2


@covers(definitions.STATEMENTS_RETRIED, definitions.LOST_ANSWERS)
def test_lost_answers_are_resolved_or_unknown_and_reads_are_retried(server, proxy, sql, rise):
    path = server.request("POST", PROJECTS, {"name": "x"})[1]["location"]
    proxy.lose.append("FROM projects")
    assert server.request("GET", path)[0] == 200
    assert rise("projectapp_statements_retried_total") == 1
    assert rise("projectapp_lost_answers_total") == 0
    proxy.lose.append("INSERT")
    assert server.request("POST", PROJECTS, {"name": "y"})[0] == 201
    assert rise("projectapp_lost_answers_total", outcome="resolved") == 1
    proxy.lose.append("UPDATE projects SET")
    proxy.before_reset = lambda: sql("DELETE FROM projects")
    assert server.request("PUT", path, {"name": "z"})[0] == 503
    proxy.before_reset = lambda: None
    assert rise("projectapp_lost_answers_total", outcome="unknown") == 1
    assert rise("projectapp_requests_refused_total", reason="outcome_unknown") == 1
    assert rise("projectapp_lost_answers_total") == 2


@covers(definitions.IMPORTED_ROWS)
def test_rows_of_the_import_command_are_counted_by_the_service(
    server, database_url, tmp_path, rise
):
    file = tmp_path / "projects.ndjson"
    file.write_text("".join(json.dumps({"name": n} if n else {}) + "\n" for n in ("a", "", "b")))
    settings = {"APP_ENV": "testing", "DATABASE_URL": database_url, "PORT": str(server.port)}
    subprocess.run(
        [sys.executable, "-m", "flask", "projects", "import", file],
        cwd=config.ROOT,
        env={**os.environ, **settings, "METRICS": "open"},
        check=False,  # 1 item is rejected
        capture_output=True,
    )
    values = {"resource": "projects"}
    assert rise("projectapp_imported_rows_total", **values, result="created") == 2
    assert rise("projectapp_imported_rows_total", **values, result="rejected") == 1
    assert rise("projectapp_database_statement_duration_seconds_count") == 0  # only of requests


@covers(definitions.WORKERS, definitions.WORKER_STARTS)
def test_a_killed_worker_is_replaced_and_counted(server, rise):
    until_sample(server, lambda n: n == 1, "projectapp_workers")
    [worker] = children(server.process.pid)
    os.kill(worker, 9)
    until(lambda: children(server.process.pid) not in ([], [worker]))
    server.wait_until_serving()
    assert rise("projectapp_worker_starts_total") == 1
    until_sample(server, lambda n: n == 1, "projectapp_workers")


@covers(definitions.RATE_LIMITED, definitions.TOKENS_REFUSED)
def test_refused_tokens_and_callers_above_the_limit_are_counted(serve, auth_headers):
    headers = auth_headers(scopes="projects:read")
    with serve(METRICS="open", AUTH="tokens", RATE_LIMIT="3/day") as server:
        for _ in range(3):
            assert server.request("GET", PROJECTS, Authorization="Bearer a,b")[0] == 400
        assert server.request("GET", PROJECTS)[0] == 429
        assert server.request("POST", PROJECTS, {"name": "x"}, **headers)[0] == 403
        for status in (200, 200, 429, 429):
            assert server.request("GET", PROJECTS, **headers)[0] == status
        result = scrape(server)
    assert result.sum("projectapp_tokens_refused_total", reason="malformed_header") == 3
    assert result.sum("projectapp_tokens_refused_total", reason="insufficient_scope") == 1
    assert result.sum("projectapp_tokens_refused_total") == 4
    assert result.sum("projectapp_rate_limited_total", kind="failed_authentications") == 1
    assert result.sum("projectapp_rate_limited_total", kind="requests") == 2


@covers(definitions.REQUESTS_REFUSED)
def test_requests_that_do_not_reach_the_application_are_counted_by_reason(server, rise):
    exchange(server, b"GET /health HTTP/1.1\r\nHost: x\r\nX: ", b"x" * (MAX_HEAD_BYTES + 1))
    exchange(server, b"GET /health HTTP/1.1\r\n\r\n")  # without a Host
    assert rise("projectapp_requests_refused_total", reason="head_too_large") == 1
    assert rise("projectapp_requests_refused_total", reason="invalid_request") == 1
    assert rise("projectapp_requests_refused_total") == 2


def test_late_requests_and_full_queues_are_counted_by_reason(serve, sql):
    settings = {**SETTINGS, "READ_TIMEOUT": "1", "QUEUE_TIMEOUT": "1", "DATABASE_LOCK_TIMEOUT": "5"}
    with serve(**settings) as server:
        assert statuses(exchange(server, b"GET /health HTTP/1.1\r\n", pause=2)) == [408]
        sql("BEGIN; LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
        threads = [threading.Thread(target=server.request, args=("GET", PROJECTS)) for _ in "1234"]
        for thread in threads:
            thread.start()
        name = "projectapp_requests_refused_total"
        until_sample(server, lambda n: n == 2, name, reason="queue_timeout")
        until_sample(server, lambda n: n >= 1, name, reason="lock_timeout")
        sql("COMMIT")
        for thread in threads:
            thread.join()
        assert scrape(server).sum(name, reason="read_timeout") == 1


def test_a_503_of_the_database_is_counted_by_reason(serve, database_url, sql):
    proxy = Proxy(parameters_of(database_url))
    settings = {"DATABASE_STATEMENT_TIMEOUT": "2", "METRICS": "open", "DATABASE_POOL_SIZE": "1"}
    with serve(**settings, WEB_CONCURRENCY="1", DATABASE_URL=proxy.url) as server:
        name = "projectapp_requests_refused_total"
        assert server.request("GET", PROJECTS)[0] == 200
        sql("ALTER TABLE projects RENAME TO hidden_projects")
        assert server.request("GET", PROJECTS)[0] == 503
        sql("ALTER TABLE hidden_projects RENAME TO projects")
        assert scrape(server).sum(name, reason="not_ready") == 1
        proxy.refuses = True
        proxy.cut()
        assert server.request("GET", PROJECTS)[0] == 503
        assert scrape(server).sum(name, reason="database_unreachable") == 1
        assert server.request("GET", "/ready")[0] == 503
        assert scrape(server).sum(name) == 3
    proxy.close()
