"""Who is let in, to what: every route, method, credential, scope and foreign id there is.

The cases are made from the URL map. A route that is not declared here fails.
"""

import json
import re

import pytest
import sqlalchemy as sa
from flask import Response

from config import Development
from projectapp import auth, create_app, database
from projectapp.auth import tokens
from projectapp.http.endpoint import Endpoint
from projectapp.projects.models import Project
from tests.conftest import PROJECTS
from tests.issuer import bearer as issuer_bearer
from tests.plans import recorded

READ, WRITE = "projects:read", "projects:write"
PUBLIC = None
DECLARED = {
    "projects.list_projects": READ,
    "projects.get_project": READ,
    "projects.create_project": WRITE,
    "projects.put_project": WRITE,
    "projects.patch_project": WRITE,
    "projects.delete_project": WRITE,
    "health.health": PUBLIC,
    "health.ready": PUBLIC,
    "health.root": PUBLIC,
    "openapi.openapi": PUBLIC,
    "openapi.docs": PUBLIC,
    "static": PUBLIC,
}
BODIES = {"POST": {"name": "new"}, "PUT": {"name": "put"}, "PATCH": {"name": "patched"}}
CHANGED = {"POST": 201, "DELETE": 204}

# What is sent as Authorization, or the scopes of a good token, and the status that it alone causes.
REFUSED = {
    "nothing": 401,
    "empty": 401,
    "basic": 401,
    "bare": 400,
    "twice": 400,
    "another scheme's parameters": 400,
    "unknown": 401,
    "mistyped": 401,
    "cut": 401,
    "longer": 401,
    "a digest": 401,
    "a JWT": 401,
    "expired": 401,
    "revoked": 401,
}
SCOPES = {
    "reader": (READ,),
    "writer": (WRITE,),
    "editor": (READ, WRITE),
    "all": ("projects:all",),
    "reads others'": (READ, "projects:all"),
    "another resource": ("projects_archive:all",),
}
IDS = ("own", "foreign", "nobody's", "missing")


@pytest.fixture
def world(guarded, bearer, sql):
    """A project of each kind, and a header for each kind of caller."""
    mine = guarded.post(PROJECTS, json={"name": "Secret plan"}, headers=bearer()).json
    foreign = guarded.post(PROJECTS, json={"name": "Secret plan"}, headers=bearer("bob")).json
    nobodys = "01900000-0000-7000-8000-000000000001"
    sql("INSERT INTO projects (id, name) VALUES (%s, 'Secret plan')", nobodys)
    good = bearer()["Authorization"]
    digest = tokens.hash_token(good.removeprefix("Bearer ")).hex()
    revoked, expired = bearer()["Authorization"], bearer(days=-1)["Authorization"]
    sql("UPDATE api_tokens SET revoked_at = now() WHERE digest = %s", hashed(revoked))
    headers = {
        "empty": "",
        "basic": "Basic dXNlcjpwYXNz",
        "bare": "Bearer",
        "twice": f"{good}, {good}",
        "another scheme's parameters": f'Bearer token="{good[7:]}"',
        "unknown": f"Bearer {tokens.new_token()}",
        "mistyped": good[:20] + ("a" if good[20] != "a" else "b") + good[21:],
        "cut": good[:-1],
        "longer": good + "0",
        "a digest": f"Bearer {digest}",
        "a JWT": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
        "expired": expired,
        "revoked": revoked,
        **{
            name: bearer(scopes=",".join(scopes))["Authorization"]
            for name, scopes in SCOPES.items()
        },
    }
    ids = {"own": mine["id"], "foreign": foreign["id"], "nobody's": nobodys}
    ids["missing"] = "01900000-0000-7000-8000-000000000000"
    return ids, headers


def hashed(header):
    return tokens.hash_token(header.removeprefix("Bearer "))


def expected(scope, method, caller, which):
    if scope is PUBLIC or method == "OPTIONS":
        return 200
    if caller in REFUSED:
        return REFUSED[caller]
    can_see_all = "projects:all" in SCOPES[caller]
    if scope not in SCOPES[caller] and not can_see_all:
        return 403
    found = which in (None, "own") or (can_see_all and which != "missing")
    return CHANGED.get(method, 200) if found else 404


