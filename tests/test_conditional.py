"""ETag, If-None-Match and If-Match (RFC 9110, 13)."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import PROJECTS

MALFORMED_HEADERS = [
    "",
    "1",
    '"1',
    "'1'",
    '"1" "2"',
    'w/"1"',
    '"1",*',
    '*,"1"',
    '"a\x7fb"',
    "W/1",
    "**",
]
WRITES = [("put", {"name": "new"}), ("patch", {"name": "new"}), ("put", {}), ("delete", None)]


@pytest.fixture
def url(make_project):
    return f"{PROJECTS}/{make_project()['id']}"


def send(client, method, url, body, **headers):
    options = {} if body is None else {"json": body}
    return getattr(client, method)(url, headers=headers, **options)


@pytest.mark.parametrize("etags", ['"1"', 'W/"1"', '"9", "1"', '"9" ,\t"1" ,', "*", " * "])
@pytest.mark.parametrize("method", ["get", "head"])
def test_a_read_with_the_current_etag_in_if_none_match_gets_a_304(client, url, method, etags):
    response = getattr(client, method)(url, headers={"If-None-Match": etags})
    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["ETag"] == '"1"'
    assert {"Cache-Control", "Vary", "X-Request-ID"} <= set(response.headers.keys())


@pytest.mark.parametrize("etags", ['"2"', '"11"', '""', 'W/"01"'])
def test_a_read_with_another_etag_in_if_none_match_gets_a_200(client, url, etags):
    assert client.get(url, headers={"If-None-Match": etags}).status_code == 200


@pytest.mark.parametrize(("method", "body"), WRITES)
@pytest.mark.parametrize("etags", ['"1"', '"9", "1"', "*"])
def test_a_write_with_the_current_etag_in_if_match_succeeds(client, url, method, body, etags):
    assert send(client, method, url, body, **{"If-Match": etags}).status_code in (200, 204)


@pytest.mark.parametrize(("method", "body"), WRITES)
@pytest.mark.parametrize(
    "etags", ['"2"', 'W/"1"', '"01"', '"x"', '""', '"99999999999999999999"', f'"{2**31}"']
)
def test_a_write_with_another_etag_in_if_match_gets_a_412_with_the_current_one(
    client, url, problem, method, body, etags
):
    response = send(client, method, url, body, **{"If-Match": etags})
    problem(response, 412, "precondition_failed")
    assert response.headers["ETag"] == '"1"'
    assert client.get(url).json["name"] == "A project"


@pytest.mark.parametrize(("method", "body"), WRITES)
def test_if_match_on_a_missing_project_gets_a_404(client, url, problem, method, body):
    client.delete(url)
    problem(send(client, method, url, body, **{"If-Match": '"1"'}), 404, "not_found")


@pytest.mark.parametrize(("method", "body"), WRITES)
@pytest.mark.parametrize("etags", MALFORMED_HEADERS)
def test_a_write_with_a_malformed_if_match_gets_a_400_and_changes_nothing(
    client, url, problem, method, body, etags
):
    assert (
        "If-Match" in problem(send(client, method, url, body, **{"If-Match": etags}), 400)["detail"]
    )
    assert client.get(url).json["version"] == 1


@pytest.mark.parametrize("etags", MALFORMED_HEADERS)
def test_a_read_with_a_malformed_if_none_match_gets_a_400(client, url, problem, etags):
    problem(client.get(url, headers={"If-None-Match": etags}), 400, "bad_request")


@pytest.mark.parametrize(("method", "body"), WRITES)
@pytest.mark.parametrize("etags", MALFORMED_HEADERS)
def test_a_write_with_a_malformed_if_none_match_gets_a_400_and_changes_nothing(
    client, url, problem, method, body, etags
):
    for if_match in ({}, {"If-Match": '"1"'}):
        response = send(client, method, url, body, **{"If-None-Match": etags, **if_match})
        assert "If-None-Match" in problem(response, 400, "bad_request")["detail"]
    assert client.get(url).json["version"] == 1


@pytest.mark.parametrize(("method", "body"), WRITES)
@pytest.mark.parametrize("etags", ["*", ' "1"', 'W/"1"', '"9", W/"1", "x"'])
@pytest.mark.parametrize("if_match", [None, "*", '"1"', '"1", "2"'])
def test_a_write_with_the_current_etag_in_if_none_match_gets_a_412(
    client, url, problem, method, body, etags, if_match
):
    headers = {"If-None-Match": etags, **({"If-Match": if_match} if if_match else {})}
    response = send(client, method, url, body, **headers)
    problem(response, 412, "precondition_failed")
    assert response.headers["ETag"] == '"1"'
    assert client.get(url).json["name"] == "A project"


@pytest.mark.parametrize(("method", "body"), WRITES)
@pytest.mark.parametrize("etags", ['"2"', '"2", W/"3"', '"x"', '""', 'W/"01"', f'"{2**31}"'])
@pytest.mark.parametrize("if_match", [None, "*", '"1"', '"1", "2"'])
def test_a_write_with_other_etags_in_if_none_match_succeeds(
    client, url, method, body, etags, if_match
):
    headers = {"If-None-Match": etags, **({"If-Match": if_match} if if_match else {})}
    assert send(client, method, url, body, **headers).status_code in (200, 204)
    if body:
        assert client.get(url).json["name"] == "new"


@pytest.mark.parametrize(("method", "body"), WRITES)
def test_a_write_with_another_etag_in_if_match_gets_a_412_for_any_if_none_match(
    client, url, problem, method, body
):
    for etags in ("*", '"1"', '"3"'):
        headers = {"If-Match": '"2"', "If-None-Match": etags}
        problem(send(client, method, url, body, **headers), 412)


@pytest.mark.parametrize(("method", "body"), WRITES)
@pytest.mark.parametrize("etags", ["*", '"1"'])
def test_if_none_match_on_a_missing_project_gets_a_404(client, url, problem, method, body, etags):
    client.delete(url)
    problem(send(client, method, url, body, **{"If-None-Match": etags}), 404, "not_found")


def test_a_create_ignores_if_none_match(client):
    """The new project gets a new id, so the header cannot match an existing one."""
    response = client.post(PROJECTS, json={"name": "x"}, headers={"If-None-Match": "*"})
    assert response.status_code == 201


def test_a_write_that_waited_for_a_lock_compares_if_none_match_with_the_new_version(
    app, client, url, sql
):
    """The row gets the version in If-None-Match while the write waits for the lock."""
    sql("BEGIN")
    sql("UPDATE projects SET version = 2")
    with ThreadPoolExecutor(1) as pool:
        headers = {"If-None-Match": '"2"'}
        response = pool.submit(app.test_client().put, url, json={"name": "new"}, headers=headers)
        while sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
            assert not response.done()
        sql("COMMIT")
        assert response.result().status_code == 412
    assert client.get(url).json["name"] == "A project"


def test_of_simultaneous_writes_with_the_same_if_match_one_succeeds(app, client, url):
    def edit(n):
        response = app.test_client().put(url, json={"name": f"by {n}"}, headers={"If-Match": '"1"'})
        return response.status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(edit, range(16)))
    assert sorted(statuses) == [200] + [412] * 15
    assert client.get(url).json["version"] == 2


def test_simultaneous_patches_without_if_match_all_take_effect(app, client, url):
    def edit(n):
        return app.test_client().patch(url, json={"attributes": {str(n): n}}).status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(edit, range(20))) == {200}
    project = client.get(url).json
    assert project["attributes"] == {str(n): n for n in range(20)}
    assert project["version"] == 21
