"""Exports: all rows that match a list's filters, in the order of creation, as NDJSON or CSV."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest

from projectapp.bulk import export_pages
from projectapp.http.security_headers import HEADERS
from tests.bulk_bodies import FORMULA_STARTS
from tests.conftest import PROJECTS, all_items
from tests.feed_load import CHANGES, writers_running
from tests.plans import recorded

EXPORT = f"{PROJECTS}/export"
HEADER = "id,name,description,is_active,attributes,version,created_at,updated_at,owner\r\n"
NDJSON, CSV = "application/x-ndjson", "text/csv"
# `%(n)s` is the number of rows. Three rows have the same created_at.
INSERT = (
    "INSERT INTO projects (id, name, is_active, attributes, created_at, owner)"
    " SELECT gen_random_uuid(), 'row ' || n, n %% 3 > 0,"
    " jsonb_build_object('n', n %% 5, 'text', repeat('x', %s)), now() + n / 3 * interval '1 ms',"
    " CASE n %% 4 WHEN 0 THEN 'bob' WHEN 1 THEN NULL ELSE 'alice' END"
    " FROM generate_series(1, %s) AS n"
)
TEXTS = [
    *("", " ", "=1+1", "+1", "-1", "@a", "'", "''", "'=1", "'a", "\ta", "\ra", "\na", "a\r\nb"),
    *('"', '""', 'a"b', '"a"', "a,b", ",", "a;b", "번역", "\ufeffa", "null", "true", "1.10", "\\"),
    *("\u2028", "\x85a", "\x0ba", "𝄞", "a\n"),
    *(f"{guard}{start}1" for start in FORMULA_STARTS for guard in ("", "'", "''")),
]
NUMBERS = ["12345678901234567890.10", "1.10", "1e400", "-0.0", "1E-7", "7", "0.1", "1.0"]


@pytest.fixture
def small_pages(monkeypatch):
    """Several pages also for few rows."""
    monkeypatch.setattr(export_pages, "_FIRST_PAGE_ROWS", 4)
    monkeypatch.setattr(export_pages, "_MAX_PAGE_ROWS", 7)


def lines_of(response):
    assert response.status_code == 200, response.text
    lines = response.get_data().split(b"\n")
    assert lines.pop() == b""
    return [json.loads(line) for line in lines]


def insert_texts_and_numbers(sql):
    for number, text in enumerate(TEXTS):
        sql(
            "INSERT INTO projects (id, name, description, is_active, attributes, created_at)"
            " VALUES (gen_random_uuid(), %s, %s, %s, jsonb_build_object(%s, %s),"
            " now() + %s * interval '1 s')",
            *(text or "x", text if number % 2 else None, number % 3 > 0),
            *(f"key {text}", text, number),
        )
    for number in NUMBERS:
        sql(
            "INSERT INTO projects (id, name, description, attributes, created_at)"
            " VALUES (gen_random_uuid(), 'n', '', %s::jsonb, now() + interval '1 h')",
            f'{{"n": {number}, "list": [{number}]}}',
        )


def test_rows_come_in_the_order_of_creation_with_all_fields_of_the_list(client, sql):
    sql(INSERT, 300, 2000)
    response = client.get(EXPORT)
    assert response.is_streamed  # there are several pages
    assert lines_of(response) == all_items(client, "?sort=created_at&page_size=100")


def test_export_without_rows_is_empty_or_only_a_header_row(client):
    assert client.get(EXPORT).get_data() == b""
    assert client.get(f"{EXPORT}?format=csv").text == HEADER


FILTERS = [
    *("is_active=true", "name=row 8", 'attributes={"n":3}', "q=row 1", "owner=alice"),
    *("created_at[gte]=START", "updated_at[lt]=2999-01-01T00:00:00Z"),
]


@pytest.mark.parametrize("caller", ["alice", "admin"])
def test_each_combination_of_filters_exports_the_rows_of_the_list(
    auth_client, auth_headers, sql, small_pages, caller
):
    headers = auth_headers(caller, "projects:all" if caller == "admin" else "projects:read")
    sql(INSERT, 1, 60)
    start = sorted(row["created_at"] for row in lines_of(auth_client.get(EXPORT, headers=headers)))
    combined = [c for size in (0, 1, 2, len(FILTERS)) for c in combinations(FILTERS, size)]
    lengths = set()
    for combination in combined:
        query = "&".join(combination).replace("START", start[7])
        rows = lines_of(auth_client.get(f"{EXPORT}?{query}", headers=headers))
        path = f"{PROJECTS}?{query}&sort=created_at&page_size=100&count=exact"
        page = auth_client.get(path, headers=headers).json
        assert rows == page["items"], combination
        assert len(rows) == page["total"]
        lengths.add(len(rows))
    assert len(lengths) > 5


@pytest.mark.parametrize(
    ("query", "accept", "content_type"),
    [
        ("", "", NDJSON),
        ("", "*/*", NDJSON),
        ("", "text/html", NDJSON),
        ("", "application/x-ndjson, text/csv", NDJSON),
        ("", "text/csv", CSV),
        ("", "text/csv, */*;q=0.1", CSV),
        ("", "application/x-ndjson;q=0.5, text/csv", CSV),
        ("?format=csv", "application/x-ndjson", CSV),
        ("?format=ndjson", "text/csv", NDJSON),
    ],
)
def test_format_parameter_or_accept_header_selects_the_format(
    client, make_project, query, accept, content_type
):
    make_project()
    response = client.get(EXPORT + query, headers={"Accept": accept})
    assert response.mimetype == content_type
    assert response.text.startswith(HEADER if content_type == CSV else '{"id" : "')


@pytest.mark.parametrize(
    "query",
    [
        *("sort=name", "page=1", "page_size=10", "cursor=x", "count=none", "fields=name", "x=1"),
        *("format=xml", "format=CSV", "format=", "bom=1", "bom=true", "q=a", "is_active=1"),
        *("format=csv&format=csv", "format=ndjson&bom=true"),
    ],
)
def test_parameter_that_an_export_does_not_have_gets_400_that_names_it(client, problem, query):
    name = "bom" if "bom" in query else query.partition("=")[0]
    assert name in problem(client.get(f"{EXPORT}?{query}"), 400, "validation_error")["details"]


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize(("file_format", "charset"), [("ndjson", ""), ("csv", "; charset=utf-8")])
def test_response_has_the_headers_of_a_file_and_head_has_the_same(
    client, sql, rows, file_format, charset
):
    sql(INSERT, 300, rows)
    url = f"{EXPORT}?format={file_format}"
    response, head = client.get(url), client.head(url)
    assert response.status_code == head.status_code == 200
    names = ["Content-Disposition", "Content-Type", "Cache-Control", "X-Accel-Buffering", *HEADERS]
    for headers in (response.headers, head.headers):
        assert {name: headers[name] for name in names} == {
            "Content-Disposition": f'attachment; filename="projects.{file_format}"',
            "Content-Type": (CSV if charset else NDJSON) + charset,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            **HEADERS,
        }
        page = client.get(f"{CHANGES}?since={headers['Changes-Cursor']}")
        assert (page.status_code, page.json["items"]) == (200, [])
    assert response.headers.get("Content-Length") == head.headers.get("Content-Length")
    assert ("Content-Length" in head.headers) == (rows == 1)
    assert head.get_data() == b""


def test_page_ends_at_its_bytes_although_large_rows_follow_many_small_ones(client, sql):
    sql(INSERT, 1, 3000)
    sql(
        "UPDATE projects SET attributes = jsonb_build_object('text', repeat('x', 16000))"
        " WHERE created_at > (SELECT percentile_disc(0.8) WITHIN GROUP (ORDER BY created_at)"
        " FROM projects)"
    )
    pages = [*client.get(EXPORT, buffered=False).iter_encoded()]
    sizes = [len(page) for page in pages]
    assert len(sizes) > 30
    assert max(sizes) < export_pages.PAGE_BYTES + 20_000
    assert sum(page.count(b"\n") for page in pages) == 3000


# CSV.


def test_csv_has_nulls_as_empty_cells_and_empty_texts_as_quotes(client, make_project):
    a = make_project(name='a "b"', description=None, attributes={"n": 1.5, "text": 'a,"'})
    b = make_project(name="b", description="", is_active=False)
    assert client.get(f"{EXPORT}?format=csv").text == HEADER + "".join(
        f"{p['id']},{cells},1,{p['created_at']},{p['updated_at']},\r\n"
        for p, cells in [
            (a, '"a ""b""",,true,"{""n"": 1.5, ""text"": ""a,\\""""}"'),
            (b, '"b","",false,"{}"'),
        ]
    )


def test_csv_with_bom_begins_with_a_byte_order_mark(client, make_project):
    make_project(name="번역")
    without, with_bom = (
        client.get(f"{EXPORT}?format=csv&bom={bom}").get_data() for bom in ("false", "true")
    )
    assert with_bom == b"\xef\xbb\xbf" + without
    assert "번역".encode() in without


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(client, make_project, start):
    make_project(name=f"{start}1", description=f"a{start}1")
    text = client.get(f"{EXPORT}?format=csv").text
    assert f',"\'{start}1","a{start}1",' in text


@pytest.mark.parametrize("content_type", [NDJSON, CSV])
def test_exported_file_that_is_posted_creates_the_same_rows(client, sql, content_type):
    """The round trip is exact: all texts, null and "", and all digits of numbers."""
    insert_texts_and_numbers(sql)
    columns = "name, description, is_active, attributes::text"
    query = f"SELECT {columns} FROM projects ORDER BY created_at, id"  # noqa: S608
    rows = sql(query)
    file = client.get(EXPORT, headers={"Accept": content_type}).get_data()
    sql("DELETE FROM projects")
    response = client.post(PROJECTS, data=file, content_type=content_type)
    assert response.status_code == 201, response.text
    assert sql(query) == rows
    # The second file differs only in what the service sets.
    second = client.get(EXPORT, headers={"Accept": content_type}).get_data()
    assert len(second.splitlines()) == len(file.splitlines())


# Owners.


def test_callers_export_only_the_rows_that_they_see(auth_client, auth_headers, sql, small_pages):
    headers = {name: auth_headers(name) for name in ("alice", "bob", "eve")}
    headers["admin"] = auth_headers("admin", "projects:all")
    sql(INSERT, 1, 40)
    exported = {n: lines_of(auth_client.get(EXPORT, headers=h)) for n, h in headers.items()}
    assert {row["owner"] for row in exported["admin"]} == {"alice", "bob", None}
    assert len(exported["admin"]) == 40
    for name in ("alice", "bob", "eve"):
        assert exported[name] == [row for row in exported["admin"] if row["owner"] == name]
    assert exported["eve"] == []


def test_export_of_another_owner_is_empty_unless_the_token_sees_all(auth_client, auth_headers, sql):
    sql(INSERT, 1, 40)
    url = f"{EXPORT}?owner=bob"
    assert lines_of(auth_client.get(url, headers=auth_headers("alice"))) == []
    assert len(lines_of(auth_client.get(url, headers=auth_headers("a", "projects:all")))) == 10


def test_revoked_token_ends_an_export_at_the_next_page(auth_client, auth_headers, sql, small_pages):
    headers = auth_headers("alice")
    sql(INSERT, 1, 40)
    pages = iter(auth_client.get(EXPORT, headers=headers, buffered=False).iter_encoded())
    assert next(pages).count(b"\n") == 4 + 1
    sql("UPDATE api_tokens SET revoked_at = now()")
    with pytest.raises(Exception, match="unknown, expired or revoked"):
        next(pages)


# Concurrent writers.


def test_cursor_is_read_before_the_first_row_and_each_page_is_one_statement(
    client, sql, small_pages
):
    sql(INSERT, 1, 30)
    with recorded() as sent:
        pages = [*client.get(EXPORT, buffered=False).iter_encoded()]
    assert "pg_current_snapshot" in sent[0].text
    assert all("string_agg" in statement.text for statement in sent[1:])
    assert len(sent) == 1 + len(pages) == 6


def test_export_and_feed_give_an_exact_copy_while_sixteen_writers_run(
    app, client, sql, direct_url, small_pages
):
    stable_ids = [row[0] for row in sql(f"{INSERT} RETURNING id::text", 1, 150)]
    stop = threading.Event()

    def change_stable_rows():
        """Change rows that exist all the time, also their owners and what a filter could use."""
        generator = random.Random(1)  # noqa: S311
        while not stop.is_set():
            sql(
                "UPDATE projects SET name = name || '.', is_active = NOT is_active,"
                " owner = %s WHERE id = %s",
                *(generator.choice(["ann", "bob"]), generator.choice(stable_ids)),
            )

    def export(_):
        with app.test_client().get(EXPORT) as response:
            return response.headers["Changes-Cursor"], lines_of(response)

    with ThreadPoolExecutor(5) as pool, writers_running(direct_url, "export") as writers:
        changer = pool.submit(change_stable_rows)
        exports = [*pool.map(export, range(60))]
        stop.set()
        changer.result()
    assert sum(writer.commits for writer in writers) > 50
    projects = {project["id"]: project for project in all_items(client, "?page_size=100")}
    assert len(projects) > 150
    changes = 0
    for cursor, rows in exports:
        ids = [row["id"] for row in rows]
        assert {i: ids.count(i) for i in stable_ids} == dict.fromkeys(stable_ids, 1)
        copy = {row["id"]: row for row in rows}  # a row that was created again comes twice
        has_more = True
        while has_more:
            page = client.get(f"{CHANGES}?since={cursor}&limit=1000").json
            for item in page["items"]:
                copy[item["id"]] = item["project"]
            cursor, has_more = page["next_cursor"], page["has_more"]
            changes += len(page["items"])
        assert {key: project for key, project in copy.items() if project} == projects
    assert changes > 100
