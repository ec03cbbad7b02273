"""POST of many rows in one request: all of them are created or none is."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest

from tests.bulk_bodies import CSV, FIRST_PLACES, FORMATS, JSON, NDJSON, body_of, replace_item
from tests.conftest import PROJECTS, all_items, parameters_of
from tests.test_bad_input import INVALID_BODIES, INVALID_VALUES

BAD = 500  # the index of the invalid item among 1000
THOUSAND = [{"name": f"Row {n}", "is_active": n % 2 == 0} for n in range(1000)]
KEY = {"Idempotency-Key": "a"}
CHANGES = f"{PROJECTS}/changes"


@pytest.fixture
def post(client):
    """Send items or a body; return the response."""

    def send(items, content_type=JSON, **headers):
        body = items if isinstance(items, bytes) else body_of(content_type, items)
        return client.post(PROJECTS, data=body, content_type=content_type, headers=headers)

    return send


@pytest.fixture
def created(post):
    """Create items; return their rows."""

    def create(*arguments, **headers):
        response = post(*arguments, **headers)
        assert response.status_code == 201, response.text
        assert response.json.keys() == {"items"}
        assert not {"Location", "ETag"} & {*response.headers.keys()}
        return response.json["items"]

    return create


def count_rows(sql, table="projects"):
    return sql(f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608


@pytest.mark.parametrize("headers", [{}, KEY])
@pytest.mark.parametrize("content_type", FORMATS)
def test_a_thousand_items_create_rows_in_the_order_sent(client, created, content_type, headers):
    rows = created(THOUSAND, content_type, **headers)
    assert [{"name": row["name"], "is_active": row["is_active"]} for row in rows] == THOUSAND
    ids = [row["id"] for row in rows]
    assert ids == sorted(ids)
    assert all_items(client, "?sort=created_at&page_size=100") == rows
    assert client.get(f"{PROJECTS}?q=Row 777").json["items"] == [rows[777]]


# Blank lines are skipped, and a number that a double cannot have is exact.
VALID_LINES = ("empty", "blank", "1e999")


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_each_invalid_body_as_item_500_of_1000_gets_a_400_that_names_it_and_creates_nothing(
    post, problem, sql, content_type
):
    for name, (body, status) in INVALID_BODIES.items():
        if content_type == NDJSON and name in VALID_LINES:
            continue
        body = body.encode() if isinstance(body, str) else body
        items = THOUSAND[: 1000 - body.count(b"\n")]
        response = post(replace_item(content_type, items, BAD, body), content_type)
        document = problem(response, status)
        assert "The database" not in document["detail"], name
        if status == 400:
            place = BAD + FIRST_PLACES[content_type]
            places = {field.partition(".")[0] for field in document["details"]}
            assert {str(place)} <= places <= {str(place), str(place + body.count(b"\n"))}, name
    assert count_rows(sql) == 0


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_each_invalid_value_in_item_500_of_1000_gets_a_400_that_names_it_and_creates_nothing(
    post, problem, sql, content_type
):
    place = BAD + FIRST_PLACES[content_type]
    for name, values in INVALID_VALUES.items():
        body = replace_item(content_type, THOUSAND, BAD, json.dumps(values).encode())
        document = problem(post(body, content_type), 400, "validation_error")
        allowed = {f"{place}.{field}" for field in values.keys() - {"name"} or {"name"}}
        assert allowed >= document["details"].keys() > set(), name
    assert count_rows(sql) == 0


# A cell of a text is always a text, and other cells are JSON, with or without quotes.
VALID_CELLS = (
    *("name number", "name bool", "name list", "name object", "description number"),
    *("is_active string", "attributes string"),
)
VALID_VALUES = {"name": "x", "description": None, "is_active": True, "attributes": {}}


def test_each_invalid_value_in_row_500_of_a_csv_gets_a_400_that_names_it_and_creates_nothing(
    post, problem, sql
):
    for name in INVALID_VALUES.keys() - {*VALID_CELLS, "10000 unknown fields"}:
        values = {**VALID_VALUES, **INVALID_VALUES[name]}
        items = [dict.fromkeys(values) | VALID_VALUES for _ in THOUSAND]
        items[BAD] = values
        document = problem(post(items, CSV), 400, "validation_error")
        if unknown := values.keys() - VALID_VALUES.keys():
            (field,) = unknown
            places = [f"{line}.{field}" for line in range(2, 22)]
        else:
            places = [f"{BAD + 2}.{name.split()[0]}"]
        assert [*document["details"]] == places, name
    assert count_rows(sql) == 0


INVALID_ROWS = {
    "too few cells": (b"x", "501"),
    "too many cells": (b"x,true,", "501"),
    "text after a quote": (b'"x"y,true', "501"),
    "quote in a cell": (b'x"y",true', "501"),
    "unterminated quote": (b'"x,true', "501"),
    "unterminated quote in the last cell": (b'x,"true', "501"),
    "null name": (b",true", "501.name"),
    "empty name": (b'"",true', "501.name"),
    "long name": (b"x" * 201 + b",true", "501.name"),
    "NUL": (b"a\0b,true", "501.name"),
    "NUL in a JSON cell": (b"a,\0", "501.is_active"),
    "not UTF-8": (b"\xff,true", "501.name"),
    "surrogate as UTF-8": (b"\xed\xa0\x80,true", "501.name"),
    "CP949": ("한글".encode("cp949") + b",true", "501.name"),
    "no JSON": (b"x,yes", "501.is_active"),
    "null boolean": (b"x,", "501.is_active"),
    "number for a boolean": (b"x,1", "501.is_active"),
    "empty text for a boolean": (b'x,""', "501.is_active"),
}


def test_each_invalid_row_of_a_csv_gets_a_400_that_names_its_line(post, problem, sql):
    for case, (row, name) in INVALID_ROWS.items():
        body = replace_item(CSV, THOUSAND, BAD - 1, row)
        document = problem(post(body, CSV), 400, "validation_error")
        assert document["details"].keys() == {name}, case
    assert count_rows(sql) == 0


def test_each_invalid_body_as_a_json_cell_in_row_500_of_a_csv_gets_a_400_that_names_it(
    post, problem, sql
):
    for case, (body, status) in INVALID_BODIES.items():
        if case == "1e999":  # a number that a double cannot have is exact
            continue
        text = body.encode() if isinstance(body, str) else body
        cell = b'"' + text.replace(b'"', b'""') + b'"'
        rows = [{"name": "x", "attributes": {}}] * (1000 - text.count(b"\n"))
        document = problem(post(replace_item(CSV, rows, BAD, b"x," + cell), CSV), status)
        if status == 400:
            assert document["details"].keys() == {f"{BAD + 2}.attributes"}, case
    assert count_rows(sql) == 0


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ('"a,true\nb,yes\nc,true\nd', ["2", "3.is_active", "5"]),  # the quote has no end
        ('"a,true\nb"c,true\nd,yes', ["2", "3", "4.is_active"]),
        ('"a\n\nb\r\n",true\nc,yes', ["6.is_active"]),
        ('"a\n"\nb,true', ["2"]),
        ('"a\n",yes\n"b\n",no\n\nc,no', ["2.is_active", "4.is_active", "7.is_active"]),
    ],
)
def test_each_invalid_row_has_the_number_of_its_first_line(post, problem, rows, names):
    body = f"name,is_active\n{rows}\n".encode()
    assert [*problem(post(body, CSV), 400, "validation_error")["details"]] == names


@pytest.mark.parametrize("content_type", FORMATS)
def test_attributes_that_only_the_database_measures_get_a_400_that_names_each_item(
    post, problem, sql, content_type
):
    items = [{"name": "x", "attributes": {"a": 1}} for _ in range(1000)]
    items[BAD] = {"name": "x", "attributes": {"a": "번" * 5500}}
    items[-1] = {"name": "x", "attributes": {"a": [0] * 6000}}
    document = problem(post(items, content_type), 400, "validation_error")
    first = FIRST_PLACES[content_type]
    message = ["Longer than 16384 bytes as JSON."]
    assert document["details"] == {
        f"{BAD + first}.attributes": message,
        f"{999 + first}.attributes": message,
    }
    assert count_rows(sql) == 0


def test_many_invalid_items_get_a_short_problem(post, problem):
    document = problem(post([{"name": "", "x" * 200: 1}] * 1000), 400, "validation_error")
    assert len(document["details"]) == 20
    assert len(json.dumps(document)) < 10_000


@pytest.mark.parametrize("content_type", FORMATS)
@pytest.mark.parametrize("count", [0, 1001])
def test_no_item_or_more_than_1000_get_a_400(post, problem, sql, content_type, count):
    body = body_of(content_type, [{"name": "x"}] * max(count, 1))
    if not count:
        body = {JSON: b" []", NDJSON: b"\n \n", CSV: b"name\n\n"}[content_type]
    document = problem(post(body, content_type), 400, "bad_request")
    has = "more" if count else "none"
    assert document["detail"] == f"Send from 1 to 1000 items. The body has {has}."
    assert count_rows(sql) == 0


@pytest.mark.parametrize("body", [b"[", b"[1] x", b'[{"name": "x"}', b'[{"name": "x"},]', b"[,]"])
def test_a_body_that_is_no_array_gets_a_400(post, problem, sql, body):
    problem(post(body), 400)
    assert count_rows(sql) == 0


def test_items_that_are_no_objects_get_a_400_that_names_them(post, problem):
    document = problem(post(b'[{"name": "x"}, 1, null, [], "x"]'), 400, "validation_error")
    assert document["details"] == {str(n): ["Must be a JSON object."] for n in (1, 2, 3, 4)}


def test_a_missing_member_gets_the_default_and_null_is_null(created):
    rows = created(
        [{"name": "x", "description": None}, {"name": "x", "is_active": False}, {"name": "x"}]
    )
    assert [row["is_active"] for row in rows] == [True, False, True]
    assert [(row["description"], row["attributes"]) for row in rows] == [(None, {})] * 3


def test_read_only_fields_of_an_item_are_ignored(created):
    read_only = {"id": "01900000-0000-7000-8000-000000000000", "version": 7, "owner": "x"}
    (row,) = created([{"name": "x", "created_at": "2020-01-01T00:00:00Z", **read_only}])
    assert (row["version"], row["owner"]) == (1, None)
    assert row["id"] != read_only["id"]
    assert row["created_at"] == row["updated_at"] > "2026"


# Idempotency-Key


@pytest.mark.parametrize("content_type", FORMATS)
def test_a_repeated_request_gets_the_first_response_and_has_no_effect(
    post, client, sql, content_type
):
    first = post(THOUSAND, content_type, **KEY)
    assert "Idempotency-Replayed" not in first.headers
    client.delete(f"{PROJECTS}/{first.json['items'][0]['id']}")
    repeated = post(THOUSAND, content_type, **KEY)
    assert (repeated.status_code, repeated.data) == (first.status_code, first.data)
    assert repeated.headers["Idempotency-Replayed"] == "true"
    assert count_rows(sql) == 999


def test_responses_with_and_without_a_key_are_equal(post):
    items = [{"name": "번역", "attributes": {"a": [1.5, None]}}, {"name": "x", "is_active": False}]
    keyed, plain = post(items, JSON, **KEY).json["items"], post(items).json["items"]
    varying = ("id", "created_at", "updated_at")
    for keyed_row, plain_row in zip(keyed, plain, strict=True):
        assert list(keyed_row) == list(plain_row)
        assert {**keyed_row, **{name: plain_row[name] for name in varying}} == plain_row


@pytest.mark.parametrize("content_type", FORMATS)
def test_a_key_of_another_body_gets_a_422(post, problem, sql, content_type):
    post(THOUSAND, content_type, **KEY)
    others = [*THOUSAND[:-1], {"name": "other", "is_active": True}]
    for items in (others, THOUSAND[:-1], [*THOUSAND[1:], THOUSAND[0]]):
        problem(post(items, content_type, **KEY), 422, "idempotency_key_reused")
    problem(post(b'{"name": "Row 0"}', JSON, **KEY), 422, "idempotency_key_reused")
    assert count_rows(sql) == 1000


def test_a_request_that_failed_leaves_no_key(post, problem, sql):
    problem(post([{"name": "x", "attributes": {"a": "b" * 17_000}}], JSON, **KEY), 400)
    assert count_rows(sql, "idempotency_keys") == 0
    assert post([{"name": "x"}], JSON, **KEY).status_code == 201


def test_simultaneous_equal_requests_have_one_effect(app, sql):
    def post(_):
        return app.test_client().post(PROJECTS, json=THOUSAND, headers=KEY)

    with ThreadPoolExecutor(4) as pool:
        responses = [*pool.map(post, range(4))]
    assert {response.status_code for response in responses} == {201}
    assert len({response.data for response in responses}) == 1
    assert sum("Idempotency-Replayed" in response.headers for response in responses) == 3
    assert count_rows(sql) == 1000


def test_a_key_whose_request_runs_gets_a_409(make_app, sql, direct_url, problem):
    client = make_app(DATABASE_LOCK_TIMEOUT="1").test_client()
    with closing(psycopg2.connect(**parameters_of(direct_url))) as running:
        running.cursor().execute(
            "INSERT INTO idempotency_keys VALUES ('', 'a', '', now(), gen_random_uuid(), 0, '')"
        )
        response = client.post(PROJECTS, json=THOUSAND, headers=KEY)
        assert "in progress" in problem(response, 409, "conflict")["detail"]
        assert response.headers["Retry-After"] == "1"
    assert count_rows(sql) == 0


def test_a_forgotten_row_is_erased_from_the_stored_response_with_its_key(app, post, client, sql):
    rows = post([{"name": f"Secret {n}"} for n in range(3)], JSON, **KEY).json["items"]
    post([{"name": "Other"}], JSON, **{"Idempotency-Key": "b"})
    client.delete(f"{PROJECTS}/{rows[1]['id']}")
    result = app.test_cli_runner().invoke(args=["projects", "forget", "--yes", rows[1]["id"]])
    assert result.exit_code == 0, result.output
    assert sql("SELECT key FROM idempotency_keys") == [("b",)]


# Owners, history and changes


def test_rows_belong_to_the_caller_and_other_callers_do_not_see_them(auth_client, auth_headers):
    alice, bob = auth_headers("alice"), auth_headers("bob")
    rows = auth_client.post(PROJECTS, json=THOUSAND[:3], headers=alice).json["items"]
    assert {row["owner"] for row in rows} == {"alice"}
    assert auth_client.get(PROJECTS, headers=alice).json["total"] == 3
    assert auth_client.get(PROJECTS, headers=bob).json["total"] == 0


def test_a_key_belongs_to_its_caller(auth_client, auth_headers, sql):
    for owner in ("alice", "bob"):
        headers = {**auth_headers(owner), **KEY}
        response = auth_client.post(PROJECTS, json=THOUSAND[:3], headers=headers)
        assert "Idempotency-Replayed" not in response.headers
    assert count_rows(sql) == 6


@pytest.mark.parametrize(("scopes", "status"), [("projects:read", 403), ("projects:write", 201)])
def test_a_create_of_many_needs_the_scope_to_write(auth_client, auth_headers, scopes, status):
    headers = auth_headers("alice", scopes)
    assert auth_client.post(PROJECTS, json=THOUSAND[:3], headers=headers).status_code == status
    assert auth_client.post(PROJECTS, json=THOUSAND[:3]).status_code == 401


@pytest.mark.parametrize("key", [{}, KEY])
def test_history_and_changes_have_each_row_with_its_caller(auth_client, auth_headers, key):
    alice = auth_headers("alice")
    cursor = auth_client.get(CHANGES, headers=alice).json["next_cursor"]
    response = auth_client.post(
        PROJECTS, json=THOUSAND[:50], headers={**alice, **key, "X-Request-ID": "bulk-1"}
    )
    rows = response.json["items"]
    for row in rows[::10]:
        (change,) = auth_client.get(f"{PROJECTS}/{row['id']}/history", headers=alice).json["items"]
        assert change["operation"] == "create"
        assert (change["caller"], change["request_id"]) == ("alice", "bulk-1")
    changes = auth_client.get(f"{CHANGES}?since={cursor}&limit=100", headers=alice).json["items"]
    assert [(change["operation"], change["project"]) for change in changes] == [
        ("create", row) for row in rows
    ]


# Statements and lost answers


@pytest.mark.parametrize("headers", [{}, KEY])
@pytest.mark.parametrize(
    ("items", "status", "count"),
    [(THOUSAND, 201, 1), ([{"name": ""}], 400, 0), ([], 400, 0)],
)
def test_a_create_of_many_takes_one_round_trip(make_app, proxy, sql, headers, items, status, count):
    client = make_app(DATABASE_URL=proxy.url).test_client()
    client.get(PROJECTS)
    for _ in range(3):
        proxy.queries.clear()
        trips = proxy.round_trips
        assert client.post(PROJECTS, json=items, headers=headers).status_code == status
        assert (len(proxy.queries), proxy.round_trips - trips) == (count, count)


@pytest.mark.parametrize("headers", [{}, KEY])
@pytest.mark.parametrize("fault", ["lose", "drop"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_create_with_lost_answers_creates_each_row_once_and_gets_201(
    make_app, proxy, sql, headers, fault, times
):
    client = make_app(DATABASE_URL=proxy.url).test_client()
    client.get(PROJECTS)
    setattr(proxy, fault, ["INSERT"] * times)
    response = client.post(PROJECTS, json=THOUSAND, headers=headers)
    assert response.status_code == 201, response.text
    assert "Idempotency-Replayed" not in response.headers
    assert proxy.lose == proxy.drop == []
    assert count_rows(sql) == count_rows(sql, "changes") == 1000
    assert all_items(client, "?sort=created_at&page_size=100") == response.json["items"]
