"""gunicorn starts, reloads and upgrades: its checks and its messages."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing

import pytest

import config
from faults.processes import free_port
from tests.conftest import PROJECTS
from tests.test_serving import children, end

pytestmark = pytest.mark.slow

CHECK_CONFIG = [sys.executable, "-m", "config"]
GUNICORN = [sys.executable, "-m", "gunicorn", "wsgi:app"]


def run(*command, **environ):
    """Run a command that ends before it needs a database. Return the completed process."""
    clean = {k: v for k, v in os.environ.items() if k not in config.Config.declared_settings()}
    return subprocess.run(
        command,
        cwd=config.ROOT,
        env={**clean, "APP_ENV": "development", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def used_port():
    """Return a port at which another program listens."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        yield str(listener.getsockname()[1])


# The address.


@pytest.mark.parametrize("command", [CHECK_CONFIG, GUNICORN], ids=["python -m config", "gunicorn"])
def test_port_in_use_is_reported_before_postgresql_starts(used_port, command):
    completed = run(*command, PORT=used_port, EMBEDDED_POSTGRES_BIN="/nonexistent")
    next_port = int(used_port) + 1
    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr == (
        f"Port {used_port} is in use. Stop the other program, or choose another port:"
        f" PORT={next_port} (make run PORT={next_port}).\n"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-name.invalid"])
@pytest.mark.parametrize("command", [CHECK_CONFIG, GUNICORN], ids=["python -m config", "gunicorn"])
def test_host_that_is_no_address_of_this_machine_is_reported(command, host):
    completed = run(*command, HOST=host, EMBEDDED_POSTGRES_BIN="/nonexistent")
    assert completed.returncode == 1
    assert re.fullmatch(
        rf"This machine has no address {host} \(.+\)\. Set HOST to 127\.0\.0\.1 to serve"
        r" only this machine, or to 0\.0\.0\.0 to serve its networks too\.\n",
        completed.stderr,
    )


def test_privileged_port_is_reported(monkeypatch):
    def refuse(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(config.ConfigError) as refused:
        config.check_address("0.0.0.0", 80)  # noqa: S104 - nothing listens
    assert str(refused.value) == (
        "Only root may listen on port 80. Choose another port: PORT=8000 (make run PORT=8000)."
    )


def test_free_port_is_accepted_without_output():
    completed = run(*CHECK_CONFIG, PORT=str(free_port()))
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "", "")


@pytest.mark.parametrize("host", ["::", "[::]"])
def test_ipv6_host_is_bound_in_brackets(host):
    completed = run(*GUNICORN, "--print-config", HOST=host, PORT="8000")
    assert re.search(r"\bbind += \['\[::\]:8000'\]", completed.stdout)


def test_used_port_does_not_matter_with_gunicorns_bind_option(serve, used_port):
    port = free_port()
    bind = f"--bind=127.0.0.1:{port}"
    with serve(bind, wait=False, PORT=used_port) as server:
        server.port = port
        server.wait_until_serving()


SOCKET_ACTIVATION = 'exec 3<&"$1"; export LISTEN_FDS=1 LISTEN_PID=$$; shift; exec "$@"'


def test_socket_from_systemd_is_served(database_url, app):
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        number, port = listener.fileno(), listener.getsockname()[1]
        process = subprocess.Popen(
            ["bash", "-c", SOCKET_ACTIVATION, "bash", str(number), *GUNICORN],
            cwd=config.ROOT,
            env={
                **os.environ,
                **{"APP_ENV": "testing", "DATABASE_URL": database_url, "PORT": str(port)},
            },
            pass_fds=[number],
            stderr=subprocess.DEVNULL,
        )
        try:
            with closing(socket.create_connection(("127.0.0.1", port), 30)) as client:
                client.sendall(b"GET /health HTTP/1.0\r\nHost: x\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.0 200 ")
        finally:
            process.terminate()
            process.wait(timeout=30)


# Messages at the start.


def test_development_prints_urls_database_and_how_to_stop(serve, database_url):
    url_with_password = database_url.replace("@", ":hunter22@", 1)
    with serve(APP_ENV="development", DATABASE_URL=url_with_password) as server:
        output = server.log.read_text()
    url = f"http://127.0.0.1:{server.port}"
    parameters = config.parse_database_url(database_url)
    assert output.startswith(
        f"  API      {url}{PROJECTS}\n"
        f"  console  {url}/console\n"
        f"  docs     {url}/docs\n"
        f"  data     {parameters['dbname']} at {parameters['host']}\n"
        "  stop     Ctrl+C\n"
    )


def test_development_prints_localhost_for_all_addresses_and_no_pages_that_are_off(serve):
    off = {"DOCS": "off", "CONSOLE": "off"}
    with serve(APP_ENV="development", HOST="0.0.0.0", **off) as server:  # noqa: S104
        output = server.log.read_text()
    assert f"  API      http://localhost:{server.port}{PROJECTS}\n" in output
    assert "/docs" not in output
    assert "/console" not in output


def test_production_logs_url_and_database_in_one_line(serve):
    with serve(APP_ENV="production", AUTH="none", HOST="127.0.0.1") as server:
        output = server.log.read_text()
    assert len(re.findall(rf"http://127\.0\.0\.1:{server.port}  data: ", output)) == 1
    assert "Ctrl+C" not in output


def test_server_ends_if_workers_cannot_load_the_application(serve):
    settings = {"AUTH": "jwt", "JWT_ISSUER": "i", "JWT_AUDIENCE": "a", "JWT_KEY_FILE": "/missing"}
    with serve(wait=False, **settings) as server:
        assert server.process.wait(timeout=30) == 4
    assert "JWT_KEY_FILE cannot be read: No such file or directory." in server.log.read_text()


# A reload, and an upgrade.

# Testing does not read `.env`. Development logs "Worker ready" at this level only.
SETTINGS = {"APP_ENV": "development", "LOG_LEVEL": "debug"}


def wait_for(condition, server):
    """Wait until a condition is true. If it never is, show the server's log."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.05)


def find_workers(server, count=2):
    """Wait until the workers have loaded all files. Return their pids."""
    wait_for(lambda: server.log.read_text().count("Worker ready") == count, server)
    return {*children(server.process.pid)}


def reload(server, condition):
    server.process.send_signal(signal.SIGHUP)
    wait_for(condition, server)


def are_replaced(server, workers):
    """Whether none of these workers is left."""
    return not workers & {*children(server.process.pid)}


JWT = "AUTH=jwt\nJWT_ISSUER=i\nJWT_AUDIENCE=a\nJWT_KEY_FILE=missing\n"
RELOAD_REFUSED = "The reload is refused, and the old workers keep serving: "
BAD_FILES = {
    "a value": (
        ".env",
        b"DATABASE_POOL_SIZE=x\n",
        "DATABASE_POOL_SIZE must be a whole number from 1 to 1000.",
    ),
    "an address": (".env", b"HOST=192.0.2.1\n", "a reload cannot change HOST; restart"),
    "a key file": (".env", JWT.encode(), "JWT_KEY_FILE cannot be read"),
    "code": ("wsgi.py", b"app = \n", "SyntaxError: "),
    "gunicorn.conf.py": ("gunicorn.conf.py", b"import no_such_module\n", "ModuleNotFoundError: "),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_reload_with_an_error_is_refused_and_the_next_one_works(serve, app_copy, name):
    file, content, reason = BAD_FILES[name]
    with serve(cwd=app_copy, **SETTINGS) as server:
        workers = find_workers(server)
        path = app_copy / file
        valid_content = path.read_bytes() if path.exists() else b"DATABASE_POOL_SIZE=2\n"
        path.write_bytes(content)
        reload(server, lambda: RELOAD_REFUSED in server.log.read_text())
        assert {*children(server.process.pid)} == workers
        assert server.request("GET", PROJECTS)[0] == 200
        [line] = [line for line in server.log.read_text().splitlines() if RELOAD_REFUSED in line]
        assert line.partition(RELOAD_REFUSED)[2].startswith(reason)
        path.write_bytes(valid_content)
        reload(server, lambda: are_replaced(server, workers))
        server.wait_until_serving()
        assert server.log.read_text().count(RELOAD_REFUSED) == 1
        assert server.stop() == 0


def test_sigterm_during_a_reload_check_stops_the_server(serve, app_copy):
    with serve(cwd=app_copy, **SETTINGS) as server:
        workers = find_workers(server)
        (app_copy / "wsgi.py").write_text("import time; time.sleep(600)\n")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: {*children(server.process.pid)} > workers, server)
        assert server.stop() == 0


def test_reload_uses_new_settings(serve, app_copy):
    with serve(cwd=app_copy, **SETTINGS) as server:
        workers = find_workers(server)
        assert server.request("GET", "/openapi.json")[0] == 200
        (app_copy / ".env").write_text("DOCS=off\n")
        reload(server, lambda: are_replaced(server, workers))
        assert server.request("GET", "/openapi.json")[0] == 404


def test_reload_loads_new_code_of_every_file(serve, app_copy):
    """A file that the master imports would keep its old code: Python imports a module once."""
    files = [
        app_copy / "config.py",
        app_copy / "wsgi.py",
        *(app_copy / "projectapp" / "http").glob("*.py"),
        *(app_copy / "projectapp" / "server").glob("*.py"),
    ]
    with serve(cwd=app_copy, **SETTINGS) as server:
        workers = find_workers(server)
        for file in files:
            with file.open("a") as source:
                source.write(f"\nimport sys; print('new code of {file}', file=sys.stderr)\n")
        reload(server, lambda: are_replaced(server, workers))
        server.wait_until_serving()
        log = server.log.read_text()
    assert [file for file in files if f"new code of {file}" not in log] == []


def test_failed_upgrade_leaves_the_old_server_and_the_next_one_works(serve, app_copy):
    with serve(cwd=app_copy, **SETTINGS) as server:
        workers = find_workers(server)
        (app_copy / ".env").write_text("DATABASE_POOL_SIZE=x\n")
        server.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: "DATABASE_POOL_SIZE must be" in server.log.read_text(), server)
        wait_for(lambda: {*children(server.process.pid)} == workers, server)
        assert server.request("GET", PROJECTS)[0] == 200
        (app_copy / ".env").write_text("DATABASE_POOL_SIZE=2\n")
        server.process.send_signal(signal.SIGUSR2)
        [new_master] = find_workers(server, 4) - workers
        try:
            assert server.stop() == 0
            server.wait_until_serving()
        finally:
            end(new_master)