def rows(sql):
    query = "SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY id), '[]') FROM projects AS p"
    return sql(query)[0][0]


def put_back(sql, before):
    columns = "id, name, description, is_active, attributes, version, created_at, updated_at, owner"
    sql("TRUNCATE projects")
    sql(
        f"INSERT INTO projects ({columns})"  # noqa: S608
        f" SELECT {columns} FROM jsonb_populate_recordset(NULL::projects, %s)",
        json.dumps(before),
    )


def cases(app):
    """Every route with each of its methods, and each kind of id where it has one."""
    for rule in app.url_map.iter_rules():
        for method in sorted(rule.methods):
            for which in IDS if "project_id" in rule.arguments else (None,):
                yield rule, method, which


@pytest.mark.parametrize(("host", "is_told"), [("0.0.0.0", True), ("127.0.0.1", False)])  # noqa: S104
def test_a_learners_machine_that_others_can_reach_is_warned_of(database_url, caplog, host, is_told):
    create_app(Development({"DATABASE_URL": database_url, "HOST": host}))
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(":")[0] for text in told] == ["AUTH=none"] * is_told


def test_every_route_is_declared(guarded_app):
    assert {rule.endpoint for rule in guarded_app.url_map.iter_rules()} == DECLARED.keys()
    methods = set().union(*(rule.methods for rule in guarded_app.url_map.iter_rules()))
    assert methods == {"GET", "HEAD", "OPTIONS", "DELETE", *BODIES}


@pytest.mark.parametrize("caller", [*REFUSED, *SCOPES])
def test_everybody_gets_what_they_may_and_no_more(guarded, guarded_app, world, sql, caller):
    ids, headers = world
    given = {"Authorization": headers[caller]} if caller in headers else {}
    for rule, method, which in cases(guarded_app):
        scope = DECLARED[rule.endpoint]
        path = rule.rule.replace("<uuid:project_id>", ids.get(which, ""))
        path = path.replace("<path:filename>", "docs/show.js")
        case = f"{method} {path} ({which}) by {caller}"
        before = rows(sql)
        with guarded.open(path, method=method, json=BODIES.get(method), headers=given) as answer:
            pass  # a file is closed
        assert answer.status_code == expected(scope, method, caller, which), case
        after = rows(sql)
        if answer.status_code >= 400 or method in ("GET", "HEAD", "OPTIONS"):
            assert after == before, case
        else:
            assert after != before, case
            put_back(sql, before)
        told = answer.headers.get("WWW-Authenticate", "")
        assert told.startswith("Bearer") == (answer.status_code in (400, 401, 403)), case
        assert (f'error="insufficient_scope", scope="{scope}"' in told) == (
            answer.status_code == 403
        ), case


def test_the_matrix_has_a_case_for_everything(guarded_app):
    callers = len(REFUSED) + len(SCOPES)
    assert callers * len([*cases(guarded_app)]) == 1180


HIDDEN = ("foreign", "nobody's")


@pytest.mark.parametrize("which", HIDDEN)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"If-Match": '"1"'},
        {"If-Match": "*"},
        {"If-Match": '"7"'},
        {"If-None-Match": '"1"'},
        {"If-None-Match": "*"},
    ],
)
def test_a_foreign_project_answers_as_one_that_is_not_there(
    guarded, bearer, world, which, method, more
):
    ids, _ = world
    answers = [
        guarded.open(
            f"{PROJECTS}/{ids[kind]}",
            method=method,
            json=BODIES.get(method),
            headers={**bearer(), **more, "X-Request-ID": "same"},
        )
        for kind in (which, "missing")
    ]
    assert answers[0].status_code == answers[1].status_code == 404
    assert answers[0].data == answers[1].data
    assert answers[0].headers == answers[1].headers


