"""The contract that every resource fulfils, and which callers see and change its rows."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from faults.resource import load_resource, resource_names
from projectapp.resources.cursors import Position, encode_cursor
from tests.bulk_bodies import FIRST_PLACES, FORMATS, body_of

CASES = [load_resource(name) for name in resource_names()]
MISSING = "01900000-0000-7000-8000-000000000000"
# An item of a history also has the row, under the name of one row of the resource.
COMMON_MEMBERS = {"operation", "version", "at", "caller", "credential", "request_id", "changed"}


def collection_path(case, client, headers=None):
    """Return the path where a caller creates rows; for children, that of a new parent."""
    if not case.parent:
        return case.path
    body = case.parent.create_body("A parent")
    response = client.post(case.parent.path, json=body, headers=headers)
    assert response.status_code == 201, response.text
    return case.create_path(response.json["id"])


def field_name(case, name):
    """Return the field that a test calls title, text or flag; another name as it is."""
    return getattr(case, f"{name}_field", name)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture
def collection(case, client):
    """The path where rows are created."""
    return collection_path(case, client)


@pytest.fixture
def collection_of(case, auth_client):
    """Return the path where a caller with these headers creates rows."""
    return lambda headers: collection_path(case, auth_client, headers)


@pytest.fixture
def create(case, client, collection):
    def post(title="A row", headers=None, **values):
        body = {
            case.title_field: title,
            **{field_name(case, name): v for name, v in values.items()},
        }
        response = client.post(collection, json=body, headers=headers)
        assert response.status_code == 201, response.text
        return response.json

    return post


def test_a_created_row_is_read_at_its_location(case, client, collection):
    created = client.post(collection, json={case.title_field: "번역"})
    assert (created.status_code, created.headers["ETag"]) == (201, '"1"')
    assert created.headers["Location"] == f"{case.path}/{created.json['id']}"
    row = client.get(created.headers["Location"])
    assert (row.status_code, row.json) == (200, created.json)
    assert (row.json[case.title_field], row.json["version"]) == ("번역", 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("title", value) for value in ("", None, 1, "x" * 201)),
        *(("flag", "true"), ("flag", None), ("text", 1), ("unknown", 1)),
    ],
)
def test_an_invalid_value_gets_a_400_that_names_the_field_and_stores_nothing(
    case, client, collection, create, problem, field, value
):
    row = create()
    name = field_name(case, field)
    body = {case.title_field: "x", name: value}
    path = f"{case.path}/{row['id']}"
    for method, target in (("POST", collection), ("PUT", path), ("PATCH", path)):
        response = client.open(target, method=method, json=body)
        assert name in problem(response, 400, "validation_error")["details"]
    assert client.get(case.path).json["items"] == [row]


def test_read_only_fields_in_a_body_are_ignored(case, client, collection, create):
    row = create()
    changes = {"id": MISSING, "version": 9, "owner": "eve", "created_at": "x", "updated_at": None}
    for body in (row, {**row, **changes}):
        for method in ("PUT", "PATCH"):
            response = client.open(f"{case.path}/{row['id']}", method=method, json=body)
            assert (response.status_code, response.json) == (200, row)
    created = client.post(collection, json={**row, **changes})
    assert created.status_code == 201
    assert created.json == {
        **row,
        **{name: created.json[name] for name in ("id", "created_at", "updated_at")},
    }
    assert created.json["id"] not in (row["id"], MISSING)
    assert created.json["created_at"] > row["created_at"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_write_raises_the_version_only_if_a_value_changes(case, client, create, method):
    row = create(text="x")
    path = f"{case.path}/{row['id']}"
    for text in ("x", "y", "y", None):
        response = client.open(path, method=method, json={case.text_field: text})
        expected = {**row, case.text_field: text}
        if text != row[case.text_field]:
            expected |= {"version": row["version"] + 1, "updated_at": response.json["updated_at"]}
            assert expected["updated_at"] > row["updated_at"]
        assert (response.status_code, response.json) == (200, expected)
        assert response.headers["ETag"] == f'"{expected["version"]}"'
        row = expected
    assert row["version"] == 3


def test_a_bulk_change_changes_all_rows_or_none(case, client, create, problem):
    first, second = create("First", text="x"), create("Second", text="x")
    items = [
        {"id": second["id"], "version": 1, case.text_field: None},
        {"id": first["id"], case.title_field: "New", case.flag_field: not first[case.flag_field]},
    ]
    for item, status in (
        ({"id": first["id"], "version": 2}, 412),
        ({"id": MISSING}, 404),
        ({"id": first["id"], case.title_field: ""}, 400),
        ({"id": second["id"]}, 400),
    ):
        document = problem(client.patch(case.path, json=[items[0], item]), status)
        assert [place.partition(".")[0] for place in document["details"]] == ["1"]
        assert client.get(f"{case.path}/{second['id']}").json == second
    response = client.patch(case.path, json=items)
    assert response.status_code == 200, response.text
    for row, changed, item in zip((second, first), response.json["items"], items, strict=True):
        times = {"updated_at": changed["updated_at"]}
        assert changed == {**row, **item, "version": 2, **times}
        assert client.get(f"{case.path}/{row['id']}").json == changed


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_write_with_another_version_gets_a_412_and_changes_nothing(
    case, client, create, problem, method
):
    row = create()
    path = f"{case.path}/{row['id']}"
    body = {} if method == "DELETE" else {"json": {case.title_field: "lost"}}
    response = client.open(path, method=method, headers={"If-Match": '"2"'}, **body)
    problem(response, 412, "precondition_failed")
    assert response.headers["ETag"] == '"1"'
    assert client.get(path).json == row
    response = client.open(path, method=method, headers={"If-Match": '"1"'}, **body)
    assert response.status_code == (204 if method == "DELETE" else 200)


def test_of_simultaneous_writes_with_one_version_one_succeeds(case, app, create):
    path = f"{case.path}/{create()['id']}"

    def put(number):
        body, headers = {case.title_field: str(number)}, {"If-Match": '"1"'}
        return app.test_client().put(path, json=body, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(put, range(8)))
    assert statuses == [200, *[412] * 7]
    assert app.test_client().get(path).json["version"] == 2


def test_only_a_read_with_the_current_version_gets_a_304(case, client, create):
    row = create()
    path = f"{case.path}/{row['id']}"
    response = client.get(path, headers={"If-None-Match": '"1"'})
    assert (response.status_code, response.data) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"2"'}).json == row


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_a_missing_or_deleted_row_gets_a_404(case, client, create, problem, method):
    deleted = create()["id"]
    response = client.delete(f"{case.path}/{deleted}")
    assert (response.status_code, response.data) == (204, b"")
    body = {"json": {case.title_field: "x"}} if method in ("PUT", "PATCH") else {}
    for row_id in (MISSING, deleted):
        response = client.open(f"{case.path}/{row_id}", method=method, **body)
        problem(response, 404, "not_found")


def test_history_has_each_state_of_a_row_and_as_of_reads_it(case, client, create, problem):
    first = create(text="x")
    path = f"{case.path}/{first['id']}"
    second = client.patch(path, json={case.text_field: "y"}).json
    assert client.delete(path).status_code == 204
    page = client.get(f"{path}/history?page_size=2")
    assert page.status_code == 200, page.text
    cursor = page.json["next_cursor"]
    rest = client.get(f"{path}/history?cursor={cursor}").json
    assert rest["next_cursor"] is None
    items = [*page.json["items"], *rest["items"]]
    (row,) = items[0].keys() - COMMON_MEMBERS
    assert [(item["operation"], item["version"], item["changed"], item[row]) for item in items] == [
        ("delete", 3, [], None),
        ("update", 2, [case.text_field], second),
        ("create", 1, [], first),
    ]
    for item in items:
        response = client.get(f"{path}?as_of={item['at']}")
        if item[row]:
            assert (response.status_code, response.json) == (200, item[row])
            assert response.headers["ETag"] == f'"{item["version"]}"'
        else:
            problem(response, 404, "not_found")
    problem(client.get(f"{path}?as_of=2999-01-01T00:00:00Z"), 400, "validation_error")
    problem(client.get(f"{path}?as_of=1999-01-01T00:00:00Z"), 410, "history_gone")


def test_a_restored_row_has_its_old_values_and_continues_its_versions(
    case, client, create, problem
):
    first = create(text="x", flag=True)
    path = f"{case.path}/{first['id']}"
    client.put(path, json={case.text_field: None, case.flag_field: False})
    for version in (3, 5):
        restored = client.post(f"{path}/restore", json={"version": 1})
        assert restored.status_code == 200, restored.text
        times = {"updated_at": restored.json["updated_at"]}
        assert restored.json == {**first, "version": version, **times}
        assert client.get(path).json == restored.json
        client.delete(path)
        problem(client.post(f"{path}/restore", json={"version": 9}), 404, "not_found")
    problem(client.post(f"{path}/restore", json={}, headers={"If-Match": "*"}), 412)
    assert client.post(f"{path}/restore", json={}).json["version"] == 7
    items = client.get(f"{path}/history").json["items"]
    operations = ["create", "update", *["restore", "delete"] * 2, "restore"]
    assert [item["operation"] for item in reversed(items)] == operations


def test_of_simultaneous_restores_of_a_deleted_row_one_inserts_it(case, app, create):
    path = f"{case.path}/{create()['id']}"
    app.test_client().delete(path)

    def restore(_):
        return app.test_client().post(f"{path}/restore", json={})

    with ThreadPoolExecutor(8) as pool:
        responses = [*pool.map(restore, range(8))]
    results = {(response.status_code, response.json["version"]) for response in responses}
    assert results == {(200, 3)}


def test_a_repeated_keyed_create_gets_the_first_response(case, client, create, collection, problem):
    key = {"Idempotency-Key": "a"}
    row = create("keyed", key)
    repeated = client.post(collection, json={case.title_field: "keyed"}, headers=key)
    assert (repeated.status_code, repeated.json) == (201, row)
    assert repeated.headers["Idempotency-Replayed"] == "true"
    response = client.post(collection, json={case.title_field: "other"}, headers=key)
    problem(response, 422, "idempotency_key_reused")
    assert client.get(case.path).json["items"] == [row]


@pytest.mark.parametrize("content_type", FORMATS)
@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a"}])
def test_many_items_of_each_format_create_rows_in_the_order_sent(
    case, client, collection, content_type, key
):
    items = [
        {case.title_field: f"Row {n}", case.text_field: None, case.flag_field: n % 2 == 0}
        for n in range(25)
    ]
    options = {"data": body_of(content_type, items), "content_type": content_type, "headers": key}
    response = client.post(collection, **options)
    assert response.status_code == 201, response.text
    rows = response.json["items"]
    assert [{name: row[name] for name in items[0]} for row in rows] == items
    assert client.get(f"{case.path}?sort=created_at&page_size=100").json["items"] == rows
    if key:
        repeated = client.post(collection, **options)
        assert repeated.headers["Idempotency-Replayed"] == "true"
        assert repeated.data == response.data


@pytest.mark.parametrize("content_type", FORMATS)
def test_many_items_of_which_one_is_invalid_get_a_400_that_names_it_and_create_nothing(
    case, client, collection, problem, content_type
):
    items = [{case.title_field: "x", case.text_field: "x"} for _ in range(1000)]
    items[500] = {case.title_field: "", case.text_field: "x" * (case.text_length + 1)}
    body = body_of(content_type, items)
    response = client.post(collection, data=body, content_type=content_type)
    place = 500 + FIRST_PLACES[content_type]
    assert problem(response, 400, "validation_error")["details"].keys() == {
        f"{place}.{case.title_field}",
        f"{place}.{case.text_field}",
    }
    assert client.get(case.path).json["total"] == 0


def test_two_callers_can_use_the_same_key(case, auth_client, auth_headers, collection_of):
    for name in ("alice", "bob"):
        headers = auth_headers(name, ",".join(case.scopes))
        key = {**headers, "Idempotency-Key": "a"}
        response = auth_client.post(
            collection_of(headers), json={case.title_field: "x"}, headers=key
        )
        assert (response.status_code, response.json["owner"]) == (201, name)
        assert auth_client.get(case.path, headers=headers).json["items"] == [response.json]


@pytest.fixture
def seven_rows(create):
    """Rows with a few titles and states, in the order of their creation."""
    return [create(f"Row {n % 3}", flag=n % 2 == 0, text=f"번역 {n}") for n in range(7)]


@pytest.mark.parametrize("sort", ["title", "flag", "created_at", "updated_at"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_list_is_sorted_by_the_key_and_then_by_id(case, client, seven_rows, sort, sign):
    key = field_name(case, sort)
    rows = sorted(seven_rows, key=lambda row: (row[key], row["id"]), reverse=bool(sign))
    assert client.get(f"{case.path}?sort={sign}{key}").json["items"] == rows


@pytest.mark.parametrize(
    "query", ["", "q=번역", "sort={title}", "sort=-{title}", "sort={flag}", "sort=-{flag}"]
)
def test_cursors_lead_through_the_whole_list(case, client, seven_rows, query):
    path = f"{case.path}?{query.format(title=case.title_field, flag=case.flag_field)}&page_size="
    whole = client.get(f"{path}100").json["items"]
    assert len(whole) == 7
    items, cursor = [], ""
    while cursor is not None:
        page = client.get(f"{path}2{cursor and f'&cursor={cursor}'}").json
        items += page["items"]
        cursor = page["next_cursor"]
    assert items == whole


def test_filters_and_fields_select_rows_and_columns(case, client, create):
    on, off = create("On", flag=True, text="번역"), create("Off", flag=False)
    page = client.get(f"{case.path}?{case.flag_field}=true&fields={case.title_field}").json
    assert page["items"] == [{"id": on["id"], case.title_field: "On"}]
    assert page["total"] == 1
    for query, rows in (
        *(("q=ON", [on]), ("q=번역", [on]), (f"{case.flag_field}=false", [off])),
        *((f"created_at[gt]={on['created_at']}", [off]), ("q=ON&owner=bob", [])),
    ):
        assert client.get(f"{case.path}?{query}").json["items"] == rows, query


def test_a_cursor_of_another_resource_gets_a_400(case, client, problem):
    position = Position([0, "2026-01-01T00:00:00Z", MISSING])
    for name in (case.name, "another", *(other.name for other in CASES)):
        cursor = encode_cursor(position, {"sort": [], "resource": name})
        response = client.get(f"{case.path}?cursor={cursor}")
        if name == case.name:
            assert response.status_code == 200
        else:
            assert "cursor" in problem(response, 400, "validation_error")["details"]


def test_each_request_is_one_statement(case, make_app, client, create, collection, proxy):
    row = create()
    through_proxy = make_app(DATABASE_URL=proxy.url).test_client()
    through_proxy.get(case.path)
    path = f"{case.path}/{row['id']}"
    (change,) = client.get(f"{path}/history").json["items"]
    create, keyed = {"json": {case.title_field: "x"}}, {"headers": {"Idempotency-Key": "a"}}
    requests = [
        ("GET", case.path, {}),
        ("GET", collection, {}),
        ("GET", f"{case.path}?q=row&count=exact", {}),
        ("POST", collection, create),
        ("POST", collection, create | keyed),
        ("POST", collection, create | keyed),  # a replay
        ("POST", collection, {"json": [create["json"]] * 1000}),
        ("GET", path, {}),
        ("GET", f"{path}?as_of={change['at']}", {}),
        ("GET", f"{path}/history", {}),
        ("PUT", path, {"json": {case.title_field: "x"}}),
        ("PATCH", path, {"json": {case.text_field: "x"}}),
        ("POST", collection, {"json": [{case.title_field: "x"}] * 3}),
        ("PATCH", case.path, {"json": [{"id": row["id"], case.text_field: "y"}]}),
        ("DELETE", path, {}),
    ]
    for method, target, options in requests:
        proxy.queries.clear()
        response = through_proxy.open(target, method=method, **options)
        assert response.status_code < 300, response.text
        assert len(proxy.queries) == 1, (method, target, proxy.queries)


@pytest.mark.parametrize("role", ["owner", "other", "admin", "reader", "other writer"])
def test_each_caller_sees_and_changes_only_permitted_rows(
    case, auth_client, auth_headers, collection_of, role
):
    alice = auth_headers("alice", ",".join(case.scopes))
    headers = {
        "owner": alice,
        "other": auth_headers("bob", ",".join(case.scopes)),
        "admin": auth_headers("carol", f"{case.name}:all"),
        "reader": auth_headers("alice", f"{case.name}:read"),
        "other writer": auth_headers("bob", f"{case.name}:write"),
    }[role]
    collection = collection_of(alice)
    created = auth_client.post(collection, json={case.title_field: "A row"}, headers=alice)
    row, path = created.json, created.headers["Location"]
    assert row["owner"] == "alice"
    ok, forbidden, absent = 200, 403, 404
    reads = {"owner": ok, "admin": ok, "reader": ok, "other": absent}.get(role, forbidden)
    writes = {"owner": ok, "admin": ok, "reader": forbidden}.get(role, absent)
    assert auth_client.get(path, headers=headers).status_code == reads
    for query in (
        "",
        "?q=row",
        f"?sort={case.title_field}",
        f"?sort={case.flag_field}",
        "?owner=alice",
    ):
        page = auth_client.get(f"{case.path}{query}", headers=headers)
        assert page.status_code == (forbidden if reads == forbidden else 200)
        if page.status_code == 200:
            assert page.json["items"] == ([row] if reads == ok else [])
            assert page.json["total"] == len(page.json["items"])
    for method in ("PUT", "PATCH"):
        body = {case.title_field: f"{method} by {role}"}
        written = auth_client.open(path, method=method, json=body, headers=headers)
        assert written.status_code == writes
    items = [{"id": row["id"], case.text_field: f"bulk change by {role}"}]
    assert auth_client.patch(case.path, json=items, headers=headers).status_code == writes
    history = auth_client.get(f"{path}/history", headers=headers)
    assert history.status_code == reads
    as_of = f"{path}?as_of={datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    assert auth_client.get(as_of, headers=headers).status_code == reads
    restore = {"json": {"version": 1}, "headers": headers}
    assert auth_client.post(f"{path}/restore", **restore).status_code == writes
    if writes != ok:
        assert auth_client.get(path, headers=alice).json == row
    deleted = auth_client.delete(path, headers=headers).status_code
    assert deleted == (204 if writes == ok else writes)
    assert auth_client.get(path, headers=alice).status_code == (absent if writes == ok else 200)
    # A caller of a deleted row has the same rights as before.
    auth_client.delete(path, headers=alice)
    assert auth_client.get(f"{path}/history", headers=headers).status_code == reads
    assert auth_client.get(as_of, headers=headers).status_code == reads
    restored = auth_client.post(f"{path}/restore", json={}, headers=headers)
    parent_is_hidden = bool(case.parent) and role == "admin"
    assert restored.status_code == (409 if parent_is_hidden else writes)
    created = auth_client.post(collection, json={case.title_field: "Another row"}, headers=headers)
    creates = 201 if role == "owner" or not case.parent else absent  # only in a visible parent
    assert created.status_code == (forbidden if role == "reader" else creates)


def test_assign_gives_the_rows_of_one_owner_to_another(
    case, auth_client, auth_headers, collection_of, app
):
    alice, bob, carol = (
        auth_headers(name, ",".join(case.scopes)) for name in ("alice", "bob", "carol")
    )
    row, other_row = (
        auth_client.post(collection_of(headers), json={case.title_field: "x"}, headers=headers).json
        for headers in (alice, carol)
    )
    name = (case.parent or case).name
    arguments = [name, "assign", "bob", "--from", "alice"]
    for _ in range(2):
        result = app.test_cli_runner().invoke(args=arguments)
        assert result.exit_code == 0, result.output
    assert auth_client.get(f"{case.path}/{row['id']}", headers=alice).status_code == 404
    assigned = auth_client.get(f"{case.path}/{row['id']}", headers=bob).json
    times = {"updated_at": assigned["updated_at"]}
    assert assigned == {**row, "owner": "bob", "version": 2, **times}
    assert auth_client.get(f"{case.path}/{other_row['id']}", headers=carol).json == other_row
