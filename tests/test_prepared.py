"""Prepared statements: which are prepared, and what happens when a session loses them."""

import time
from contextlib import closing

import pytest
import sqlalchemy as sa

from projectapp import database
from projectapp.auth import token_admin
from projectapp.database import prepared
from projectapp.resources import lists
from tests.conftest import PROJECTS

PREPARED = "SELECT name FROM pg_prepared_statements"


@pytest.fixture
def client(make_app, proxy, sql):
    """A client with one connection, which leads through `proxy`. No list was executed before."""
    lists._page.cache_clear()
    client = make_app(DATABASE_URL=proxy.url, DATABASE_POOL_SIZE="1").test_client()
    assert client.get("/ready").status_code == 200
    return client


@pytest.fixture
def session(client):
    """Run SQL on the connection of `client`, which the engine borrows; return the rows."""

    def run(statement):
        with client.application.app_context():
            engine = database.db.engine
        with closing(engine.raw_connection()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def send(client, proxy):
    """Send a request; return its response and the kind of each message that PostgreSQL got."""

    def request(method, path, status=200, **options):
        proxy.queries.clear()
        response = client.open(path, method=method, **options)
        assert response.status_code == status, response.text
        return response, [kind_of(query) for query in proxy.queries]

    return request


def kind_of(message):
    # The proxy puts the message that prepared a statement in front of an EXECUTE.
    if message.count("EXECUTE ") == 2:
        return "execute"
    return "prepare" if "PREPARE " in message else "text"


@pytest.fixture
def url(client):
    created = client.post(PROJECTS, json={"name": "First"})
    return created.headers["Location"]


def test_the_second_use_prepares_and_the_third_executes_each_in_one_round_trip(send, session, url):
    for kind in ("text", "prepare", "execute", "execute"):
        assert send("GET", url)[1] == [kind]
    for kind in ("text", "prepare", "execute"):
        assert send("PATCH", url, json={"name": kind})[1] == [kind]
    assert send("POST", PROJECTS, 201, json={"name": "x"})[1] == ["prepare"], "url was the first"
    assert len(session(PREPARED)) == 3


@pytest.mark.parametrize(
    ("query", "is_prepared"),
    [
        *(("", True), ("sort=-name&count=exact", True), ("is_active=false&fields=name", True)),
        *(("page=100", True), ("sort=is_active,name", True), ("sort=-created_at,name", True)),
        *(("page=102", False), ("q=project", False), ("name=x", False), ("owner=alice", False)),
        *(('attributes={"a":1}', False), ("created_at[gte]=2026-01-01T00:00:00Z", False)),
        ("is_active=true&name=x", False),
    ],
)
def test_only_a_list_without_a_filter_or_with_a_state_is_prepared(send, query, is_prepared):
    kinds = [send("GET", f"{PROJECTS}?{query}")[1] for _ in range(3)]
    assert kinds == ([["text"], ["prepare"], ["execute"]] if is_prepared else [["text"]] * 3)


def test_each_state_has_a_plan_of_its_own(send, session, url):
    for flag in ("true", "false", "true", "false"):
        page = send("GET", f"{PROJECTS}?is_active={flag}")[0].json
        assert page["total"] == (flag == "true")
    assert len(session(PREPARED)) == 2


def test_nothing_is_prepared_behind_a_pooler(make_app, proxy, url):
    proxy.pooler = True
    client = make_app(DATABASE_URL=proxy.url, DATABASE_POOL_SIZE="1").test_client()
    for _ in range(4):
        for path in (url, PROJECTS):
            assert client.get(path).status_code == 200
        assert client.put(url, json={"name": "x"}).status_code == 200
    assert {kind_of(query) for query in proxy.queries} == {"text"}
    assert not [query for query in proxy.queries if "plan_cache_mode" in query and "SET" in query]


TEXTS = ["100%", "%s %(name)s %%", "it's \\ \"quoted\" $1 ''", "E'\\n'; --", "번역 \U0001f600"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_prepared_write_stores_any_text_as_it_is(send, client, text):
    values = {"name": text, "description": text, "attributes": {text: [text, None, 1.5]}}
    for _ in range(3):
        response, kinds = send("POST", PROJECTS, 201, json=values)
        assert values.items() <= response.json.items()
        changed = client.patch(response.headers["Location"], json={**values, "name": f"{text}."})
        assert changed.json["name"] == f"{text}."
        assert client.get(response.headers["Location"]).json == changed.json
    assert kinds == ["execute"]


@pytest.mark.parametrize("command", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_statements_that_the_session_has_lost_are_sent_as_text_and_prepared_again(
    send, session, url, command
):
    for _ in range(3):
        send("PUT", url, json={"name": "x"})
    session(command)
    response, kinds = send("PUT", url, json={"name": command})
    assert response.json["name"] == command
    assert kinds == ["execute", "text"]
    assert send("PUT", url, json={"name": "x"})[0].json["version"] == response.json["version"] + 1
    assert send("PUT", url, json={"name": "x"})[1] == ["execute"]


def test_statement_that_the_session_already_has_is_sent_as_text_and_prepared_again(
    send, session, make_app, url
):
    first_app = make_app(DATABASE_POOL_SIZE="1")
    for _ in range(2):
        first_app.test_client().get(url)
    with first_app.app_context(), database.db.engine.connect() as connection:
        name = connection.exec_driver_sql(PREPARED).scalar()
    for _ in range(2):
        send("PUT", url, json={"name": "x"})
    session(f"PREPARE {name} AS SELECT 1")
    assert [send("GET", url)[1] for _ in range(4)] == [
        *(["text"], ["prepare", "text"], ["prepare"], ["execute"]),
    ]


def test_a_new_connection_prepares_again(send, session, sql, url):
    for _ in range(3):
        send("GET", url)
    [(pid,)] = session("SELECT pg_backend_pid()")
    sql(f"SELECT pg_terminate_backend({pid}, 1000)")
    assert send("GET", url)[1][-1] == "prepare"
    assert send("GET", url)[1] == ["execute"]


def test_a_schema_change_between_two_requests_is_not_noticed(send, sql, url):
    for _ in range(3):
        send("GET", url)
        send("GET", PROJECTS)
    try:
        sql("ALTER TABLE projects ADD COLUMN extra integer NOT NULL DEFAULT 1")
        assert send("GET", url)[1] == ["execute"]
        assert send("GET", PROJECTS)[1] == ["execute"]
        sql("SELECT end_history('projects')")  # its triggers use the version
        sql("ALTER TABLE projects ALTER COLUMN version TYPE bigint")
        assert send("GET", url)[1] == ["execute", "text"], "its result has another type"
        assert [send("GET", url)[1] for _ in range(2)] == [["prepare"], ["execute"]]
    finally:
        sql("ALTER TABLE projects ALTER COLUMN version TYPE integer")
        sql("ALTER TABLE projects DROP COLUMN extra")
        sql("SELECT keep_history('projects')")
    assert send("GET", url)[1] == ["execute", "text"]


def test_a_refused_token_in_the_message_that_prepares_leaves_the_statement_prepared(
    make_app, proxy, auth_headers, sql, problem
):
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url, DATABASE_POOL_SIZE="1").test_client()
    alice, bob = auth_headers("alice"), auth_headers("bob")
    url = client.post(PROJECTS, json={"name": "x"}, headers=alice).headers["Location"]
    client.get(PROJECTS, headers=bob)  # both tokens are cached
    client.get(url, headers=alice)
    sql("UPDATE api_tokens SET revoked_at = now() WHERE owner = 'bob'")
    proxy.queries.clear()
    problem(client.get(url, headers=bob), 401, "invalid_token")
    assert client.get(url, headers=alice).status_code == 200
    kinds = [kind_of(query) for query in proxy.queries if "FROM projects" in query]
    assert kinds == ["prepare", "execute"]


def test_a_violated_constraint_in_the_message_that_prepares_leaves_the_statement_prepared(
    send, url
):
    for size, kinds in ((9000, ["text"]), (16000, ["prepare"]), (10, ["execute"])):
        status = 400 if size == 16000 else 200
        body = {"attributes": {str(size): "x" * size}}
        assert send("PATCH", url, status, json=body)[1] == kinds


def test_a_lock_timeout_in_prepare_does_no_harm(make_app, proxy, sql, url):
    limits = {"DATABASE_LOCK_TIMEOUT": "1", "REQUEST_TIMEOUT": "60", "GRACEFUL_TIMEOUT": "90"}
    client = make_app(DATABASE_URL=proxy.url, DATABASE_POOL_SIZE="1", **limits).test_client()
    client.get(url)
    sql("BEGIN")
    sql("LOCK TABLE projects")
    try:
        assert client.get(url).status_code == 503
    finally:
        sql("ROLLBACK")
    assert client.get(url).status_code == 200


def test_statements_with_the_same_sql_and_other_constants_return_their_own_constant(client):
    number = sa.bindparam("number", type_=sa.Integer)
    first, second = (database.plan_once(sa.select(sa.literal(x), number)) for x in ("a", "b"))
    with client.application.app_context():
        for n in range(3):
            assert database.execute(first, {"number": n}) == ("a", n)
            assert database.execute(second, {"number": n}) == ("b", n)


def test_a_statement_without_parameters_can_be_prepared(client, session):
    statement = database.plan_once(sa.select(sa.literal_column("1")))
    with client.application.app_context():
        assert [database.execute(statement) for _ in range(3)] == [(1,)] * 3
    assert len(session(PREPARED)) == 1


def test_at_most_32_statements_are_prepared(client, session, monkeypatch):
    monkeypatch.setattr(prepared, "MAX_AGE_SECONDS", 3600)
    keys = ("name", "created_at", "updated_at", "is_active")
    sorts = [f"{a}{key},{b}{other}" for a in ("", "-") for b in ("", "-")
             for key in keys for other in keys if key != other]  # fmt: skip
    for _ in range(3):
        for sort in sorts:
            assert client.get(f"{PROJECTS}?sort={sort}").status_code == 200
    assert len(sorts) > prepared.MAX_PREPARED
    assert len(session(PREPARED)) == prepared.MAX_PREPARED


def test_old_statements_are_prepared_again(send, session, monkeypatch, url):
    """So that a table that has grown gets a new plan, also before ANALYZE."""
    for _ in range(3):
        send("GET", url)
        send("GET", PROJECTS)
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 11)
    assert send("GET", url)[1] == ["prepare"]
    assert len(session(PREPARED)) == 1, "the session forgets all"
    assert send("GET", PROJECTS)[1] == ["prepare"]
    assert send("GET", url)[1] == ["execute"]


def test_a_restricted_caller_never_gets_the_list_of_a_caller_who_sees_all(
    make_app, auth_headers, sql
):
    client = make_app(AUTH="tokens", DATABASE_POOL_SIZE="1").test_client()
    writer = "projects:read,projects:write"
    headers = {
        "alice": auth_headers("alice", writer),
        "bob": auth_headers("bob", writer),
        "admin": auth_headers("carol", "projects:all"),
    }
    for owner in ("alice", "bob"):
        created = client.post(PROJECTS, json={"name": owner}, headers=headers[owner])
        assert created.status_code == 201
    for query in ("", "?is_active=true", "?sort=name", "?sort=is_active"):
        for _ in range(4):
            for caller in ("admin", "alice", "admin", "bob"):
                page = client.get(PROJECTS + query, headers=headers[caller]).json
                expected = {"alice", "bob"} if caller == "admin" else {caller}
                assert {item["owner"] for item in page["items"]} == expected
                assert page["total"] == len(expected)


def test_a_restricted_caller_never_reads_or_changes_a_row_with_a_prepared_statement(
    make_app, auth_headers, sql
):
    client = make_app(AUTH="tokens", DATABASE_POOL_SIZE="1").test_client()
    alice, bob = auth_headers("alice"), auth_headers("bob")
    url = client.post(PROJECTS, json={"name": "x"}, headers=alice).headers["Location"]
    for number in range(4):
        for headers, status in ((alice, 200), (bob, 404)):
            assert client.get(url, headers=headers).status_code == status
            body = {"name": f"{number} {status}"}
            assert client.patch(url, json=body, headers=headers).status_code == status
        assert client.delete(url, headers=bob).status_code == 404
    assert client.get(url, headers=alice).json["name"] == "3 200"


# The engine of SQLAlchemy borrows connections from the same pool.


def test_the_engine_and_requests_share_the_connections_of_the_pool(make_app, sql, problem):
    app = make_app(DATABASE_POOL_SIZE="2", DATABASE_POOL_TIMEOUT="1")
    client, count = app.test_client(), "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)"
    with app.app_context():
        engine = database.db.engine
    pids = set()
    for _ in range(3):
        assert client.get(PROJECTS).status_code == 200
        with engine.connect() as first, engine.connect() as second:
            pids |= {c.exec_driver_sql("SELECT pg_backend_pid()").scalar() for c in (first, second)}
            problem(client.get(PROJECTS), 503, "unavailable")
    assert len(pids) == 2
    assert sql(count, [list(pids)]) == [(2,)]
    engine.dispose()
    deadline = time.monotonic() + 30
    while sql(count, [list(pids)]) != [(0,)]:
        assert time.monotonic() < deadline, "dispose() closes the idle connections"
        time.sleep(0.05)
    assert client.get(PROJECTS).status_code == 200


def test_a_connection_in_a_transaction_is_closed_and_not_put_back(session, client):
    [(pid,)] = session("SELECT pg_backend_pid()")
    with client.application.app_context():
        engine = database.db.engine
    connection = engine.raw_connection()
    connection.dbapi_connection.autocommit = False
    connection.cursor().execute("SELECT 1")
    connection.close()
    assert session("SELECT pg_backend_pid()") != [(pid,)]


def test_a_session_of_the_orm_works_and_gives_its_connection_back(client, url):
    with client.application.app_context():
        assert database.db.session.execute(database.db.text("SELECT 1")).scalar() == 1
    assert client.get(url).status_code == 200


def test_token_of_a_caller_is_looked_up_with_a_prepared_statement(make_app, proxy, auth_app, sql):
    app = make_app(AUTH="tokens", DATABASE_URL=proxy.url, DATABASE_POOL_SIZE="1")
    client, kinds = app.test_client(), []
    for number in range(3):
        with auth_app.app_context():
            token = token_admin.create_token(f"{number}", "alice", ["projects:read"], None)
        proxy.queries.clear()
        assert client.get(PROJECTS, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        kinds += [kind_of(q) for q in proxy.queries if "SELECT api_tokens.id" in q]
    assert kinds == ["text", "prepare", "execute"]
