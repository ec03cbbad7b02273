"""PATCH of many rows in one request: all of them are changed or none is."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest

from tests.conftest import PROJECTS, parameters_of
from tests.test_bad_input import INVALID_BODIES, INVALID_VALUES, LIMIT

MISSING = "01900000-0000-7000-8000-000000000000"
BAD = 500  # the index of the invalid item among 1000


@pytest.fixture
def patch(client):
    """Send items as a bulk change; return the response."""
    return lambda items, **options: client.patch(PROJECTS, json=items, **options)


@pytest.fixture
def changed(patch):
    """Send items as a bulk change; return the rows."""

    def change(items):
        response = patch(items)
        assert response.status_code == 200, response.text
        return response.json["items"]

    return change


@pytest.fixture
def thousand_ids(sql):
    """Insert 1000 projects; return their ids."""
    rows = sql(
        "INSERT INTO projects (id, name, attributes) SELECT gen_random_uuid(), 'Row ' || n,"
        """ '{"n": 1}' FROM generate_series(0, 999) AS n RETURNING id::text"""
    )
    return [row_id for (row_id,) in rows]


def all_rows(sql):
    return sql("SELECT * FROM projects ORDER BY id")


def send_with_item(client, ids, text):
    """Send a change of 1000 rows in which one item has this text."""
    items = [json.dumps({"id": row_id, "name": "changed"}).encode() for row_id in ids]
    items[BAD] = text
    body = b"[" + b",\n".join(items) + b"]"
    return client.patch(PROJECTS, data=body, content_type="application/json")


def with_id(row_id, body):
    """Add an id to the text of a JSON object, so that nothing else is invalid."""
    body = body.encode() if isinstance(body, str) else body
    return body.replace(b'{"', b'{"id": "%s", "' % row_id.encode(), 1)


# These texts are no item: they end the array, or are more than an item.
NO_ITEMS = ("empty", "blank", "broken", "garbage after", "100000 open brackets")


def test_each_invalid_body_as_item_500_of_1000_gets_a_400_that_names_it_and_changes_nothing(
    client, thousand_ids, problem, sql
):
    before = all_rows(sql)
    for name, (body, status) in INVALID_BODIES.items():
        response = send_with_item(client, thousand_ids, with_id(thousand_ids[BAD], body))
        document = problem(response, status)
        assert "The database" not in document["detail"], name
        if status == 400 and name not in NO_ITEMS:
            places = {place.partition(".")[0] for place in document["details"]}
            assert places == {str(BAD)}, (name, document)
    assert all_rows(sql) == before


def test_each_invalid_value_in_item_500_of_1000_gets_a_400_that_names_it_and_changes_nothing(
    client, thousand_ids, problem, sql
):
    before = all_rows(sql)
    for name, values in INVALID_VALUES.items():
        item = json.dumps({"id": thousand_ids[BAD], **values}).encode()
        response = send_with_item(client, thousand_ids, item)
        document = problem(response, 400, "validation_error")
        allowed = {f"{BAD}.{field}" for field in values.keys() - {"name"} or {"name"}}
        assert allowed >= document["details"].keys() > set(), name
    assert all_rows(sql) == before


@pytest.mark.parametrize(
    ("values", "field"),
    [
        *(({"id": value}, "id") for value in (None, 1, "x", MISSING + "0", [], {}, True)),
        *(({"version": value}, "version") for value in (0, -1, 2**31, 1.5, "1", True, None)),
    ],
)
def test_an_invalid_id_or_version_in_item_500_of_1000_gets_a_400_that_names_it(
    client, thousand_ids, problem, sql, values, field
):
    before = all_rows(sql)
    item = json.dumps({"id": thousand_ids[BAD], "name": "x", **values}).encode()
    document = problem(send_with_item(client, thousand_ids, item), 400, "validation_error")
    assert document["details"].keys() == {f"{BAD}.{field}"}
    assert all_rows(sql) == before


def test_an_item_without_an_id_gets_a_400(patch, problem):
    document = problem(patch([{"id": MISSING}, {"name": "x"}]), 400, "validation_error")
    assert document["details"] == {"1.id": ["Missing data for required field."]}


def test_attributes_that_a_merge_makes_too_large_in_item_500_get_a_400_that_names_it(
    client, thousand_ids, problem, sql
):
    half = {"a": "x" * 9000}
    row_id = thousand_ids[BAD]
    client.patch(f"{PROJECTS}/{row_id}", json={"attributes": half})
    before = all_rows(sql)
    item = json.dumps({"id": row_id, "attributes": {"b": "x" * 9000}}).encode()
    document = problem(send_with_item(client, thousand_ids, item), 400, "validation_error")
    assert document["details"] == {f"{BAD}.attributes": ["Longer than 16384 bytes as JSON."]}
    assert all_rows(sql) == before


def test_a_change_of_1000_rows_merges_each_item_and_returns_the_rows_in_the_order_sent(
    client, changed, thousand_ids
):
    ids = sorted(thousand_ids, reverse=True)
    items = [
        {"id": row_id, "version": 1, "name": f"New {n}", "attributes": {"m": n}}
        for n, row_id in enumerate(ids)
    ]
    rows = changed(items)
    assert [row["id"] for row in rows] == ids
    for n, row in enumerate(rows):
        assert (row["name"], row["version"]) == (f"New {n}", 2)
        assert row["attributes"] == {"n": 1, "m": n}
        assert row["updated_at"] > row["created_at"]
    assert client.get(f"{PROJECTS}/{ids[7]}").json == rows[7]
    assert client.get(f"{PROJECTS}?q=New 999&page_size=1").json["items"][0] == rows[999]


@pytest.mark.parametrize("count", [0, 1001])
def test_no_item_or_more_than_1000_get_a_400(patch, problem, count):
    detail = problem(patch([{"id": MISSING}] * count), 400, "bad_request")["detail"]
    assert "1 to 1000" in detail


@pytest.mark.parametrize(
    "values",
    [
        {"name": "New"},
        {"description": "New"},
        {"description": None},
        {"is_active": False},
        {"attributes": {"b": {"c": None}, "d": [1]}},
        {"attributes": {"a": None, "x": None}},
        {"attributes": {"a": 1.0}},
        {"name": "번역 𝄞\\\"'", "description": "", "is_active": False, "attributes": {"": {}}},
        {},
    ],
)
def test_an_item_changes_its_row_like_a_patch_of_this_row(client, changed, make_project, values):
    project = {"description": "x", "attributes": {"a": 1, "b": {"c": 1}}}
    single, bulk, other = (make_project(**project) for _ in range(3))
    expected = client.patch(f"{PROJECTS}/{single['id']}", json=values).json
    # The other item decides whether the statement sets texts.
    for other_values in ({"is_active": False}, {"name": "Other"}):
        row, _ = changed([{"id": bulk["id"], **values}, {"id": other["id"], **other_values}])
        varying = {name: row[name] for name in ("id", "created_at", "updated_at")}
        assert json.dumps(row) == json.dumps({**expected, **varying})
        assert (row["updated_at"] > bulk["updated_at"]) == (row["version"] == 2)


def test_only_rows_with_a_changed_value_get_a_new_version(changed, make_project):
    same, new = make_project(name="a"), make_project(name="b")
    items = [{"id": same["id"], "name": "a"}, {"id": new["id"], "name": "c"}]
    first, second = changed(items)
    assert first == same
    assert (second["name"], second["version"]) == ("c", 2)
    assert changed(items) == [first, second]


def test_a_search_finds_the_new_texts_and_not_the_old_ones(client, changed, make_project):
    project, other = make_project(name="Old words"), make_project(name="Other")
    changed([{"id": other["id"], "is_active": False}, {"id": project["id"], "name": "New words"}])
    assert client.get(f"{PROJECTS}?q=Old").json["items"] == []
    assert [row["id"] for row in client.get(f"{PROJECTS}?q=New").json["items"]] == [project["id"]]


def test_read_only_fields_of_an_item_are_ignored(changed, make_project):
    project = make_project()
    items = [{**project, "owner": "eve", "created_at": "x", "updated_at": None}]
    assert changed(items) == [project]


def test_missing_rows_get_a_404_and_other_versions_a_412_that_name_the_items(
    client, patch, make_project, problem, sql
):
    first, second, deleted = (make_project(name=name) for name in "abc")
    client.delete(f"{PROJECTS}/{deleted['id']}")
    before = all_rows(sql)
    items = [
        {"id": first["id"], "name": "x", "version": 1},
        {"id": second["id"], "name": "x", "version": 2},
        {"id": MISSING, "name": "x"},
        {"id": deleted["id"], "name": "x", "version": 1},
    ]
    stale = ["The current version is 1. Read the data again."]
    missing = ["There is no project with this id."]
    document = problem(patch(items), 404, "not_found")
    assert document["details"] == {"1": stale, "2": missing, "3": missing}
    document = problem(patch(items[:2]), 412, "precondition_failed")
    assert document["details"] == {"1": stale}
    assert document["detail"] == f"Nothing was changed. 1: {stale[0]}"
    assert all_rows(sql) == before
    items[1]["version"] = 1
    assert [row["version"] for row in patch(items[:2]).json["items"]] == [2, 2]


def test_a_thousand_missing_rows_get_a_short_404(patch, problem):
    items = [{"id": f"01900000-0000-7000-8000-{n:012}"} for n in range(1000)]
    assert len(problem(patch(items), 404)["details"]) == 20


def test_an_id_that_is_sent_twice_gets_a_400_that_names_both_items(
    patch, make_project, problem, sql
):
    first, second = make_project(), make_project()
    before = all_rows(sql)
    items = [{"id": row["id"], "name": "x"} for row in (first, second, first)]
    items[2]["id"] = items[2]["id"].upper()
    document = problem(patch(items), 400, "validation_error")
    assert document["details"] == {"2.id": ["Item 0 has the same id."]}
    assert all_rows(sql) == before


@pytest.mark.parametrize("body", [{"id": MISSING}, {}, "x", 1, None])
def test_a_body_that_is_no_array_gets_a_400(client, problem, body):
    response = client.patch(PROJECTS, data=json.dumps(body), content_type="application/json")
    assert "array" in problem(response, 400, "bad_request")["detail"]


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "text/csv", "application/x-ndjson", "application/merge-patch+json"],
)
def test_another_content_type_gets_a_415_with_the_accepted_one(client, problem, content_type):
    response = client.patch(PROJECTS, data=b"[]", content_type=content_type)
    problem(response, 415, "unsupported_media_type")
    assert response.headers["Accept-Patch"] == "application/json"


def test_a_compressed_body_gets_a_415(patch, client, problem):
    response = client.patch(
        PROJECTS,
        data=gzip.compress(b"[]"),
        content_type="application/json",
        headers={"Content-Encoding": "gzip"},
    )
    problem(response, 415)
    assert response.headers["Accept-Encoding"] == "identity"


def test_a_body_over_the_limit_gets_a_413(client, problem):
    body = b"[" + b" " * LIMIT + b"]"
    problem(client.patch(PROJECTS, data=body, content_type="application/json"), 413)


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize("value", ['"1"', "*", '"9"', "broken"])
def test_a_precondition_header_gets_a_400_that_names_the_member_version(
    patch, make_project, problem, sql, header, value
):
    project = make_project()
    before = all_rows(sql)
    response = patch([{"id": project["id"], "name": "x"}], headers={header: value})
    detail = problem(response, 400, "bad_request")["detail"]
    assert header in detail
    assert "version" in detail
    assert all_rows(sql) == before


def test_a_row_of_another_owner_gets_the_same_404_as_a_missing_one(auth_client, auth_headers, sql):
    alice, bob = auth_headers("alice"), auth_headers("bob")
    rows = {
        name: auth_client.post(PROJECTS, json={"name": "x"}, headers=headers).json
        for name, headers in (("own", alice), ("foreign", bob))
    }
    before = all_rows(sql)
    answers = []
    for other in (rows["foreign"]["id"], MISSING):
        for version in ({}, {"version": 1}, {"version": 7}):
            items = [{"id": rows["own"]["id"], "name": "y"}, {"id": other, "name": "y", **version}]
            headers = {**alice, "X-Request-ID": "same"}
            answers.append(auth_client.patch(PROJECTS, json=items, headers=headers))
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.data for answer in answers}) == 1
    assert all_rows(sql) == before
    items = [{"id": row["id"], "name": "y"} for row in rows.values()]
    admin = auth_headers("root", "projects:all")
    response = auth_client.patch(PROJECTS, json=items, headers=admin)
    assert [row["owner"] for row in response.json["items"]] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("scopes", "status"), [("projects:read", 403), ("projects:write", 200), ("projects:all", 200)]
)
def test_a_bulk_change_needs_the_scope_to_write(auth_client, auth_headers, scopes, status):
    row = auth_client.post(PROJECTS, json={"name": "x"}, headers=auth_headers()).json
    items, headers = [{"id": row["id"], "name": "y"}], auth_headers(scopes=scopes)
    assert auth_client.patch(PROJECTS, json=items, headers=headers).status_code == status
    assert auth_client.patch(PROJECTS, json=items).status_code == 401


def test_history_and_feed_have_each_change_with_its_caller(auth_client, auth_headers):
    alice = auth_headers("alice")
    rows = [auth_client.post(PROJECTS, json={"name": name}, headers=alice).json for name in "abc"]
    feed = auth_client.get(f"{PROJECTS}/changes", headers=alice).json["next_cursor"]
    items = [
        {"id": rows[2]["id"], "name": "new"},
        {"id": rows[0]["id"], "name": "new"},
        {"id": rows[1]["id"], "name": "b"},  # no change
    ]
    headers = {**alice, "X-Request-ID": "bulk"}
    changed = auth_client.patch(PROJECTS, json=items, headers=headers).json["items"]
    events = auth_client.get(f"{PROJECTS}/changes?since={feed}", headers=alice).json["items"]
    assert sorted(event["id"] for event in events) == sorted(row["id"] for row in changed[:2])
    for event in events:
        assert (event["operation"], event["caller"], event["request_id"]) == (
            "update",
            "alice",
            "bulk",
        )
        assert event["project"] in changed
        assert event["changed"] == ["name"]
    path = f"{PROJECTS}/{rows[1]['id']}/history"
    assert len(auth_client.get(path, headers=alice).json["items"]) == 1


# Concurrency


def test_bulk_changes_in_opposite_order_do_not_deadlock(app, thousand_ids, sql, caplog):
    ids = thousand_ids[:200]

    def change(number):
        client = app.test_client()
        order = ids if number % 2 else ids[::-1]
        for n in range(10):
            items = [{"id": row_id, "name": f"{number} {n}"} for row_id in order]
            response = client.patch(PROJECTS, json=items)
            assert response.status_code == 200, response.text
            assert {row["name"] for row in response.json["items"]} == {f"{number} {n}"}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(4)))
    assert sql("SELECT DISTINCT version FROM projects WHERE name NOT LIKE 'Row%%'") == [(41,)]
    assert "40P01" not in caplog.text, "the service repeats a statement after a deadlock"


def test_of_simultaneous_bulk_changes_with_one_version_one_succeeds(app, thousand_ids, sql):
    def change(number):
        items = [
            {"id": row_id, "version": 1, "name": str(number)}
            for row_id in thousand_ids[: 100 + number]
        ]
        return app.test_client().patch(PROJECTS, json=items).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(change, range(8)))
    assert statuses == [200, *[412] * 7]
    [(count, name)] = sql("SELECT count(*), min(name) FROM projects WHERE version = 2")
    assert count == 100 + int(name)


@pytest.fixture
def other_session(direct_url):
    """A cursor of a session in a transaction, and its connection."""
    with (
        closing(psycopg2.connect(**parameters_of(direct_url))) as connection,
        connection.cursor() as cursor,
    ):
        yield cursor, connection


WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


@pytest.mark.parametrize(
    ("statement", "versions", "status", "details"),
    [
        # What another transaction does to row 1 while the change waits for it.
        ("UPDATE projects SET description = 'kept', version = 2", [None, None], 200, None),
        ("UPDATE projects SET description = 'kept', version = 2", [1, 2], 200, None),
        ("UPDATE projects SET description = 'kept', version = 2", [1, 1], 412, {"1"}),
        ("DELETE FROM projects", [None, None], 404, {"1"}),
    ],
)
def test_a_change_that_waits_for_a_row_sees_its_newest_state(
    app, patch, make_project, problem, other_session, sql, statement, versions, status, details
):
    rows = [make_project(name="a"), make_project(name="b")]
    cursor, connection = other_session
    cursor.execute(f"{statement} WHERE id = %s", [rows[1]["id"]])
    items = [
        {"id": row["id"], "name": "new", **({"version": version} if version else {})}
        for row, version in zip(rows, versions, strict=True)
    ]
    with ThreadPoolExecutor(1) as pool:
        change = pool.submit(app.test_client().patch, PROJECTS, json=items)
        while sql(WAITING) == [(0,)]:
            assert not change.done(), "the change waits for the other transaction"
        connection.commit()
        response = change.result()
    if status == 200:
        first, second = response.json["items"]
        assert (first["name"], first["version"]) == ("new", 2)
        assert (second["name"], second["description"], second["version"]) == ("new", "kept", 3)
    else:
        assert problem(response, status)["details"].keys() == details
        assert sql("SELECT name FROM projects WHERE id = %s", rows[0]["id"]) == [("a",)]


def test_a_row_that_another_owner_gets_during_the_change_gets_a_404(
    auth_app, auth_client, auth_headers, problem, other_session, sql
):
    alice = auth_headers("alice")
    rows = [auth_client.post(PROJECTS, json={"name": n}, headers=alice).json for n in "ab"]
    cursor, connection = other_session
    cursor.execute("UPDATE projects SET owner = 'bob' WHERE id = %s", [rows[1]["id"]])
    items = [{"id": row["id"], "name": "new"} for row in rows]
    with ThreadPoolExecutor(1) as pool:
        client = auth_app.test_client()
        change = pool.submit(client.patch, PROJECTS, json=items, headers=alice)
        while sql(WAITING) == [(0,)]:
            assert not change.done(), "the change waits for the other transaction"
        connection.commit()
        response = change.result()
    assert problem(response, 404)["details"].keys() == {"1"}
    assert sql("SELECT name FROM projects ORDER BY name") == [("a",), ("b",)]


# Round trips and lost answers


@pytest.fixture
def proxied(make_app, proxy, sql):
    """A client that reaches the database through `proxy`."""
    client = make_app(DATABASE_URL=proxy.url).test_client()
    assert client.get(PROJECTS).status_code == 200
    return client


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([{"name": "x"}, {"is_active": False}], 200),
        ([{"is_active": False}, {"attributes": {"a": 1}}], 200),
        ([{}, {}], 200),
        ([{"name": "x", "version": 1}, {"name": "x", "version": 2}], 412),
        ([{"name": "x"}, {"id": MISSING}], 404),
        ([{"name": "x", "version": 3}, {"id": MISSING}], 404),
        ([{"name": ""}, {}], 400),
    ],
)
def test_a_bulk_change_takes_one_round_trip_also_if_it_fails(
    proxied, proxy, make_project, values, status
):
    rows = [make_project() for _ in values]
    items = [{"id": row["id"], **item} for row, item in zip(rows, values, strict=True)]
    for _ in range(3 if status != 200 else 1):
        proxy.queries.clear()
        assert proxied.patch(PROJECTS, json=items).status_code == status
        assert len(proxy.queries) == (status != 400), proxy.queries


UPDATE = "UPDATE projects SET name"


def test_only_a_change_of_texts_computes_the_search_columns_again(proxied, proxy, make_project):
    rows = [make_project(), make_project()]
    for values, has_text in (({"is_active": False}, False), ({"description": "x"}, True)):
        proxy.queries.clear()
        items = [{"id": rows[0]["id"], "attributes": {}}, {"id": rows[1]["id"], **values}]
        assert proxied.patch(PROJECTS, json=items).status_code == 200
        assert [UPDATE in query for query in proxy.queries] == [has_text]


@pytest.fixture
def two_rows(make_project):
    return [make_project(name="a"), make_project(name="b")]


def changes_of(rows, *versions):
    return [
        {"id": row["id"], "name": "new", **({"version": version} if version else {})}
        for row, version in zip(rows, versions, strict=True)
    ]


@pytest.mark.parametrize("versions", [(None, None), (1, None), (1, 1)])
def test_a_change_with_a_lost_answer_is_made_once_and_gets_a_200(
    proxied, proxy, two_rows, versions, sql
):
    proxy.lose.append(UPDATE)
    response = proxied.patch(PROJECTS, json=changes_of(two_rows, *versions))
    assert response.status_code == 200, response.text
    assert proxy.lose == []
    rows = response.json["items"]
    assert [(row["id"], row["name"], row["version"]) for row in rows] == [
        (row["id"], "new", 2) for row in two_rows
    ]
    assert sql("SELECT count(*) FROM changes") == [(4,)]


def test_a_change_with_a_lost_answer_that_changes_only_one_row_gets_a_200(proxied, proxy, two_rows):
    items = changes_of(two_rows, 1, 1)
    items[1]["name"] = "b"
    proxy.lose.append(UPDATE)
    response = proxied.patch(PROJECTS, json=items)
    assert [row["version"] for row in response.json["items"]] == [2, 1]


@pytest.mark.parametrize(
    ("versions", "status"), [((1, 1), 200), ((1, None), 503), ((None, None), 503)]
)
def test_an_undelivered_change_is_repeated_only_if_every_item_has_a_version(
    proxied, proxy, two_rows, versions, status, sql, problem
):
    proxy.drop.append(UPDATE)
    response = proxied.patch(PROJECTS, json=changes_of(two_rows, *versions))
    if status == 503:
        problem(response, 503, "outcome_unknown")
        assert sql("SELECT name FROM projects ORDER BY name") == [("a",), ("b",)]
    else:
        assert [row["version"] for row in response.json["items"]] == [2, 2]


def test_an_undelivered_change_does_not_overwrite_a_later_change(
    proxied, proxy, client, two_rows, problem, sql
):
    proxy.drop.append(UPDATE)
    path = f"{PROJECTS}/{two_rows[0]['id']}"
    proxy.before_reset = lambda: client.put(path, json={"name": "another's"})
    response = proxied.patch(PROJECTS, json=changes_of(two_rows, 1, 1))
    assert problem(response, 412)["details"].keys() == {"0"}
    assert sql("SELECT name FROM projects ORDER BY name") == [("another's",), ("b",)]


@pytest.mark.parametrize(("versions", "status"), [((1, 1), 503), ((None, None), 200)])
def test_a_lost_change_whose_values_are_still_stored_gets_200_but_503_with_versions(
    proxied, proxy, client, two_rows, versions, status
):
    proxy.lose.append(UPDATE)
    path = f"{PROJECTS}/{two_rows[0]['id']}"
    proxy.before_reset = lambda: client.put(path, json={"description": "another's"})
    response = proxied.patch(PROJECTS, json=changes_of(two_rows, *versions))
    assert response.status_code == status, response.text


@pytest.mark.parametrize("versions", [(1, 1), (None, None)])
def test_a_lost_change_that_another_one_overwrote_gets_a_503(
    proxied, proxy, client, two_rows, versions, problem, sql
):
    proxy.lose.append(UPDATE)
    path = f"{PROJECTS}/{two_rows[0]['id']}"
    proxy.before_reset = lambda: client.put(path, json={"name": "another's"})
    response = proxied.patch(PROJECTS, json=changes_of(two_rows, *versions))
    problem(response, 503, "outcome_unknown")
    assert sql("SELECT name FROM projects ORDER BY name") == [("another's",), ("new",)]


def test_a_lost_change_of_which_another_client_changed_the_unchanged_row_gets_a_503(
    proxied, proxy, client, two_rows, problem, sql
):
    items = changes_of(two_rows, 1, 1)
    items[1]["name"] = "b"  # as it is
    proxy.lose.append(UPDATE)
    path = f"{PROJECTS}/{two_rows[1]['id']}"
    proxy.before_reset = lambda: client.put(path, json={"name": "another's"})
    response = proxied.patch(PROJECTS, json=items)
    problem(response, 503, "outcome_unknown")  # a 412 would say that nothing was changed
    assert sql("SELECT name FROM projects ORDER BY name") == [("another's",), ("new",)]


def test_a_lost_change_of_a_row_that_was_deleted_gets_a_503(
    proxied, proxy, client, two_rows, problem
):
    proxy.lose.append(UPDATE)
    proxy.before_reset = lambda: client.delete(f"{PROJECTS}/{two_rows[0]['id']}")
    response = proxied.patch(PROJECTS, json=changes_of(two_rows, 1, 1))
    problem(response, 503, "outcome_unknown")


def test_a_change_that_a_failed_precondition_refuses_gets_a_412_if_the_answer_is_lost(
    proxied, proxy, two_rows, problem
):
    proxy.lose.append(UPDATE)
    response = proxied.patch(PROJECTS, json=changes_of(two_rows, 1, 2))
    assert problem(response, 412)["details"].keys() == {"1"}
