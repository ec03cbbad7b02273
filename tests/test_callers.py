"""The owner matrix: every route and method with every kind of credential, scope and project id.

The cases come from the URL map. A route that SCOPE_BY_ENDPOINT does not name fails a test.
"""

import json
import re
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from flask import Response

from config import Development
from faults.resource import resource_names
from projectapp import auth, create_app, database
from projectapp.auth import session_cookie, tokens
from projectapp.http.endpoint import Endpoint
from projectapp.projects.models import Project
from tests.conftest import PROJECTS
from tests.issuer import bearer as issuer_bearer
from tests.plans import recorded

READ, WRITE, METRICS = "projects:read", "projects:write", "metrics:read"
PUBLIC = None
SCOPE_BY_ENDPOINT = {
    "projects.list_projects": READ,
    "projects.list_project_changes": READ,
    "projects.export_projects": READ,
    "projects.get_project": READ,
    "projects.create_project": WRITE,
    "projects.put_project": WRITE,
    "projects.patch_project": WRITE,
    "projects.patch_projects": WRITE,
    "projects.delete_project": WRITE,
    "projects.get_project_history": READ,
    "projects.restore_project": WRITE,
    "health.health": PUBLIC,
    "health.ready": PUBLIC,
    "health.root": PUBLIC,
    "metrics.metrics": METRICS,
    "openapi.openapi": PUBLIC,
    "openapi.docs": PUBLIC,
    "console.page": PUBLIC,
    "console.static": PUBLIC,
    "static": PUBLIC,
}
BODIES = {"POST": {"name": "new"}, "PUT": {"name": "put"}, "PATCH": {"name": "patched"}}
BODY_OF_RESTORE = {"version": 1}
SUCCESS_BY_METHOD = {"POST": 201, "DELETE": 204}

# A kind of Authorization header without a valid token, and the status that it gets.
REFUSED_HEADERS = {
    "nothing": 401,
    "empty": 401,
    "basic": 401,
    "no token": 400,
    "two tokens": 400,
    "another scheme's parameters": 400,
    "unknown": 401,
    "mistyped": 401,
    "truncated": 401,
    "one digit more": 401,
    "a digest": 401,
    "a JWT": 401,
    "expired": 401,
    "revoked": 401,
}
# Those of them that can be in the console's cookie.
REFUSED_TOKENS = (
    *("unknown", "mistyped", "truncated", "one digit more", "a digest", "a JWT"),
    *("expired", "revoked"),
)
# A kind of caller, and the scopes of its valid token.
SCOPES_BY_CALLER = {
    "reader": (READ,),
    "writer": (WRITE,),
    "editor": (READ, WRITE),
    "all": ("projects:all",),
    "reader and all": (READ, "projects:all"),
    "another resource": ("projects_archive:all",),
    "monitoring": (METRICS,),
}
ID_KINDS = ("own", "foreign", "without owner", "missing")


@pytest.fixture
def ids_and_headers(auth_client, auth_headers, sql):
    """The id of a project of each kind, and an Authorization header of each kind."""
    own = auth_client.post(PROJECTS, json={"name": "Secret plan"}, headers=auth_headers()).json
    foreign = auth_client.post(
        PROJECTS, json={"name": "Secret plan"}, headers=auth_headers("bob")
    ).json
    without_owner = "01900000-0000-7000-8000-000000000001"
    sql("INSERT INTO projects (id, name) VALUES (%s, 'Secret plan')", without_owner)
    valid = auth_headers()["Authorization"]
    digest = tokens.hash_token(valid.removeprefix("Bearer ")).hex()
    revoked, expired = auth_headers()["Authorization"], auth_headers(days=-1)["Authorization"]
    sql("UPDATE api_tokens SET revoked_at = now() WHERE digest = %s", digest_of(revoked))
    headers = {
        "empty": "",
        "basic": "Basic dXNlcjpwYXNz",
        "no token": "Bearer",
        "two tokens": f"{valid}, {valid}",
        "another scheme's parameters": f'Bearer token="{valid[7:]}"',
        "unknown": f"Bearer {tokens.new_token()}",
        "mistyped": valid[:20] + ("a" if valid[20] != "a" else "b") + valid[21:],
        "truncated": valid[:-1],
        "one digit more": valid + "0",
        "a digest": f"Bearer {digest}",
        "a JWT": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
        "expired": expired,
        "revoked": revoked,
        **{
            name: auth_headers(scopes=",".join(scopes))["Authorization"]
            for name, scopes in SCOPES_BY_CALLER.items()
        },
    }
    ids = {"own": own["id"], "foreign": foreign["id"], "without owner": without_owner}
    ids["missing"] = "01900000-0000-7000-8000-000000000000"
    return ids, headers


