"""How gunicorn serves wsgi:app; what the environment may say is in config.py."""

import functools
import re
import resource
import runpy
import signal
import time

from gunicorn.glogging import Logger
from gunicorn.http.errors import InvalidHeader

from config import ROOT, load

HOST = re.compile(r"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)

settings = load()
serving = ROOT / "projectapp" / "serving"
runpy.run_path(str(serving / "log_lines.py"))["log_everything"](
    settings.LOG_LEVEL, settings.LOG_FORMAT
)
host = f"[{settings.HOST}]" if ":" in settings.HOST else settings.HOST

bind = f"{host}:{settings.PORT}"
workers = settings.WEB_CONCURRENCY
worker_class = runpy.run_path(str(serving / "worker.py"))["Worker"]
# Half of what the process may open: a worker that could not accept would end.
worker_connections = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
threads = 2 * settings.THREADS  # half of them for what has no connection, or needs none
keepalive = 5
timeout = 30
graceful_timeout = settings.GRACEFUL_TIMEOUT - settings.DRAIN_SECONDS
limit_request_line = 8190  # gunicorn's most: a cursor beside a search and a long name
limit_request_fields = 50
limit_request_field_size = 8190
sendfile = False  # it would wait for the client
loglevel = settings.LOG_LEVEL
http_parser = "python"  # the worker's Request is made of it
raw_env = [f"SCRIPT_NAME={settings.SCRIPT_NAME}"]  # where gunicorn looks for it
# TRUSTED_PROXIES alone says who is believed. Not forwarded_allow_ips, which lets Unix sockets pass.
secure_scheme_headers = {}
forwarder_headers = ""
control_socket_disable = True  # there is one for a user: a second service would take the first's


class logger_class(Logger):
    """gunicorn's own lines go where all others go, unless --error-logfile names another place."""

    def setup(self, cfg):
        super().setup(cfg)
        if cfg.errorlog == "-":
            self.error_log.handlers.clear()
            self.error_log.propagate = True


def on_starting(server):
    """Start the database of development, so that it lives as long as the master."""
    on_reload(server)
    server.embedded = None  # here, since a reload runs this file again
    if settings.DATABASE_URL is None:
        from projectapp.embedded import EmbeddedError, Server

        try:
            server.embedded = Server(settings.DATABASE_HOME, settings.PG_BIN, settings.TESTING)
            server.embedded.start()
        except EmbeddedError as error:
            raise SystemExit(str(error)) from None


def on_reload(server):
    server.handle_term = functools.partial(drain, server)


def drain(server):
    """The master's SIGTERM: /ready says so first, and all is served until nobody sends any more.

    Not where another master has the port, too, before or after an upgrade: it goes on being served.
    """
    if server.reexec_pid == server.master_pid == 0:
        server.kill_workers(signal.SIGUSR2)
        end = time.monotonic() + settings.DRAIN_SECONDS
        while server.WORKERS and (left := end - time.monotonic()) > 0:
            told = server.wait_for_signals(left)
            if signal.SIGINT in told or signal.SIGQUIT in told:
                server.handle_quit()
            if signal.SIGTERM in told:
                break
            server.reap_workers()
    raise StopIteration


def post_fork(server, worker):
    worker.missed = server.SIG_QUEUE  # its copy, to which the master's handlers add until boot
    worker.log.error_log.addFilter(quote_nothing)


def quote_nothing(record):
    """Cut what gunicorn quotes of a broken request: a header without its colon may be a token."""
    record.msg = re.sub(r"(Invalid request from [^'\"]*).*", r"\1...", str(record.msg), flags=re.S)
    return True


def post_worker_init(worker):
    worker.log.info("Worker ready (pid: %s)", worker.pid)


def pre_request(worker, req):
    hosts = [value for name, value in req.headers if name == "HOST"]
    if (req.version >= (1, 1) and not hosts) or not all(map(HOST.fullmatch, hosts)):
        raise InvalidHeader("HOST", req=req)  # RFC 9112, 3.2: it MUST be refused
    prefix = settings.SCRIPT_NAME
    if prefix and not f"{req.path}/".startswith(f"{prefix}/"):
        req.path = prefix + req.path  # a proxy has removed it, or a probe knows nothing of it


def when_ready(server):
    where = server.embedded.home / "data" if server.embedded else "where DATABASE_URL says"
    server.log.info("projectapp: http://%s:%s  data: %s", host, settings.PORT, where)


def on_exit(server):
    if server.embedded:
        server.embedded.release()