@pytest.mark.parametrize(
    "query",
    [
        *("", "q=secret plan", "q=secret&sort=name", "name=Secret plan", "sort=-updated_at"),
        *(
            "is_active=true",
            "sort=is_active,name",
            "attributes={}",
            "created_at[gt]=2020-01-01T00:00:00Z",
        ),
        *("page=1&page_size=1", "count=exact", "count=auto&q=plan"),
    ],
)
def test_a_list_has_the_callers_own_alone(guarded, bearer, world, query):
    ids, _ = world
    alice = guarded.get(f"{PROJECTS}?{query}", headers=bearer())
    assert [item["id"] for item in alice.json["items"]] == [ids["own"]]
    assert (alice.json["total"], alice.json["next_cursor"]) == (1, None)
    assert 'rel="next"' not in alice.headers["Link"]
    everybodys = guarded.get(f"{PROJECTS}?{query}", headers=bearer("root", "projects:all"))
    assert everybodys.json["total"] == 3


def test_an_estimate_counts_the_callers_own_alone(guarded, bearer, sql):
    sql(
        "INSERT INTO projects (id, name, owner) SELECT gen_random_uuid(), 'Many', 'bob'"
        " FROM generate_series(1, 30000)"
    )
    sql("ANALYZE projects")
    assert guarded.get(PROJECTS, headers=bearer()).json["total"] == 0
    bobs = guarded.get(PROJECTS, headers=bearer("bob")).json
    assert bobs["total_is_estimate"]
    assert 25_000 < bobs["total"] < 35_000
    sql("TRUNCATE projects")
    sql("ANALYZE projects")


def test_the_planner_tells_nobody_of_others_projects(guarded, bearer, sql):
    """Its statistics are of everybody's, and of what was there when they were made."""
    sql(
        "INSERT INTO projects (id, name, owner) SELECT gen_random_uuid(), 'Secret', 'bob'"
        " FROM generate_series(1, 50000)"
    )
    sql("ANALYZE projects")
    sql("UPDATE projects SET owner = 'carol'")
    for query in ("?page=2", "?page=2&name=Secret", "?page=2&q=Secret", "?page=2&sort=name"):
        found = guarded.get(f"{PROJECTS}{query}", headers=bearer("bob")).json
        assert (found["total"], "total_is_estimate" in found) == (0, False)
    sql("TRUNCATE projects")
    sql("ANALYZE projects")


def test_a_cursor_is_its_callers(guarded, bearer, problem):
    for owner in ("alice", "bob"):
        for name in "abc":
            guarded.post(PROJECTS, json={"name": name}, headers=bearer(owner))
    page = f"{PROJECTS}?page_size=1&cursor="
    cursor = guarded.get(f"{PROJECTS}?page_size=1", headers=bearer()).json["next_cursor"]
    again = guarded.get(page + cursor, headers=bearer())
    assert [item["owner"] for item in again.json["items"]] == ["alice"]
    for other in (bearer("bob"), bearer("root", "projects:all")):
        problem(guarded.get(page + cursor, headers=other), 400, "validation_error")


def test_an_idempotency_key_is_its_callers(guarded, bearer):
    alice, bob = (
        guarded.post(
            PROJECTS, json={"name": "Once"}, headers={**bearer(owner), "Idempotency-Key": "1"}
        )
        for owner in ("alice", "bob")
    )
    assert (alice.status_code, bob.status_code) == (201, 201)
    assert (alice.json["owner"], bob.json["owner"]) == ("alice", "bob")
    assert "Idempotency-Replayed" not in bob.headers
    assert alice.json["id"] != bob.json["id"]


def test_the_owner_is_the_caller_whatever_the_body_says(guarded, bearer):
    made = guarded.post(PROJECTS, json={"name": "x", "owner": "bob"}, headers=bearer()).json
    assert made["owner"] == "alice"
    for method in ("PUT", "PATCH"):
        path = f"{PROJECTS}/{made['id']}"
        changed = guarded.open(path, method=method, json={"owner": "bob"}, headers=bearer())
        assert (changed.json["owner"], changed.json["version"]) == ("alice", 1)


