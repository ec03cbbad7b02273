"""Search and filters, compared with a simple implementation of the same rules in Python."""

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
from tests.conftest import PROJECTS, all_items, links

SPACES = [chr(c) for c in range(0x110000) if chr(c).isspace()]
PIECES = [
    *("번역", "프로젝트", "검색을", "한국어", "項目", "管理", "検索", "テスト", "설계\u0301"),
    *("project", "Project", "PROJECT", "search", "Straße", "STRASSE", "İstanbul", "ﬁne"),
    *("ΟΔΟΣ", "οδος", "ΣΑΣ", "cafe\u0301", "café", "CAFÉ", normalize("NFD", "번역")),
    *("H\u0331", "\u1e96", "👩\u200d🚀", "𝄞𝄞", "100%", "a_b", "a\\b", "%%", "__", "\\\\"),
    *("'\"", "a\tb", "a\nb", "a\x1fb", "x  y", "-", "ab", "aa", "aaa", "\u202f\u2028", " \u2009x"),
    *("ıŞIK", "Işık", "ſtrange", "µm", "ϐϑ", "ẞß", "Åk", "\u1c80\u0432"),
]


def fold_letter(letter: str) -> str:
    """Apply Unicode's simple case folding to a letter. A Turkish i becomes an i."""
    if letter in "İı":
        return "i"
    if letter == "ﬅ":  # since Unicode 15.1; older Pythons do not have it
        return "ﬆ"
    folded = letter.casefold()
    return folded if len(folded) == 1 else letter.lower()


@cache
def fold(text: str) -> str:
    """Apply the documented rule: NFC, fold each letter, no dot over an i, NFC, single spaces."""
    letters = "".join(map(fold_letter, normalize("NFC", text))).replace("i\u0307", "i")
    return " ".join(normalize("NFC", letters).split())


def rank(project, q):
    """Return None without a match, 0 for the whole name, 1 for its start, 2 inside it, else 3."""
    name, description = fold(project["name"]), fold(project["description"] or "")
    words = fold(" ".join(q.split())).split(" ")
    if not all(word in name or word in description for word in words):
        return None
    phrase = " ".join(words)
    if name.startswith(phrase):
        return int(name != phrase)
    return 2 if all(word in name for word in words) else 3


def contains(value, part):
    """Do what PostgreSQL's @> does with JSON whose root is an object."""
    if isinstance(part, dict):
        return isinstance(value, dict) and all(
            key in value and contains(value[key], inner) for key, inner in part.items()
        )
    if isinstance(part, list):
        return isinstance(value, list) and all(
            any(contains(item, inner) for item in value) for inner in part
        )
    return type(value) is type(part) and value == part


def newest_first(projects):
    return sorted(projects, key=lambda p: (p["created_at"], p["id"]), reverse=True)


