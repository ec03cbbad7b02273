"""gunicorn's settings and hooks for wsgi:app. Environment variables are read in config.py."""

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
from gunicorn.systemd import listen_fds

# A reload runs this file again, and needs the new code of these modules.
for module in [*sys.modules]:
    if module.partition(".")[0] in ("config", "settings"):
        del sys.modules[module]
from config import ROOT, check_address, load_config  # noqa: E402

settings = load_config()


def load_object(path, name):
    """Run a file in projectapp/ and return an object of it.

    An import would return the old code after a reload, because Python imports a module only once.
    """
    return runpy.run_path(str(ROOT / "projectapp" / path))[name]


# The log.


class logger_class(Logger):
    """gunicorn's log. It goes where all other lines go, unless --error-logfile names a file."""

    def setup(self, cfg):
        super().setup(cfg)
        if cfg.errorlog == "-":
            self.error_log.handlers.clear()
            self.error_log.propagate = True


load_object("http/log_lines.py", "configure_logging")(settings.LOG_LEVEL, settings.LOG_FORMAT)
# In development `when_ready` prints what a person needs, so gunicorn's own lines are left out.
is_terse = settings.APP_ENV == "development" and settings.LOG_LEVEL == "info"
loglevel = "warning" if is_terse else settings.LOG_LEVEL

# The address.

host = f"[{settings.HOST}]" if ":" in settings.HOST else settings.HOST
bind = f"{host}:{settings.PORT}"
raw_env = [f"SCRIPT_NAME={settings.SCRIPT_NAME}"]  # gunicorn takes it from the environment
control_socket_disable = True  # two services of one user would use the same socket

# Processes, threads and connections.

worker_class = load_object("server/worker.py", "Worker")
workers = settings.WEB_CONCURRENCY
threads = 2 * settings.DATABASE_POOL_SIZE  # so some are free while others wait for the database
# As many for requests as for streams, and at least 1000. Not more than half of the file descriptor
# limit: a worker that cannot accept() exits.
worker_connections = min(
    settings.STREAMS + max(1000, settings.STREAMS),
    resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2,
)

# Timeouts in seconds.

keepalive = 5
timeout = 30
graceful_timeout = settings.GRACEFUL_TIMEOUT - settings.DRAIN_TIMEOUT

# Requests and responses.

http_parser = "python"  # the worker's GunicornRequest needs it
limit_request_line = 8190  # gunicorn's maximum; room for a cursor, a search and a filter
limit_request_fields = 50
limit_request_field_size = 8190
sendfile = False  # sendfile blocks the thread until the client has read
# The application evaluates forwarded headers, by TRUSTED_PROXIES. gunicorn must not: its
# forwarded_allow_ips trusts each Unix socket.
secure_scheme_headers = {}
forwarder_headers = ""

# Hooks of the master: start, reload, stop.

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


def on_starting(server):
    """Check the address. Start the development database, which stops with the master."""
    on_reload(server)
    inherits_sockets = server.master_pid or listen_fds(unset_environment=False)
    if uses_own_address(server) and not inherits_sockets:
        check_address(settings.HOST, settings.PORT)
    server.dev_postgres = None  # here, because a reload resets the globals of this file
    if settings.DATABASE_URL is None:
        server.dev_postgres = start_dev_postgres()


def start_dev_postgres():
    """Start the development database. Raises SystemExit.

    The import loads all of projectapp into the master. Its modules are removed again from
    `sys.modules`, so that the workers after a reload import the new code.
    """
    modules_before = {*sys.modules}
    from projectapp.devdb import DevPostgres, DevPostgresError

    for name in {*sys.modules} - modules_before:
        if name.partition(".")[0] == "projectapp":
            del sys.modules[name]
    try:
        postgres = DevPostgres(
            settings.EMBEDDED_POSTGRES_DIR, settings.EMBEDDED_POSTGRES_BIN, settings.TESTING
        )
        postgres.start()
    except DevPostgresError as error:
        raise SystemExit(str(error)) from None
    return postgres


def uses_own_address(server):
    """Whether the server listens at HOST and PORT, and no gunicorn option changes that."""
    return server.cfg.bind == [bind] and not server.cfg.reuse_port


