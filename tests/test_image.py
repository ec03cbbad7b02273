"""The steps of the Dockerfile and of compose.yaml, without a container engine.

Each instruction runs in a temporary folder that contains /app and /venv. What a container engine
adds is not tested: the base image, namespaces and mounts.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path, PurePosixPath

import psycopg2
import pytest
import yaml
from packaging.utils import canonicalize_name

import config
from faults.pg_proxy import Proxy
from faults.processes import free_port
from tests.conftest import PROJECTS, parameters_of
from tests.test_supply import RUN, pins_for_this_machine

pytestmark = pytest.mark.slow

CREATE = [
    *("flask", "tokens", "create", "--name", "CI", "--owner", "alice"),
    *("--scope", "projects:read,projects:write"),
]
SECRETS = (".env", "instance/data", "projectapp/__pycache__/old.pyc", "key.pem")


def instructions(text):
    """The Dockerfile's instructions as (name, arguments)."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [line.strip().split(None, 1) for line in joined.splitlines() if line.strip()]


def is_ignored(path, patterns):
    """Whether .dockerignore excludes a path: the last pattern that matches it or a parent wins."""
    ignored = False
    for pattern in patterns:
        name_pattern = pattern.removeprefix("!")
        for candidate in (path, *path.parents):
            name = candidate.name if name_pattern.startswith("**/") else str(candidate)
            if fnmatch.fnmatchcase(name, name_pattern.removeprefix("**/")):
                ignored = not pattern.startswith("!")
    return ignored