@pytest.fixture(scope="module")
def stored_projects(app, direct_url):
    """5000 projects of random text, ten with each timestamp. Only the oldest contain "rarely"."""
    rng = random.Random(3)  # noqa: S311 - the same every time
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def random_text(max_pieces):
        return "".join(
            rng.choice(PIECES) + rng.choice(["", " ", "  ", "/"])
            for _ in range(rng.randint(1, max_pieces))
        )

    rows = [
        {
            "id": str(UUID(int=rng.getrandbits(128))),
            "name": random_text(5)[:200],
            "description": rng.choice([None, "", random_text(20)[:1000]]),
            "is_active": rng.random() < 0.8,
            "attributes": {
                "team": rng.choice(["core", "web", None]),
                "size": {"m": rng.randint(0, 3), "tags": rng.sample(["a", "b", "c"], 2)},
            },
            "created_at": start + timedelta(microseconds=n // 10),
            "updated_at": start + timedelta(days=rng.randint(0, 9)),
        }
        for n in range(5000)
    ]
    for number, row in enumerate(rows[0:900:9]):
        row[("name", "description")[number % 2]] = rng.choice(["rarely", "Rarely so", "so rarely"])
    connection = psycopg2.connect(direct_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM projects")
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


def make_searches():
    rng = random.Random(5)  # noqa: S311
    for _ in range(40):
        text = "".join(rng.choice(PIECES) for _ in range(3))
        start = rng.randint(0, len(text) - 2)
        word = text[start : start + rng.randint(2, 6)]
        yield word
        yield f"{rng.choice(PIECES)} {word}"
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


SEARCHES = sorted({q for q in make_searches() if any(len(fold(word)) > 1 for word in q.split())})


@pytest.mark.parametrize("q", SEARCHES)
def test_a_search_finds_the_rows_of_the_rule_in_order_of_rank(app, stored_projects, q):
    items = all_items(app.test_client(), f"?q={quote(q)}&page_size=100")
    ranked = [(rank(project, q), project["id"]) for project in newest_first(stored_projects)]
    expected = sorted((r for r in ranked if r[0] is not None), key=lambda r: r[0])
    assert [project["id"] for project in items] == [project_id for _, project_id in expected]


def test_the_searches_have_no_match_few_and_many_and_all_ranks(stored_projects):
    counts = [sum(rank(project, q) is not None for project in stored_projects) for q in SEARCHES]
    assert min(counts) == 0
    assert max(counts) > 1000
    assert sum(0 < count <= 20 for count in counts) > 5
    ranks = {rank(project, q) for q in SEARCHES for project in stored_projects[:500]}
    assert ranks == {None, 0, 1, 2, 3}


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
    "": newest_first,
    "sort=name": lambda ps: sorted(ps, key=lambda p: (p["name"], p["id"])),
    "sort=-updated_at": lambda ps: sorted(
        ps, key=lambda p: (p["updated_at"], p["id"]), reverse=True
    ),
    "sort=is_active,-created_at": lambda ps: sorted(newest_first(ps), key=lambda p: p["is_active"]),
}


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("condition", FILTERS)
def test_every_filter_works_with_every_sort(app, stored_projects, condition, sort):
    items = all_items(app.test_client(), f"?{condition}&{sort}&page_size=100")
    expected = SORTS[sort]([project for project in stored_projects if FILTERS[condition](project)])
    assert [project["id"] for project in items] == [project["id"] for project in expected]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("condition", FILTERS)
@pytest.mark.parametrize("q", ["ab", "번역 proj", "rarely"])
def test_a_search_works_with_every_filter_and_sort(app, stored_projects, q, condition, sort):
    client = app.test_client()
    url = f"?q={q}&{condition}&{sort}"
    matches = [p for p in stored_projects if FILTERS[condition](p) and rank(p, q) is not None]
    expected = SORTS[sort](matches)
    if not sort:
        expected = sorted(expected, key=lambda p: rank(p, q))
    items = all_items(client, f"{url}&page_size=40")
    assert [project["id"] for project in items] == [project["id"] for project in expected]
    assert client.get(f"{PROJECTS}{url}&count=exact").json["total"] == len(expected)
    page = client.get(f"{PROJECTS}{url}&page=3&page_size=7").json
    assert [project["id"] for project in page["items"]] == [p["id"] for p in expected[14:21]]
    assert page["total"] == len(expected)


@pytest.mark.parametrize("q", ["rarely", "so rarely", "ab", "번역 proj"])
def test_links_of_a_search_lead_to_the_last_page_and_back(app, stored_projects, q):
    client = app.test_client()
    url, pages_forward, pages_backward = f"{PROJECTS}?q={q}&page_size=17", [], []
    while url and len(pages_forward) < 500:
        response = client.get(url)
        pages_forward.append([item["id"] for item in response.json["items"]])
        last, url = url, links(response).get("next")
    url = last
    while url and len(pages_backward) < 500:
        response = client.get(url)
        pages_backward.append([item["id"] for item in response.json["items"]])
        url = links(response).get("prev")
    assert pages_backward[::-1] == pages_forward
    assert len(pages_forward) > 2


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
def test_every_substring_of_two_characters_finds_its_text(client, sql, text, data):
    sql("DELETE FROM projects")
    in_description = client.post(PROJECTS, json={"name": "x", "description": text})
    in_name = client.post(PROJECTS, json={"name": text})
    assert (in_description.status_code, in_name.status_code) == (201, 201)
    for spelling in (text, fold(text), text.upper() if fold(text.upper()) == fold(text) else text):
        start = data.draw(st.integers(0, len(spelling) - 2))
        part = spelling[start : data.draw(st.integers(start + 2, len(spelling)))]
        assume(any(len(fold(word)) > 1 for word in part.split()))
        # A part that ends between letters that NFC joins is not a substring of the folded text.
        assume(all(fold(word) in fold(text) for word in part.split()))
        response = client.get(f"{PROJECTS}?q={quote(part)}")
        ids = [project["id"] for project in response.json["items"]]
        assert ids == [in_name.json["id"], in_description.json["id"]], part


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
        ("İstanbul", "İstanbul".lower()),  # with U+0307, like JavaScript's toLowerCase
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
def test_a_search_finds_a_name_with_other_case_or_normal_form(client, make_project, name, q):
    project = make_project(name=name)
    make_project(name="another 100 snakeXcase backslash")
    assert client.get(f"{PROJECTS}?q={quote(q)}").json["items"] == [project]


@pytest.mark.parametrize(
    ("name", "found", "not_found"),
    [
        ("aaaa", ["aa", "aaa", "aaaa"], ["aaaaa", "aa aaaaa"]),
        ("xaaay", ["xa", "xaaa", "aaay", "ay", "aaa", "xaaay"], ["xaay", "aaaa"]),
        ("aa aa", ["aa", "aa aa"], ["aaa"]),
        ("ㅋㅋㅋㅋㅋ", ["ㅋㅋ", "ㅋㅋㅋ", "ㅋㅋㅋㅋ"], ["ㅋㅋㅋㅋㅋㅋ"]),
        ("at 00:00", ["00", "0:", "00:00"], ["000", "00:000"]),
        ("7777 77", ["77", "777", "77 7777"], ["77777"]),
        ("𝄞𝄞𝄞", ["𝄞𝄞", "𝄞𝄞𝄞"], ["𝄞𝄞𝄞𝄞"]),
        ("AaAå", ["aaa", "AAAÅ"], ["aaaa"]),
    ],
)
def test_a_search_for_a_run_of_a_letter_finds_runs_that_are_as_long(
    client, make_project, name, found, not_found
):
    in_name = make_project(name=name)
    in_description = make_project(name="other", description=name)
    for q in found:
        items = client.get(f"{PROJECTS}?q={quote(q)}").json["items"]
        assert items == [in_name, in_description], q
    for q in not_found:
        assert client.get(f"{PROJECTS}?q={quote(q)}").json["items"] == [], q


@pytest.mark.parametrize("q", ["strasse", "100_", "%0", "번을", "ab bc", "bcb", "ab\\", "%%", "__"])
def test_a_search_for_text_that_a_name_lacks_finds_nothing(client, make_project, q):
    make_project(name="Straße 100% 번역을 ab", description="cb")
    assert client.get(f"{PROJECTS}?q={quote(q)}").json["items"] == []


@pytest.mark.parametrize(
    "form", ["東京{}都庁", "{}東京 都庁", "東京 都庁{}", "{0}東京{0}{0} {0}都庁{0}", "{0}ab{0}cd"]
)
@pytest.mark.parametrize("space", SPACES, ids=ascii)
def test_a_name_equals_a_search_with_other_white_space(client, make_project, space, form):
    name = form.format(space)
    words = " ".join(name.split())
    exact = make_project(name=name, description=f"{space}x{space}{space}y")
    prefix = make_project(name=f"{words} x")
    inside = make_project(name=f"x {words}")
    in_description = make_project(name="x", description=words)
    for q in (name, words, f"{space}{words}{space}", words.replace(" ", space)):
        items = client.get(f"{PROJECTS}?q={quote(q)}").json["items"]
        assert items == [exact, prefix, inside, in_description], q


# It precedes each text in the search column. In a text of a client it counts as a space.
FIELD_SEPARATOR = "\x1f"


def all_characters():
    """Return the characters that a text may have and that this Python's Unicode version has."""
    return [chr(c) for c in range(1, 0x110000) if category(chr(c)) not in ("Cs", "Cn")]


def test_search_fold_folds_every_letter_as_unicode_does(sql):
    letters = [letter for letter in all_characters() if letter != FIELD_SEPARATOR]
    folded = sql(
        "SELECT search_fold('x(' || letter || ')') FROM unnest(%s::text[]) WITH ORDINALITY"
        " AS letters (letter, n) ORDER BY n",
        letters,
    )
    pairs = zip(letters, (text for (text,) in folded), strict=True)
    differences = {letter: text for letter, text in pairs if text != fold(f"x({letter})")}
    assert differences == {}


def test_search_fold_makes_both_letters_of_every_case_pair_equal(sql):
    pairs = [
        (letter, other)
        for letter in all_characters()
        for other in (letter.upper(), letter.title(), letter.casefold(), letter.swapcase())
        if len(other) == 1 and other != letter
    ]
    # what JavaScript's toLowerCase returns, which may be several letters
    pairs += [(letter, letter.lower()) for letter in all_characters()]
    assert len({pair for pair in pairs if pair[0] != pair[1]}) > 2_700
    differences = sql(
        "SELECT a, b FROM unnest(%s::text[], %s::text[]) AS pair (a, b)"
        " WHERE search_fold(a) <> search_fold(b)",
        *map(list, zip(*pairs, strict=True)),
    )
    assert differences == []


COMBINING_MARKS = "\u0301\u0304\u0307\u0308\u030a\u030c\u0323\u0327\u0331\u0345\u05b4\u3099"


def test_python_and_postgresql_accept_the_same_words(sql):
    letters = [c for c in all_characters() if c.lower() != c or c.upper() != c or c.casefold() != c]
    letters += [space for space in SPACES if space != FIELD_SEPARATOR]
    texts = [*letters, *(letter + mark for letter in letters for mark in COMBINING_MARKS)]
    texts += [f"a{space}b" for space in SPACES if space != FIELD_SEPARATOR]
    result = sql(
        "SELECT bool_or(length(word) > 1) FROM unnest(%s::text[]) WITH ORDINALITY AS t (given, n),"
        " string_to_table(search_fold(given), ' ') AS word GROUP BY n ORDER BY n",
        [f"{text} -" for text in texts],
    )
    has_words = [has_word for (has_word,) in result]
    assert {True, False} == set(has_words)

    def is_accepted(text):
        try:
            validate_search(text)
        except ValidationError:
            return False
        return True

    differences = [
        t for t, has_word in zip(texts, has_words, strict=True) if is_accepted(t) != has_word
    ]
    assert differences == []


def test_each_word_is_found_in_the_name_or_the_description(client, make_project):
    project = make_project(name="Search engine", description="Every language")
    for q in ("search every", "language engine", "ENGINE", "gin uag"):
        assert client.get(f"{PROJECTS}?q={q}").json["items"] == [project], q
    assert client.get(f"{PROJECTS}?q=search nothing").json["items"] == []
    assert client.get(f"{PROJECTS}?q=engineevery").json["items"] == []


def test_a_changed_project_is_found_only_by_its_new_text(client, make_project):
    project = make_project(name="before", description="old")
    client.put(f"{PROJECTS}/{project['id']}", json={"name": "after", "description": None})
    assert client.get(f"{PROJECTS}?q=after").json["total"] == 1
    for q in ("before", "old"):
        assert client.get(f"{PROJECTS}?q={q}").json["total"] == 0