def when_ready(server):
    """Show where the API and its data are: to a person in development, else in the log."""
    url = ", ".join(map(str, server.LISTENERS)) or f"http://{bind}"
    url = re.sub(r"//(0\.0\.0\.0|\[::\])", "//localhost", url) + settings.SCRIPT_NAME
    if settings.APP_ENV != "development":
        server.log.info("projectapp: %s  data: %s", url, describe_data(server))
        return
    lines = [
        f"  API      {url}/api/v1/projects",
        f"  console  {url}/console" if settings.CONSOLE else None,
        f"  docs     {url}/docs" if settings.DOCS else None,
        f"  data     {describe_data(server)}",
        "  stop     Ctrl+C",
    ]
    print(*filter(None, lines), sep="\n", file=sys.stderr, flush=True)


def describe_data(server):
    if server.dev_postgres:
        return server.dev_postgres.home / "data"
    parameters = settings.DATABASE_URL
    return f"{parameters.get('dbname', '')} at {parameters.get('host', 'the local socket')}"


def on_reload(server):
    server.handle_term = functools.partial(drain, server)
    server.handle_hup = functools.partial(reload_safely, server)


def reload_safely(server):
    """Handle SIGHUP: replace the workers, if a separate process can start with the new code."""
    try:
        check_start(server)
        new_settings = load_config()
        if uses_own_address(server):
            if new_settings.PORT != settings.PORT:
                check_address(new_settings.HOST, new_settings.PORT)
            elif new_settings.HOST != settings.HOST:
                raise SystemExit("a reload cannot change HOST; restart the service.")
        type(server).handle_hup(server)
    except SystemExit as error:
        if os.getpid() != server.pid:  # this process is a new worker, which must exit
            raise
        server.app.cfg = server.cfg  # a reload that failed may have replaced it
        server.log.error("The reload is refused, and the old workers keep serving: %s", error)


def check_start(server):
    """Load the configuration and the application in a separate process. Raises SystemExit.

    An error in the master would end it. An error in a new worker would come too late: the old
    workers would be stopped already. A signal to stop ends the check.
    """
    arguments = [*server.START_CTX["args"][2:], "--check-config"]  # without "python gunicorn"
    signals = []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *arguments],
            cwd=server.START_CTX["cwd"],
            env=server.cfg.env_orig,  # without the variables that gunicorn itself has set
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
        deadline = time.monotonic() + timeout
        while process.poll() is None and time.monotonic() < deadline:
            signals += server.wait_for_signals(0.1)
            if STOP_SIGNALS & {*signals}:
                break
        for number in signals:  # the master handles them after the check
            server.SIG_QUEUE.put(number)
        if process.poll() is None:
            process.kill()
            process.wait()
            raise SystemExit(f"its check took {timeout} seconds, or a signal to stop came.")
        output.seek(0)
        lines = [line for line in output.read().split("\n") if line.strip()]
    if process.returncode:
        raise SystemExit(lines[-1] if lines else "its check failed without a message.")


def drain(server):
    """Handle SIGTERM: serve for DRAIN_TIMEOUT while /ready answers 503, then stop.

    During an upgrade the server stops at once, because another master serves the same port.
    """
    is_upgrade = server.reexec_pid or server.master_pid
    if not is_upgrade:
        server.kill_workers(signal.SIGUSR2)
        deadline = time.monotonic() + settings.DRAIN_TIMEOUT
        while server.WORKERS and (seconds_left := deadline - time.monotonic()) > 0:
            signals = server.wait_for_signals(seconds_left)
            if signal.SIGINT in signals or signal.SIGQUIT in signals:
                server.handle_quit()
            if signal.SIGTERM in signals:
                break
            server.reap_workers()
    raise StopIteration  # gunicorn's way to stop


def on_exit(server):
    if server.dev_postgres:
        server.dev_postgres.release()


# Hooks of a worker's start.


def post_fork(server, worker):
    # Until the worker sets its signal handlers, the master's handlers fill its copy of this queue.
    worker.early_signals = server.SIG_QUEUE
    worker.log.error_log.addFilter(redact_request)
    worker.load_wsgi = functools.partial(load_or_halt, server, worker)


def redact_request(record):
    """Remove the invalid request that gunicorn quotes: a malformed header may contain a token."""
    record.msg = re.sub(r"(Invalid request from [^'\"]*).*", r"\1...", str(record.msg), flags=re.S)
    return True  # log the line


def load_or_halt(server, worker):
    """Load the application. If the first worker cannot, no worker can: end the server."""
    try:
        type(worker).load_wsgi(worker)
    except SystemExit as error:
        if worker.age > 1:  # if two workers halted gunicorn, it would end with a traceback
            raise
        worker.log.error(str(error))
        sys.exit(server.APP_LOAD_ERROR)


def post_worker_init(worker):
    worker.log.info("Worker ready (pid: %s)", worker.pid)