def can_run(user):
    """Whether another user can run this Python, which may be in a private home folder."""
    if os.geteuid() != 0:
        return False
    try:
        subprocess.run([sys.executable, "-c", ""], user=user, group=user, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


class Image:
    """The result of building the folder `context` with its Dockerfile, in the folder `root`."""

    def __init__(self, context, root):
        self.context, self.root, self.stages = context, root, {}
        patterns = [
            line
            for line in (context / ".dockerignore").read_text().splitlines()
            if line and not line.startswith("#")
        ]
        self.context_files = [
            path.relative_to(context)
            for path in sorted(context.rglob("*"))
            if path.is_file()
            and not is_ignored(PurePosixPath(path.relative_to(context).as_posix()), patterns)
        ]
        for name, arguments in instructions((context / "Dockerfile").read_text()):
            getattr(self, f"_{name.lower()}")(arguments)

    def map_paths(self, text):
        """Replace the image's folders in a text by the temporary folders."""
        return re.sub(r"(?<![\w./])/(app|venv)\b", rf"{self.root}/\1", text)

    def _from(self, arguments):
        """Begin a stage with a fresh Python and pip, and set the previous stage aside."""
        if self.root.exists():
            self.stages[self.stage] = self.root.rename(self.root.with_suffix(f".{self.stage}"))
        assert re.match(r"python:3\.\d+-slim-\w+( AS \w+)?$", arguments), arguments
        self.stage = arguments.partition(" AS ")[2]
        base = self.root / "base"
        subprocess.run([sys.executable, "-m", "venv", base], check=True)
        os.chmod(self.root, 0o755)  # noqa: S103 - the image's user reads it
        self.environ = {"PATH": f"{base / 'bin'}:/usr/local/bin:/usr/bin:/bin"}
        self.folder, self.user, self.command, self.health = self.root, None, None, None

    def _workdir(self, arguments):
        self.folder = Path(self.map_paths(arguments))
        self.folder.mkdir(exist_ok=True)

    def _copy(self, arguments):
        *options, source, target = arguments.split()
        target = self.folder / self.map_paths(target)
        if options:
            (stage,) = options
            source = self.stages[stage.removeprefix("--from=")] / source.lstrip("/")
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
            return
        copied = [path for path in self.context_files if source == "." or path == Path(source)]
        assert copied, f"nothing to copy: {arguments}"
        for path in copied:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.context / path, target / path)

    def _run(self, arguments):
        self.run(["sh", "-ec", self.map_paths(arguments)], user=None)

    def _env(self, arguments):
        for pair in shlex.split(self.map_paths(arguments)):
            name, _, value = pair.partition("=")
            self.environ[name] = value.replace("$PATH", self.environ["PATH"])

    def _user(self, arguments):
        user, _, group = arguments.partition(":")
        assert user == group
        assert int(user) > 0, "Kubernetes needs the number to know that it is not root"
        self.user = int(user) if can_run(int(user)) else None

    def _expose(self, arguments):
        assert int(arguments) == config.Config.PORT

    def _healthcheck(self, arguments):
        self.health = json.loads(arguments[arguments.index("[") :])

    def _cmd(self, arguments):
        self.command = json.loads(arguments)  # the exec form: a shell would not pass the signals on

    def start(self, command, user="image", **options):
        """Start a command as the image's user, in its environment and folder."""
        user_id = self.user if user == "image" else None
        environ = {
            k: v for k, v in os.environ.items() if k not in config.Config.declared_settings()
        }
        environ |= self.environ | options.pop("env", {})
        if user_id:
            options |= {"user": user_id, "group": user_id, "extra_groups": []}
        program = shutil.which(command[0], path=environ["PATH"])
        return subprocess.Popen(
            [program, *command[1:]], cwd=options.pop("cwd", self.folder), env=environ, **options
        )

    def run(self, command, check=True, **options):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = self.start(command, **pipes | options)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0 or not check, f"{command}: {output}{errors}"
        return output if check else process.returncode

    def is_healthy(self, **environ):
        return self.run(self.health, check=False, env=environ) == 0

    def files(self):
        """Every file of the image with its size and its modification time."""
        paths = [*(self.root / "app").rglob("*"), *(self.root / "venv").rglob("*")]
        return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}

    @contextmanager
    def served(self, log, **environ):
        """Run the image's command during a `with` block, which begins when it is healthy."""
        with log.open("wb") as output:
            process = self.start(self.command, env=environ, stdout=output, stderr=output)
        try:
            end = time.monotonic() + 60
            while not self.is_healthy(**environ):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def call(port, method, path, token, body=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
        return response.status, json.load(response)


@pytest.fixture(scope="module")
def image():
    """The image of the files in git; there are also files with secrets beside them."""
    # Not in tmp_path, which other users cannot read.
    with tempfile.TemporaryDirectory(prefix="projectapp-image-") as temporary:
        folder = Path(temporary)
        os.chmod(folder, 0o755)  # noqa: S103
        names = subprocess.check_output(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=config.ROOT
        )
        for name in filter(None, names.decode().split("\0")):
            (folder / "context" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(config.ROOT / name, folder / "context" / name)
        for name in SECRETS:
            (folder / "context" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "context" / name).write_text("a secret on the machine that builds the image")
        image = Image(folder / "context", folder / "image")
        for path in [image.root / "app", image.root / "venv", *image.files()]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
        yield image


@pytest.fixture
def empty_url(direct_url):
    """The URL of an empty database, over TCP: the image's user may not reach the socket."""
    parameters = parameters_of(direct_url)
    name = f"{parameters['dbname']}_image"
    connection = psycopg2.connect(**parameters)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        proxy = Proxy(parameters | {"dbname": name})
        yield proxy.url
        proxy.close()
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    connection.close()


def test_image_contains_only_the_service(image):
    assert {path.name for path in (image.root / "app").iterdir()} == {
        *("config.py", "gunicorn.conf.py", "wsgi.py", "migrations", "projectapp", "settings"),
        *("requirements.lock", "__pycache__"),
    }
    assert not [path for path in image.files() if str(path).endswith(SECRETS)]
    (folder,) = (image.root / "venv").glob("lib/python*/site-packages")
    packages = metadata.distributions(path=[folder])
    assert {
        canonicalize_name(package.name): package.version for package in packages
    } == pins_for_this_machine(RUN)
    assert not [path for path in image.root.rglob("*pip*") if path.parent.name == "bin"]


def test_image_serves_with_read_only_folders(image, empty_url, tmp_path):
    environ = {"DATABASE_URL": empty_url, "AUTH": "tokens", "RATE_LIMIT": "100/minute"}
    environ["PORT"] = str(free_port())
    before = image.files()
    assert not image.is_healthy(**environ)
    image.run(["flask", "db", "upgrade"], env=environ)
    token = image.run(
        CREATE, env=environ, cwd="/"
    ).strip()  # the folder in which some platforms start a shell
    with image.served(tmp_path / "log", **environ) as process:
        if image.user:
            assert os.stat(f"/proc/{process.pid}").st_uid == image.user
        assert call(environ["PORT"], "GET", "/ready", token)[0] == 200
        assert call(environ["PORT"], "POST", PROJECTS, token, {"name": "First"})[0] == 201
        assert call(environ["PORT"], "GET", PROJECTS, token)[1]["total"] == 1
        assert (
            "does without" not in (tmp_path / "log").read_text()
        )  # the log line if RATE_LIMIT has no file
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, (tmp_path / "log").read_text()
    assert not image.is_healthy(**environ)
    assert image.files() == before


def interpolate(value, environ):
    """Replace `${NAME:-default}` and `${NAME:?message}` in a value of compose.yaml."""

    def replace(match):
        name, how, text = match.groups()
        assert environ.get(name) or how == ":-", f"{name}: {text}"
        return environ.get(name) or text

    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", replace, value)


def test_compose_migrates_before_it_serves(image, empty_url, tmp_path):
    services = yaml.safe_load((config.ROOT / "compose.yaml").read_text())["services"]
    variables = {"POSTGRES_PASSWORD": "p@ss/word"}
    order = []

    def add(name, condition):
        for other, dependency in services[name].get("depends_on", {}).items():
            add(other, dependency["condition"])
        if (name, condition) not in order:
            order.append((name, condition))

    add("api", "service_started")
    assert order == [
        ("database", "service_healthy"),
        ("migrate", "service_completed_successfully"),
        ("api", "service_started"),
    ]
    for name, condition in order[1:]:
        service = services[name]
        environ = {k: interpolate(v, variables) for k, v in service["environment"].items()}
        url = config.load_config(image.environ | environ).DATABASE_URL
        assert (url["host"], url["dbname"]) == ("database", "projectapp")
        environ |= {"DATABASE_URL": empty_url, "PORT": str(free_port())}
        if condition == "service_completed_successfully":
            image.run(service["command"], env=environ)
            continue
        assert "command" not in service  # the image's own
        with image.served(tmp_path / "log", **environ):
            assert call(environ["PORT"], "GET", "/ready", "")[0] == 200
