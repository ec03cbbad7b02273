"""Search and filters, against a plain Python reading of the same rules."""

import json
import random
from datetime import UTC, datetime, timedelta
from functools import cache
from unicodedata import category, normalize
from urllib.parse import quote
from uuid import UUID

import psycopg2.extras
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from projectapp.resources.search import validate_search
from tests.conftest import PROJECTS, links, walk

SPACES = [chr(c) for c in range(0x110000) if chr(c).isspace()]
PIECES = [
    *("번역", "프로젝트", "검색을", "한국어", "項目", "管理", "検索", "テスト", "설계\u0301"),
    *("project", "Project", "PROJECT", "search", "Straße", "STRASSE", "İstanbul", "ﬁne"),
    *("ΟΔΟΣ", "οδος", "ΣΑΣ", "cafe\u0301", "café", "CAFÉ", normalize("NFD", "번역")),
    *("H\u0331", "\u1e96", "👩\u200d🚀", "𝄞𝄞", "100%", "a_b", "a\\b", "%%", "__", "\\\\"),
    *("'\"", "a\tb", "a\nb", "a\x1fb", "x  y", "-", "ab", "aa", "aaa", "\u202f\u2028", " \u2009x"),
    *("ıŞIK", "Işık", "ſtrange", "µm", "ϐϑ", "ẞß", "Åk", "\u1c80\u0432"),
]


def simple(letter: str) -> str:
    """Unicode's simple case folding of a letter, and i for a Turkish i."""
    if letter in "İı":
        return "i"
    if letter == "ﬅ":  # since Unicode 15.1, and not in what Python knows
        return "ﬆ"
    folded = letter.casefold()
    return folded if len(folded) == 1 else letter.lower()


@cache
def fold(text: str) -> str:
    """The documented rule: NFC, letter by letter, no dot over an i, NFC, white space as blanks."""
    letters = "".join(map(simple, normalize("NFC", text))).replace("i\u0307", "i")
    return " ".join(normalize("NFC", letters).split())


def rank(project, q):
    """None if it does not match; else 0 whole name, 1 its beginning, 2 inside it, 3 elsewhere."""
    name, description = fold(project["name"]), fold(project["description"] or "")
    words = fold(" ".join(q.split())).split(" ")
    if not all(word in name or word in description for word in words):
        return None
    phrase = " ".join(words)
    if name.startswith(phrase):
        return int(name != phrase)
    return 2 if all(word in name for word in words) else 3


def contains(value, part):
    """PostgreSQL's @> for JSON, but for arrays at its root."""
    if isinstance(part, dict):
        return isinstance(value, dict) and all(
            key in value and contains(value[key], inner) for key, inner in part.items()
        )
    if isinstance(part, list):
        return isinstance(value, list) and all(
            any(contains(item, inner) for item in value) for inner in part
        )
    return type(value) is type(part) and value == part


def newest(projects):
    return sorted(projects, key=lambda p: (p["created_at"], p["id"]), reverse=True)


