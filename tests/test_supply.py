"""What runs here is what was locked, and what was locked is what requirements*.txt ask for."""

import base64
import hashlib
import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import config


def asked(name):
    """What a requirements file asks for, with the files that it names."""
    for line in (config.ROOT / name).read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            yield from asked(text.removeprefix("-r "))
        elif text:
            yield Requirement(text)


def locked(name):
    """The pins of a lock, for all machines, as {(name, version, hashes): the requirement}."""
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


def pinned(lock):
    """Of these pins those for this machine, as {name: version}."""
    return {
        name: version
        for (name, version, _), pin in lock.items()
        if not pin.marker or pin.marker.evaluate()
    }


RUN, DEVDB, ALL = (locked(f"requirements{kind}.lock") for kind in ("", "-devdb", "-dev"))
PINS = pinned(ALL)
EXTRAS = {name: pin.extras for (name, _, _), pin in ALL.items()}


def needed(requirements):
    """The names of all that these requirements come to, by the metadata of what is installed."""
    todo, seen = list(requirements), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"{requirement} is not locked: make lock"
        assert requirement.specifier.contains(PINS[name]), f"{requirement} is not met: make lock"
        # Without its extra in the lock, pip would resolve it to a release that is not locked.
        assert requirement.extras <= EXTRAS[name], f"{requirement} is locked without its extra"
        for extra in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            children = map(Requirement, metadata.requires(name) or [])
            todo += [c for c in children if c.marker is None or c.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [(RUN, "requirements.txt"), (DEVDB, "requirements-devdb.txt"), (ALL, "requirements-dev.txt")],
    ids=["run", "devdb", "dev"],
)
def test_a_lock_has_all_that_is_asked_for_and_nothing_else(lock, requirements):
    assert needed(asked(requirements)) == set(pinned(lock)), "make lock"


def test_production_gets_what_was_tested():
    assert RUN.keys() <= DEVDB.keys() <= ALL.keys(), "make lock"


def test_the_versions_installed_are_the_locked_ones():
    assert {name: metadata.version(name) for name in PINS} == PINS, "make test installs them"


def test_the_files_installed_are_as_their_packages_recorded_them():
    changed = []
    for name in PINS:
        for path in metadata.files(name) or pytest.fail(f"{name} has no RECORD"):
            if path.hash:
                digest = hashlib.new(path.hash.mode, path.read_binary()).digest()
                if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != path.hash.value:
                    changed.append(str(path))
    assert not changed, "rm -r .venv, and make it again"
