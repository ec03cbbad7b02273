"""API tokens: the commands `flask tokens`, and that a revoked token gets a 401 at once."""

import logging
import re
import time
from uuid import UUID

import pytest

import config
from projectapp import create_app
from projectapp.auth import tokens
from projectapp.http.log_lines import JsonFormatter
from tests.conftest import PROJECTS

CREATE = ("tokens", "create", "--name", "CI", "--owner", "alice", "--scope", "projects:read")


@pytest.fixture
def flask(auth_app, sql):
    """Run a `flask` command; return its exit code, standard output and standard error."""

    def run(*arguments, text=""):
        result = auth_app.test_cli_runner().invoke(args=arguments, input=text)
        assert not result.exception or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.stdout.strip(), result.stderr

    return run


@pytest.fixture
def token_and_id(flask):
    """The only token that exists, and its id."""
    code, token, _ = flask(*CREATE)
    assert code == 0
    return token, flask("tokens", "list")[1].splitlines()[1].split()[0]


@pytest.fixture
def workers(make_app, app):
    """Clients of three applications, which have separate caches like three worker processes."""
    return [make_app(AUTH="tokens").test_client() for _ in range(3)]


def get(client, token, path=PROJECTS):
    return client.get(path, headers={"Authorization": f"Bearer {token}"})


def test_new_token_is_a_prefix_256_random_bits_and_a_checksum(flask):
    new_tokens = {flask(*CREATE)[1] for _ in range(20)}
    assert len(new_tokens) == 20
    for token in new_tokens:
        assert re.fullmatch(r"pja_[0-9A-Za-z]{49}", token)
        assert tokens.has_valid_checksum(token)


def test_43_digits_hold_256_bits_and_the_checksum_is_crc32():
    assert 62**43 >= 2**256 > 62**42
    # The published check value of CRC-32: the CRC of "123456789" is cbf43926.
    assert tokens._checksum("123456789") == tokens._to_base62(0xCBF43926, 6) == "3jZRME"


def test_only_the_digest_of_a_token_is_stored(flask, sql):
    token = flask(*CREATE)[1]
    [(row,)] = sql("SELECT to_jsonb(t) || jsonb_build_object('digest', encode(digest, 'hex'))"
                   " FROM api_tokens t")  # fmt: skip
    assert row["digest"] == tokens.hash_token(token).hex()
    assert token[4:] not in str(row)
    assert (row["owner"], row["name"], row["scopes"]) == ("alice", "CI", ["projects:read"])
    assert UUID(row["id"]).version == 7


def test_create_prints_only_the_token_to_standard_output(flask):
    code, out, err = flask(*CREATE)
    assert (code, out) == (0, out.split()[0])
    assert out not in err


@pytest.mark.parametrize(
    ("expires", "days"), [("90d", 90), ("12h", 0.5), ("30m", 30 / 1440), ("never", None)]
)
def test_expires_option_sets_the_lifetime(flask, sql, expires, days):
    assert flask(*CREATE, "--expires", expires)[0] == 0
    query = "SELECT extract(epoch FROM expires_at - created_at)::float8 / 86400 FROM api_tokens"
    assert sql(query) == [(days,)]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "--scope",
            "projects:admin",
            "Must be a comma-separated list of metrics:read, projects:all, projects:read,"
            " projects:write.",
        ),
        ("--scope", "", "Must be a comma-separated list of"),
        ("--expires", "soon", "such as 90d"),
        ("--expires", "-1d", "such as 90d"),
        ("--name", "", "1 to 100 printable characters"),
        ("--name", "x" * 101, "1 to 100 printable characters"),
        ("--owner", "a\nb", "1 to 255 printable characters"),
        ("--owner", "x" * 256, "1 to 255 printable characters"),
        *(
            ("--owner", f"a{bad}", "1 to 255 printable characters")
            for bad in "\x9b\u2028\u202e\ud800"
        ),
    ],
)
def test_invalid_option_of_create_is_reported_and_creates_no_token(
    flask, sql, option, value, message
):
    code, out, err = flask(*CREATE, option, value)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert sql("SELECT count(*) FROM api_tokens") == [(0,)]