def digest_of(header):
    return tokens.hash_token(header.removeprefix("Bearer "))


def is_restore(rule, method):
    return method == "POST" and rule.endpoint == "projects.restore_project"


def is_bulk_change(rule, method):
    return method == "PATCH" and rule.endpoint == "projects.patch_projects"


def body_of(rule, method, project_id):
    if is_bulk_change(rule, method):
        return [{"id": project_id, **BODIES["PATCH"]}]
    return BODY_OF_RESTORE if is_restore(rule, method) else BODIES.get(method)


def expected_status(rule, method, caller, id_kind):
    scope = SCOPE_BY_ENDPOINT[rule.endpoint]
    if scope is PUBLIC or method == "OPTIONS":
        return 200
    if caller in REFUSED_HEADERS:
        return REFUSED_HEADERS[caller]
    can_see_all = "projects:all" in SCOPES_BY_CALLER[caller]
    if scope not in SCOPES_BY_CALLER[caller] and not (can_see_all and scope != METRICS):
        return 403
    is_visible = id_kind in (None, "own") or (can_see_all and id_kind != "missing")
    success = 200 if is_restore(rule, method) else SUCCESS_BY_METHOD.get(method, 200)
    return success if is_visible else 404


def all_projects(sql):
    query = "SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY id), '[]') FROM projects AS p"
    return sql(query)[0][0]


def restore(sql, projects):
    columns = "id, name, description, is_active, attributes, version, created_at, updated_at, owner"
    sql("DELETE FROM projects")
    sql(
        f"INSERT INTO projects ({columns})"  # noqa: S608
        f" SELECT {columns} FROM jsonb_populate_recordset(NULL::projects, %s)",
        json.dumps(projects),
    )


def rules(app):
    """The routes of projects and of no resource. test_resources.py tests the other resources."""
    others = {*resource_names()} - {"projects"}
    return [
        rule
        for rule in app.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] not in others
        and rule.rule != "/console/session"  # test_console_session.py
    ]


def cases(app):
    """Each of these routes with each of its methods, and each kind of id if a request has one."""
    for rule in rules(app):
        for method in sorted(rule.methods):
            has_id = "project_id" in rule.arguments or is_bulk_change(rule, method)
            for id_kind in ID_KINDS if has_id else (None,):
                yield rule, method, id_kind


@pytest.mark.parametrize(("host", "is_logged"), [("0.0.0.0", True), ("127.0.0.1", False)])  # noqa: S104
def test_development_without_auth_on_a_public_host_logs_a_warning(
    database_url, caplog, host, is_logged
):
    create_app(Development({"DATABASE_URL": database_url, "HOST": host}))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(":")[0] for text in warnings] == ["AUTH=none"] * is_logged


def test_every_route_declares_its_scope(auth_app):
    assert {rule.endpoint for rule in rules(auth_app)} == SCOPE_BY_ENDPOINT.keys()
    methods = set().union(*(rule.methods for rule in rules(auth_app)))
    assert methods == {"GET", "HEAD", "OPTIONS", "DELETE", *BODIES}


@pytest.mark.parametrize(
    ("caller", "is_cookie"),
    [
        *((caller, False) for caller in (*REFUSED_HEADERS, *SCOPES_BY_CALLER)),
        *((caller, True) for caller in (*REFUSED_TOKENS, *SCOPES_BY_CALLER)),
    ],
)
def test_each_caller_gets_only_what_its_token_permits(
    auth_client, auth_app, ids_and_headers, sql, caller, is_cookie
):
    ids, headers = ids_and_headers
    sql("UPDATE projects SET is_active = false")  # so that a restore of version 1 changes them
    if is_cookie:
        token = headers[caller].removeprefix("Bearer ")
        auth_client.set_cookie(session_cookie.NAME, token)
        header = {"Sec-Fetch-Site": "same-origin"}
    else:
        header = {"Authorization": headers[caller]} if caller in headers else {}
    for rule, method, id_kind in cases(auth_app):
        scope = SCOPE_BY_ENDPOINT[rule.endpoint]
        path = rule.rule.replace("<uuid:project_id>", ids.get(id_kind, ""))
        path = path.replace("<path:filename>", "docs/show.js")
        path = path.replace("<version>/<name>", "1/console.js")
        case = f"{method} {path} ({id_kind}) by {caller}"
        before = all_projects(sql)
        with auth_client.open(
            path, method=method, json=body_of(rule, method, ids.get(id_kind)), headers=header
        ) as answer:
            pass  # closes a file of static/
        assert answer.status_code == expected_status(rule, method, caller, id_kind), case
        after = all_projects(sql)
        if answer.status_code >= 400 or method in ("GET", "HEAD", "OPTIONS"):
            assert after == before, case
        else:
            assert after != before, case
            restore(sql, before)
        challenge = answer.headers.get("WWW-Authenticate", "")
        assert challenge.startswith("Bearer") == (answer.status_code in (400, 401, 403)), case
        assert (f'error="insufficient_scope", scope="{scope}"' in challenge) == (
            answer.status_code == 403
        ), case


