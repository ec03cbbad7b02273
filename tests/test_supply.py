"""The installed packages are the locked ones, and the locks contain what requirements*.txt need."""

import base64
import hashlib
import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import config


def read_requirements(name):
    """The requirements in a file and in the files that it includes."""
    for line in (config.ROOT / name).read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            yield from read_requirements(text.removeprefix("-r "))
        elif text:
            yield Requirement(text)


def read_lock(name):
    """The pins of a lock, for all machines, as {(name, version, hashes): requirement}."""
    pins = {}
    for line in (config.ROOT / name).read_text().replace("\\\n", "").splitlines():
        if not line.startswith("#"):
            text, *hashes = re.split(r"\s+--hash=", line)
            pin = Requirement(text)
            (specifier,) = pin.specifier
            assert specifier.operator == "==", line
            assert hashes, line
            assert all(re.fullmatch("sha256:[0-9a-f]{64}", text) for text in hashes), line
            pins[canonicalize_name(pin.name), specifier.version, frozenset(hashes)] = pin
    return pins


def pins_for_this_machine(lock):
    """The pins of a lock for this machine, as {name: version}."""
    return {
        name: version
        for (name, version, _), pin in lock.items()
        if not pin.marker or pin.marker.evaluate()
    }


RUN, DEVDB, ALL = (read_lock(f"requirements{kind}.lock") for kind in ("", "-devdb", "-dev"))
PINS = pins_for_this_machine(ALL)
EXTRAS = {name: pin.extras for (name, _, _), pin in ALL.items()}


def all_packages(requirements):
    """The names of these packages and of all that they depend on, from installed metadata."""
    todo, visited = list(requirements), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"{requirement} is not locked: make lock"
        assert requirement.specifier.contains(PINS[name]), f"{requirement} is not met: make lock"
        # If the lock has no extra, pip would install a release that is not locked.
        assert requirement.extras <= EXTRAS[name], f"{requirement} is locked without its extra"
        for extra in {"", *requirement.extras} - {e for n, e in visited if n == name}:
            visited.add((name, extra))
            children = map(Requirement, metadata.requires(name) or [])
            todo += [c for c in children if c.marker is None or c.marker.evaluate({"extra": extra})]
    return {name for name, _ in visited}


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [(RUN, "requirements.txt"), (DEVDB, "requirements-devdb.txt"), (ALL, "requirements-dev.txt")],
    ids=["run", "devdb", "dev"],
)
def test_lock_contains_exactly_the_required_packages(lock, requirements):
    assert all_packages(read_requirements(requirements)) == set(pins_for_this_machine(lock)), (
        "make lock"
    )


def test_production_lock_is_a_part_of_the_tested_lock():
    assert RUN.keys() <= DEVDB.keys() <= ALL.keys(), "make lock"


def test_installed_versions_are_the_locked_ones():
    assert {name: metadata.version(name) for name in PINS} == PINS, "make test installs them"


def test_installed_files_match_the_records_of_their_packages():
    changed = []
    for name in PINS:
        for path in metadata.files(name) or pytest.fail(f"{name} has no RECORD"):
            if path.hash:
                digest = hashlib.new(path.hash.mode, path.read_binary()).digest()
                if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != path.hash.value:
                    changed.append(str(path))
    assert not changed, "delete .venv, and run make test"
