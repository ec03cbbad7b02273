"""Signing in to the console: its cookie is as good as the Authorization header, and only there."""

import json
import logging
import re
import time
from datetime import UTC, timedelta

import pytest

from projectapp.auth import session_cookie, token_admin, tokens
from projectapp.http.log_lines import JsonFormatter
from tests.conftest import PROJECTS
from tests.issuer import EC, bearer
from tests.plans import recorded
from tests.test_serving import until

SESSION = "/console/session"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
OTHER_SITES = ["same-site", "cross-site", "none", "", "Same-Origin", "same-origin, same-origin"]


def cookie(token, **headers):
    """The headers of a request that the console sends after it has signed in with the token."""
    return {"Cookie": f"{session_cookie.NAME}={token}", **SAME_ORIGIN, **headers}


def with_site(headers, site):
    """Replace the Sec-Fetch-Site header; None removes it."""
    others = {name: value for name, value in headers.items() if name != "Sec-Fetch-Site"}
    return others if site is None else {**others, "Sec-Fetch-Site": site}


@pytest.fixture
def make_token(auth_headers):
    return lambda *values, **options: auth_headers(*values, **options)["Authorization"][7:]


@pytest.fixture
def auth_client(auth_app, sql):
    return auth_app.test_client(use_cookies=False)


@pytest.fixture
def sign_in(auth_client):
    return lambda token: auth_client.post(SESSION, headers={**bearer(token), **SAME_ORIGIN})


# The cookie


def cookie_attributes(response):
    [header] = response.headers.getlist("Set-Cookie")
    value, *attributes = header.split("; ")
    return value, dict(attribute.partition("=")[::2] for attribute in attributes)


@pytest.mark.parametrize("prefix", ["", "/backend"])
def test_sign_in_sets_a_cookie_that_no_script_and_no_other_host_can_read(
    auth_client, make_token, prefix
):
    token = make_token()
    response = auth_client.post(
        SESSION,
        headers={**bearer(token), **SAME_ORIGIN},
        environ_overrides={"SCRIPT_NAME": prefix},
    )
    assert (response.status_code, response.data) == (204, b"")
    assert response.headers["Cache-Control"] == "no-store"
    value, attributes = cookie_attributes(response)
    assert value == f"__Host-projectapp={token}"
    assert attributes.keys() == {"Secure", "HttpOnly", "SameSite", "Path", "Max-Age", "Expires"}
    assert (attributes["Path"], attributes["SameSite"]) == ("/", "Strict")


@pytest.mark.parametrize(
    ("lifetime", "longest_seconds"),
    [(timedelta(hours=1), 3600), (timedelta(days=90), 12 * 3600), (None, 12 * 3600)],
)
def test_the_cookie_lasts_as_long_as_the_token_and_at_most_12_hours(
    auth_app, sign_in, lifetime, longest_seconds
):
    with auth_app.app_context():
        token = token_admin.create_token("t", "alice", ["projects:read"], lifetime)
    _, attributes = cookie_attributes(sign_in(token))
    assert longest_seconds - 600 < int(attributes["Max-Age"]) <= longest_seconds


@pytest.mark.parametrize("site", [None, *OTHER_SITES])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_only_the_console_itself_can_sign_in_and_out(
    auth_client, make_token, problem, site, method
):
    headers = with_site({**bearer(make_token()), **SAME_ORIGIN}, site)
    response = auth_client.open(SESSION, method=method, headers=headers)
    assert "HTTPS" in problem(response, 403, "not_same_origin")["detail"]
    assert "Set-Cookie" not in response.headers


def test_sign_in_with_an_invalid_token_gets_a_401_and_no_cookie(
    auth_client, sign_in, make_token, sql, problem
):
    revoked = make_token()
    sql("UPDATE api_tokens SET revoked_at = now()")
    for token in (tokens.new_token(), tokens.new_token()[:-1], make_token(days=-1), revoked):
        response = sign_in(token)
        problem(response, 401, "invalid_token")
        assert "Set-Cookie" not in response.headers
    problem(auth_client.post(SESSION, headers=SAME_ORIGIN), 401, "unauthorized")


def test_a_cookie_cannot_prolong_itself(auth_client, make_token, problem):
    response = auth_client.post(SESSION, headers=cookie(make_token()))
    problem(response, 401, "unauthorized")
    assert "Set-Cookie" not in response.headers


