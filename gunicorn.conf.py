"""How gunicorn serves wsgi:app; what the environment may say is in config.py."""

import signal

import gunicorn.util

from config import load

settings = load()
host = f"[{settings.HOST}]" if ":" in settings.HOST else settings.HOST

bind = f"{host}:{settings.PORT}"
workers = settings.WEB_CONCURRENCY
worker_class = "gthread"
threads = settings.THREADS
keepalive = 5
timeout = 30
graceful_timeout = settings.GRACEFUL_TIMEOUT
limit_request_line = 8190  # gunicorn's most: a cursor beside a search and a long name
limit_request_fields = 50
limit_request_field_size = 8190
loglevel = settings.LOG_LEVEL
control_socket_disable = True  # there is one for a user: a second service would take the first's


def on_starting(server):
    """Start the database of development, so that it lives as long as the master."""
    server.embedded = None  # here, since a reload runs this file again
    if settings.DATABASE_URL is None:
        from projectapp.embedded import EmbeddedError, Server

        try:
            server.embedded = Server(settings.DATABASE_HOME, settings.PG_BIN, settings.TESTING)
            server.embedded.start()
        except EmbeddedError as error:
            raise SystemExit(str(error)) from None


def post_worker_init(worker):
    # A Ctrl-C reaches the whole process group. The master passes it on; a worker that gets both
    # can deadlock in its thread pool, and then it is killed only after graceful_timeout.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def when_ready(server):
    where = server.embedded.home / "data" if server.embedded else "where DATABASE_URL says"
    server.log.info("projectapp: http://%s:%s  data: %s", host, settings.PORT, where)


def on_exit(server):
    if server.embedded:
        server.embedded.release()


DETAILS = {
    414: f"The request line is longer than {limit_request_line} bytes.",
    417: "This expectation cannot be met.",
    431: f"A header is longer than {limit_request_field_size} bytes, or there are too many.",
    500: "Something went wrong here. The request_id finds it in the log.",
    501: "This transfer coding is not known.",
}


def write_problem(sock, status, reason, message):
    """Answer what never reaches the application, such as a broken request line."""
    # Imported in the worker: what the master imports, a reload would not renew.
    from projectapp import errors, logs

    request_id = logs.refused(status)
    detail = DETAILS.get(status, "The request is not well-formed HTTP.")
    body = errors.document(status, detail, request_id=request_id).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nX-Request-ID: {request_id}\r\n"
        f"Content-Type: {errors.CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    gunicorn.util.write_nonblock(sock, head.encode() + body)


gunicorn.util.write_error = write_problem  # gunicorn has no setting for it
