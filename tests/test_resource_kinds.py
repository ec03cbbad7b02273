"""Resources unlike projects: other column types, no search, no state, children of children."""

import enum
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg2
import pytest
import sqlalchemy as sa
from flask import Blueprint
from marshmallow import fields
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from projectapp import database
from projectapp.http.fields import JSONObject, QueryBoolean, StrictBoolean
from projectapp.problems import BadRequest
from projectapp.resources import history_views, views
from projectapp.resources.lists import _best_index, list_spec
from projectapp.resources.models import ResourceColumns, resource_constraints
from projectapp.resources.owners import assign_rows
from projectapp.resources.resource import Resource
from projectapp.resources.schemas import ResourceSchema, list_query
from tests.conftest import parameters_of

SCOPES = "boxes:read,boxes:write,shelves:read,shelves:write,books:read,books:write"


class Base(DeclarativeBase):
    """The tables of this file. They are not in the application's metadata."""

    metadata = sa.MetaData(naming_convention=database.db.metadata.naming_convention)


class Kind(enum.Enum):
    small = "small"
    large = "large"


class Box(ResourceColumns, Base):
    """It has a column of each type, and names that statements use for other parameters."""

    __tablename__ = "boxes"

    title: Mapped[str] = mapped_column(sa.String(20))
    key: Mapped[str | None] = mapped_column(sa.Text)
    scope: Mapped[str | None] = mapped_column(sa.Text)
    parent_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("boxes.id"))
    amount: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2), server_default="0")
    ratio: Mapped[float | None] = mapped_column(sa.REAL)
    day: Mapped[date] = mapped_column(sa.Date, server_default="2026-01-01")
    kind: Mapped[Kind] = mapped_column(sa.Enum(Kind), server_default="small")
    tags: Mapped[list[str]] = mapped_column(ARRAY(sa.Text), server_default="{}")
    data: Mapped[Any] = mapped_column(JSONB, nullable=True)

    __table_args__ = (*resource_constraints("boxes", ("created_at",)),)


class Shelf(ResourceColumns, Base):
    __tablename__ = "shelves"

    box_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("boxes.id", ondelete="SET NULL"))
    title: Mapped[str] = mapped_column(sa.String(20))

    __table_args__ = (*resource_constraints("shelves", ("created_at",)),)