def test_list_shows_id_name_owner_scopes_and_state_but_no_token(flask, auth_client):
    token = flask(*CREATE)[1]
    flask(*CREATE, "--expires", "0m", "--name", "old", "--owner", "bob")
    get(auth_client, token)
    _, out, _ = flask("tokens", "list")
    header, newest, oldest = out.splitlines()
    assert header.split()[:5] == ["id", "name", "owner", "scopes", "state"]
    assert newest.split()[1:5] == ["old", "bob", "projects:read", "expired"]
    assert oldest.split()[1:5] == ["CI", "alice", "projects:read", "active"]
    assert token not in out
    assert tokens.hash_token(token).hex() not in out


def test_revoked_token_gets_401_from_every_worker_at_once(flask, workers, token_and_id, problem):
    token, token_id = token_and_id
    for client in workers:
        assert get(client, token).status_code == 200
    assert flask("tokens", "revoke", token_id) == (0, "CI is revoked.", "")
    for client in workers:
        answer = get(client, token)
        problem(answer, 401, "invalid_token")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_revoking_a_token_again_keeps_the_first_revocation_time(flask, token_and_id, sql):
    assert flask("tokens", "revoke", token_and_id[1]) == (0, "CI is revoked.", "")
    first_time = sql("SELECT revoked_at FROM api_tokens")
    assert flask("tokens", "revoke", token_and_id[1]) == (0, "CI is revoked.", "")
    assert sql("SELECT revoked_at FROM api_tokens") == first_time
    unknown = flask("tokens", "revoke", "00000000-0000-0000-0000-000000000000")
    assert unknown == (1, "", "Error: There is no such token.\n")


def test_revoke_reads_the_token_from_standard_input(flask, auth_client, token_and_id):
    token, _ = token_and_id
    assert flask("tokens", "revoke", "-", text=token + "\n") == (0, "CI is revoked.", "")
    assert get(auth_client, token).status_code == 401
    assert flask("tokens", "revoke", "-", text=tokens.new_token())[0] == 1


def test_token_instead_of_its_id_does_not_appear_in_the_error(flask, token_and_id):
    code, out, err = flask("tokens", "revoke", token_and_id[0])
    assert (code, out) == (2, "")
    assert "an id from `flask tokens list`, or -" in err
    assert token_and_id[0] not in err


def test_expired_token_gets_401_from_every_worker_at_once(workers, token_and_id, sql):
    for client in workers:
        assert get(client, token_and_id[0]).status_code == 200
    sql("UPDATE api_tokens SET expires_at = now()")
    for client in workers:
        assert get(client, token_and_id[0]).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "?page=0", None),
        ("GET", "/01900000-0000-7000-8000-000000000000", None),
        ("POST", "", {"name": "x"}),
        ("POST", "", {"name": ""}),
        ("POST", "", {}),
        ("PUT", "/01900000-0000-7000-8000-000000000000", {}),
        ("PATCH", "/01900000-0000-7000-8000-000000000000", {"x": 1}),
        ("DELETE", "/01900000-0000-7000-8000-000000000000", None),
    ],
)
@pytest.mark.parametrize("scope", ["projects:read,projects:write", "projects:all", "nothing"])
def test_revoked_token_gets_only_401_for_any_request(
    auth_client, auth_headers, sql, problem, method, path, body, scope
):
    """Not a 400 or a 403, although this worker has the token in its cache."""
    header = auth_headers(scopes=scope)
    assert auth_client.get(PROJECTS, headers=header).status_code == (
        403 if scope == "nothing" else 200
    )
    sql("UPDATE api_tokens SET revoked_at = now()")
    answer = auth_client.open(PROJECTS + path, method=method, json=body, headers=header)
    problem(answer, 401, "invalid_token")
    assert sql("SELECT count(*) FROM projects") == [(0,)]


