"""How gunicorn starts and reloads: what it looks at first, and what it says."""

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
from tests.conftest import PROJECTS
from tests.test_serving import children, end
from tests.wire import free_port

pytestmark = pytest.mark.slow

CHECK = [sys.executable, "-m", "config"]
GUNICORN = [sys.executable, "-m", "gunicorn", "wsgi:app"]


def start(*command, **environ):
    """Start what ends by itself; without a database, since nothing gets so far."""
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
def taken():
    """A port of this machine at which another program listens."""
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        yield str(other.getsockname()[1])


# The address.


@pytest.mark.parametrize("command", [CHECK, GUNICORN], ids=["python -m config", "gunicorn"])
def test_a_port_in_use_is_one_sentence_before_anything_is_started(taken, command):
    done = start(*command, PORT=taken, EMBEDDED_POSTGRES_BIN="/nonexistent")
    other = int(taken) + 1
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Port {taken} is in use. Stop the other program, or choose another port: PORT={other}"
        f" (make run PORT={other}).\n"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-name.invalid"])
@pytest.mark.parametrize("command", [CHECK, GUNICORN], ids=["python -m config", "gunicorn"])
def test_an_address_that_this_machine_does_not_have_is_one_sentence(command, host):
    done = start(*command, HOST=host, EMBEDDED_POSTGRES_BIN="/nonexistent")
    assert done.returncode == 1
    assert re.fullmatch(
        rf"This machine has no address {host} \(.+\)\. Set HOST to 127\.0\.0\.1 to serve"
        r" only this machine, or to 0\.0\.0\.0 to serve its networks too\.\n",
        done.stderr,
    )