def test_sign_out_deletes_the_cookie_also_after_the_token_has_ended(auth_client, make_token, sql):
    token = make_token()
    for headers in (cookie(token), cookie(tokens.new_token()), SAME_ORIGIN):
        response = auth_client.delete(SESSION, headers=headers)
        assert response.status_code == 204
        value, attributes = cookie_attributes(response)
        assert value == "__Host-projectapp="
        assert attributes["Max-Age"] == "0"
        assert {"Secure", "HttpOnly", "Path", "SameSite"} < attributes.keys()
    assert auth_client.get(PROJECTS, headers=bearer(token)).status_code == 200


# Which requests the cookie authenticates


def requests_with(auth_client, headers):
    """A read and the four kinds of writes; return their statuses."""
    project = auth_client.post(PROJECTS, json={"name": "New"}, headers=headers)
    path = f"{PROJECTS}/{(project.json or {}).get('id', '01900000-0000-7000-8000-000000000000')}"
    others = [
        auth_client.open(path, method=method, json=body, headers=headers)
        for method, body in (
            *(("GET", None), ("HEAD", None)),
            *(("PUT", {"name": "Put"}), ("PATCH", {"name": "Patched"}), ("DELETE", None)),
        )
    ]
    return [response.status_code for response in (project, *others)]


def test_the_cookie_authenticates_reads_and_writes_of_the_console(auth_client, make_token):
    assert requests_with(auth_client, cookie(make_token())) == [201, 200, 200, 200, 200, 204]


@pytest.mark.parametrize("site", [None, *OTHER_SITES])
def test_the_cookie_does_not_count_for_a_request_of_another_origin(auth_client, make_token, site):
    headers = with_site(cookie(make_token()), site)
    assert requests_with(auth_client, headers) == [401] * 6


@pytest.mark.parametrize(
    "header",
    ["", "Basic dXNlcjpwYXNz", f"Bearer {tokens.new_token()}"],
    ids=["empty", "Basic", "Bearer"],
)
def test_the_cookie_does_not_count_beside_an_authorization_header(auth_client, make_token, header):
    headers = cookie(make_token(), Authorization=header)
    assert requests_with(auth_client, headers) == [401] * 6


def test_beside_the_cookie_of_another_caller_the_authorization_header_decides(
    auth_client, make_token
):
    headers = {**cookie(make_token("bob")), **bearer(make_token("alice"))}
    assert auth_client.post(PROJECTS, json={"name": "A"}, headers=headers).json["owner"] == "alice"


@pytest.mark.parametrize(
    "template",
    [
        *("{name}=", "{name}", '{name}="{token}"', "{name} ={token}", "{name}= {token}"),
        *("__host-projectapp={token}", "projectapp={token}", "x{name}={token}"),
        # Two cookies, as a subdomain could add one with a trick.
        *("{name}={token}; {name}={token}", "{name}={token};{name}={token}"),
        # White space that only some parsers remove.
        *("\x85{name}={token}", "a=b;\xa0{name}={token}", "a=b;\t{name}={token}"),
        *("{name}={token}, {name}={token}", "a={name}={token}", '$Version=1; {name}="{token}"'),
    ],
)
def test_a_cookie_in_another_form_does_not_count(auth_client, make_token, template):
    value = template.format(name=session_cookie.NAME, token=make_token())
    headers = {"Cookie": value, **SAME_ORIGIN}
    assert auth_client.get(PROJECTS, headers=headers).status_code == 401


@pytest.mark.parametrize("template", ["a=b; {}", "{}; a=b", "a=b; {}; c=d", "a=b;{};c=d"])
def test_the_cookie_counts_among_other_cookies(auth_client, make_token, template):
    headers = cookie(make_token())
    headers["Cookie"] = template.format(headers["Cookie"])
    assert auth_client.get(PROJECTS, headers=headers).status_code == 200


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
@pytest.mark.parametrize("is_cached", [False, True])
def test_a_cookie_with_a_revoked_or_expired_token_gets_a_401(
    auth_client, make_token, sql, problem, column, is_cached
):
    headers = cookie(make_token())
    if is_cached:
        assert auth_client.get(PROJECTS, headers=headers).status_code == 200
    sql(f"UPDATE api_tokens SET {column} = now() - interval '1 second'")  # noqa: S608
    problem(auth_client.get(PROJECTS, headers=headers), 401, "invalid_token")
    problem(auth_client.get(SESSION, headers=headers), 401, "invalid_token")
    problem(auth_client.post(PROJECTS, json={"name": "x"}, headers=headers), 401, "invalid_token")
    assert sql("SELECT count(*) FROM projects") == [(0,)]


