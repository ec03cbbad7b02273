"""API tokens: what `flask tokens` makes, and that an end is an end at the very next request."""

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
def flask(guarded_app, sql):
    """Run a `flask` command; return its exit code, standard output and standard error."""

    def run(*arguments, text=""):
        done = guarded_app.test_cli_runner().invoke(args=arguments, input=text)
        assert not done.exception or isinstance(done.exception, SystemExit), done.exc_info
        return done.exit_code, done.stdout.strip(), done.stderr

    return run


@pytest.fixture
def made(flask):
    """The one token that is there, and its id."""
    code, token, _ = flask(*CREATE)
    assert code == 0
    return token, flask("tokens", "list")[1].splitlines()[1].split()[0]


@pytest.fixture
def workers(make_app, app):
    """Three processes' worth of the application: what one remembers, the others do not."""
    return [make_app(AUTH="tokens").test_client() for _ in range(3)]


def get(client, token, path=PROJECTS):
    return client.get(path, headers={"Authorization": f"Bearer {token}"})


def test_a_new_token_is_256_random_bits_with_a_prefix_and_a_checksum(flask):
    tokens_made = {flask(*CREATE)[1] for _ in range(20)}
    assert len(tokens_made) == 20
    for token in tokens_made:
        assert re.fullmatch(r"pja_[0-9A-Za-z]{49}", token)
        assert tokens.is_whole(token)


def test_the_digits_hold_256_bits_and_the_checksum_is_a_crc():
    assert 62**43 >= 2**256 > 62**42
    # CRC-32 of "123456789" is cbf43926 (its check value in every catalogue), 3 421 780 262.
    assert tokens._checksum("123456789") == tokens._base62(0xCBF43926, 6) == "3jZRME"


def test_only_the_digest_is_stored(flask, sql):
    token = flask(*CREATE)[1]
    [(row,)] = sql("SELECT to_jsonb(t) || jsonb_build_object('digest', encode(digest, 'hex'))"
                   " FROM api_tokens t")  # fmt: skip
    assert row["digest"] == tokens.hash_token(token).hex()
    assert token[4:] not in str(row)
    assert (row["owner"], row["name"], row["scopes"]) == ("alice", "CI", ["projects:read"])
    assert UUID(row["id"]).version == 7


def test_the_token_alone_goes_to_standard_output(flask):
    code, out, err = flask(*CREATE)
    assert (code, out) == (0, out.split()[0])
    assert out not in err


@pytest.mark.parametrize(
    ("expires", "days"), [("90d", 90), ("12h", 0.5), ("30m", 30 / 1440), ("never", None)]
)
def test_a_token_ends_when_it_was_told_to(flask, sql, expires, days):
    assert flask(*CREATE, "--expires", expires)[0] == 0
    query = "SELECT extract(epoch FROM expires_at - created_at)::float8 / 86400 FROM api_tokens"
    assert sql(query) == [(days,)]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--scope", "projects:admin", "A comma list of some of projects:all, projects:read,"),
        ("--scope", "", "A comma list of some of"),
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
def test_a_wrong_option_is_told_and_makes_nothing(flask, sql, option, value, says):
    code, out, err = flask(*CREATE, option, value)
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())
    assert sql("SELECT count(*) FROM api_tokens") == [(0,)]


def test_the_list_tells_what_there_is_but_no_token(flask, guarded):
    token = flask(*CREATE)[1]
    flask(*CREATE, "--expires", "0m", "--name", "old", "--owner", "bob")
    get(guarded, token)
    _, out, _ = flask("tokens", "list")
    header, newest, oldest = out.splitlines()
    assert header.split()[:5] == ["id", "name", "owner", "scopes", "state"]
    assert newest.split()[1:5] == ["old", "bob", "projects:read", "expired"]
    assert oldest.split()[1:5] == ["CI", "alice", "projects:read", "good"]
    assert token not in out
    assert tokens.hash_token(token).hex() not in out


def test_a_revoked_token_is_refused_by_every_worker_at_once(flask, workers, made, problem):
    token, token_id = made
    for client in workers:
        assert get(client, token).status_code == 200
    assert flask("tokens", "revoke", token_id) == (0, "CI is revoked.", "")
    for client in workers:
        answer = get(client, token)
        problem(answer, 401, "invalid_token")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_revoking_a_token_again_keeps_the_time_when_it_was_revoked(flask, made, sql):
    assert flask("tokens", "revoke", made[1]) == (0, "CI is revoked.", "")
    first = sql("SELECT revoked_at FROM api_tokens")
    assert flask("tokens", "revoke", made[1]) == (0, "CI is revoked.", "")
    assert sql("SELECT revoked_at FROM api_tokens") == first
    unknown = flask("tokens", "revoke", "00000000-0000-0000-0000-000000000000")
    assert unknown == (1, "", "Error: There is no such token.\n")


