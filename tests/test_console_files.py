"""The files of the console: the vendored file, the size of the first load, and the texts."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from projectapp.console.views import FOLDER

VENDORED = "preact-htm.js"  # htm 3.1.1, preact/standalone.module.js
VENDORED_SHA256 = "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7"
# The first load is at most 120 KiB. The page has about 6 KiB, and 100 rows have about 18 KiB.
FIRST_LOAD_BYTES = (120 - 24) * 1024

IMPORT = re.compile(r'^(?:import|export) (?:[^;"]*? from )?"\./([\w-]+\.js)";$', re.M)
OWN_FILES = sorted({*FOLDER.glob("*.js"), *FOLDER.glob("*.css")} - {FOLDER / VENDORED})
TEXT_FILES = sorted(FOLDER.glob("texts_*.js"))


def static_imports(name: str) -> set[str]:
    """Return the names of the modules that a browser loads for this one, itself included."""
    names: set[str] = set()
    waiting = [name]
    while waiting:
        if (module := waiting.pop()) not in names:
            names.add(module)
            waiting += IMPORT.findall((FOLDER / module).read_text())
    return names


def texts_of(path: Path) -> dict[str, dict[str, object]]:
    """Return {"ko": {key: text}, "en": {key: text}} of a file that is an object of JavaScript."""
    source = path.read_text().partition("export default ")[2].rstrip().removesuffix(";")
    source = re.sub(r"^(\s*)(\w+):", r'\1"\2":', source, flags=re.M)
    source = re.sub(r"([{,] )(\w+): (?=\")", r'\1"\2": ', source)
    parsed: dict[str, dict[str, object]] = json.loads(re.sub(r",(\s*})", r"\1", source))
    return parsed


def forms(text: object) -> Iterator[str]:
    yield from text.values() if isinstance(text, dict) else [str(text)]


def test_the_vendored_file_is_the_published_one_and_its_licences_are_there():
    assert hashlib.sha256((FOLDER / VENDORED).read_bytes()).hexdigest() == VENDORED_SHA256
    licences = (FOLDER / "LICENSES").read_text()
    for part in ("htm 3.1.1", VENDORED, "Apache License", "The MIT License (MIT)", "Jason Miller"):
        assert part in licences


def test_the_first_load_is_below_its_budget():
    names = {*static_imports("main.js"), "console.css"}
    sizes = {name: (FOLDER / name).stat().st_size for name in names}
    assert sum(sizes.values()) <= FIRST_LOAD_BYTES, sizes


def test_every_module_is_imported_and_every_import_exists():
    sources = {path.name: path.read_text() for path in FOLDER.glob("*.js")}
    imported = {"main.js"}
    for source in sources.values():
        imported.update(re.findall(r'(?:from |import\(|import )"\./([\w-]+\.js)"', source))
    assert imported == sources.keys()


@pytest.mark.parametrize("path", TEXT_FILES, ids=lambda path: path.name)
def test_korean_and_english_have_the_same_keys_and_placeholders(path):
    texts = texts_of(path)
    assert list(texts) == ["ko", "en"]
    assert list(texts["ko"]) == list(texts["en"])
    for key, korean in texts["ko"].items():
        placeholders = [
            {frozenset(re.findall(r"\{(\w+)\}", form)) for form in forms(text)}
            for text in (korean, texts["en"][key])
        ]
        assert placeholders[0] == placeholders[1], key
        assert all(form.strip() for text in (korean, texts["en"][key]) for form in forms(text)), key


def test_no_key_is_in_two_files():
    keys = [key for path in TEXT_FILES for key in texts_of(path)["en"]]
    assert sorted(keys) == sorted(set(keys))


def test_every_key_that_a_module_uses_has_a_text_and_every_text_is_used():
    keys = {key for path in TEXT_FILES for key in texts_of(path)["en"]}
    sources = "".join(path.read_text() for path in OWN_FILES if path not in TEXT_FILES)
    literals = set(re.findall(r'"([\w.]+)"', sources))
    used = set(re.findall(r'\bt\(\s*"([\w.]+)"', sources))
    # t(`error.${code}`) uses every key that begins with "error.".
    prefixes = tuple(re.findall(r"`([\w.]+\.)\$\{", sources))
    assert used - keys == set()
    assert {key for key in keys - literals if not key.startswith(prefixes)} == set()


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda path: path.name)
def test_a_file_names_no_other_host_and_makes_no_html_from_a_string(path):
    source = path.read_text()
    assert "://" not in source.replace("https:// ", "").replace("http://localhost ", "")
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "console.", "style="):
        assert name not in source.replace("style=${{", ""), name
    if path not in TEXT_FILES:
        assert source.count("\n") <= 250 or path.suffix == ".css"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_a_module_has_valid_syntax(path, tmp_path):
    node = shutil.which("node") or pytest.skip("node is not installed.")
    copy = tmp_path / "module.mjs"
    copy.write_bytes(path.read_bytes())
    subprocess.run([node, "--check", copy], check=True)
