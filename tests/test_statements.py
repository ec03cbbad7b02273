"""One request, one statement: a proxy before PostgreSQL counts them."""

import enum
import time
from datetime import timedelta
from decimal import Decimal
from itertools import chain, combinations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from projectapp import database
from projectapp.database.statements import compile_statement
from projectapp.projects.models import PROJECTS as RESOURCE
from projectapp.projects.models import Project
from projectapp.resources import lists, writes
from projectapp.resources.page_statement import page_statement
from projectapp.resources.subqueries import Filter, ListSpec
from tests.conftest import PROJECTS


@pytest.fixture
def counted_requests(make_app, proxy, make_project):
    """A client, a project, and the proxy that counts the client's queries; it has connected."""
    project, *_ = [make_project() for _ in range(11)]
    client = make_app(DATABASE_URL=proxy.url).test_client()
    client.get(PROJECTS)
    proxy.queries.clear()
    return client, project, proxy


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "", None, 200),
        ("GET", "?page=3&page_size=50&sort=name,-created_at&is_active=true&fields=name", None, 200),
        ("GET", "?q=project here&sort=-is_active,name&count=exact", None, 200),
        ("GET", '?q=project&attributes={"a":1}&page=2&count=auto', None, 200),
        ("GET", "?cursor={cursor}", None, 200),
        ("GET", "?cursor={cursor}&count=auto", None, 200),
        ("HEAD", "", None, 200),
        ("POST", "", {"name": "x", "attributes": {"a": 1}}, 201),
        ("GET", "/{id}", None, 200),
        ("HEAD", "/{id}", None, 200),
        ("PUT", "/{id}", {"name": "x"}, 200),
        ("PUT", "/{id}", {}, 200),
        ("PATCH", "/{id}", {"attributes": {"a": 1}}, 200),
        ("DELETE", "/{id}", None, 204),
        ("DELETE", "/01900000-0000-7000-8000-000000000000", None, 404),
        ("POST", "", {"name": ""}, 400),
        ("GET", "?page=0", None, 400),
    ],
)
@pytest.mark.parametrize("etag", ['"1"', None])
def test_a_request_takes_one_round_trip(counted_requests, method, path, body, status, etag):
    client, project, proxy = counted_requests
    options = {} if body is None else {"json": body}
    headers = {"If-Match": etag} if etag and method in ("PUT", "PATCH", "DELETE") else {}
    cursor = client.get(PROJECTS).json["next_cursor"]
    path = path.replace("{id}", project["id"]).replace("{cursor}", cursor)
    proxy.queries.clear()
    response = client.open(PROJECTS + path, method=method, headers=headers, **options)
    assert response.status_code == status, response.text
    expected = {400: 0, 404: 1 + bool(headers)}.get(status, 1)
    assert len(proxy.queries) == expected, proxy.queries


def queries_of_requests(proxy):
    """Return the queries without those that record the use of a token.

    A thread sends these on a connection of its own, and sets its timeouts first.
    """
    others = ("UPDATE api_tokens", " AS limits ")
    return [query for query in proxy.queries if not any(words in query for words in others)]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        *(("GET", "", None, 200), ("GET", "?q=project&count=exact", None, 200)),
        *(("GET", "/{id}", None, 200), ("POST", "", {"name": "x"}, 201)),
        *(("PUT", "/{id}", {"name": "x"}, 200), ("PATCH", "/{id}", {"is_active": False}, 200)),
        *(("DELETE", "/{id}", None, 204), ("GET", "/{foreign}", None, 404)),
        *(("POST", "", {"name": ""}, 400), ("GET", "?page=0", None, 400)),
        *(("POST", "", {"name": "x"}, 403), ("GET", "", None, 401)),
    ],
)
def test_a_request_with_a_token_takes_one_round_trip(
    make_app, proxy, auth_client, auth_headers, method, path, body, status
):
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    header = auth_headers(
        scopes="projects:read" if status == 403 else "projects:read,projects:write"
    )
    ids = {
        name: auth_client.post(PROJECTS, json={"name": "x"}, headers=auth_headers(owner)).json["id"]
        for name, owner in (("id", "alice"), ("foreign", "bob"))
    }
    client.get(PROJECTS, headers=header)
    if status == 401:
        header = {"Authorization": f"{header['Authorization'][:-1]}_"}
    options = {} if body is None else {"json": body}
    url = PROJECTS + path.format(**ids)
    for _ in range(1 if method == "DELETE" else 3):  # as text, as PREPARE and as EXECUTE
        proxy.queries.clear()
        response = client.open(url, method=method, headers=header, **options)
        assert response.status_code == status, response.text
        assert len(queries_of_requests(proxy)) == (0 if status == 401 else 1), proxy.queries


def test_only_the_first_request_with_a_token_takes_a_second_round_trip(
    make_app, proxy, auth_headers
):
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    client.get(PROJECTS, headers=auth_headers("bob"))  # the connection is open
    header = auth_headers()
    for trips in (2, 1, 1):
        proxy.queries.clear()
        assert client.get(PROJECTS, headers=header).status_code == 200
        assert len(queries_of_requests(proxy)) == trips, proxy.queries


