"""Every metric of the service. docs/monitoring.md explains the most important ones.

The names follow https://prometheus.io/docs/practices/naming/.
"""

import time

from projectapp.metrics.recording import Counter, Gauge, Histogram, sample_regularly

# Requests.

REQUEST_DURATION = Histogram(
    "projectapp_http_request_duration_seconds",
    "Requests that the application answered, and their time from the last byte of the request to"
    " the response. It includes the wait for a thread, but not the wait of a long poll.",
    {
        "method": ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"),
        "route": None,
        "status": None,
    },
)
THREAD_WAIT = Histogram(
    "projectapp_thread_wait_seconds",
    "How long requests waited for a thread.",
)
QUEUED_REQUESTS = Gauge(
    "projectapp_queued_requests",
    "Requests that wait for a thread now.",
)
THREADS = Gauge(
    "projectapp_threads",
    "Threads that run requests.",
    {"state": ("busy", "idle")},
)
# The reasons of ServiceUnavailable, and those of the server.
REQUESTS_REFUSED = Counter(
    "projectapp_requests_refused_total",
    "Requests that the service did not serve. Those with the reasons queue_timeout, read_timeout,"
    " head_too_large and invalid_request did not reach the application.",
    {
        "reason": (
            *("queue_timeout", "read_timeout", "head_too_large", "invalid_request"),
            *("pool_timeout", "request_timeout", "statement_timeout", "lock_timeout"),
            *("database_unreachable", "database_overloaded", "database_refused"),
            *("outcome_unknown", "streams_full", "downloads_full", "keys_unreachable"),
            *("not_ready", "other"),
        )
    },
)
RATE_LIMITED = Counter(
    "projectapp_rate_limited_total",
    "Requests and failed authentications above RATE_LIMIT.",
    {"kind": ("requests", "failed_authentications")},
)
TOKENS_REFUSED = Counter(
    "projectapp_tokens_refused_total",
    "Requests without a valid token, or with a token that lacks the needed scope.",
    {
        "reason": (
            *("no_credentials", "malformed_header", "unknown_expired_or_revoked_token"),
            *("wrong_checksum", "expired", "unknown_key", "wrong_issuer", "wrong_audience"),
            *("insufficient_scope", "other"),
        )
    },
)
IDEMPOTENT_REPLAYS = Counter(
    "projectapp_idempotent_replays_total",
    "Requests that got the response to an earlier request with the same Idempotency-Key.",
)

# The database.

DATABASE_CONNECTIONS = Gauge(
    "projectapp_database_connections",
    "Open database connections.",
    {"state": ("in_use", "idle")},
)
DATABASE_CONNECTIONS_MAX = Gauge(
    "projectapp_database_connections_max",
    "How many database connections the processes may open together.",
)
DATABASE_WAITING = Gauge(
    "projectapp_database_waiting_threads",
    "Threads that wait for a database connection now.",
)
DATABASE_WAIT = Histogram(
    "projectapp_database_connection_wait_seconds",
    "How long statements waited for a database connection, if none was free.",
)
STATEMENT_DURATION = Histogram(
    "projectapp_database_statement_duration_seconds",
    "The time of the statements of requests, from sending a statement to its result.",
    {"kind": ("read", "write")},
)
STATEMENTS_RETRIED = Counter(
    "projectapp_statements_retried_total",
    "Statements that were executed a second time, after a failed connect or a deadlock, or because"
    " the answer to a read was lost.",
)
LOST_ANSWERS = Counter(
    "projectapp_lost_answers_total",
    "Writes whose answer from the database was lost: the service found out what had happened"
    " (resolved) or could not (unknown).",
    {"outcome": ("resolved", "unknown")},
)

# Streams, downloads and imports.

STREAMS = Gauge(
    "projectapp_streams",
    "Connections that are open without a thread.",
    {"kind": ("event_stream", "long_poll", "download")},
)
STREAMS_MAX = Gauge(
    "projectapp_streams_max",
    "How many connections the workers may keep open without a thread.",
)
FEED_LAG = Gauge(
    "projectapp_feed_lag_seconds",
    "How long ago the event streams last had all changes; 0 without streams. The maximum of the"
    " processes.",
    combine=max,
)
DOWNLOADS = Counter(
    "projectapp_downloads_total",
    "Exports in several parts that have ended, complete or not.",
    {"result": ("complete", "aborted")},
)
IMPORTED_ROWS = Counter(
    "projectapp_imported_rows_total",
    "Items of files that the import command processed.",
    {"resource": None, "result": ("created", "rejected")},
)

# Processes.

WORKERS = Gauge(
    "projectapp_workers",
    "Worker processes that run.",
)
WORKER_STARTS = Counter(
    "projectapp_worker_starts_total",
    "Worker processes that started.",
)
CPU_SECONDS = Counter(
    "projectapp_cpu_seconds_total",
    "Processor time of the processes that serve and import. One worker can use about one core.",
)
_counted_cpu_seconds = 0.0


def _count_cpu_time() -> None:
    global _counted_cpu_seconds
    seconds = time.process_time()
    # A forked process counts its time from 0.
    CPU_SECONDS.increase(by=seconds - min(_counted_cpu_seconds, seconds))
    _counted_cpu_seconds = seconds


sample_regularly("the processor", _count_cpu_time)