class Book(ResourceColumns, Base):
    __tablename__ = "books"

    shelf_id: Mapped[UUID] = mapped_column(sa.ForeignKey("shelves.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(sa.String(20))
    is_read: Mapped[bool] = mapped_column(server_default=sa.false())

    __table_args__ = (
        *resource_constraints("books", ("title", "created_at", "is_read"), "is_read"),
    )


BOXES = Resource(Box, sort_keys=("created_at", "amount", "day", "kind"))
SHELVES = Resource(Shelf, sort_keys=("created_at",), parent=BOXES)
BOOKS = Resource(Book, sort_keys=("title", "created_at", "is_read"), parent=SHELVES)


class BoxSchema(ResourceSchema):
    title = fields.String()
    key = fields.String(allow_none=True)
    scope = fields.String(allow_none=True)
    parent_id = fields.UUID(allow_none=True)
    amount = fields.Decimal()
    ratio = fields.Float(allow_none=True)
    day = fields.Date()
    kind = fields.Enum(Kind)
    tags = fields.List(fields.String())
    data = JSONObject(max_depth=3, allow_none=True)


class ShelfSchema(ResourceSchema):
    box_id = fields.UUID(dump_only=True)
    title = fields.String()


class BookSchema(ResourceSchema):
    shelf_id = fields.UUID(dump_only=True)
    title = fields.String()
    is_read = StrictBoolean()


def make_blueprint() -> Blueprint:
    bp = Blueprint("kinds", __name__)
    declarations = (
        (BOXES, BoxSchema, list_query(BOXES), None),
        (SHELVES, ShelfSchema, list_query(SHELVES), "/boxes"),
        (BOOKS, BookSchema, list_query(BOOKS, is_read=QueryBoolean()), "/shelves"),
    )
    for resource, schema, query, parent in declarations:
        add_routes(bp, resource, schema, query, parent)
    return bp


def add_routes(bp: Blueprint, resource: Resource, schema: Any, query: Any, parent: Any) -> None:
    read, write, path = f"{resource.name}:read", f"{resource.name}:write", f"/{resource.name}"

    @views.listing(read, schema, query)
    def list_rows(query, parent_id=None):
        return views.list_response(resource, query, parent_id)

    @views.creation(write, schema)
    def create(body, parent_id=None):
        return views.create_response(resource, body, path, parent_id)

    @views.reading(read, schema)
    def get(row_id, query):
        return views.read_response(resource, row_id, query)

    @history_views.history(read, resource, schema)
    def history(row_id, query):
        return history_views.history_response(resource, row_id, query)

    @history_views.restore(write, schema)
    def restore(row_id, body):
        return history_views.restore_response(resource, schema, row_id, body)

    @views.update(write, schema)
    def put(row_id, body):
        return views.update_response(resource, row_id, body)

    @views.update(write, schema, merge=True)
    def patch(row_id, body):
        return views.update_response(resource, row_id, body, merge=True)

    @views.deletion(write)
    def delete(row_id):
        return views.delete_response(resource, row_id)

    collection = f"{parent}/<uuid:parent_id>{path}" if parent else path
    for rule, method, view in (
        (path, "GET", list_rows),
        (collection, "POST", create),
        *([(collection, "GET", list_rows)] if parent else []),
        *(
            (f"{path}/<uuid:row_id>", view.__name__.upper(), view)
            for view in (get, put, patch, delete)
        ),
        (f"{path}/<uuid:row_id>/history", "GET", history),
        (f"{path}/<uuid:row_id>/restore", "POST", restore),
    ):
        endpoint = f"{view.__name__}_{resource.name}"
        bp.add_url_rule(rule, endpoint=endpoint, view_func=view, methods=[method])


def engine_of(url):
    return sa.create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(**parameters_of(url)),
        poolclass=sa.NullPool,
    )


@pytest.fixture(scope="module")
def tables(app, direct_url):
    """Create the tables of this file."""
    engine = engine_of(direct_url)
    Base.metadata.create_all(engine)
    call_for_each_table(engine, "keep_history")
    yield
    call_for_each_table(engine, "end_history")
    Base.metadata.drop_all(engine)


def call_for_each_table(engine, function):
    with engine.begin() as connection:
        for name in Base.metadata.tables:
            connection.execute(sa.text(f"SELECT {function}('{name}')"))


@pytest.fixture(scope="module")
def kinds_app(tables, make_app):
    app = make_app()
    app.register_blueprint(make_blueprint())
    return app


@pytest.fixture(scope="module")
def auth_kinds_app(tables, make_app):
    app = make_app(AUTH="tokens")
    app.register_blueprint(make_blueprint())
    return app


@pytest.fixture
def rows_removed(tables, sql):
    sql("DELETE FROM books; DELETE FROM boxes; DELETE FROM shelves")


@pytest.fixture
def kinds(kinds_app, rows_removed):
    return kinds_app.test_client()


@pytest.fixture
def auth_kinds(auth_kinds_app, rows_removed):
    return auth_kinds_app.test_client()


def create(client: Any, path: str, headers: Any = None, **body: Any) -> Any:
    response = client.post(path, json={"title": "x", **body}, headers=headers)
    assert response.status_code == 201, response.text
    return response.json


DEFAULTS = {
    **dict.fromkeys(("key", "scope", "parent_id", "ratio", "data")),
    **{"amount": 0, "day": "2026-01-01", "kind": "small", "tags": []},
}
VALUES = {
    "key": "a",
    "scope": "b",
    "amount": 1.5,
    "ratio": 0.1,
    "day": "2026-02-03",
    "kind": "large",
    "tags": ["b", "'\"\\{}", "번역"],
    "data": {"a": 1, "b": [None]},
}


@pytest.mark.parametrize("headers", [None, {"Idempotency-Key": "the key"}])
@pytest.mark.parametrize("name", [None, *VALUES])
def test_a_create_stores_a_value_of_each_type_and_the_defaults_of_the_others(kinds, headers, name):
    sent = {name: VALUES[name]} if name else {}
    for _ in range(2):
        box = create(kinds, "/boxes", headers, **sent)
        assert {key: box[key] for key in DEFAULTS} == {**DEFAULTS, **sent}


@pytest.mark.parametrize("headers", [None, {"Idempotency-Key": "the key"}])
def test_a_column_named_parent_id_is_no_parent(kinds, headers):
    outer = create(kinds, "/boxes")
    inner = create(kinds, "/boxes", headers, parent_id=outer["id"], **VALUES)
    assert inner == {**inner, **VALUES, "parent_id": outer["id"]}
    assert kinds.get(f"/boxes/{inner['id']}").json == inner


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(("name", "value"), [*VALUES.items(), ("amount", 1.005), ("tags", [])])
def test_an_update_with_the_stored_value_keeps_the_version(kinds, method, name, value):
    path = f"/boxes/{create(kinds, '/boxes', tags=['x'], amount=7)['id']}"
    for _ in range(2):
        changed = kinds.open(path, method=method, json={name: value})
        assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"'), changed.text
    expected = 1.01 if value == 1.005 else value
    assert changed.json[name] == expected
    if DEFAULTS[name] is None:
        cleared = kinds.open(path, method=method, json={name: None}).json
        assert (cleared[name], cleared["version"]) == (None, 3)


@pytest.mark.parametrize("sort", ["amount", "-amount", "day", "-day", "kind", "-kind,amount"])
def test_a_cursor_walks_a_sort_by_each_type_of_column(kinds, sort):
    for n in range(7):
        kind = "large" if n % 2 else "small"
        create(kinds, "/boxes", amount=f"{10**7 + n % 3}.1", day=f"2026-01-0{n % 3 + 1}", kind=kind)
    whole = kinds.get(f"/boxes?sort={sort}").json["items"]
    walked: list[Any] = []
    cursor = ""
    while cursor is not None:
        page = kinds.get(f"/boxes?sort={sort}&page_size=2{cursor and f'&cursor={cursor}'}")
        assert page.status_code == 200, page.text
        walked += page.json["items"]
        cursor = page.json["next_cursor"]
    assert walked == whole
    assert len(whole) == 7


def test_a_key_that_a_filter_fixes_is_no_key_of_the_order(kinds, sql):
    box = create(kinds, "/boxes")
    shelf = create(kinds, f"/boxes/{box['id']}/shelves")
    books = [
        create(kinds, f"/shelves/{shelf['id']}/books", title=f"{n % 3}", is_read=n % 2 == 0)
        for n in range(8)
    ]
    for sort in ("is_read", "-is_read", "is_read,title", "title,-is_read", "-title,is_read"):
        path = f"/shelves/{shelf['id']}/books?is_read=true&sort={sort}"
        expected = sorted(books[::2], key=lambda book: (book["title"], book["id"]))
        if "title" not in sort:
            expected = books[::2]
        if sort.startswith("-title"):
            expected.sort(key=lambda book: book["title"], reverse=True)
        elif sort in ("-is_read", "title,-is_read"):
            expected.sort(key=lambda book: book["id"], reverse=True)
            expected.sort(key=lambda book: book["title"] if "title" in sort else "")
        whole, cursor = [], ""
        while cursor is not None:
            page = kinds.get(f"{path}&page_size=1{cursor and f'&cursor={cursor}'}").json
            whole += page["items"]
            cursor = page["next_cursor"]
        assert whole == expected, sort


def test_an_index_that_is_an_expression_or_descends_serves_no_filter():
    table = sa.Table("t", sa.MetaData(), sa.Column("a", sa.Text), sa.Column("b", sa.Text))
    sa.Index("by_expression", sa.func.lower(table.c.a), "b", _table=table)
    sa.Index("descending", table.c.a.desc(), "b", _table=table)
    resource = SimpleNamespace(table=table, parent_key=None)
    assert _best_index(resource, {"a"}, "", "b").served_columns == {"b"}
    sa.Index("by_column", "a", "b", _table=table)
    assert _best_index(resource, {"a"}, "", "b").served_columns == {"a", "b"}


def test_the_rows_of_one_parent_are_tried_among_the_rows_of_their_owner():
    spec = list_spec(BOOKS, frozenset({"shelf_id"}), ("title",), is_restricted=True)
    assert [filter_.follows_order for filter_ in spec.filters][:3] == [True, True, False]
    assert len(spec.parts) == 2, "the read and the unread books"


@pytest.fixture
def make_tree(auth_kinds, auth_headers):
    """Create a box with a shelf with a book for alice; return them and alice's headers."""

    def make():
        alice = auth_headers("alice", SCOPES)
        box = create(auth_kinds, "/boxes", alice)
        shelf = create(auth_kinds, f"/boxes/{box['id']}/shelves", alice)
        book = create(auth_kinds, f"/shelves/{shelf['id']}/books", alice)
        return box, shelf, book, alice

    return make


@pytest.mark.parametrize("scopes", ["shelves:all,books:read", "books:read,boxes:all", "books:all"])
@pytest.mark.parametrize("query", ["", "count=exact", "sort=title", "page=2&page_size=1"])
def test_a_nested_list_shows_no_row_of_another_owner(
    auth_kinds, make_tree, auth_headers, problem, scopes, query
):
    _, shelf, _, _ = make_tree()
    response = auth_kinds.get(
        f"/shelves/{shelf['id']}/books?{query}", headers=auth_headers("bob", scopes)
    )
    if "shelves:all" in scopes:
        assert (response.json["items"], response.json["total"]) == ([], 0)
    else:
        problem(response, 404)


def owners(sql):
    return [sql(f"SELECT owner, version FROM {table}")[0] for table in Base.metadata.tables]  # noqa: S608


@pytest.mark.parametrize("interrupted_table", ["shelves", "books"])
def test_an_interrupted_assignment_is_completed_by_the_next_one(
    auth_kinds_app, make_tree, sql, interrupted_table
):
    make_tree()
    sql(f"ALTER TABLE {interrupted_table} ADD CHECK (owner = 'alice')")
    with auth_kinds_app.app_context():
        with pytest.raises(BadRequest):
            assign_rows(BOXES, "bob", "alice")
        sql(f"ALTER TABLE {interrupted_table} DROP CONSTRAINT {interrupted_table}_owner_check")
        assert assign_rows(BOXES, "bob", "alice") == 0
        assert owners(sql) == [("bob", 2)] * 3
        assert assign_rows(BOXES, "carol", "bob") == 1
    assert owners(sql) == [("carol", 3)] * 3


def test_a_keyed_create_of_a_child_is_replayed_after_its_parent_was_deleted_or_assigned(
    auth_kinds_app, auth_kinds, make_tree, problem, sql
):
    _, shelf, _, alice = make_tree()
    path, key = f"/shelves/{shelf['id']}/books", {**alice, "Idempotency-Key": "a"}
    book = create(auth_kinds, path, key)
    with auth_kinds_app.app_context():
        assign_rows(BOXES, "bob", "alice")
    assert create(auth_kinds, path, key) == book
    other = {**key, "Idempotency-Key": "b"}
    problem(auth_kinds.post(path, json={"title": "x"}, headers=other), 404)
    sql("DELETE FROM shelves")
    assert create(auth_kinds, path, key) == book
    problem(auth_kinds.post(path, json={"title": "x"}, headers=other), 404)
    problem(auth_kinds.post(path, json={"title": "other"}, headers=key), 422)
    assert sql("SELECT count(*) FROM books") == [(0,)]
    assert sql("SELECT key FROM idempotency_keys") == [("a",)]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "a"}])