def test_bad_token_gets_401_before_the_body_is_read(auth_client, auth_headers, sql):
    class Body:
        reads = 0

        def read(self, size):
            self.reads += 1
            return b""

    body, header = Body(), auth_headers()
    assert auth_client.get(PROJECTS, headers=header).status_code == 200
    uncached = auth_headers("bob")
    sql("UPDATE api_tokens SET revoked_at = now()")
    assert auth_client.get(PROJECTS, headers=header).status_code == 401
    bad_headers = [header, uncached, {}]
    for token in ("x", "pja_x", tokens.new_token()):
        bad_headers.append({"Authorization": f"Bearer {token}"})
    for header in bad_headers:
        answer = auth_client.post(
            PROJECTS,
            content_type="application/json",
            environ_overrides={"wsgi.input": body, "CONTENT_LENGTH": "1000"},
            headers=header,
        )
        assert (answer.status_code, body.reads) == (401, 0)


def test_rotated_token_stays_valid_for_the_grace_period(flask, auth_client, token_and_id, sql):
    token, token_id = token_and_id
    code, new, _ = flask("tokens", "rotate", token_id, "--grace", "1h")
    assert code == 0
    assert get(auth_client, token).status_code == get(auth_client, new).status_code == 200
    [(lifetime,), (left,)] = sql(
        "SELECT round(extract(epoch FROM expires_at - now()) / 3600)::integer FROM api_tokens"
        " WHERE owner = 'alice' AND scopes = '{projects:read}' AND name = 'CI' ORDER BY id DESC"
    )
    assert (lifetime, left) == (90 * 24, 1)
    sql("UPDATE api_tokens SET expires_at = now() WHERE id = %s", token_id)
    assert get(auth_client, token).status_code == 401
    assert get(auth_client, new).status_code == 200


@pytest.mark.parametrize("grace", ["never", "soon", "-1h", ""])
def test_invalid_grace_is_refused(flask, token_and_id, sql, grace):
    assert flask("tokens", "rotate", token_and_id[1], "--grace", grace)[0] == 2
    assert sql("SELECT count(*) FROM api_tokens") == [(1,)]


def test_rotation_does_not_extend_the_old_token(flask, token_and_id, sql):
    sql("UPDATE api_tokens SET expires_at = now() + interval '1 minute'")
    assert flask("tokens", "rotate", token_and_id[1], "--grace", "7d")[0] == 0
    query = "SELECT expires_at < now() + interval '2 minutes' FROM api_tokens WHERE id = %s"
    assert sql(query, token_and_id[1]) == [(True,)]


def test_revoked_token_is_not_rotated(flask, token_and_id, sql):
    flask("tokens", "revoke", token_and_id[1])
    code, out, err = flask("tokens", "rotate", token_and_id[1])
    assert (code, out, err) == (
        1,
        "",
        "Error: There is no such token, or it is expired or revoked.\n",
    )
    assert sql("SELECT count(*) FROM api_tokens") == [(1,)]


def last_used_at(sql):
    return sql("SELECT last_used_at FROM api_tokens")[0][0]


def test_use_is_recorded_once_in_ten_minutes(auth_client, make_app, token_and_id, sql):
    assert last_used_at(sql) is None
    end = time.monotonic() + 60
    get(auth_client, token_and_id[0])
    while not (first := last_used_at(sql)):
        assert time.monotonic() < end
        time.sleep(0.01)
    for client in (auth_client, make_app(AUTH="tokens").test_client()):
        get(client, token_and_id[0])
    time.sleep(0.1)
    assert last_used_at(sql) == first
    sql("UPDATE api_tokens SET last_used_at = last_used_at - interval '10 minutes'")
    get(make_app(AUTH="tokens").test_client(), token_and_id[0])
    while not last_used_at(sql) >= first:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_request_succeeds_if_its_use_of_the_token_cannot_be_recorded(
    auth_client, token_and_id, sql
):
    sql("ALTER TABLE api_tokens RENAME last_used_at TO renamed")
    try:
        assert get(auth_client, token_and_id[0]).status_code == 200
        time.sleep(0.1)
        assert get(auth_client, token_and_id[0]).status_code == 200
    finally:
        sql("ALTER TABLE api_tokens RENAME renamed TO last_used_at")


