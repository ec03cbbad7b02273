"""Resources unlike projects: other column types, no search, no state, children of children."""

import enum
from datetime import date
from decimal import Decimal
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
from projectapp.http.fields import JSONObject, QueryBoolean
from projectapp.resources import views
from projectapp.resources.models import ResourceColumns, resource_constraints
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

    __table_args__ = (*resource_constraints("books", ("title", "created_at"), "is_read"),)


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
    is_read = fields.Boolean()


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
    def get(row_id):
        return views.read_response(resource, row_id)

    @views.replacement(write, schema)
    def put(row_id, body):
        return views.update_response(resource, row_id, body)

    @views.merge(write, schema)
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
    ):
        endpoint = f"{view.__name__}_{resource.name}"
        bp.add_url_rule(rule, endpoint=endpoint, view_func=view, methods=[method])


@pytest.fixture(scope="module")
def tables(app, direct_url):
    """Create the tables of this file."""
    engine = sa.create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(**parameters_of(direct_url)),
        poolclass=sa.NullPool,
    )
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)


@pytest.fixture(scope="module")
def kinds_app(tables, make_app):
    app = make_app()
    app.register_blueprint(make_blueprint())
    return app


@pytest.fixture(scope="module")
def guarded_kinds_app(tables, make_app):
    app = make_app(AUTH="tokens")
    app.register_blueprint(make_blueprint())
    return app


@pytest.fixture
def rows_removed(tables, sql):
    sql("TRUNCATE boxes, shelves, books")


@pytest.fixture
def kinds(kinds_app, rows_removed):
    return kinds_app.test_client()


@pytest.fixture
def guarded_kinds(guarded_kinds_app, rows_removed):
    return guarded_kinds_app.test_client()


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