def test_two_tokens_of_one_owner_see_the_same(guarded, bearer):
    made = guarded.post(PROJECTS, json={"name": "x"}, headers=bearer()).json
    assert guarded.get(f"{PROJECTS}/{made['id']}", headers=bearer()).json == made


def test_every_statement_on_projects_asks_whose_they_are(guarded, guarded_app, bearer, world):
    """What reaches PostgreSQL names the caller, in whatever way the table is used."""
    ids, _ = world
    with recorded() as sent:
        for rule, method, which in cases(guarded_app):
            if DECLARED[rule.endpoint]:
                path = rule.rule.replace("<uuid:project_id>", ids.get(which, ""))
                more = {"json": BODIES[method]} if method in BODIES else {}
                guarded.open(path, method=method, headers=bearer(), **more)
    used = [one for one in sent if re.search(r"\b(FROM|UPDATE|INTO) projects\b", one[0])]
    assert len(used) > 15
    for statement, parameters in used:
        assert (
            parameters["owner" if "INTO projects" in statement else "visible_owner_of_projects"]
            == "alice"
        )


@pytest.fixture
def app_with_tasks(make_app, sql):
    """The application with a second resource, tasks, and a route that counts visible rows."""
    tasks = sa.values(sa.column("owner", sa.Text), name="tasks").data([("alice",), ("bob",)])
    counts = sa.select(
        *(
            sa.select(sa.func.count())
            .select_from(table)
            .where(auth.is_visible(table.c.owner, table.name))
            .scalar_subquery()
            for table in (tasks, Project.__table__)
        )
    )

    @Endpoint(scope="tasks:read", responses={})
    def count_visible_rows():
        return Response(json.dumps(list(database.execute(counts))))

    def make(**environ):
        app = make_app(**environ)
        app.add_url_rule("/counts", view_func=count_visible_rows)
        auth.init_app(app)  # again, as it reads the scopes of the endpoints
        return app

    return make


def test_two_owner_filters_in_one_statement_have_a_value_each(app_with_tasks, world, bearer):
    client = app_with_tasks(AUTH="tokens").test_client()
    for scopes, counts in (
        ("tasks:all,projects:read", [2, 1]),
        ("tasks:read,projects:all", [1, 3]),
        ("tasks:read,projects:read", [1, 1]),
        ("tasks:all,projects:all", [2, 3]),
        ("tasks:all,projects:read", [2, 1]),  # again, with the same compiled statement
    ):
        assert client.get("/counts", headers=bearer(scopes=scopes)).get_json(True) == counts, scopes


def test_jwt_without_a_scope_claim_may_read_and_write_its_own_rows_of_every_resource(
    app_with_tasks, issuer, world
):
    client = app_with_tasks(**issuer.settings).test_client()
    headers = issuer_bearer(issuer.token(sub="alice"))
    assert client.post(PROJECTS, json={"name": "new"}, headers=headers).status_code == 201
    assert client.get("/counts", headers=headers).get_json(True) == [1, 2]


def test_jwt_without_a_scope_claim_has_only_the_scopes_of_jwt_scopes(app_with_tasks, issuer):
    client = app_with_tasks(**issuer.settings, JWT_SCOPES="projects:read").test_client()
    headers = issuer_bearer(issuer.token())
    assert client.get(PROJECTS, headers=headers).status_code == 200
    assert client.get("/counts", headers=headers).status_code == 403
    assert client.post(PROJECTS, json={"name": "new"}, headers=headers).status_code == 403


def test_help_and_errors_of_tokens_create_list_the_scopes_of_every_resource(app_with_tasks):
    runner = app_with_tasks(AUTH="tokens").test_cli_runner()
    for arguments in (
        ["--help"],
        ["--name", "CI", "--owner", "alice", "--scope", "projects:delete"],
    ):
        output = runner.invoke(args=["tokens", "create", *arguments]).output
        listed = "a comma list of projects:all, projects:read, projects:write, tasks:all,"
        assert listed in " ".join(output.split())