def test_a_token_that_was_found_is_revoked_by_itself(flask, guarded, made):
    token, _ = made
    assert flask("tokens", "revoke", "-", text=token + "\n") == (0, "CI is revoked.", "")
    assert get(guarded, token).status_code == 401
    assert flask("tokens", "revoke", "-", text=tokens.new_token())[0] == 1


def test_a_token_in_the_place_of_its_id_is_not_repeated(flask, made):
    code, out, err = flask("tokens", "revoke", made[0])
    assert (code, out) == (2, "")
    assert "an id of `flask tokens list`, or -" in err
    assert made[0] not in err


def test_an_expired_token_is_refused_by_every_worker_at_once(workers, made, sql):
    for client in workers:
        assert get(client, made[0]).status_code == 200
    sql("UPDATE api_tokens SET expires_at = now()")
    for client in workers:
        assert get(client, made[0]).status_code == 401


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
def test_a_revoked_token_gets_no_answer_but_that(
    guarded, bearer, sql, problem, method, path, body, scope
):
    """Not that the body was wrong, nor that a scope was missing: this worker knew the token."""
    header = bearer(scopes=scope)
    assert guarded.get(PROJECTS, headers=header).status_code == (403 if scope == "nothing" else 200)
    sql("UPDATE api_tokens SET revoked_at = now()")
    answer = guarded.open(PROJECTS + path, method=method, json=body, headers=header)
    problem(answer, 401, "invalid_token")
    assert sql("SELECT count(*) FROM projects") == [(0,)]


def test_a_bad_token_is_refused_before_its_body_is_read(guarded, bearer, sql):
    class Body:
        reads = 0

        def read(self, size):
            self.reads += 1
            return b""

    body, header = Body(), bearer()
    assert guarded.get(PROJECTS, headers=header).status_code == 200
    unseen = bearer("bob")
    sql("UPDATE api_tokens SET revoked_at = now()")
    assert guarded.get(PROJECTS, headers=header).status_code == 401
    bad = [header, unseen, {}]
    for token in ("x", "pja_x", tokens.new_token()):
        bad.append({"Authorization": f"Bearer {token}"})
    for header in bad:
        answer = guarded.post(
            PROJECTS,
            content_type="application/json",
            environ_overrides={"wsgi.input": body, "CONTENT_LENGTH": "1000"},
            headers=header,
        )
        assert (answer.status_code, body.reads) == (401, 0)


def test_a_rotated_token_lives_on_for_its_grace(flask, guarded, made, sql):
    token, token_id = made
    code, new, _ = flask("tokens", "rotate", token_id, "--grace", "1h")
    assert code == 0
    assert get(guarded, token).status_code == get(guarded, new).status_code == 200
    [(lifetime,), (left,)] = sql(
        "SELECT round(extract(epoch FROM expires_at - now()) / 3600)::integer FROM api_tokens"
        " WHERE owner = 'alice' AND scopes = '{projects:read}' AND name = 'CI' ORDER BY id DESC"
    )
    assert (lifetime, left) == (90 * 24, 1)
    sql("UPDATE api_tokens SET expires_at = now() WHERE id = %s", token_id)
    assert get(guarded, token).status_code == 401
    assert get(guarded, new).status_code == 200


@pytest.mark.parametrize("grace", ["never", "soon", "-1h", ""])
def test_a_grace_has_an_end(flask, made, sql, grace):
    assert flask("tokens", "rotate", made[1], "--grace", grace)[0] == 2
    assert sql("SELECT count(*) FROM api_tokens") == [(1,)]


def test_rotation_lengthens_no_life(flask, made, sql):
    sql("UPDATE api_tokens SET expires_at = now() + interval '1 minute'")
    assert flask("tokens", "rotate", made[1], "--grace", "7d")[0] == 0
    query = "SELECT expires_at < now() + interval '2 minutes' FROM api_tokens WHERE id = %s"
    assert sql(query, made[1]) == [(True,)]


