"""Install the packages of a lock file into .venv: `python3 install.py requirements-devdb.lock`.

This script runs before anything is installed. It uses only the standard library, and its syntax is
that of Python 2.7, so that an old Python can print which version is needed. If the installation
fails, the script prints what to do and exits with the status 1.

docs/decisions/0016 explains why no versions are resolved here.
"""

from __future__ import print_function

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
INCOMPLETE = os.path.join(VENV, "incomplete")  # exists until an installation is complete
NEEDED_MEGABYTES = 500

# Error messages of pip and venv, and what to do. The first match wins.
DISK_IS_FULL = "The disk is full. Free {} MB and run it again.".format(NEEDED_MEGABYTES)
REMEDIES = (
    (r"No space left on device|Disk quota exceeded", DISK_IS_FULL),
    (
        r"Permission denied|Operation not permitted|Read-only file system",
        "You cannot write to {}. Change its owner, or clone into another folder.".format(ROOT),
    ),
    (
        r"NewConnectionError|ConnectTimeout|ReadTimeout|NameResolution|ProxyError|Network is"
        r" unreachable|Connection (refused|reset|broken)|Max retries exceeded|SSLError",
        "The packages could not be downloaded. Check the network (HTTPS_PROXY names a proxy,"
        " PIP_INDEX_URL another package index) and run it again.",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "A downloaded package is not the locked one. Check the package index or the proxy that you"
        " use, and run it again.",
    ),
    (
        r"No matching distribution|Failed to build|metadata-generation-failed",
        "A package has no wheel for this machine. There are wheels for CPython 3.11 to 3.14 on"
        " Linux with glibc, on macOS with Apple silicon, and on WSL.",
    ),
)


def main(lock):
    wait_for_other_installations()
    lock_text = read(ROOT, lock)
    if not os.path.exists(PYTHON) or os.path.exists(INCOMPLETE):
        create_venv()
    elif read(VENV, lock) == lock_text:
        return
    open(INCOMPLETE, "w").close()
    for name in os.listdir(VENV):
        # If a lock has changed since its installation, .venv may contain other versions.
        if name.endswith(".lock") and read(VENV, name) != read(ROOT, name):
            os.remove(os.path.join(VENV, name))
    count = len(re.findall(r"(?m)^[a-z].*==", lock_text))
    say("Installing {} packages into .venv ...".format(count))
    # A lock names all packages, with hashes, so pip need not resolve dependencies.
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    run(pip + ["--no-deps", "--require-hashes", "--retries", "2", "-r", os.path.join(ROOT, lock)])
    # This copy marks the lock as installed, so it is written last.
    with open(os.path.join(VENV, lock), "w") as file:
        file.write(lock_text)
    os.remove(INCOMPLETE)


def read(folder, name):
    """Return the text of a file, or None if it does not exist."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return file.read()


def wait_for_other_installations():
    """Lock the folder until the end of this process, so that only one process installs."""
    import fcntl

    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("Waiting for another command that installs into .venv ...")
        fcntl.flock(folder, fcntl.LOCK_EX)


def create_venv():
    version = "{}.{}".format(*sys.version_info[:2])
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        sys.exit(
            "Python 3.11 to 3.14 is needed; this is Python {}. Choose another one, such as:"
            " make run PYTHON=python3.12".format(version)
        )
    import importlib.util
    import shutil

    if not importlib.util.find_spec("ensurepip"):
        sys.exit(
            "Python's venv module is incomplete. On Debian and Ubuntu: sudo apt install"
            " python{}-venv".format(version)
        )
    if shutil.disk_usage(ROOT).free < NEEDED_MEGABYTES * 1000 * 1000:
        sys.exit(DISK_IS_FULL)
    say("Creating .venv with Python {} ...".format(version))
    if os.path.lexists(PYTHON):
        os.remove(PYTHON)  # first, so that the next run repairs .venv if this one is killed
    if os.path.exists(VENV):
        shutil.rmtree(VENV)
    os.mkdir(VENV)
    open(INCOMPLETE, "w").close()
    run([sys.executable, "-m", "venv", VENV])


def run(command):
    """Run a command. If it fails, print the end of its output and the remedy, and exit."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    output = process.communicate()[0]
    if process.returncode:
        say("\n".join(output.splitlines()[-10:]))
        sys.exit(find_remedy(output) or "Read the lines above, fix the problem and run it again.")


def find_remedy(message):
    """Return what to do about an error message, or None."""
    return next((remedy for pattern, remedy in REMEDIES if re.search(pattern, message)), None)


def say(line):
    print(line)
    sys.stdout.flush()  # a pipe would delay it


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run it again.")
    except EnvironmentError as error:
        sys.exit(find_remedy(str(error)) or str(error))
