"""The contract that every resource fulfils, and who sees its rows."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.resources import CASES

MISSING = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture
def collection(case, client):
    """The path where rows are created."""
    return case.collection(client)


@pytest.fixture
def collection_of(case, guarded):
    """Return the path where a caller with these headers creates rows."""
    return lambda headers: case.collection(guarded, headers)


@pytest.fixture
def create(case, client, collection):
    def post(title="A row", headers=None, **values):
        body = {case.title: title, **{getattr(case, name): v for name, v in values.items()}}
        response = client.post(collection, json=body, headers=headers)
        assert response.status_code == 201, response.text
        return response.json

    return post


def test_a_created_row_is_read_at_its_location(case, client, collection):
    created = client.post(collection, json={case.title: "번역"})
    assert (created.status_code, created.headers["ETag"]) == (201, '"1"')
    assert created.headers["Location"] == f"{case.path}/{created.json['id']}"
    row = client.get(created.headers["Location"])
    assert (row.status_code, row.json) == (200, created.json)
    assert (row.json[case.title], row.json["version"]) == ("번역", 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("title", value) for value in ("", None, 1, "x" * 201)),
        *(("state", "true"), ("state", None), ("text", 1), ("unknown", 1)),
    ],
)
def test_an_invalid_value_gets_a_400_that_names_the_field_and_stores_nothing(
    case, client, collection, create, problem, field, value
):
    row = create()
    name = getattr(case, field, field)
    body = {case.title: "x", name: value}
    for method, path in (("POST", collection), ("PUT", f"{case.path}/{row['id']}")):
        response = client.open(path, method=method, json=body)
        assert name in problem(response, 400, "validation_error")["details"]
    assert client.get(case.path).json["items"] == [row]


def test_read_only_fields_in_a_body_are_ignored(case, client, create):
    row = create()
    body = {**row, "id": MISSING, "version": 9, "owner": "eve", "created_at": "2026-01-01"}
    assert client.put(f"{case.path}/{row['id']}", json=body).json == row


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_write_raises_the_version_only_if_a_value_changes(case, client, create, method):
    row = create(text="x")
    path = f"{case.path}/{row['id']}"
    for version, text in ((1, "x"), (2, "y"), (2, "y"), (3, None)):
        changed = client.open(path, method=method, json={case.text: text})
        assert changed.headers["ETag"] == f'"{version}"'
        same = {**row, case.text: text, "version": version}
        assert changed.json == {**same, "updated_at": changed.json["updated_at"]}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_write_with_another_version_gets_a_412_and_changes_nothing(
    case, client, create, problem, method
):
    row = create()
    path = f"{case.path}/{row['id']}"
    body = {} if method == "DELETE" else {"json": {case.title: "lost"}}
    response = client.open(path, method=method, headers={"If-Match": '"2"'}, **body)
    problem(response, 412)
    assert response.headers["ETag"] == '"1"'
    assert client.get(path).json == row
    response = client.open(path, method=method, headers={"If-Match": '"1"'}, **body)
    assert response.status_code == (204 if method == "DELETE" else 200)


def test_of_simultaneous_writes_with_one_version_one_succeeds(case, app, create):
    path = f"{case.path}/{create()['id']}"

    def put(number):
        body, headers = {case.title: str(number)}, {"If-Match": '"1"'}
        return app.test_client().put(path, json=body, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(put, range(8)))
    assert statuses == [200, *[412] * 7]


def test_a_read_with_the_current_version_gets_a_304(case, client, create):
    path = f"{case.path}/{create()['id']}"
    assert client.get(path, headers={"If-None-Match": '"1"'}).status_code == 304


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_a_missing_or_deleted_row_is_404(case, client, create, problem, method):
    deleted = create()["id"]
    assert client.delete(f"{case.path}/{deleted}").status_code == 204
    body = {"json": {case.title: "x"}} if method in ("PUT", "PATCH") else {}
    for row_id in (MISSING, deleted):
        problem(client.open(f"{case.path}/{row_id}", method=method, **body), 404)


def test_a_repeated_keyed_create_gets_the_first_response(case, client, create, collection, problem):
    key = {"Idempotency-Key": "a"}
    row = create("keyed", key)
    again = client.post(collection, json={case.title: "keyed"}, headers=key)
    assert (again.json, again.headers["Idempotency-Replayed"]) == (row, "true")
    problem(client.post(collection, json={case.title: "other"}, headers=key), 422)
    assert client.get(case.path).json["total"] == 1


@pytest.mark.parametrize("descends", [False, True])
def test_a_cursor_walks_every_sort_and_search_once(case, client, create, descends):
    for number in range(7):
        create(f"Row {number % 3}", state=number % 2 == 0, text=f"번역 {number}")
    sign = "-" if descends else ""
    for query in ("", "q=번역&", f"sort={sign}{case.title}&", f"sort={sign}{case.state}&"):
        whole = client.get(f"{case.path}?{query}page_size=100").json["items"]
        path, walked = f"{case.path}?{query}page_size=2", []
        cursor = ""
        while cursor is not None:
            page = client.get(f"{path}{cursor and f'&cursor={cursor}'}").json
            walked += page["items"]
            cursor = page["next_cursor"]
        assert walked == whole
        assert len(whole) == 7


def test_filters_and_fields_select_rows_and_columns(case, client, create):
    on, _ = create("On", state=True), create("Off", state=False)
    page = client.get(f"{case.path}?{case.state}=true&fields={case.title}").json
    assert page["items"] == [{"id": on["id"], case.title: "On"}]
    assert client.get(f"{case.path}?q=ON").json["items"] == [on]
    assert client.get(f"{case.path}?created_at[gt]={on['created_at']}").json["total"] == 1


def test_a_cursor_of_another_resource_is_refused(case, client, create, problem):
    for _ in range(2):
        create()
    cursor = client.get(f"{case.path}?page_size=1").json["next_cursor"]
    for other in CASES:
        response = client.get(f"{other.path}?page_size=1&cursor={cursor}")
        if other is case:
            assert response.status_code == 200
        else:
            assert "cursor" in problem(response, 400)["details"]


def test_each_request_is_one_statement(case, make_app, client, create, collection, proxy):
    row = create()
    through_proxy = make_app(DATABASE_URL=proxy.url).test_client()
    through_proxy.get(case.path)
    path = f"{case.path}/{row['id']}"
    requests = [
        ("GET", case.path, None),
        ("GET", collection, None),
        ("GET", f"{case.path}?q=row&count=exact", None),
        ("POST", collection, {case.title: "x"}),
        ("GET", path, None),
        ("PUT", path, {case.title: "x"}),
        ("PATCH", path, {case.text: "x"}),
        ("DELETE", path, None),
    ]
    for method, target, body in requests:
        proxy.queries.clear()
        response = through_proxy.open(target, method=method, **({"json": body} if body else {}))
        assert response.status_code < 300, response.text
        assert len(proxy.queries) == 1, (method, target, proxy.queries)


@pytest.mark.parametrize("role", ["owner", "other", "admin", "reader", "writer of others"])
def test_each_caller_sees_and_changes_only_permitted_rows(
    case, guarded, bearer, collection_of, problem, role
):
    alice = bearer("alice", case.scopes)
    callers = {
        "owner": alice,
        "other": bearer("bob", case.scopes),
        "admin": bearer("carol", f"{case.name}:all"),
        "reader": bearer("alice", f"{case.name}:read"),
        "writer of others": bearer("bob", f"{case.name}:write"),
    }
    headers = callers[role]
    collection = collection_of(alice)
    created = guarded.post(collection, json={case.title: "A row"}, headers=alice)
    row, path = created.json, created.headers["Location"]
    assert row["owner"] == "alice"
    found, forbidden, absent = 200, 403, 404
    reads = {"owner": found, "admin": found, "reader": found, "other": absent}.get(role, forbidden)
    writes = {"owner": found, "admin": found, "reader": forbidden}.get(role, absent)
    assert guarded.get(path, headers=headers).status_code == reads
    page = guarded.get(case.path, headers=headers)
    assert page.status_code == (forbidden if reads == forbidden else 200)
    if page.status_code == 200:
        assert page.json["items"] == ([row] if reads == found else [])
        assert page.json["total"] == len(page.json["items"])
    for method in ("PUT", "PATCH"):
        body = {case.title: f"{method} by {role}"}
        assert guarded.open(path, method=method, json=body, headers=headers).status_code == writes
    deleted = guarded.delete(path, headers=headers).status_code
    assert deleted == (204 if writes == found else writes)
    assert guarded.get(path, headers=alice).status_code == (absent if writes == found else 200)


def test_rows_are_assigned_to_another_owner(case, guarded, bearer, collection_of, app):
    alice, bob = bearer("alice", case.scopes), bearer("bob", case.scopes)
    row = guarded.post(collection_of(alice), json={case.title: "x"}, headers=alice).json
    name = (case.parent or case.path).rpartition("/")[2]
    arguments = [name, "assign", "bob", "--from", "alice"]
    for _ in range(2):
        done = app.test_cli_runner().invoke(args=arguments)
        assert done.exit_code == 0, done.output
    assert guarded.get(f"{case.path}/{row['id']}", headers=alice).status_code == 404
    assigned = guarded.get(f"{case.path}/{row['id']}", headers=bob).json
    times = {"updated_at": assigned["updated_at"]}
    assert assigned == {**row, "owner": "bob", "version": 2, **times}