def test_a_request_with_the_cookie_costs_one_statement(auth_client, make_token, sql):
    headers = cookie(make_token())
    auth_client.get(PROJECTS, headers=headers)  # the token is cached
    until(lambda: sql("SELECT last_used_at FROM api_tokens") != [(None,)])  # by a thread
    for path in (PROJECTS, SESSION):
        with recorded() as statements:
            assert auth_client.get(path, headers=headers).status_code == 200
        assert len(statements) == 1


def vary(response):
    return {name.strip() for line in response.headers.getlist("Vary") for name in line.split(",")}


def test_responses_vary_by_the_headers_that_name_the_caller(auth_client, make_token):
    for headers in ({}, cookie(make_token()), bearer(make_token())):
        response = auth_client.get(PROJECTS, headers=headers)
        assert vary(response) == {"Origin", "Authorization", "Cookie", "Sec-Fetch-Site"}
        assert response.headers["Cache-Control"] == "private, no-cache"


# Who is signed in


@pytest.mark.parametrize("make_headers", [cookie, bearer])
def test_the_session_shows_the_caller_and_the_scopes(auth_client, make_token, sql, make_headers):
    token = make_token("root", "projects:all", days=1)
    response = auth_client.get(SESSION, headers=make_headers(token))
    [(token_id, expires_at)] = sql("SELECT id, expires_at FROM api_tokens")
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    assert response.json == {
        "caller": "root",
        "scopes": ["projects:all", "projects:read", "projects:write"],
        "credential": f"token {token_id}",
        "expires_at": f"{expires_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
    }


def test_the_session_of_a_reader_has_one_scope_and_null_for_never(auth_app, auth_client):
    with auth_app.app_context():
        token = token_admin.create_token("t", "alice", ["projects:read"], None)
    session = auth_client.get(SESSION, headers=cookie(token)).json
    assert (session["scopes"], session["expires_at"]) == (["projects:read"], None)


def test_without_a_token_the_session_is_a_401(auth_client, problem):
    problem(auth_client.get(SESSION, headers=SAME_ORIGIN), 401, "unauthorized")


def test_with_auth_none_there_is_a_session_without_a_sign_in(client, problem):
    assert client.get(SESSION).json == {
        "caller": None,
        "scopes": ["metrics:read", "projects:all", "projects:read", "projects:write"],
        "credential": "none",
        "expires_at": None,
    }
    headers = {**bearer(tokens.new_token()), **SAME_ORIGIN}
    response = client.post(SESSION, headers=headers)
    assert "AUTH=none" in problem(response, 400, "bad_request")["detail"]
    assert "Set-Cookie" not in response.headers
    assert client.get(PROJECTS, headers=cookie("anything")).status_code == 200


def test_with_console_off_there_is_no_session_and_the_cookie_does_not_count(
    app, make_app, make_token, problem
):
    client = make_app(AUTH="tokens", CONSOLE="off").test_client(use_cookies=False)
    token = make_token()
    for method in ("GET", "POST", "DELETE"):
        headers = {**bearer(token), **SAME_ORIGIN}
        problem(client.open(SESSION, method=method, headers=headers), 404, "not_found")
    response = client.get(PROJECTS, headers=cookie(token))
    problem(response, 401, "unauthorized")
    assert vary(response) == {"Origin", "Authorization"}


# The log


def test_the_log_says_that_the_token_came_in_the_cookie(auth_client, make_token, sql, caplog):
    token = make_token()
    with caplog.at_level(logging.INFO, "projectapp"):
        auth_client.get(PROJECTS, headers=bearer(token))
        auth_client.get(PROJECTS, headers=cookie(token))
        sql("UPDATE api_tokens SET revoked_at = now()")
        auth_client.get(PROJECTS, headers=cookie(token))
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert [(line.get("token_source"), line.get("event"), line["caller"]) for line in lines] == [
        (None, None, "alice"),
        ("cookie", None, "alice"),
        ("cookie", "authn_fail", "alice"),
        ("cookie", None, "alice"),
    ]
    assert token not in caplog.text


def test_the_history_names_the_credential_as_without_the_cookie(auth_client, make_token):
    headers = cookie(make_token())
    project = auth_client.post(PROJECTS, json={"name": "A"}, headers=headers).json
    [item] = auth_client.get(f"{PROJECTS}/{project['id']}/history", headers=headers).json["items"]
    credential = auth_client.get(SESSION, headers=headers).json["credential"]
    assert (item["caller"], item["credential"]) == ("alice", credential)