def test_no_part_of_a_token_appears_in_logs_or_responses(auth_client, auth_headers, caplog, sql):
    caplog.set_level(logging.DEBUG)
    valid = auth_headers()["Authorization"][7:]
    invalid = [
        valid[:-1],
        valid + "0",
        tokens.new_token(),
        valid.swapcase(),
        f"x {valid}",
        f"{valid},{valid}",
    ]
    texts = []
    for token in (valid, *invalid):
        for path in (PROJECTS, f"{PROJECTS}?page=0", f"{PROJECTS}/x", "/"):
            answer = get(auth_client, token, path)
            texts += [answer.text, str(answer.headers)]
    texts += [record.getMessage() + str(record.__dict__) for record in caplog.records]
    texts += [
        repr(auth_client.application.extensions),
        str(vars(auth_client.application.extensions["tokens"])),
    ]
    pieces = {token[4:20] for token in (valid, *invalid)}
    assert not [text for text in texts for piece in pieces if piece in text]


def test_token_in_the_query_or_the_body_gets_401(auth_client, auth_headers):
    token = auth_headers()["Authorization"][7:]
    assert auth_client.get(f"{PROJECTS}?access_token={token}").status_code == 401
    assert auth_client.post(PROJECTS, data={"access_token": token}).status_code == 401


@pytest.mark.parametrize("form", ["bearer {}", "BEARER {}", "Bearer  {}", "Bearer {} "])
def test_bearer_is_accepted_in_any_case_and_with_extra_spaces(auth_client, auth_headers, form):
    token = auth_headers()["Authorization"][7:]
    assert (
        auth_client.get(PROJECTS, headers={"Authorization": form.format(token)}).status_code == 200
    )


def test_each_auth_failure_is_logged_as_a_structured_event(auth_client, auth_headers, caplog, sql):
    auth_client.get(PROJECTS)
    auth_client.post(PROJECTS, json={}, headers=auth_headers(scopes="projects:read"))
    header = auth_headers("bob")
    auth_client.get(PROJECTS, headers=header)
    sql("UPDATE api_tokens SET revoked_at = now()")
    auth_client.get(PROJECTS, headers=header)
    [no_credentials, missing_scope, revoked] = [
        JsonFormatter().format(record) for record in caplog.records if record.levelname == "WARNING"
    ]
    assert '"event": "authn_fail", "reason": "no credentials"' in no_credentials
    assert '"address": "127.0.0.1"' in no_credentials
    assert (
        '"event": "authz_fail", "reason": "This request needs the scope projects:write."'
        in missing_scope
    )
    assert '"caller": "alice", "credential": "token 0' in missing_scope
    assert '"event": "authn_fail"' in revoked
    assert '"caller": "bob"' in revoked


def test_without_a_database_every_token_gets_503(make_app, proxy, auth_headers, problem):
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    header = auth_headers()
    assert client.get(PROJECTS, headers=header).status_code == 200
    proxy.refuses = True
    proxy.cut()
    for answer in (
        client.get(PROJECTS, headers=header),
        client.get(PROJECTS, headers=auth_headers()),
        client.post(PROJECTS, json={}, headers=header),
    ):
        problem(answer, 503, "unavailable")


def test_production_without_auth_logs_a_warning(database_url, caplog):
    for auth in ("tokens", "none"):
        create_app(config.Production({"DATABASE_URL": database_url, "AUTH": auth}))
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("AUTH=none: anyone who can reach the port can")


def test_with_auth_none_any_authorization_header_is_ignored(client, auth_headers):
    for header in ({"Authorization": "Bearer x"}, {"Authorization": "Basic x"}, auth_headers()):
        assert client.get(PROJECTS, headers=header).status_code == 200