@pytest.fixture(scope="module")
def stored(app, direct_url):
    """5000 projects of random text, ten to a timestamp; only the oldest say "rarely"."""
    chosen = random.Random(3)  # noqa: S311 - the same every time
    began = datetime(2026, 1, 1, tzinfo=UTC)

    def made(most):
        return "".join(
            chosen.choice(PIECES) + chosen.choice(["", " ", "  ", "/"])
            for _ in range(chosen.randint(1, most))
        )

    rows = [
        {
            "id": str(UUID(int=chosen.getrandbits(128))),
            "name": made(5)[:200],
            "description": chosen.choice([None, "", made(20)[:1000]]),
            "is_active": chosen.random() < 0.8,
            "attributes": {
                "team": chosen.choice(["core", "web", None]),
                "size": {"m": chosen.randint(0, 3), "tags": chosen.sample(["a", "b", "c"], 2)},
            },
            "created_at": began + timedelta(microseconds=n // 10),
            "updated_at": began + timedelta(days=chosen.randint(0, 9)),
        }
        for n in range(5000)
    ]
    for number, row in enumerate(rows[0:900:9]):
        row[("name", "description")[number % 2]] = chosen.choice(
            ["rarely", "Rarely so", "so rarely"]
        )
    connection = psycopg2.connect(direct_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE projects")
        psycopg2.extras.execute_values(
            cursor,
            "INSERT INTO projects (id, name, description, is_active, attributes, created_at,"
            " updated_at) VALUES %s",
            [[json.dumps(v) if k == "attributes" else v for k, v in r.items()] for r in rows],
        )
    connection.close()
    for row in rows:
        for key in ("created_at", "updated_at"):
            row[key] = row[key].isoformat(timespec="microseconds").replace("+00:00", "Z")
    return rows


def queries():
    chosen = random.Random(5)  # noqa: S311
    for _ in range(40):
        text = "".join(chosen.choice(PIECES) for _ in range(3))
        start = chosen.randint(0, len(text) - 2)
        word = text[start : start + chosen.randint(2, 6)]
        yield word
        yield f"{chosen.choice(PIECES)} {word}"
    yield from (
        "번역",
        "번역 프로젝트",
        "PROJECT",
        "straße",
        "strasse",
        "caf",
        "é/",
        "οδοσ",
        "ΟΔΟΣ",
        "istan",
    )
    yield from (
        "  ab  ",
        "ab ab",
        "%%",
        "__",
        "\\\\",
        "a%",
        "_b",
        "no such words",
        "h\u0331x",
        "\u1e96x",
    )


GOOD = sorted({q for q in queries() if any(len(fold(word)) > 1 for word in q.split())})


@pytest.mark.parametrize("q", GOOD)
def test_a_search_finds_what_the_rule_says_in_its_order(app, stored, q):
    found = walk(app.test_client(), f"?q={quote(q)}&page_size=100")
    ranked = [(rank(project, q), project["id"]) for project in newest(stored)]
    expected = sorted((r for r in ranked if r[0] is not None), key=lambda r: r[0])
    assert [project["id"] for project in found] == [project_id for _, project_id in expected]


def test_the_searches_of_the_test_above_have_few_and_many_and_no_matches(stored):
    counts = [sum(rank(project, q) is not None for project in stored) for q in GOOD]
    assert min(counts) == 0
    assert max(counts) > 1000
    assert sum(0 < count <= 20 for count in counts) > 5
    assert {rank(project, q) for q in GOOD for project in stored[:500]} == {None, 0, 1, 2, 3}


FILTERS = {
    "is_active=false": lambda p: not p["is_active"],
    'attributes={"team":"core"}': lambda p: contains(p["attributes"], {"team": "core"}),
    'attributes={"team":null}': lambda p: contains(p["attributes"], {"team": None}),
    'attributes={"size":{"m":2}}': lambda p: contains(p["attributes"], {"size": {"m": 2}}),
    'attributes={"size":{"tags":["b","a"]}}': lambda p: contains(
        p["attributes"], {"size": {"tags": ["b", "a"]}}
    ),
    'attributes={"size":{"tags":[]}}': lambda p: True,
    'attributes={"size":[]}': lambda p: False,
    "attributes={}": lambda p: True,
    "created_at[gte]=2026-01-01T00:00:00.0001Z": lambda p: p["created_at"][20:] >= "000100Z",
    "updated_at[lt]=2026-01-03T00:00:00Z": lambda p: p["updated_at"] < "2026-01-03",
    "name=번역": lambda p: p["name"] == "번역",
}
SORTS = {
    "": newest,
    "sort=name": lambda ps: sorted(ps, key=lambda p: (p["name"], p["id"])),
    "sort=-updated_at": lambda ps: sorted(
        ps, key=lambda p: (p["updated_at"], p["id"]), reverse=True
    ),
    "sort=is_active,-created_at": lambda ps: sorted(newest(ps), key=lambda p: p["is_active"]),
}


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("condition", FILTERS)
def test_filters_hold_in_every_order_and_page(app, stored, condition, sort):
    found = walk(app.test_client(), f"?{condition}&{sort}&page_size=100")
    expected = SORTS[sort]([project for project in stored if FILTERS[condition](project)])
    assert [project["id"] for project in found] == [project["id"] for project in expected]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("condition", FILTERS)
@pytest.mark.parametrize("q", ["ab", "번역 proj", "rarely"])
def test_a_search_works_with_every_filter_and_order(app, stored, q, condition, sort):
    client = app.test_client()
    url = f"?q={q}&{condition}&{sort}"
    matches = [p for p in stored if FILTERS[condition](p) and rank(p, q) is not None]
    expected = SORTS[sort](matches)
    if not sort:
        expected = sorted(expected, key=lambda p: rank(p, q))
    found = walk(client, f"{url}&page_size=40")
    assert [project["id"] for project in found] == [project["id"] for project in expected]
    assert client.get(f"{PROJECTS}{url}&count=exact").json["total"] == len(expected)
    page = client.get(f"{PROJECTS}{url}&page=3&page_size=7").json
    assert [project["id"] for project in page["items"]] == [p["id"] for p in expected[14:21]]
    assert page["total"] == len(expected)


@pytest.mark.parametrize("q", ["rarely", "so rarely", "ab", "번역 proj"])
def test_links_lead_through_the_ranks_and_back(app, stored, q):
    client = app.test_client()
    url, forth, back = f"{PROJECTS}?q={q}&page_size=17", [], []
    while url and len(forth) < 500:
        answer = client.get(url)
        forth.append([item["id"] for item in answer.json["items"]])
        last, url = url, links(answer).get("next")
    url = last
    while url and len(back) < 500:
        answer = client.get(url)
        back.append([item["id"] for item in answer.json["items"]])
        url = links(answer).get("prev")
    assert back[::-1] == forth
    assert len(forth) > 2


TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\0"),
    min_size=2,
    max_size=200,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(TEXT, st.data())
def test_every_substring_of_two_characters_finds_any_text(client, sql, text, data):
    sql("TRUNCATE projects")
    made = client.post(PROJECTS, json={"name": "x", "description": text})
    named = client.post(PROJECTS, json={"name": text})
    assert (made.status_code, named.status_code) == (201, 201)
    for shown in (text, fold(text), text.upper() if fold(text.upper()) == fold(text) else text):
        start = data.draw(st.integers(0, len(shown) - 2))
        part = shown[start : data.draw(st.integers(start + 2, len(shown)))]
        assume(any(len(fold(word)) > 1 for word in part.split()))
        # A cut through what NFC joins is no substring of what is shown.
        assume(all(fold(word) in fold(text) for word in part.split()))
        answer = client.get(f"{PROJECTS}?q={quote(part)}")
        found = [project["id"] for project in answer.json["items"]]
        assert found == [named.json["id"], made.json["id"]], part


@pytest.mark.parametrize(
    ("name", "q"),
    [
        ("번역을 검색", "번역"),
        ("Straße", "straße"),
        ("Straße", "STRAßE"),
        (normalize("NFD", "번역 café"), normalize("NFC", "번역")),
        (normalize("NFC", "번역 café"), normalize("NFD", "CAFÉ")),
        ("ΟΔΟΣΑ", "οδος"),
        ("οδος", "ΟΔΟΣ"),
        ("İstanbul", "istanbul"),
        ("İstanbul", "İstanbul".lower()),  # with U+0307, as JavaScript's toLowerCase has it
        ("istanbul", "İSTANBUL"),
        ("IŞIK", "ışık"),
        ("ışık", "IŞIK"),
        ("ışık", "IŞIK".lower()),
        ("Kadıköy İlçesi", "KADIKÖY İLÇESİ"),
        ("Kadıköy İlçesi", "KADIKÖY İLÇESİ".lower()),
        ("ſize", "SIZE"),
        ("ſ\u0323um", "ṣUM"),
        ("βϐθϑφϕπϖκϰρϱεϵ", "ΒΒΘΘΦΦΠΠΚΚΡΡΕΕ"),
        ("5 µm", "Μm"),
        ("5 µm", "μM"),
        ("ẞen", "ßEN"),
        ("\u1c80\u1c81\u1c88", "ВД\ua64a"),
        ("ᏣᎳᎩ", "ꮳꮃꭹ"),
        ("25\u212a", "5k"),
        ("\u212bngström", "ångSTRÖM"),
        ("ᾳβ", "ᾼΒ"),
        ("Ⅷb Ⓐ", "ⅷB ⓐ"),
        ("İstanbul", "İS"),
        ("İstanbul", normalize("NFD", "İSTAN")),
        (normalize("NFD", "İstanbul"), "istan"),
        ("H\u0331ello", "\u1e96e"),
        ("Plan B", "plan b"),
        ("번 역을", "번 역을"),
        ("100% sure", "0%"),
        ("snake_case", "e_c"),
        ("back\\slash", "k\\s"),
        ("東京都庁", "京都"),
        ("👩\u200d🚀 crew", "👩\u200d"),
    ],
)
def test_a_name_is_found_by(client, make_project, name, q):
    project = make_project(name=name)
    make_project(name="another 100 snakeXcase backslash")
    assert client.get(f"{PROJECTS}?q={quote(q)}").json["items"] == [project]


@pytest.mark.parametrize("q", ["strasse", "100_", "%0", "번을", "ab bc", "bcb", "ab\\", "%%", "__"])
def test_a_name_is_not_found_by_what_is_not_in_it(client, make_project, q):
    make_project(name="Straße 100% 번역을 ab", description="cb")
    assert client.get(f"{PROJECTS}?q={quote(q)}").json["items"] == []


@pytest.mark.parametrize(
    "form", ["東京{}都庁", "{}東京 都庁", "東京 都庁{}", "{0}東京{0}{0} {0}都庁{0}", "{0}ab{0}cd"]
)
@pytest.mark.parametrize("space", SPACES, ids=ascii)
def test_a_name_is_whole_whatever_white_space_it_has(client, make_project, space, form):
    name = form.format(space)
    words = " ".join(name.split())
    exact = make_project(name=name, description=f"{space}x{space}{space}y")
    begun = make_project(name=f"{words} x")
    inside = make_project(name=f"x {words}")
    elsewhere = make_project(name="x", description=words)
    for q in (name, words, f"{space}{words}{space}", words.replace(" ", space)):
        found = client.get(f"{PROJECTS}?q={quote(q)}").json["items"]
        assert found == [exact, begun, inside, elsewhere], q


MARK = "\x1f"  # stands before each text that is searched; in a text of a client it is a blank


def codes():
    """All code points that a text may have and this Python's Unicode knows."""
    return [chr(c) for c in range(1, 0x110000) if category(chr(c)) not in ("Cs", "Cn")]


def test_every_letter_is_folded_as_unicode_says(sql):
    letters = [letter for letter in codes() if letter != MARK]
    folded = sql(
        "SELECT search_fold('x(' || letter || ')') FROM unnest(%s::text[]) WITH ORDINALITY"
        " AS letters (letter, n) ORDER BY n",
        letters,
    )
    found = dict(zip(letters, (text for (text,) in folded), strict=True))
    wrong = {letter: text for letter, text in found.items() if text != fold(f"x({letter})")}
    assert wrong == {}


def test_every_one_to_one_case_pair_is_found_by_its_other_case(sql):
    pairs = [
        (letter, other)
        for letter in codes()
        for other in (letter.upper(), letter.title(), letter.casefold(), letter.swapcase())
        if len(other) == 1 and other != letter
    ]
    pairs += [(letter, letter.lower()) for letter in codes()]  # JavaScript's toLowerCase, in full
    assert len({pair for pair in pairs if pair[0] != pair[1]}) > 2_700
    wrong = sql(
        "SELECT a, b FROM unnest(%s::text[], %s::text[]) AS pair (a, b)"
        " WHERE search_fold(a) <> search_fold(b)",
        *map(list, zip(*pairs, strict=True)),
    )
    assert wrong == []


MARKS = "\u0301\u0304\u0307\u0308\u030a\u030c\u0323\u0327\u0331\u0345\u05b4\u3099"


def test_python_and_postgresql_agree_on_what_is_a_word(sql):
    letters = [c for c in codes() if c.lower() != c or c.upper() != c or c.casefold() != c]
    letters += [space for space in SPACES if space != MARK]
    texts = [*letters, *(letter + mark for letter in letters for mark in MARKS)]
    texts += [f"a{space}b" for space in SPACES if space != MARK]
    found = sql(
        "SELECT bool_or(length(word) > 1) FROM unnest(%s::text[]) WITH ORDINALITY AS t (given, n),"
        " string_to_table(search_fold(given), ' ') AS word GROUP BY n ORDER BY n",
        [f"{text} -" for text in texts],
    )
    is_word = [is_found for (is_found,) in found]
    assert {True, False} == set(is_word)

    def is_taken(text):
        try:
            validate_search(text)
        except ValidationError:
            return False
        return True

    wrong = [t for t, is_found in zip(texts, is_word, strict=True) if is_taken(t) != is_found]
    assert wrong == []


def test_every_word_may_be_in_the_name_or_in_the_description(client, make_project):
    project = make_project(name="Search engine", description="Every language")
    for q in ("search every", "language engine", "ENGINE", "gin uag"):
        assert client.get(f"{PROJECTS}?q={q}").json["items"] == [project], q
    assert client.get(f"{PROJECTS}?q=search nothing").json["items"] == []
    assert client.get(f"{PROJECTS}?q=engineevery").json["items"] == []


def test_what_is_changed_is_found_by_its_new_text_alone(client, make_project):
    project = make_project(name="before", description="old")
    client.put(f"{PROJECTS}/{project['id']}", json={"name": "after", "description": None})
    assert client.get(f"{PROJECTS}?q=after").json["total"] == 1
    for q in ("before", "old"):
        assert client.get(f"{PROJECTS}?q={q}").json["total"] == 0