def test_matrix_has_as_many_cases_as_callers_routes_methods_and_ids(auth_app):
    callers = len(REFUSED_HEADERS) + len(SCOPES_BY_CALLER)
    assert callers * len([*cases(auth_app)]) == 2079


HIDDEN_KINDS = ("foreign", "without owner")


@pytest.mark.parametrize("id_kind", HIDDEN_KINDS)
@pytest.mark.parametrize(
    ("method", "target"),
    [
        *((method, "") for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE")),
        *(("GET", "/history"), ("HEAD", "/history"), ("POST", "/restore"), ("GET", "?as_of={now}")),
    ],
)
@pytest.mark.parametrize("is_deleted", [False, True])
@pytest.mark.parametrize(
    "conditions",
    [
        {},
        {"If-Match": '"1"'},
        {"If-Match": "*"},
        {"If-Match": '"7"'},
        {"If-None-Match": '"1"'},
        {"If-None-Match": "*"},
    ],
)
def test_project_of_another_owner_gets_the_same_404_as_a_missing_one(
    auth_client, auth_headers, ids_and_headers, id_kind, method, target, conditions, sql, is_deleted
):
    ids, _ = ids_and_headers
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    if is_deleted:
        sql("DELETE FROM projects WHERE id = %s", ids[id_kind])
    answers = [
        auth_client.open(
            f"{PROJECTS}/{ids[kind]}{target.format(now=now)}",
            method=method,
            json={} if target == "/restore" else BODIES.get(method),
            headers={**auth_headers(), **conditions, "X-Request-ID": "same"},
        )
        for kind in (id_kind, "missing")
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
def test_list_contains_only_the_callers_projects(auth_client, auth_headers, ids_and_headers, query):
    ids, _ = ids_and_headers
    alice = auth_client.get(f"{PROJECTS}?{query}", headers=auth_headers())
    assert [item["id"] for item in alice.json["items"]] == [ids["own"]]
    assert (alice.json["total"], alice.json["next_cursor"]) == (1, None)
    assert 'rel="next"' not in alice.headers["Link"]
    admins = auth_client.get(f"{PROJECTS}?{query}", headers=auth_headers("root", "projects:all"))
    assert admins.json["total"] == 3


def test_estimated_total_counts_only_the_callers_projects(auth_client, auth_headers, sql):
    sql("SET session_replication_role = replica")  # so that no trigger records these rows
    sql(
        "INSERT INTO projects (id, name, owner) SELECT gen_random_uuid(), 'Many', 'bob'"
        " FROM generate_series(1, 30000)"
    )
    sql("ANALYZE projects")
    assert auth_client.get(PROJECTS, headers=auth_headers()).json["total"] == 0
    bobs = auth_client.get(PROJECTS, headers=auth_headers("bob")).json
    assert bobs["total_is_estimate"]
    assert 25_000 < bobs["total"] < 35_000
    sql("DELETE FROM projects")
    sql("ANALYZE projects")


def test_total_of_an_empty_list_is_exact_although_others_have_many_projects(
    auth_client, auth_headers, sql
):
    """The planner's statistics cover all owners, and are older than the last change."""
    sql("SET session_replication_role = replica")  # so that no trigger records these rows
    sql(
        "INSERT INTO projects (id, name, owner) SELECT gen_random_uuid(), 'Secret', 'bob'"
        " FROM generate_series(1, 50000)"
    )
    sql("ANALYZE projects")
    sql("UPDATE projects SET owner = 'carol'")
    for query in ("?page=2", "?page=2&name=Secret", "?page=2&q=Secret", "?page=2&sort=name"):
        page = auth_client.get(f"{PROJECTS}{query}", headers=auth_headers("bob")).json
        assert (page["total"], "total_is_estimate" in page) == (0, False)
    sql("DELETE FROM projects")
    sql("ANALYZE projects")


def test_cursor_of_another_caller_gets_400(auth_client, auth_headers, problem):
    for owner in ("alice", "bob"):
        for name in "abc":
            auth_client.post(PROJECTS, json={"name": name}, headers=auth_headers(owner))
    next_page = f"{PROJECTS}?page_size=1&cursor="
    cursor = auth_client.get(f"{PROJECTS}?page_size=1", headers=auth_headers()).json["next_cursor"]
    second = auth_client.get(next_page + cursor, headers=auth_headers())
    assert [item["owner"] for item in second.json["items"]] == ["alice"]
    for other in (auth_headers("bob"), auth_headers("root", "projects:all")):
        problem(auth_client.get(next_page + cursor, headers=other), 400, "validation_error")


def test_same_idempotency_key_of_two_callers_creates_two_projects(auth_client, auth_headers):
    alice, bob = (
        auth_client.post(
            PROJECTS, json={"name": "Once"}, headers={**auth_headers(owner), "Idempotency-Key": "1"}
        )
        for owner in ("alice", "bob")
    )
    assert (alice.status_code, bob.status_code) == (201, 201)
    assert (alice.json["owner"], bob.json["owner"]) == ("alice", "bob")
    assert "Idempotency-Replayed" not in bob.headers
    assert alice.json["id"] != bob.json["id"]


def test_owner_in_the_body_is_ignored(auth_client, auth_headers):
    created = auth_client.post(
        PROJECTS, json={"name": "x", "owner": "bob"}, headers=auth_headers()
    ).json
    assert created["owner"] == "alice"
    for method in ("PUT", "PATCH"):
        path = f"{PROJECTS}/{created['id']}"
        changed = auth_client.open(
            path, method=method, json={"owner": "bob"}, headers=auth_headers()
        )
        assert (changed.json["owner"], changed.json["version"]) == ("alice", 1)


def test_two_tokens_of_one_owner_see_the_same_project(auth_client, auth_headers):
    created = auth_client.post(PROJECTS, json={"name": "x"}, headers=auth_headers()).json
    assert auth_client.get(f"{PROJECTS}/{created['id']}", headers=auth_headers()).json == created


def test_every_statement_on_projects_names_the_owner(
    auth_client, auth_app, auth_headers, ids_and_headers
):
    """Each statement that reaches PostgreSQL and uses the table has the caller as a parameter."""
    ids, _ = ids_and_headers
    with recorded() as sent:
        for rule, method, id_kind in cases(auth_app):
            if SCOPE_BY_ENDPOINT[rule.endpoint]:
                path = rule.rule.replace("<uuid:project_id>", ids.get(id_kind, ""))
                path += "?as_of=2999-01-01T00:00:00Z" * (rule.endpoint == "projects.get_project")
                body = body_of(rule, method, ids.get(id_kind))
                body = {"json": body} if method in BODIES else {}
                auth_client.open(path, method=method, headers=auth_headers(), **body)
                if method == "DELETE":  # the statements of a deleted project
                    for kind in ("own", "foreign"):
                        restore = f"{PROJECTS}/{ids[kind]}/restore"
                        auth_client.post(restore, json={}, headers=auth_headers())
    on_projects = [
        statement
        for statement in sent
        if re.search(r"\b(FROM|JOIN|UPDATE|INTO) projects\b", statement.text)
    ]
    assert len(on_projects) > 15
    assert [statement for statement in on_projects if statement.prepare_sql]
    for sql, parameters, prepare_sql in on_projects:
        is_new = re.search(r"INTO projects\b(?!.*lock_newest_change)", prepare_sql + sql, re.S)
        name = "owner" if is_new else "visible_owner_of_projects"
        assert parameters[name] == "alice"
        assert f"%({name})s" in sql


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


def test_two_owner_filters_in_one_statement_each_get_their_own_value(
    app_with_tasks, ids_and_headers, auth_headers
):
    client = app_with_tasks(AUTH="tokens").test_client()
    for scopes, counts in (
        ("tasks:all,projects:read", [2, 1]),
        ("tasks:read,projects:all", [1, 3]),
        ("tasks:read,projects:read", [1, 1]),
        ("tasks:all,projects:all", [2, 3]),
        ("tasks:all,projects:read", [2, 1]),  # again, with the same compiled statement
    ):
        assert (
            client.get("/counts", headers=auth_headers(scopes=scopes)).get_json(True) == counts
        ), scopes


def test_jwt_without_a_scope_claim_may_read_and_write_its_own_rows_of_every_resource(
    app_with_tasks, issuer, ids_and_headers
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


def test_tokens_create_help_and_error_list_the_scopes_of_every_resource(app_with_tasks):
    runner = app_with_tasks(AUTH="tokens").test_cli_runner()
    for arguments in (
        ["--help"],
        ["--name", "CI", "--owner", "alice", "--scope", "projects:delete"],
    ):
        output = runner.invoke(args=["tokens", "create", *arguments]).output
        listed = (
            "a comma-separated list of metrics:read, projects:all, projects:read, projects:write,"
            " tasks:all,"
        )
        assert listed in " ".join(output.split())