def test_a_keyed_create_and_its_replay_take_one_round_trip_each(counted_requests):
    client, _, proxy = counted_requests
    for trips, key in enumerate("aabbcc", 1):
        client.post(PROJECTS, json={"name": "x"}, headers={"Idempotency-Key": key})
        assert len(proxy.queries) == trips


def test_a_304_takes_one_round_trip_and_health_none(counted_requests):
    client, project, proxy = counted_requests
    response = client.get(f"{PROJECTS}/{project['id']}", headers={"If-None-Match": '"1"'})
    assert (response.status_code, len(proxy.queries)) == (304, 1)
    assert client.get("/health").status_code == 200
    assert len(proxy.queries) == 1


@pytest.mark.parametrize(("after", "pings"), [("1", ["SELECT 1"]), ("3600", [])])
def test_a_connection_is_pinged_only_after_an_idle_time(make_app, proxy, sql, after, pings):
    client = make_app(DATABASE_URL=proxy.url, DATABASE_PING_AFTER_IDLE=after).test_client()
    client.get(PROJECTS)
    proxy.queries.clear()
    time.sleep(1.1)
    client.get(PROJECTS)
    assert proxy.queries[:-1] == pings


def test_a_request_on_a_connection_that_broke_while_idle_gets_a_200(counted_requests):
    client, _, proxy = counted_requests
    proxy.cut()
    time.sleep(1.1)
    assert client.get(PROJECTS).status_code == 200
    limits, _ = proxy.queries
    assert "lock_timeout" in limits, "a new connection only sets its timeouts"


def test_the_first_connection_queries_no_types(make_app, proxy):
    make_app(DATABASE_URL=proxy.url).test_client().get(PROJECTS)
    assert not [query for query in proxy.queries if "pg_type" in query]


class Color(enum.Enum):
    RED = "r"