def test_token_cache_has_a_maximum_size(auth_client, auth_headers, monkeypatch):
    monkeypatch.setattr(tokens, "_MAX_CACHED_TOKENS", 2)
    headers = [auth_headers() for _ in range(5)]
    for header in headers * 2:
        assert auth_client.get(PROJECTS, headers=header).status_code == 200
    assert len(auth_client.application.extensions["tokens"]._callers) <= 2


def test_assign_gives_projects_without_an_owner_or_of_another_owner(
    flask, client, auth_client, auth_headers, sql
):
    [*_] = [client.post(PROJECTS, json={"name": f"old {n}"}) for n in range(3)]
    first, *_ = ids = [i for (i,) in sql("SELECT id::text FROM projects ORDER BY id")]
    tag = client.get(f"{PROJECTS}/{first}").headers["ETag"]
    assert auth_client.get(PROJECTS, headers=auth_headers()).json["total"] == 0
    assert flask("projects", "assign", "alice", ids[0])[1] == "Assigned 1 projects to alice."
    assert [p["id"] for p in auth_client.get(PROJECTS, headers=auth_headers()).json["items"]] == [
        first
    ]
    assert client.get(f"{PROJECTS}/{first}").headers["ETag"] != tag
    assert flask("projects", "assign", "bob")[1] == "Assigned 2 projects to bob."
    assert flask("projects", "assign", "bob")[1] == "Assigned 0 projects to bob."
    assert auth_client.get(PROJECTS, headers=auth_headers("bob")).json["total"] == 2
    assert (
        flask("projects", "assign", "alice", "--from", "bob")[1] == "Assigned 2 projects to alice."
    )
    assert auth_client.get(PROJECTS, headers=auth_headers()).json["total"] == 3


def test_assign_does_not_change_projects_that_the_owner_has(flask, sql):
    sql("INSERT INTO projects (id, name, owner) SELECT gen_random_uuid(), 'x', 'alice'")
    assert (
        flask("projects", "assign", "alice", "--from", "alice")[1]
        == "Assigned 0 projects to alice."
    )
    assert sql("SELECT DISTINCT owner, version FROM projects") == [("alice", 1)]


def test_assign_gives_thousands_of_projects(flask, sql):
    sql(
        "INSERT INTO projects (id, name, owner)"
        " SELECT gen_random_uuid(), 'x', CASE WHEN n % 5 = 0 THEN 'bob' END"
        " FROM generate_series(1, 2500) AS n"
    )
    assert flask("projects", "assign", "alice")[1] == "Assigned 2000 projects to alice."
    counts = "SELECT owner, version, count(*) FROM projects GROUP BY 1, 2 ORDER BY 1"
    assert sql(counts) == [("alice", 2, 2000), ("bob", 1, 500)]


def test_assign_with_nothing_to_give_reads_the_table_once(make_app, sql, proxy):
    """Each statement continues where the previous one stopped, even if it has found no row."""
    sql(
        "INSERT INTO projects (id, name, owner)"
        " SELECT gen_random_uuid(), 'x', 'bob' FROM generate_series(1, 2500)"
    )
    app = make_app(AUTH="tokens", DATABASE_URL=proxy.url)
    result = app.test_cli_runner().invoke(args=["projects", "assign", "alice"])
    assert result.output.endswith("Assigned 0 projects to alice.\n")
    assert len([query for query in proxy.queries if " projects" in query]) == 4


def test_write_whose_answer_is_lost_while_its_token_is_revoked_gets_503_outcome_unknown(
    make_app, proxy, auth_headers, sql, problem
):
    """The write may have happened, and it is not repeated for a caller with a revoked token."""
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    header = auth_headers()
    assert client.get(PROJECTS, headers=header).status_code == 200
    proxy.before_reset = lambda: sql("UPDATE api_tokens SET revoked_at = now()")
    proxy.drop.append("INSERT INTO projects")
    answer = client.post(PROJECTS, json={"name": "x"}, headers=header)
    problem(answer, 503, "outcome_unknown")
    assert sql("SELECT count(*) FROM projects") == [(0,)]
    problem(client.get(PROJECTS, headers=header), 401, "invalid_token")
