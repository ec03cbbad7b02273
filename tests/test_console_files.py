"""The files of the console: the vendored file, the modules, their size and the texts."""

import ast
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from projectapp.console.resources import describe_resources
from projectapp.console.script import join_modules
from projectapp.console.views import FOLDER
from tests.conftest import PROJECTS

VENDORED = "preact-htm.js"  # htm 3.1.1, preact/standalone.module.js
VENDORED_SHA256 = "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7"
FIRST_LOAD_REQUESTS, FIRST_LOAD_BYTES = 10, 120 * 1024
PAGE = "/console"

OWN_FILES = sorted({*FOLDER.glob("*.js"), *FOLDER.glob("*.css")} - {FOLDER / VENDORED})
TEXT_FILES = sorted(FOLDER.glob("texts_*.js"))


def texts_of(path: Path) -> dict[str, dict[str, object]]:
    """Return {"ko": {key: text}, "en": {key: text}} of a file that is an object of JavaScript."""
    source = path.read_text().partition("export default ")[2].rstrip().removesuffix(";")
    string = r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
    json_tokens = []
    for part in re.findall(rf"{string}|//.*|\w+|[{{}}:,]", source):
        if part[0] in "\"'":
            json_tokens.append(json.dumps(ast.literal_eval(part)))
        elif part[:2] != "//":
            json_tokens.append(part if part in "{}:," else f'"{part}"')
        if part == "}" and json_tokens[-2] == ",":
            del json_tokens[-2]  # JSON has no comma at the end
    document = "".join(json_tokens)
    parsed: dict[str, dict[str, object]] = json.loads(document)
    return parsed


def forms(text: object) -> Iterator[str]:
    yield from text.values() if isinstance(text, dict) else [str(text)]


def test_the_vendored_file_is_the_published_one_and_its_licences_are_there():
    assert hashlib.sha256((FOLDER / VENDORED).read_bytes()).hexdigest() == VENDORED_SHA256
    licences = (FOLDER / "LICENSES").read_text()
    for part in ("htm 3.1.1", VENDORED, "Apache License", "The MIT License (MIT)", "Jason Miller"):
        assert part in licences


def test_the_first_load_with_100_rows_is_below_its_budget(client):
    row = {"name": "번역 Translation " * 3, "description": "Every page in Korean and English"}
    assert client.post(PROJECTS, json=[row] * 100).status_code == 201
    page = client.get(PAGE)
    urls = re.findall(r'(?:href|src)="(/console/files/[^"]+)"', page.text)
    urls.append(f"{PROJECTS}?page_size=100&fields=name,is_active,owner,version,updated_at")
    urls += ["/console/session", "/health"]
    sizes = {PAGE: len(page.data)}
    for url in urls:
        sizes[url] = len(client.get(url, headers={"Accept-Encoding": "gzip"}).data)
    assert len(sizes) <= FIRST_LOAD_REQUESTS
    assert sum(sizes.values()) <= FIRST_LOAD_BYTES, sizes


@pytest.mark.parametrize(
    ("accepted", "coding"), [("identity", None), ("gzip;q=0", None), ("br, gzip;q=0.5", "gzip")]
)
def test_a_file_is_compressed_only_for_a_client_that_accepts_it(client, accepted, coding):
    url = re.search(r'/console/files/[^"]+/console.css', client.get(PAGE).text)[0]
    response = client.get(url, headers={"Accept-Encoding": accepted})
    content = gzip.decompress(response.data) if coding else response.data
    assert content == (FOLDER / "console.css").read_bytes()
    assert response.content_encoding == coding
    assert "Accept-Encoding" in response.headers["Vary"]
    assert response.get_etag()[0].endswith("-gzip") == bool(coding)


def test_the_script_has_every_module_once_and_after_the_modules_that_it_imports():
    script = join_modules(FOLDER)
    order = re.findall(r"^const \$(\w+) = \(\(\) => \{$", script, re.M)
    assert sorted(order) == sorted(path.stem.replace("-", "_") for path in FOLDER.glob("*.js"))
    assert order[-1] == "main"
    assert re.findall(r"^\s*(?:import|export)\b.*|\bimport\(.*", script, re.M) == []


def test_a_module_exports_only_what_another_one_uses():
    sources = {path.stem: path.read_text() for path in FOLDER.glob("*.js") if path.name != VENDORED}
    imports = r'^import \{([^}]*)\} from "\./([\w-]+)\.js";$'
    used = {
        (module, name.split(" as ")[0].strip())
        for source in sources.values()
        for names, module in re.findall(imports, source, re.M)
        for name in names.split(",")
    }
    declaration = r"^export (?:async )?(?:function\*?|const|class) (\w+)"
    exported = {
        (module, name)
        for module, source in sources.items()
        for name in re.findall(declaration, source, re.M)
    }
    assert exported - used == set()
    # The joined script needs this, too: an import that does not exist would be undefined.
    assert {
        (module, name) for module, name in used if module in sources and name
    } - exported == set()


@pytest.mark.parametrize("path", TEXT_FILES, ids=lambda path: path.name)
def test_korean_and_english_have_the_same_keys_and_placeholders(path):
    texts = texts_of(path)
    assert list(texts) == ["ko", "en"]
    assert list(texts["ko"]) == list(texts["en"])
    for key, korean in texts["ko"].items():
        placeholders = [
            {name for form in forms(text) for name in re.findall(r"\{(\w+)\}", form)}
            for text in (korean, texts["en"][key])
        ]
        assert placeholders[0] == placeholders[1], key
        assert all(form.strip() for text in (korean, texts["en"][key]) for form in forms(text)), key


def test_no_module_knows_a_resource_or_one_of_its_own_fields(client):
    """Only the texts do, and a resource or a field without a text has its name as a label."""
    [resource] = describe_resources(client.application)
    common = {"id", "name", "description", "owner", "version", "created_at", "updated_at"}
    names = {resource["name"], resource["singular"]}
    names |= {field["name"] for field in resource["fields"]} - common
    assert names == {"projects", "project", "is_active", "attributes"}
    for path in FOLDER.glob("*.js"):
        if path.name != VENDORED and path not in TEXT_FILES:
            assert set(re.findall(r"\w+", path.read_text())) & names == set(), path.name


@pytest.mark.parametrize("path", TEXT_FILES, ids=lambda path: path.name)
def test_korean_texts_are_korean_and_no_particle_depends_on_an_inserted_value(path):
    for key, korean in texts_of(path)["ko"].items():
        for form in forms(korean):
            own_words = re.sub(r"\{\w+\}", "", form)
            assert re.search("[가-힣]", form) or not re.search(r"[A-Za-z]{3}", own_words), key
            assert not re.search(r"\((?:으|가|를|는|와|이)\)", form), key
            assert not re.search(
                r"\}[\"”’]?(?:은|는|이|가|을|를|과|와|으로|로)(?=[\s.,:)]|$)", form
            ), key
            assert "주세요" not in form, key  # requests end in -하세요


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
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function|\bstyle=(?!\$\{)"
    assert re.findall(unsafe, source) == []
    assert re.findall(r"\bconsole\.(?:log|info|debug|warn|error)\b", source) == []