class UpperCase(sa.TypeDecorator):
    """Stored in lower case, returned in upper case."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return value.lower()

    def process_result_value(self, value, dialect):
        return value.upper()


@pytest.mark.parametrize(
    ("kind", "value", "stored", "expected"),
    [
        (sa.Enum(Color, native_enum=False), Color.RED, "RED", Color.RED),
        (ARRAY(sa.Enum(Color, native_enum=False)), [Color.RED], "{RED}", [Color.RED]),
        (sa.Interval(), timedelta(1, 2), "1 day 00:00:02", timedelta(1, 2)),
        (UpperCase(), "Hey", "hey", "HEY"),
        (sa.Numeric(), Decimal("1.50"), "1.50", Decimal("1.50")),
        (sa.LargeBinary(), b"ab", "\\x6162", b"ab"),
    ],
)
def test_the_type_of_a_column_converts_parameters_and_results(
    app, client, kind, value, stored, expected
):
    parameter = sa.cast(sa.bindparam("value", type_=kind), kind)
    statement = sa.select(parameter.label("value"), sa.cast(parameter, sa.Text).label("text"))
    with app.app_context():
        for marked in (statement, database.plan_once(statement)):
            for _ in range(3):  # as text, as PREPARE and as EXECUTE
                row = database.execute(marked, {"value": value})
                assert row.text == stored
                assert row.value == expected
                assert type(row.value) is type(expected)


def test_constants_and_percent_signs_become_a_part_of_a_prepared_statement(app, client):
    text = "50% it's \\ %s"
    statement = database.plan_once(
        sa.select(
            sa.literal(text).label("constant"),
            sa.literal_column("'%' || '%%s'").label("percent"),
            sa.bindparam("value", type_=sa.Text).label("value"),
        )
    )
    with app.app_context():
        for value in ("%", "%s", "%(value)s"):
            assert database.execute(statement, {"value": value}) == (text, "%%%s", value)


def test_a_statement_with_a_parameter_of_unknown_type_is_not_prepared(app, client):
    statement = database.plan_once(sa.select(sa.bindparam("value").label("value")))
    with app.app_context():
        for _ in range(3):
            assert database.execute(statement, {"value": 1}) == (1,)


def test_in_accepts_any_number_of_values(app, make_project):
    for name in ("a", "b", "c"):
        make_project(name=name)
    names = sa.bindparam("names", expanding=True)
    count_projects = sa.select(sa.func.count()).select_from(Project)
    count_in, count_not_in = (
        count_projects.where(condition, Project.version == sa.bindparam("version"))
        for condition in (Project.name.in_(names), Project.name.not_in(names))
    )
    with app.app_context():
        for values, count in ((["a"], 1), ([], 0), (["a", "b", "x"], 2), (["c", "b", "a"], 3)):
            parameters = {"names": values, "version": 1}
            assert database.execute(count_in, parameters) == (count,)
            assert database.execute(count_not_in, parameters) == (3 - count,)
        assert database.execute(count_projects.where(Project.name.in_(["a", "c"]))) == (2,)
        pairs = sa.tuple_(Project.name, Project.version).in_([("a", 1), ("b", 2)])
        assert database.execute(count_projects.where(pairs)) == (1,)


def test_in_converts_each_value(app, client):
    words = sa.bindparam("words", expanding=True, type_=UpperCase())
    statement = sa.select(sa.literal_column("'hey'", UpperCase()).in_(words).label("is_in"))
    with app.app_context():
        assert database.execute(statement, {"words": ["Hey", "you"]}).is_in is True


def test_a_parameter_may_have_any_name(app, client):
    names = ("created_at[gte]", "a b", "50%", "x.y(z)")
    statement = sa.select(*(sa.bindparam(name, type_=sa.Integer) for name in names))
    with app.app_context():
        assert database.execute(statement, {n: i for i, n in enumerate(names)}) == (0, 1, 2, 3)


def subsets(names):
    """Return all selections of at least one of the names."""
    return chain.from_iterable(combinations(names, n) for n in range(1, len(names) + 1))


def test_two_statements_serve_every_selection_of_fields(client, make_project):
    project = make_project()
    for query in ("", "q=project&"):
        lists._page.cache_clear()
        for names in subsets(RESOURCE.fields):
            response = client.get(f"{PROJECTS}?{query}fields={','.join(names)}")
            expected = {name: project[name] for name in RESOURCE.fields if name in {"id", *names}}
            assert [list(item.items()) for item in response.json["items"]] == [
                list(expected.items())
            ]
        assert lists._page.cache_info().currsize == 2, "one for all fields, one for others"


def test_selected_fields_are_rendered_as_in_a_whole_row(client, make_project):
    make_project(name='"\\/\u007f\u2028번역', description=None, attributes={"a": [1.0, None, '"']})
    whole = client.get(PROJECTS).text
    names = RESOURCE.fields[1:]
    assert client.get(f"{PROJECTS}?fields={','.join(names)}").text == whole
    for name in names:
        part = client.get(f"{PROJECTS}?fields={name}").text
        item = part.removeprefix('{"items":[').partition('],"total"')[0]
        first, _, member = item.removeprefix("{").removesuffix("}").partition(", ")
        assert first in whole
        assert member in whole
        assert member.startswith(f'"{name}" : ')


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_two_statements_serve_every_selection_of_fields_in_a_write(client, make_project, method):
    url = f"{PROJECTS}/{make_project()['id']}"
    bodies = [
        {"name": "x", "description": "y", "is_active": False, "attributes": {"a": 1}},
        {"name": "z", "description": None, "is_active": True, "attributes": {"b": 2}},
    ]
    writes.update_statements.cache_clear()
    compile_statement.cache_clear()
    before = client.get(url).json
    for names in subsets(bodies[0]):
        for body, is_checked in zip(bodies, (False, True), strict=True):
            headers = {"If-Match": f'"{before["version"]}"'} if is_checked else {}
            sent = {name: body[name] for name in names}
            changed = client.open(url, method=method, json=sent, headers=headers).json
            if method == "PATCH" and "attributes" in sent:
                sent["attributes"] = {**before["attributes"], **sent["attributes"]}
            is_changed = any(before[name] != value for name, value in sent.items())
            assert changed["version"] == before["version"] + is_changed
            assert changed == {
                **before,
                **sent,
                **{name: changed[name] for name in ("version", "updated_at")},
            }
            before = changed
    assert writes.update_statements.cache_info().currsize == 2
    assert compile_statement.cache_info().currsize <= 4 + 1, (
        "an update with a version, one without, and reads"
    )


def render_json(c):
    return sa.cast(sa.func.json_build_array(c.id, c["Größe"], c.number, c.part), sa.Text)


def test_a_list_works_with_column_names_that_are_keywords(app, sql):
    table = sa.Table(
        "select",
        sa.MetaData(),
        *(sa.Column(name, sa.Text) for name in ("order", "items", "Größe", "number", "part")),
        sa.Column("id", sa.Integer),
    )
    spec = ListSpec(
        table=table,
        columns=["id", "order", "items", "Größe", "number", "part"],
        filters=[Filter(lambda c: c["items"] != sa.literal_column("'x'"))],
        segments=(),
        keys=[("order", True), ("id", True)],
        is_restricted=False,
    )
    values = {"page_size": 2, "offset": 0}
    sql(
        'CREATE TABLE "select"'
        ' ("order" text, items text, "Größe" text, number text, part text, id integer)'
    )
    try:
        sql(
            """INSERT INTO "select" SELECT 'o' || n, 'i' || n, 'g' || n, 'n' || n, 'p' || n, n
            FROM generate_series(1, 9) AS n"""
        )
        with app.app_context():
            row = database.execute(page_statement(spec, render_json, "exact"), values)
        assert (row.items, row.counted) == ('[9, "g9", "n9", "p9"],[8, "g8", "n8", "p8"]', 9)
    finally:
        sql('DROP TABLE "select"')