@pytest.mark.parametrize("change", ["DELETE FROM shelves", "UPDATE shelves SET owner = 'bob'"])
def test_a_child_is_not_created_if_its_parent_goes_while_the_create_waits(
    auth_kinds_app, make_tree, problem, sql, direct_url, headers, change
):
    _, shelf, _, alice = make_tree()
    path, body = f"/shelves/{shelf['id']}/books", {"title": "new"}
    client = auth_kinds_app.test_client()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as pool:
        with closing(psycopg2.connect(**parameters_of(direct_url))) as blocking:
            with blocking.cursor() as cursor:
                cursor.execute(change)
            created = pool.submit(client.post, path, json=body, headers={**alice, **headers})
            while sql(waiting) == [(0,)]:
                assert not created.done()
            blocking.commit()
        problem(created.result(), 404)
    assert sql("SELECT count(*) FROM books WHERE title = 'new'") == [(0,)]
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


@pytest.fixture
def proxied_kinds(tables, rows_removed, make_app, proxy):
    app = make_app(DATABASE_URL=proxy.url, AUTH="tokens")
    app.register_blueprint(make_blueprint())
    return app.test_client()


@pytest.mark.parametrize("change", ["DELETE FROM boxes", "UPDATE boxes SET owner = 'bob'"])
@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_a_create_with_a_lost_answer_whose_parent_goes_gets_503_outcome_unknown(
    proxied_kinds, proxy, make_tree, problem, sql, change, fault
):
    """The child is stored with `lose`; a 404 would say that it is not."""
    box, _, _, alice = make_tree()
    getattr(proxy, fault).append("INSERT INTO shelves")
    proxy.before_reset = lambda: sql(change)
    path = f"/boxes/{box['id']}/shelves"
    problem(proxied_kinds.post(path, json={"title": "new"}, headers=alice), 503, "outcome_unknown")
    stored = sql("SELECT count(*) FROM shelves WHERE title = 'new'")
    assert stored == [(1 if fault == "lose" else 0,)]


