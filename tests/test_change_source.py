"""Who made a change: its caller, credential and request id, in the same message as the write."""

import pytest

from tests.conftest import PROJECTS

SOURCE = "SELECT caller, credential, request_id, operation FROM changes ORDER BY seq"


@pytest.fixture
def token_name(sql):
    """Return the public name of the token of an owner."""
    query = "SELECT 'token ' || id FROM api_tokens WHERE owner = %s"
    return lambda owner: sql(query, owner)[0][0]


def test_each_write_has_its_caller_credential_and_request_id(
    auth_client, auth_headers, token_name, sql
):
    alice, admin = auth_headers(), auth_headers("carol", "projects:all")

    def send(method, path, headers, request_id, **options):
        headers = {**headers, "X-Request-ID": request_id}
        response = auth_client.open(path, method=method, headers=headers, **options)
        assert response.status_code < 300, response.text
        return response

    path = send("POST", PROJECTS, alice, "r1", json={"name": "x"}).headers["Location"]
    key = {"Idempotency-Key": "a"}
    send("POST", PROJECTS, alice | key, "r2", json={"name": "keyed"})
    send("POST", PROJECTS, alice | key, "r3", json={"name": "keyed"})  # a replay: no change
    for turn in range(3):  # as text, then prepared, then only EXECUTE
        send("PUT", path, admin, f"put-{turn}", json={"name": f"put {turn}"})
        send("PATCH", path, alice, f"patch-{turn}", json={"name": f"patch {turn}"})
        send("GET", path, alice, f"get-{turn}")
    send("DELETE", path, admin, "r4")
    send("POST", f"{path}/restore", alice, "r5", json={})
    send("POST", f"{path}/restore", admin, "r6", json={"version": 1})
    names = {name: token_name(name) for name in ("alice", "carol")}
    assert sql(SOURCE) == [
        (caller, names[caller], request_id, operation)
        for caller, request_id, operation in (
            *(("alice", "r1", "create"), ("alice", "r2", "create")),
            *(
                (caller, f"{kind}-{turn}", "update")
                for turn in range(3)
                for caller, kind in (("carol", "put"), ("alice", "patch"))
            ),
            *(("carol", "r4", "delete"), ("alice", "r5", "restore"), ("carol", "r6", "restore")),
        )
    ]


def test_changes_outside_the_api_have_the_role_and_no_caller(app, client, make_project, sql):
    make_project()  # in the same session as the command below
    assert app.test_cli_runner().invoke(args=["projects", "assign", "bob"]).exit_code == 0
    sql("SELECT set_config('projectapp.change', '', false)")
    sql("UPDATE projects SET name = 'By hand'")
    (role,) = sql("SELECT 'role ' || session_user")[0]
    assert [row[:3] for row in sql(SOURCE)][1:] == [(None, role, None)] * 2


@pytest.mark.parametrize("is_keyed", [False, True])
@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_a_create_with_a_lost_answer_has_its_caller(
    make_app, auth_headers, token_name, proxy, sql, fault, is_keyed
):
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    headers = {**auth_headers(), "X-Request-ID": "lost"}
    if is_keyed:
        headers["Idempotency-Key"] = "a"
    getattr(proxy, fault).append("INSERT")
    response = client.post(PROJECTS, json={"name": "x"}, headers=headers)
    assert response.status_code == 201, response.text
    assert proxy.lose == proxy.drop == []
    assert sql(SOURCE) == [("alice", token_name("alice"), "lost", "create")]


def test_an_update_that_is_repeated_after_a_lost_answer_has_its_caller(
    make_app, auth_headers, token_name, proxy, sql
):
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    headers = auth_headers()
    path = client.post(PROJECTS, json={"name": "x"}, headers=headers).headers["Location"]
    headers |= {"X-Request-ID": "lost", "If-Match": '"1"'}
    proxy.drop.append("UPDATE projects SET")
    assert client.put(path, json={"name": "y"}, headers=headers).status_code == 200
    assert proxy.drop == []
    assert sql(SOURCE)[1:] == [("alice", token_name("alice"), "lost", "update")]


def test_only_writes_say_who_makes_them_and_in_the_same_message(make_app, auth_headers, proxy):
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    headers = auth_headers()
    path = client.post(PROJECTS, json={"name": "x"}, headers=headers).headers["Location"]
    for _ in range(3):
        for method, target, body, is_write in (
            *(("GET", path, None, False), ("GET", f"{PROJECTS}?q=xy", None, False)),
            *(("GET", f"{path}/history", None, False), ("PUT", path, {"name": "y"}, True)),
            ("POST", PROJECTS, {"name": "z"}, True),
        ):
            proxy.queries.clear()
            options = {"json": body} if body else {}
            assert client.open(target, method=method, headers=headers, **options).status_code < 300
            [query] = proxy.queries
            assert ("SET LOCAL projectapp.change" in query) == is_write, query


def test_a_line_break_in_an_owner_cannot_forge_the_other_fields(
    auth_client, auth_headers, token_name, sql
):
    owner = "eve\ntoken of root\nforged\nrestore"
    headers = {**auth_headers(owner), "X-Request-ID": "real"}
    created = auth_client.post(PROJECTS, json={"name": "x"}, headers=headers)
    assert (created.status_code, created.json["owner"]) == (201, owner)
    assert sql(SOURCE) == [
        ("eve token of root forged restore", token_name(owner), "real", "create")
    ]


@pytest.mark.parametrize(
    "owner", ["", "'; DROP TABLE x; --", "100%(a)s %s %%", "한국어 🎈", "a\\nb"]
)
def test_an_owner_with_special_characters_is_recorded_as_it_is(
    auth_client, auth_headers, sql, owner
):
    headers = auth_headers(owner)
    path = auth_client.post(PROJECTS, json={"name": "x"}, headers=headers).headers["Location"]
    for name in ("a", "b", "c"):  # the last two are prepared
        assert auth_client.put(path, json={"name": name}, headers=headers).status_code == 200
    assert {row[0] for row in sql(SOURCE)} == {owner or None}


@pytest.mark.parametrize("request_id", ["a\tb", "a b", "a;b", "x" * 129, "é"])
def test_a_request_id_that_is_not_valid_is_replaced_in_the_history_too(client, sql, request_id):
    headers = {"X-Request-ID": request_id}
    response = client.post(PROJECTS, json={"name": "x"}, headers=headers)
    assert sql(SOURCE) == [(None, "none", response.headers["X-Request-ID"], "create")]
    assert response.headers["X-Request-ID"] != request_id
