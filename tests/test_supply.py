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
    """The pins of a lock, for all machines, as {(name, version, hashes): marker}."""
    pins = {}
    for line in (config.ROOT / name).read_text().replace("\\\n", "").splitlines():
        if not line.startswith("#"):
            text, *hashes = re.split(r"\s+--hash=", line)
            pin = Requirement(text)
            (specifier,) = pin.specifier
            assert specifier.operator == "==", line
            assert hashes, line
            assert all(re.fullmatch("sha256:[0-9a-f]{64}", text) for text in hashes), line
            pins[canonicalize_name(pin.name), specifier.version, frozenset(hashes)] = pin.marker
    return pins


def pinned(lock):
    """Of these pins those for this machine, as {name: version}."""
    return {name: v for (name, v, _), marker in lock.items() if not marker or marker.evaluate()}


RUN, ALL = locked("requirements.lock"), locked("requirements-dev.lock")
PINS = pinned(ALL)


def needed(requirements):
    """The names of all that these requirements come to, by the metadata of what is installed."""
    todo, seen = list(requirements), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"{requirement} is not locked: make lock"
        assert requirement.specifier.contains(PINS[name]), f"{requirement} is not met: make lock"
        for extra in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            children = map(Requirement, metadata.requires(name) or [])
            todo += [c for c in children if c.marker is None or c.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [(RUN, "requirements.txt"), (ALL, "requirements-dev.txt")],
    ids=["run", "dev"],
)
def test_a_lock_has_all_that_is_asked_for_and_nothing_else(lock, requirements):
    assert needed(asked(requirements)) == set(pinned(lock)), "make lock"


def test_production_gets_what_was_tested():
    assert RUN.keys() <= ALL.keys(), "make lock"


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