@pytest.mark.parametrize("fault", ["lose", "drop"])
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "a"}])
def test_a_create_of_a_child_with_a_lost_answer_is_stored_once_and_gets_201(
    proxied_kinds, proxy, make_tree, sql, headers, fault
):
    box, _, _, alice = make_tree()
    getattr(proxy, fault).append("INSERT INTO shelves")
    create(proxied_kinds, f"/boxes/{box['id']}/shelves", {**alice, **headers}, title="new")
    assert sql("SELECT owner FROM shelves WHERE title = 'new'") == [("alice",)]


@pytest.mark.parametrize("type_", ["Integer", "Boolean", "DateTime", "AwareDateTime", "Dict"])
def test_a_schema_with_a_type_that_converts_values_is_refused(type_):
    schema = ResourceSchema.from_dict({"count": getattr(fields, type_)()})
    with pytest.raises(
        TypeError, match=r"^count needs a strict type of projectapp/http/fields\.py"
    ):
        schema()
    ResourceSchema.from_dict({"count": getattr(fields, type_)(dump_only=True)})()


def test_history_as_of_and_restore_keep_values_of_every_type(kinds, sql):
    values = {
        **{"title": "Old", "key": "k", "scope": "s", "parent_id": create(kinds, "/boxes")["id"]},
        **{"amount": 12345678.25, "ratio": 0.1, "day": "1999-12-31", "kind": "large"},
        **{"tags": ["a", "번역", ""], "data": {"n": 1.0}},
    }
    first = create(kinds, "/boxes", **values)
    path = f"/boxes/{first['id']}"
    new = {"title": "New", "key": None, "scope": None, "parent_id": None, "amount": 1}
    new |= {"ratio": None, "day": "2000-01-01", "kind": "small", "tags": [], "data": None}
    second = kinds.put(path, json=new).json
    newest, oldest = kinds.get(f"{path}/history").json["items"]
    assert (newest["box"], oldest["box"]) == (second, first)
    assert newest["changed"] == [*values]
    assert kinds.get(f"{path}?as_of={oldest['at']}").json == first
    assert kinds.delete(path).status_code == 204
    for version, row in ((1, first), (2, second)):
        response = kinds.post(f"{path}/restore", json={"version": version})
        assert response.status_code == 200, response.text
        expected = {"version": response.json["version"], "updated_at": response.json["updated_at"]}
        assert response.json == {**row, **expected}
    assert response.json["version"] == 5