def test_a_privileged_port_is_one_sentence(monkeypatch):
    def refuse(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(config.ConfigError) as refused:
        config.check_address("0.0.0.0", 80)  # noqa: S104 - nothing listens
    assert str(refused.value) == (
        "Only root may listen on port 80. Choose another port: PORT=8000 (make run PORT=8000)."
    )


def test_a_free_port_is_accepted_without_a_word():
    done = start(*CHECK, PORT=str(free_port()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("host", ["::", "[::]"])
def test_gunicorn_listens_at_an_ipv6_address(host):
    done = start(*GUNICORN, "--print-config", HOST=host, PORT="8000")
    assert re.search(r"\bbind += \['\[::\]:8000'\]", done.stdout)


def test_with_an_address_of_gunicorns_own_the_port_is_not_looked_at(serve, taken):
    port = free_port()
    bind = f"--bind=127.0.0.1:{port}"
    with serve(bind, wait=False, PORT=taken) as server:
        server.port = port
        server.wait_until_serving()


SOCKET_ACTIVATION = 'exec 3<&"$1"; export LISTEN_FDS=1 LISTEN_PID=$$; shift; exec "$@"'


def test_a_socket_that_systemd_opened_is_served(database_url, app):
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


# What it says.


def test_development_says_where_the_api_the_docs_and_the_data_are_and_how_to_stop(
    serve, database_url
):
    secret = database_url.replace("@", ":hunter22@", 1)
    with serve(APP_ENV="development", DATABASE_URL=secret) as server:
        said = server.log.read_text()
    url = f"http://127.0.0.1:{server.port}"
    where = config.parse_database_url(database_url)
    assert said.startswith(
        f"  API   {url}{PROJECTS}\n"
        f"  docs  {url}/docs\n"
        f"  data  {where['dbname']} at {where['host']}\n"
        "  stop  Ctrl+C\n"
    )


def test_development_names_localhost_where_it_serves_all_addresses_and_no_docs_that_are_off(
    serve,
):
    with serve(APP_ENV="development", HOST="0.0.0.0", DOCS="off") as server:  # noqa: S104
        said = server.log.read_text()
    assert f"  API   http://localhost:{server.port}{PROJECTS}\n" in said
    assert "/docs" not in said


def test_production_says_it_in_one_line_of_its_log(serve):
    with serve(APP_ENV="production", AUTH="none", HOST="127.0.0.1") as server:
        said = server.log.read_text()
    assert len(re.findall(rf"http://127\.0\.0\.1:{server.port}  data: ", said)) == 1
    assert "Ctrl+C" not in said


def test_workers_that_cannot_load_the_application_end_the_server(serve):
    settings = {"AUTH": "jwt", "JWT_ISSUER": "i", "JWT_AUDIENCE": "a", "JWT_KEY_FILE": "/missing"}
    with serve(wait=False, **settings) as server:
        assert server.process.wait(timeout=30) == 4
    assert "JWT_KEY_FILE cannot be read: No such file or directory." in server.log.read_text()


# A reload, and an upgrade.

IN_FULL = {"APP_ENV": "development", "LOG_LEVEL": "debug"}  # else `.env` is not read


def wait_for(condition, server):
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, server.log.read_text()
        time.sleep(0.05)


def find_workers(server, number=2):
    """The workers, once they have loaded what a test is about to change."""
    wait_for(lambda: server.log.read_text().count("Worker ready") == number, server)
    return {*children(server.process.pid)}


def reload(server, condition):
    server.process.send_signal(signal.SIGHUP)
    wait_for(condition, server)


def is_replaced(server, workers):
    """Whether other workers serve, and none of these is left."""
    return not workers & {*children(server.process.pid)}


JWT = "AUTH=jwt\nJWT_ISSUER=i\nJWT_AUDIENCE=a\nJWT_KEY_FILE=missing\n"
REFUSED = "The reload is refused, and the old workers keep serving: "
BAD_FILES = {
    "a value": (
        ".env",
        b"DATABASE_POOL_SIZE=x\n",
        "DATABASE_POOL_SIZE must be a whole number from 1 to 1000.",
    ),
    "an address": (".env", b"HOST=192.0.2.1\n", "a reload cannot change HOST; restart"),
    "a key file": (".env", JWT.encode(), "JWT_KEY_FILE cannot be read"),
    "code": ("wsgi.py", b"app = \n", "SyntaxError: "),
    "code of gunicorn's": ("gunicorn.conf.py", b"import no_such_module\n", "ModuleNotFoundError: "),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_reload_that_would_fail_is_refused_and_the_next_one_works(serve, project, name):
    file, content, reason = BAD_FILES[name]
    with serve(cwd=project, **IN_FULL) as server:
        workers = find_workers(server)
        good = (
            (project / file).read_bytes()
            if (project / file).exists()
            else b"DATABASE_POOL_SIZE=2\n"
        )
        (project / file).write_bytes(content)
        reload(server, lambda: REFUSED in server.log.read_text())
        assert {*children(server.process.pid)} == workers
        assert server.request("GET", PROJECTS)[0] == 200
        [line] = [line for line in server.log.read_text().splitlines() if REFUSED in line]
        assert line.partition(REFUSED)[2].startswith(reason)
        (project / file).write_bytes(good)
        reload(server, lambda: is_replaced(server, workers))
        server.wait_until_serving()
        assert server.log.read_text().count(REFUSED) == 1
        assert server.stop() == 0


def test_a_stop_does_not_wait_for_a_reload(serve, project):
    with serve(cwd=project, **IN_FULL) as server:
        workers = find_workers(server)
        (project / "wsgi.py").write_text("import time; time.sleep(600)\n")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: {*children(server.process.pid)} > workers, server)
        assert server.stop() == 0


def test_a_reload_takes_new_settings(serve, project):
    with serve(cwd=project, **IN_FULL) as server:
        workers = find_workers(server)
        assert server.request("GET", "/openapi.json")[0] == 200
        (project / ".env").write_text("DOCS=off\n")
        reload(server, lambda: is_replaced(server, workers))
        assert server.request("GET", "/openapi.json")[0] == 404


def test_an_upgrade_that_fails_leaves_the_old_server_and_the_next_one_works(serve, project):
    with serve(cwd=project, **IN_FULL) as server:
        workers = find_workers(server)
        (project / ".env").write_text("DATABASE_POOL_SIZE=x\n")
        server.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: "DATABASE_POOL_SIZE must be" in server.log.read_text(), server)
        wait_for(lambda: {*children(server.process.pid)} == workers, server)
        assert server.request("GET", PROJECTS)[0] == 200
        (project / ".env").write_text("DATABASE_POOL_SIZE=2\n")
        server.process.send_signal(signal.SIGUSR2)
        [new] = find_workers(server, 4) - workers
        try:
            assert server.stop() == 0
            server.wait_until_serving()
        finally:
            end(new)