# JWTs of an identity provider: Supabase, as docs/identity-providers.md describes it


@pytest.fixture
def supabase(issuer, sql, make_app):
    """An issuer of access tokens like Supabase's, and a client of a service that accepts them."""
    issuer.published_keys = {"signing-key": EC}
    url = f"{issuer.url}/auth/v1"
    settings = {**issuer.settings, "JWT_ISSUER": url, "JWT_AUDIENCE": "authenticated"}
    client = make_app(**settings).test_client(use_cookies=False)

    def access_token(**claims):
        defaults = {
            "iss": url,
            "aud": "authenticated",
            "sub": "5f7c2d1e-0000-4000-8000-000000000001",
            "exp": int(time.time()) + 3600,
            "email": "ann@example.com",
            "role": "authenticated",
            "aal": "aal1",
            "session_id": "s",
            "is_anonymous": False,
            "user_metadata": {"name": "앤"},
        }
        return issuer.token("signing-key", "ES256", **defaults | claims)

    return access_token, client


def test_a_users_access_token_signs_in_until_it_expires(supabase, problem):
    access_token, client = supabase
    token = access_token()
    response = client.post(SESSION, headers={**bearer(token), **SAME_ORIGIN})
    assert response.status_code == 204, response.text
    value, attributes = cookie_attributes(response)
    assert value == f"__Host-projectapp={token}"
    assert 3000 < int(attributes["Max-Age"]) <= 3630  # with the leeway for another clock
    session = client.get(SESSION, headers=cookie(token)).json
    assert session["caller"] == "5f7c2d1e-0000-4000-8000-000000000001"
    assert session["scopes"] == ["projects:read", "projects:write"]
    assert session["credential"] == "jwt"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.0{6}Z", session["expires_at"])
    assert requests_with(client, cookie(token)) == [201, 200, 200, 200, 200, 204]
    expired = access_token(exp=int(time.time()) - 60)
    problem(client.get(PROJECTS, headers=cookie(expired)), 401, "invalid_token")
    response = client.post(SESSION, headers={**bearer(expired), **SAME_ORIGIN})
    problem(response, 401, "invalid_token")
    renewed = access_token(session_id="t")
    assert client.post(SESSION, headers={**bearer(renewed), **SAME_ORIGIN}).status_code == 204


def test_an_administrators_access_token_sees_all_rows(supabase):
    access_token, client = supabase
    admin = access_token(sub="root", permissions=["projects:all"])
    client.post(PROJECTS, json={"name": "Ann's"}, headers=cookie(access_token()))
    assert client.get(PROJECTS, headers=cookie(admin)).json["total"] == 1
    assert "projects:write" in client.get(SESSION, headers=cookie(admin)).json["scopes"]


def test_a_jwt_that_expires_after_the_year_9999_has_no_date(supabase):
    access_token, client = supabase
    token = access_token(exp=2**50)
    response = client.post(SESSION, headers={**bearer(token), **SAME_ORIGIN})
    assert (response.status_code, cookie_attributes(response)[1]["Max-Age"]) == (204, "43200")
    assert client.get(SESSION, headers=cookie(token)).json["expires_at"] is None


@pytest.mark.parametrize(
    ("claim_length", "status", "sentence"),
    [(1500, 204, ""), (3000, 400, "a browser keeps a cookie of at most"), (9000, 401, "too long")],
)
def test_a_jwt_that_does_not_fit_a_cookie_is_refused_with_a_sentence(
    supabase, claim_length, status, sentence
):
    access_token, client = supabase
    token = access_token(user_metadata={"bio": "x" * claim_length})
    response = client.post(SESSION, headers={**bearer(token), **SAME_ORIGIN})
    assert response.status_code == status, (len(token), response.text)
    assert ("Set-Cookie" in response.headers) == (status == 204)
    if sentence:
        assert sentence in response.json["detail"]
        assert len(token) > session_cookie.MAX_TOKEN_LENGTH


def test_the_cookie_of_the_longest_token_fits_what_browsers_keep():
    longest = f"{session_cookie.NAME}={'x' * session_cookie.MAX_TOKEN_LENGTH}; Secure; HttpOnly"
    assert len(f"{longest}; Max-Age=43200; Path=/; SameSite=Strict") <= 4096