def test_old_values_that_are_longer_or_more_precise_than_the_column_are_read(kinds, sql):
    path = f"/boxes/{create(kinds, '/boxes')['id']}"
    kinds.put(path, json={"title": "New"})
    sql("UPDATE changes SET old_values = old_values || %s", '{"title": "0123456789012345678901"}')
    sql("UPDATE changes SET old_values = old_values || %s", '{"amount": 123456789012.345}')
    [_, first] = kinds.get(f"{path}/history").json["items"]
    assert (first["box"]["title"], first["box"]["amount"]) == (
        "0123456789012345678901",
        123456789012.345,
    )


def test_restore_of_a_child_needs_its_parent(kinds, sql, problem):
    box = create(kinds, "/boxes")
    shelf = create(kinds, f"/boxes/{box['id']}/shelves")
    book = create(kinds, f"/shelves/{shelf['id']}/books", title="Book")
    kinds.delete(f"/shelves/{shelf['id']}")  # which also deletes the book
    response = kinds.post(f"/books/{book['id']}/restore", json={})
    detail = problem(response, 409, "conflict")["detail"]
    assert detail == f"Its shelf {shelf['id']} does not exist. Restore the shelf first."
    restored = kinds.post(f"/shelves/{shelf['id']}/restore", json={}).json
    assert restored == {**shelf, "version": 3, "updated_at": restored["updated_at"]}
    restored = kinds.post(f"/books/{book['id']}/restore", json={}).json
    assert restored == {**book, "version": 3, "updated_at": restored["updated_at"]}
    operations = [i["operation"] for i in kinds.get(f"/books/{book['id']}/history").json["items"]]
    assert operations == ["restore", "delete", "create"]


