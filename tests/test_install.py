"""install.py installs a lock file into .venv, or prints what to do."""

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest

import config

pytestmark = pytest.mark.slow  # each test creates a virtual environment

CLOSED_PORT = {"PIP_NO_INDEX": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}


def make_wheel(folder, name, version, requires=()):
    """Write a wheel with one module; return its line for a lock."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = '{version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {line}\n" for line in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{path},sha256={digest.decode()},{len(text)}\n")
    files[f"{info}/RECORD"] = "".join(rows) + f"{info}/RECORD,,\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


class Clone:
    """A folder with install.py, a lock and the locked wheels, so that it needs no network."""

    def __init__(self, folder):
        self.folder = folder
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        shutil.copy(config.ROOT / "install.py", folder)
        self.lock = make_wheel(self.wheels, "first", "1.0", ["second[extra]>=1.0"])
        self.lock += make_wheel(self.wheels, "second", "1.0")
        self.write_lock(self.lock)
        self.python = folder / ".venv" / "bin" / "python"

    def write_lock(self, text):
        (self.folder / "requirements.lock").write_text(text)

    def command(self, patch=""):
        """The command of an installation; `patch` is Python code that runs before it."""
        prologue = "import runpy, sys\nsys.argv = ['install.py', 'requirements.lock']\n"
        return [
            *(sys.executable, "-c"),
            f"{prologue}{patch}\nrunpy.run_path('install.py', run_name='__main__')",
        ]

    def environ(self, **environ):
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        return {**clean, **pip, "PIP_FIND_LINKS": str(self.wheels), **environ}

    def install(self, patch="", prefix=(), **environ):
        return subprocess.run(
            [*prefix, *self.command(patch)],
            cwd=self.folder,
            env=self.environ(**environ),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def versions(self):
        show = "import first, second; print(first.version, second.version)"
        return subprocess.check_output([self.python, "-c", show], text=True).strip()


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("installed"))
    done = clone.install()
    assert done.returncode == 0, done.stderr
    version = "{}.{}".format(*sys.version_info[:2])
    assert done.stdout.splitlines() == [
        f"Creating .venv with Python {version} ...",
        "Installing 2 packages into .venv ...",
    ]
    return clone


def test_lock_installs_the_locked_versions_after_newer_releases(clone):
    """pip would resolve a requirement with an extra to the newest release, even if it is locked."""
    make_wheel(clone.wheels, "second", "2.0")
    done = clone.install()
    assert done.returncode == 0, done.stdout + done.stderr
    assert clone.versions() == "1.0 1.0"


def test_second_run_prints_nothing_and_needs_no_network(installed):
    done = installed.install(**CLOSED_PORT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_changed_lock_is_installed_into_the_same_venv(installed):
    created_at = installed.python.lstat().st_ctime_ns
    changed = installed.lock.splitlines()[0] + "\n"
    changed += make_wheel(installed.wheels, "second", "1.1")
    installed.write_lock(changed)
    done = installed.install()
    assert done.stdout == "Installing 2 packages into .venv ...\n", done.stderr
    assert installed.versions() == "1.0 1.1"
    assert installed.python.lstat().st_ctime_ns == created_at
    installed.write_lock(installed.lock)
    assert installed.install().returncode == 0
    assert installed.versions() == "1.0 1.0"


def test_lock_of_another_commit_is_replaced_by_the_own_lock(installed):
    """For example: `make run` in one branch, then `make test` in another with other versions."""
    other = installed.lock.splitlines()[0] + "\n"
    other += make_wheel(installed.wheels, "second", "1.2")
    installed.write_lock(other)
    (installed.folder / "other.lock").write_text(other)
    assert installed.install("sys.argv[1] = 'other.lock'").returncode == 0
    assert installed.versions() == "1.0 1.2"
    installed.write_lock(installed.lock)
    assert installed.install().returncode == 0
    assert installed.versions() == "1.0 1.0"


def test_two_locks_of_one_commit_stay_installed(installed):
    (installed.folder / "other.lock").write_text(installed.lock)
    for _ in range(2):
        assert installed.install("sys.argv[1] = 'other.lock'").returncode == 0
        assert installed.install().stdout == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda venv: (venv / "incomplete").touch(),
        lambda venv: (venv / "bin" / "python").unlink(),
        lambda venv: [
            (venv / "bin" / "python").unlink(),
            (venv / "bin" / "python").symlink_to(venv / "gone"),
        ],
    ],
    ids=["interrupted", "python is missing", "python is a dead link"],
)
def test_damaged_venv_is_created_again(installed, damage):
    venv = installed.folder / ".venv"
    (venv / "leftover").touch()
    damage(venv)
    done = installed.install()
    assert done.returncode == 0, done.stdout + done.stderr
    assert installed.versions() == "1.0 1.0"
    assert not (venv / "leftover").exists()
    assert not (venv / "incomplete").exists()


@pytest.mark.parametrize("path", ["incomplete", "bin/python", "bin/pip", "pyvenv.cfg"])
def test_run_after_a_killed_run_completes_the_installation(clone, path):
    process = subprocess.Popen(
        clone.command(), cwd=clone.folder, env=clone.environ(), start_new_session=True
    )
    end = time.monotonic() + 60
    while not (clone.folder / ".venv" / path).exists() and time.monotonic() < end:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (clone.folder / ".venv" / "requirements.lock").exists()
    done = clone.install()
    assert done.returncode == 0, done.stdout + done.stderr
    assert clone.versions() == "1.0 1.0"


def test_second_installation_waits_for_the_first(clone):
    """For example: `make test` is started while the first `make run` still installs."""
    first = subprocess.Popen(clone.command(), cwd=clone.folder, env=clone.environ())
    end = time.monotonic() + 60
    while not (clone.folder / ".venv" / "incomplete").exists() and time.monotonic() < end:
        time.sleep(0.001)
    done = clone.install()
    assert first.wait(timeout=120) == 0
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Waiting for another command that installs into .venv ...\n"
    assert clone.versions() == "1.0 1.0"


def test_package_with_another_hash_is_refused(clone):
    make_wheel(clone.wheels, "second", "1.0", ["malware"])
    done = clone.install()
    assert done.returncode == 1
    assert "is not the locked one" in done.stderr


def test_missing_network_prints_its_remedy(clone):
    done = clone.install(**CLOSED_PORT, PIP_FIND_LINKS="")
    assert done.returncode == 1
    assert "could not be downloaded. Check the network" in done.stderr
    assert clone.install().returncode == 0


def test_missing_venv_module_prints_its_remedy(clone):
    done = clone.install("sys.modules['ensurepip'] = None")
    assert done.returncode == 1
    assert "sudo apt install python3." in done.stderr
    assert not (clone.folder / ".venv").exists()


@pytest.mark.parametrize("version", [(3, 10), (3, 15), (2, 7)])
def test_unsupported_python_prints_its_remedy(clone, version):
    done = clone.install(f"sys.version_info = {version}")
    assert done.returncode == 1
    assert done.stderr == (
        "Python 3.11 to 3.14 is needed; this is Python {}.{}. Choose another one, such as:"
        " make run PYTHON=python3.12\n".format(*version)
    )


def test_full_disk_prints_its_remedy_and_writes_nothing(clone):
    usage = "import collections, shutil; Usage = collections.namedtuple('Usage', 'free')"
    done = clone.install(f"{usage}; shutil.disk_usage = lambda path: Usage(1000)")
    assert done.returncode == 1
    assert done.stderr == "The disk is full. Free 500 MB and run it again.\n"
    assert not (clone.folder / ".venv").exists()


def test_folder_without_write_permission_prints_its_remedy(clone):
    drop = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"]
    clone.folder.chmod(0o555)
    done = clone.install(prefix=drop if os.geteuid() == 0 else [])
    clone.folder.chmod(0o755)
    assert done.returncode == 1
    assert done.stderr == (
        f"You cannot write to {clone.folder}. Change its owner, or clone into another folder.\n"
    )


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("OSError: [Errno 122] Disk quota exceeded", "The disk is full"),
        ("OSError: [Errno 30] Read-only file system: '/a/.venv'", "You cannot write to"),
        (
            "[Errno -3] Temporary failure in name resolution, NewConnectionError\n"
            "ERROR: No matching distribution found for alembic==1.20.1",
            "Check the network",
        ),
        ("ERROR: No matching distribution found for psycopg2-binary", "no wheel for this machine"),
        ("something else", "Read the lines above"),
    ],
)
def test_each_error_of_pip_prints_its_remedy(installed, tmp_path, output, remedy):
    clone = Clone(tmp_path)
    clone.python.parent.mkdir(parents=True)
    clone.python.write_text(f"#!/bin/sh\ncat <<'EOF'\n{output}\nEOF\nexit 1\n")
    clone.python.chmod(0o755)
    done = clone.install()
    assert done.returncode == 1
    assert remedy in done.stderr
    assert output.splitlines()[-1] in done.stdout