def test_what_has_ended_is_not_rotated(flask, made, sql):
    flask("tokens", "revoke", made[1])
    code, out, err = flask("tokens", "rotate", made[1])
    assert (code, out, err) == (1, "", "Error: There is no such token, or it has ended.\n")
    assert sql("SELECT count(*) FROM api_tokens") == [(1,)]


def used(sql):
    return sql("SELECT last_used_at FROM api_tokens")[0][0]


def test_a_use_is_recorded_some_time_and_not_again_soon(guarded, make_app, made, sql):
    assert used(sql) is None
    end = time.monotonic() + 60
    get(guarded, made[0])
    while not (first := used(sql)):
        assert time.monotonic() < end
        time.sleep(0.01)
    for client in (guarded, make_app(AUTH="tokens").test_client()):
        get(client, made[0])
    time.sleep(0.1)
    assert used(sql) == first
    sql("UPDATE api_tokens SET last_used_at = last_used_at - interval '10 minutes'")
    get(make_app(AUTH="tokens").test_client(), made[0])
    while not used(sql) >= first:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_use_that_cannot_be_recorded_does_no_harm(guarded, made, sql):
    sql("ALTER TABLE api_tokens RENAME last_used_at TO away")
    try:
        assert get(guarded, made[0]).status_code == 200
        time.sleep(0.1)
        assert get(guarded, made[0]).status_code == 200
    finally:
        sql("ALTER TABLE api_tokens RENAME away TO last_used_at")


def test_nothing_of_a_token_is_logged_or_shown(guarded, bearer, caplog, sql):
    caplog.set_level(logging.DEBUG)
    good = bearer()["Authorization"][7:]
    bad = [
        good[:-1],
        good + "0",
        tokens.new_token(),
        good.swapcase(),
        f"x {good}",
        f"{good},{good}",
    ]
    said = []
    for token in (good, *bad):
        for path in (PROJECTS, f"{PROJECTS}?page=0", f"{PROJECTS}/x", "/"):
            answer = get(guarded, token, path)
            said += [answer.text, str(answer.headers)]
    said += [record.getMessage() + str(record.__dict__) for record in caplog.records]
    said += [
        repr(guarded.application.extensions),
        str(vars(guarded.application.extensions["tokens"])),
    ]
    pieces = {token[4:20] for token in (good, *bad)}
    assert not [text for text in said for piece in pieces if piece in text]


def test_a_token_in_the_query_or_the_body_is_none(guarded, bearer):
    token = bearer()["Authorization"][7:]
    assert guarded.get(f"{PROJECTS}?access_token={token}").status_code == 401
    assert guarded.post(PROJECTS, data={"access_token": token}).status_code == 401


@pytest.mark.parametrize("form", ["bearer {}", "BEARER {}", "Bearer  {}", "Bearer {} "])
def test_the_scheme_is_known_in_any_case(guarded, bearer, form):
    token = bearer()["Authorization"][7:]
    assert guarded.get(PROJECTS, headers={"Authorization": form.format(token)}).status_code == 200


def test_a_failure_is_a_structured_event(guarded, bearer, caplog, sql):
    guarded.get(PROJECTS)
    guarded.post(PROJECTS, json={}, headers=bearer(scopes="projects:read"))
    header = bearer("bob")
    guarded.get(PROJECTS, headers=header)
    sql("UPDATE api_tokens SET revoked_at = now()")
    guarded.get(PROJECTS, headers=header)
    [anonymous, scope, revoked] = [
        JsonFormatter().format(record) for record in caplog.records if record.levelname == "WARNING"
    ]
    assert '"event": "authn_fail", "reason": "no credentials"' in anonymous
    assert '"address": "127.0.0.1"' in anonymous
    assert (
        '"event": "authz_fail", "reason": "This request needs the scope projects:write."' in scope
    )
    assert '"caller": "alice", "credential": "token 0' in scope
    assert '"event": "authn_fail"' in revoked
    assert '"caller": "bob"' in revoked


def test_with_a_dead_database_nobody_is_let_in(make_app, proxy, bearer, problem):
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    header = bearer()
    assert client.get(PROJECTS, headers=header).status_code == 200
    proxy.refuses = True
    proxy.cut()
    for answer in (
        client.get(PROJECTS, headers=header),
        client.get(PROJECTS, headers=bearer()),
        client.post(PROJECTS, json={}, headers=header),
    ):
        problem(answer, 503, "unavailable")


