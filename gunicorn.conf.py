"""How gunicorn serves wsgi:app; what the environment may say is in config.py."""

import functools
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time

from gunicorn.glogging import Logger
from gunicorn.http.errors import InvalidHeader
from gunicorn.systemd import listen_fds

from config import ROOT, check_address, load_config

STOPS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
HOST = re.compile(r"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)

settings = load_config()
package = ROOT / "projectapp"
runpy.run_path(str(package / "http" / "log_lines.py"))["log_everything"](
    settings.LOG_LEVEL, settings.LOG_FORMAT
)
host = f"[{settings.HOST}]" if ":" in settings.HOST else settings.HOST

bind = f"{host}:{settings.PORT}"
workers = settings.WEB_CONCURRENCY
worker_class = runpy.run_path(str(package / "server" / "worker.py"))["Worker"]
# Half of what the process may open: a worker that could not accept would end.
worker_connections = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
threads = 2 * settings.DATABASE_POOL_SIZE  # half of them for what has no connection, or needs none
keepalive = 5
timeout = 30
graceful_timeout = settings.GRACEFUL_TIMEOUT - settings.DRAIN_TIMEOUT
limit_request_line = 8190  # gunicorn's most: a cursor beside a search and a long name
limit_request_fields = 50
limit_request_field_size = 8190
sendfile = False  # it would wait for the client
# What gunicorn says at a start is for the log of a service: a learner gets the lines below.
is_terse = settings.APP_ENV == "development" and settings.LOG_LEVEL == "info"
loglevel = "warning" if is_terse else settings.LOG_LEVEL
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
    inherits_sockets = server.master_pid or listen_fds(unset_environment=False)
    if uses_own_address(server) and not inherits_sockets:
        check_address(settings.HOST, settings.PORT)
    server.embedded = None  # here, since a reload runs this file again
    if settings.DATABASE_URL is None:
        from projectapp.devdb import DevPostgres, DevPostgresError

        try:
            server.embedded = DevPostgres(
                settings.EMBEDDED_POSTGRES_DIR, settings.EMBEDDED_POSTGRES_BIN, settings.TESTING
            )
            server.embedded.start()
        except DevPostgresError as error:
            raise SystemExit(str(error)) from None


def uses_own_address(server):
    """Whether HOST and PORT say where it listens, and no option of gunicorn does."""
    return server.cfg.bind == [bind] and not server.cfg.reuse_port


def on_reload(server):
    server.handle_term = functools.partial(drain, server)
    server.handle_hup = functools.partial(reload_safely, server)


def reload_safely(server):
    """Handle SIGHUP: replace the workers only if the new code and settings start elsewhere."""
    try:
        check_start(server)
        new = load_config()
        if uses_own_address(server) and new.PORT != settings.PORT:
            check_address(new.HOST, new.PORT)
        elif uses_own_address(server) and new.HOST != settings.HOST:
            raise SystemExit("a reload cannot change HOST; restart the service.")
        type(server).handle_hup(server)
    except SystemExit as error:
        if os.getpid() != server.pid:  # a new worker, which has ended
            raise
        server.app.cfg = server.cfg
        server.log.error("The reload is refused, and the old workers keep serving: %s", error)


def check_start(server):
    """Load the configuration and the application in a process of its own. Raises SystemExit.

    In the master a failure would end it, and in a new worker take the old ones with it. A signal to
    stop does not wait for this.
    """
    arguments = [*server.START_CTX["args"][2:], "--check-config"]
    signals = []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *arguments],
            cwd=server.START_CTX["cwd"],
            env=server.cfg.env_orig,  # without what gunicorn itself has set
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
        end = time.monotonic() + timeout
        while process.poll() is None and time.monotonic() < end and not STOPS & {*signals}:
            signals += server.wait_for_signals(0.1)
        for number in signals:
            server.SIG_QUEUE.put(number)
        if process.poll() is None:
            process.kill()
            process.wait()
            raise SystemExit(f"it took {timeout} seconds, or a signal to stop came.")
        output.seek(0)
        lines = [line for line in output.read().split("\n") if line.strip()]
    if process.returncode:
        raise SystemExit(lines[-1] if lines else "no reason given")


def drain(server):
    """The master's SIGTERM: /ready says so first, and all is served until nobody sends any more.

    Not where another master has the port, too, before or after an upgrade: it goes on being served.
    """
    if server.reexec_pid == server.master_pid == 0:
        server.kill_workers(signal.SIGUSR2)
        end = time.monotonic() + settings.DRAIN_TIMEOUT
        while server.WORKERS and (left := end - time.monotonic()) > 0:
            told = server.wait_for_signals(left)
            if signal.SIGINT in told or signal.SIGQUIT in told:
                server.handle_quit()
            if signal.SIGTERM in told:
                break
            server.reap_workers()
    raise StopIteration


def post_fork(server, worker):
    worker.early_signals = server.SIG_QUEUE  # its copy, to which the master's handlers add until boot
    worker.log.error_log.addFilter(quote_nothing)
    worker.load_wsgi = functools.partial(load_or_halt, server, worker)


def load_or_halt(server, worker):
    """Load the application; if the first worker cannot, none will: end the server."""
    try:
        type(worker).load_wsgi(worker)
    except SystemExit as error:
        if worker.age > 1:  # a second worker that exits with it ends gunicorn with a traceback
            raise
        worker.log.error(str(error))
        sys.exit(server.APP_LOAD_ERROR)


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
    url = ", ".join(map(str, server.LISTENERS)) or f"http://{bind}"
    url = re.sub(r"//(0\.0\.0\.0|\[::\])", "//localhost", url) + settings.SCRIPT_NAME
    if settings.APP_ENV != "development":
        server.log.info("projectapp: %s  data: %s", url, describe_data(server))
        return
    lines = [
        f"  API   {url}/api/v1/projects",
        f"  docs  {url}/docs" if settings.DOCS else None,
        f"  data  {describe_data(server)}",
        "  stop  Ctrl+C",
    ]
    print(*filter(None, lines), sep="\n", file=sys.stderr, flush=True)


def describe_data(server):
    if server.embedded:
        return server.embedded.home / "data"
    url = settings.DATABASE_URL
    return f"{url.get('dbname', '')} at {url.get('host', 'the local socket')}"


def on_exit(server):
    if server.embedded:
        server.embedded.release()