def test_restore_of_a_child_that_had_no_parent_when_it_was_deleted(kinds):
    box = create(kinds, "/boxes")
    shelf = create(kinds, f"/boxes/{box['id']}/shelves")
    kinds.delete(f"/boxes/{box['id']}")  # which sets box_id to null
    orphan = kinds.get(f"/shelves/{shelf['id']}").json
    assert (orphan["box_id"], orphan["version"]) == (None, 2)
    kinds.delete(f"/shelves/{shelf['id']}")
    restored = kinds.post(f"/shelves/{shelf['id']}/restore", json={"version": 1}).json
    assert restored == {**orphan, "version": 4, "updated_at": restored["updated_at"]}


def test_restored_child_has_the_owner_of_its_parent(auth_kinds, auth_headers, sql, problem):
    alice, bob, admin = (auth_headers(name, SCOPES) for name in ("alice", "bob", "carol"))
    admin = auth_headers("carol", "boxes:all,shelves:all")
    box = create(auth_kinds, "/boxes", alice)
    shelf = create(auth_kinds, f"/boxes/{box['id']}/shelves", alice)
    path = f"/shelves/{shelf['id']}"
    auth_kinds.delete(path, headers=alice)
    sql("UPDATE boxes SET owner = 'bob'")
    # Alice was the last owner of the shelf, but does not see its parent. Bob is not its last owner.
    problem(auth_kinds.post(f"{path}/restore", json={}, headers=alice), 409, "conflict")
    problem(auth_kinds.post(f"{path}/restore", json={}, headers=bob), 404, "not_found")
    restored = auth_kinds.post(f"{path}/restore", json={}, headers=admin)
    assert (restored.status_code, restored.json["owner"]) == (200, "bob")


def test_restore_that_violates_a_unique_column_gets_a_409_and_changes_nothing(kinds, sql, problem):
    first = create(kinds, "/boxes", key="same")
    kinds.delete(f"/boxes/{first['id']}")
    create(kinds, "/boxes", key="same")
    sql("CREATE UNIQUE INDEX boxes_unique_key ON boxes (key)")
    try:
        response = kinds.post(f"/boxes/{first['id']}/restore", json={})
    finally:
        sql("DROP INDEX boxes_unique_key")
    assert "already stored" in problem(response, 409, "conflict")["detail"]
    assert kinds.get(f"/boxes/{first['id']}").status_code == 404