def test_production_without_callers_is_logged_loudly(database_url, caplog):
    for auth in ("tokens", "none"):
        create_app(config.Production({"DATABASE_URL": database_url, "AUTH": auth}))
    [said] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("AUTH=none: whoever reaches the port may")


def test_where_auth_is_none_credentials_are_not_looked_at(client, bearer):
    for header in ({"Authorization": "Bearer x"}, {"Authorization": "Basic x"}, bearer()):
        assert client.get(PROJECTS, headers=header).status_code == 200


def test_a_worker_remembers_no_more_tokens_than_it_may(guarded, bearer, monkeypatch):
    monkeypatch.setattr(tokens, "_REMEMBERED", 2)
    headers = [bearer() for _ in range(5)]
    for header in headers * 2:
        assert guarded.get(PROJECTS, headers=header).status_code == 200
    assert len(guarded.application.extensions["tokens"]._callers) <= 2


def test_what_nobody_owns_is_handed_over(flask, client, guarded, bearer, sql):
    [*_] = [client.post(PROJECTS, json={"name": f"old {n}"}) for n in range(3)]
    first, *_ = ids = [i for (i,) in sql("SELECT id::text FROM projects ORDER BY id")]
    tag = client.get(f"{PROJECTS}/{first}").headers["ETag"]
    assert guarded.get(PROJECTS, headers=bearer()).json["total"] == 0
    assert flask("projects", "assign", "alice", ids[0])[1] == "Assigned 1 projects to alice."
    assert [p["id"] for p in guarded.get(PROJECTS, headers=bearer()).json["items"]] == [first]
    assert client.get(f"{PROJECTS}/{first}").headers["ETag"] != tag
    assert flask("projects", "assign", "bob")[1] == "Assigned 2 projects to bob."
    assert flask("projects", "assign", "bob")[1] == "Assigned 0 projects to bob."
    assert guarded.get(PROJECTS, headers=bearer("bob")).json["total"] == 2
    assert (
        flask("projects", "assign", "alice", "--from", "bob")[1] == "Assigned 2 projects to alice."
    )
    assert guarded.get(PROJECTS, headers=bearer()).json["total"] == 3


def test_what_an_owner_has_already_is_left_alone(flask, sql):
    sql("INSERT INTO projects (id, name, owner) SELECT gen_random_uuid(), 'x', 'alice'")
    assert (
        flask("projects", "assign", "alice", "--from", "alice")[1]
        == "Assigned 0 projects to alice."
    )
    assert sql("SELECT DISTINCT owner, version FROM projects") == [("alice", 1)]


def test_many_projects_are_handed_over_in_pieces(flask, sql):
    sql(
        "INSERT INTO projects (id, name, owner)"
        " SELECT gen_random_uuid(), 'x', CASE WHEN n % 5 = 0 THEN 'bob' END"
        " FROM generate_series(1, 2500) AS n"
    )
    assert flask("projects", "assign", "alice")[1] == "Assigned 2000 projects to alice."
    found = "SELECT owner, version, count(*) FROM projects GROUP BY 1, 2 ORDER BY 1"
    assert sql(found) == [("alice", 2, 2000), ("bob", 1, 500)]


def test_a_table_without_projects_to_hand_over_is_walked_once(make_app, sql, proxy):
    """No statement has to look further than the next, however few there are to find."""
    sql(
        "INSERT INTO projects (id, name, owner)"
        " SELECT gen_random_uuid(), 'x', 'bob' FROM generate_series(1, 2500)"
    )
    app = make_app(AUTH="tokens", DATABASE_URL=proxy.url)
    done = app.test_cli_runner().invoke(args=["projects", "assign", "alice"])
    assert done.output.endswith("Assigned 0 projects to alice.\n")
    assert len([query for query in proxy.queries if " projects" in query]) == 4


def test_a_write_whose_answer_is_lost_while_its_token_is_revoked_is_not_called_refused(
    make_app, proxy, bearer, sql, problem
):
    """It may have happened; and nothing is made again for a caller who is no longer let in."""
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    header = bearer()
    assert client.get(PROJECTS, headers=header).status_code == 200
    proxy.meanwhile = lambda: sql("UPDATE api_tokens SET revoked_at = now()")
    proxy.drop.append("INSERT INTO projects")
    answer = client.post(PROJECTS, json={"name": "x"}, headers=header)
    problem(answer, 503, "outcome_unknown")
    assert sql("SELECT count(*) FROM projects") == [(0,)]
    problem(client.get(PROJECTS, headers=header), 401, "invalid_token")
