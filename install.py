"""Install what a lock file names into .venv: `python3 install.py requirements-devdb.lock`.

It runs before anything is installed, with whatever Python there is: only the standard library, and
only syntax that Python 2.7 can read, so that an old Python is named in a sentence. Each reason to
stop is one sentence with its remedy, and a status of 1.

docs/decisions/0016 says why nothing is resolved here.
"""

from __future__ import print_function

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
INCOMPLETE = os.path.join(VENV, "incomplete")  # exists while an installation runs, or was cut short
NEEDED_MEGABYTES = 500

# What pip or venv prints, and what to do about it. The first that matches is the reason.
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
        "A downloaded package is not the one that was locked. Check the package index or proxy"
        " in between, and run it again.",
    ),
    (
        r"No matching distribution|Failed to build|metadata-generation-failed",
        "A package has no ready-made build for this machine. Linux with glibc, macOS on Apple"
        " silicon and WSL have them, with CPython 3.11 to 3.14.",
    ),
)


def main(lock):
    wait_for_others()
    wanted = read(ROOT, lock)
    if not os.path.exists(PYTHON) or os.path.exists(INCOMPLETE):
        create_venv()
    elif read(VENV, lock) == wanted:
        return
    open(INCOMPLETE, "w").close()
    for name in os.listdir(VENV):
        # The locks of one commit name the same versions, those of another may not.
        if name.endswith(".lock") and read(VENV, name) != read(ROOT, name):
            os.remove(os.path.join(VENV, name))
    count = len(re.findall(r"(?m)^[a-z].*==", wanted))
    say("Installing {} packages into .venv ...".format(count))
    # A lock is complete and each file in it has a hash, so nothing is left to be resolved.
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    run(pip + ["--no-deps", "--require-hashes", "--retries", "2", "-r", os.path.join(ROOT, lock)])
    with open(os.path.join(VENV, lock), "w") as file:  # last: it says that all of it is there
        file.write(wanted)
    os.remove(INCOMPLETE)


def read(folder, name):
    """The text of a file, or None if there is none."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return file.read()


def wait_for_others():
    """Let one process at a time install; the lock ends with the process."""
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
            "Python 3.11 to 3.14 is needed; this is Python {}. Name another one, such as:"
            " make run PYTHON=python3.12".format(version)
        )
    import importlib.util
    import shutil

    if not importlib.util.find_spec("ensurepip"):
        sys.exit(
            "Python's venv module is not complete. On Debian and Ubuntu: sudo apt install"
            " python{}-venv".format(version)
        )
    if shutil.disk_usage(ROOT).free < NEEDED_MEGABYTES * 1000 * 1000:
        sys.exit(DISK_IS_FULL)
    say("Creating .venv with Python {} ...".format(version))
    if os.path.lexists(PYTHON):
        os.remove(PYTHON)  # first, so that a removal that is cut short is seen
    if os.path.exists(VENV):
        shutil.rmtree(VENV)
    os.mkdir(VENV)
    open(INCOMPLETE, "w").close()
    run([sys.executable, "-m", "venv", VENV])


def run(command):
    """Run a command; if it fails, print the end of its output and stop with the remedy."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    output = process.communicate()[0]
    if process.returncode:
        say("\n".join(output.splitlines()[-10:]))
        sys.exit(remedy_for(output) or "Read the lines above, and run it again.")


def remedy_for(message):
    return next((remedy for pattern, remedy in REMEDIES if re.search(pattern, message)), None)


def say(line):
    print(line)
    sys.stdout.flush()  # it may be a pipe


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run it again.")
    except EnvironmentError as error:
        sys.exit(remedy_for(str(error)) or str(error))
