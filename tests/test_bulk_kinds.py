"""Many rows of resources unlike projects: each type of column, children, constraints."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg2
import pytest
import sqlalchemy as sa
from flask import Blueprint
from marshmallow import fields
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from projectapp import database
from projectapp.bulk import views as bulk_views
from projectapp.bulk.checks import find_invalid_items
from projectapp.bulk.item_rows import encode_items
from projectapp.bulk.items import Item
from projectapp.http.fields import Integer
from projectapp.resources.models import ResourceColumns, resource_constraints
from projectapp.resources.resource import Resource
from projectapp.resources.schemas import ResourceSchema
from tests.bulk_bodies import CSV, FORMATS, JSON, NDJSON, body_of
from tests.conftest import parameters_of
from tests.test_resource_kinds import (
    BOOKS,
    BOXES,
    DEFAULTS,
    SCOPES,
    SHELVES,
    VALUES,
    BookSchema,
    BoxSchema,
    ShelfSchema,
    engine_of,
    rows_removed,  # noqa: F401 - a fixture
    tables,  # noqa: F401 - a fixture
)

BAD = 500
MISSING = "01900000-0000-7000-8000-000000000000"
KEY = {"Idempotency-Key": "a"}


class Base(DeclarativeBase):
    metadata = sa.MetaData(naming_convention=database.db.metadata.naming_convention)


class Label(ResourceColumns, Base):
    """It has constraints of each kind, and columns that may be null and have a default."""

    __tablename__ = "labels"

    title: Mapped[str | None] = mapped_column(sa.String(20), server_default="untitled")
    note: Mapped[str | None] = mapped_column(sa.Text, unique=True)
    red: Mapped[int | None] = mapped_column(sa.SmallInteger)
    green: Mapped[int | None] = mapped_column(server_default="7")
    size: Mapped[Decimal | None] = mapped_column(sa.Numeric)
    extra: Mapped[dict | None] = mapped_column(JSONB)
    plain: Mapped[Any] = mapped_column(sa.JSON, nullable=True)

    __table_args__ = (
        *resource_constraints("labels", ("created_at",)),
        sa.Index("labels_red_green_idx", "red", "green", unique=True),
        sa.CheckConstraint(
            "title NOT LIKE '50% %' AND green / 2 * 2 < green AND green % 2 = 1",
            name="odd",
            info={"field": "title", "message": "Is odd."},
        ),
        sa.CheckConstraint(
            sa.column("size") >= 0, name="size", info={"field": "size", "message": "Is negative."}
        ),
    )


LABELS = Resource(Label, sort_keys=("created_at",))


class LabelSchema(ResourceSchema):
    title = fields.String(allow_none=True)
    note = fields.String(allow_none=True)
    red = Integer(allow_none=True)
    green = Integer(allow_none=True)
    size = fields.Decimal(allow_none=True)
    extra = fields.Raw(allow_none=True)
    plain = fields.Raw(allow_none=True)


def make_blueprint():
    bp = Blueprint("kinds", __name__)
    for resource, schema, rule in (
        (BOXES, BoxSchema, "/boxes"),
        (SHELVES, ShelfSchema, "/boxes/<uuid:parent_id>/shelves"),
        (BOOKS, BookSchema, "/shelves/<uuid:parent_id>/books"),
        (LABELS, LabelSchema, "/labels"),
    ):
        add_route(bp, resource, schema, rule)
    return bp


def add_route(bp, resource, schema, rule):
    @bulk_views.creation(f"{resource.name}:write", schema)
    def create(body, parent_id=None):
        return bulk_views.create_response(resource, body, f"/{resource.name}", parent_id)

    bp.add_url_rule(rule, endpoint=resource.name, view_func=create, methods=["POST"])


@pytest.fixture(scope="module")
def labels_table(app, direct_url):
    engine = engine_of(direct_url)
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)


@pytest.fixture(scope="module")
def kinds_app(tables, labels_table, make_app):  # noqa: F811
    app = make_app()
    app.register_blueprint(make_blueprint())
    return app


@pytest.fixture
def kinds(kinds_app, rows_removed, sql):  # noqa: F811
    sql("DELETE FROM labels")
    return kinds_app.test_client()


@pytest.fixture
def auth_kinds(tables, rows_removed, make_app):  # noqa: F811
    app = make_app(AUTH="tokens")
    app.register_blueprint(make_blueprint())
    return app.test_client()


@pytest.fixture
def post(kinds):
    """Send items or a body; return the response."""

    def send(path, items, content_type=JSON, **headers):
        body = items if isinstance(items, bytes) else body_of(content_type, items)
        return kinds.post(path, data=body, content_type=content_type, headers=headers)

    return send


def created(response):
    assert response.status_code == 201, response.text
    return response.json["items"]


@pytest.mark.parametrize("headers", [{}, KEY])
@pytest.mark.parametrize("content_type", FORMATS)
def test_items_store_a_value_of_each_type_as_single_requests_do(post, kinds, content_type, headers):
    outer = kinds.post("/boxes", json={"title": "outer"}).json
    items = [
        {"title": "x", **DEFAULTS, **VALUES, "parent_id": outer["id"], "amount": amount}
        for amount in (1.005, "1.005", 1e7, 12345678.9, -0.004)
    ]
    single = [kinds.post("/boxes", json=item).json for item in items]
    for _ in range(2):
        rows = created(post("/boxes", items, content_type, **headers))
        for row, expected in zip(rows, single, strict=True):
            varying = {name: row[name] for name in ("id", "created_at", "updated_at")}
            assert row == {**expected, **varying}


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_each_item_gets_the_defaults_of_its_own_missing_members(post, content_type):
    items = [{"title": "x"}, *({"title": "x", name: VALUES[name]} for name in VALUES)]
    rows = created(post("/boxes", items, content_type))
    for item, row in zip(items, rows, strict=True):
        assert {**DEFAULTS, **item} == {name: row[name] for name in {**DEFAULTS, "title": ""}}


def test_null_is_null_and_not_the_default(post):
    rows = created(post("/labels", [{"title": None, "green": None}, {}]))
    assert [(row["title"], row["green"]) for row in rows] == [(None, None), ("untitled", 7)]
    rows = created(post("/labels", b"title,green\n,\n", CSV))
    assert [(row["title"], row["green"]) for row in rows] == [(None, None)]


@pytest.mark.parametrize("value", [None, 1.0, {"b": 1, "a": [None]}])
def test_json_columns_of_both_types_store_null_and_values_as_single_requests_do(
    post, kinds, sql, value
):
    item = {"extra": value, "plain": value}
    single = kinds.post("/labels", json=item).json
    stored = sql("SELECT extra, plain IS NULL, plain::jsonb FROM labels")
    assert stored == [(value, value is None, value)]
    for content_type in FORMATS:
        (row,) = created(post("/labels", [item], content_type))
        assert {name: row[name] for name in item} == {name: single[name] for name in item} == item
    assert sql("SELECT extra, plain IS NULL, plain::jsonb FROM labels") == stored * 4


@pytest.mark.parametrize("content_type", [NDJSON, CSV])
def test_a_numeric_column_has_all_digits(post, sql, content_type):
    numbers = ["0.1234567890123456789", "1.10", "12345678901234567890.5", "7", "1e30"]
    lines = [f'{{"size": {number}}}' if content_type == NDJSON else number for number in numbers]
    body = "\n".join(["size", *lines] if content_type == CSV else lines)
    created(post("/labels", body.encode(), content_type))
    stored = [str(size) for (size,) in sql("SELECT size FROM labels ORDER BY id")]
    assert stored == [*numbers[:-1], "1" + "0" * 30]


@pytest.mark.parametrize(
    ("path", "values", "field", "message"),
    [
        ("/boxes", {"amount": 1e8}, "amount", "The number is out of range."),
        ("/boxes", {"amount": -99999999.996}, "amount", "The number is out of range."),
        ("/boxes", {"ratio": 1e39}, "ratio", "The number is out of range."),
        ("/boxes", {"ratio": 1e-50}, "ratio", "The number is out of range."),
        ("/boxes", {"key": "x" * 21, "title": "x" * 21}, "title", "Longer than maximum length 20."),
        ("/boxes", {"parent_id": MISSING}, "parent_id", "There are no boxes with this id."),
        ("/boxes", {"parent_id": "x"}, "parent_id", "Not a valid UUID."),
        ("/boxes", {"kind": "Large"}, "kind", "Must be one of: small, large."),
        ("/boxes", {"day": "2026-02-30"}, "day", "Not a valid date."),
        ("/boxes", {"tags": ["a", 1]}, "tags.1", "Not a valid string."),
        ("/boxes", {"data": {"a": {"b": {"c": {}}}}}, "data", "Must have at most 3 levels."),
        ("/labels", {"red": 32768}, "red", "The number is out of range."),
        ("/labels", {"red": -32769}, "red", "The number is out of range."),
        ("/labels", {"title": "50% off"}, "title", "Is odd."),
        ("/labels", {"green": 8}, "title", "Is odd."),
        ("/labels", {"size": -1}, "size", "Is negative."),
    ],
)
def test_a_value_that_only_its_column_refuses_gets_a_400_that_names_item_and_field(
    post, problem, sql, path, values, field, message
):
    items = [{"title": "x"} for _ in range(1000)]
    items[BAD] = {"title": "x", **values}
    document = problem(post(path, items), 400, "validation_error")
    assert document["details"] == {f"{BAD}.{field}": [message]}
    assert sql(f"SELECT count(*) FROM {path[1:]}") == [(0,)]  # noqa: S608


@pytest.mark.parametrize("headers", [{}, KEY])
def test_a_unique_value_that_is_stored_or_repeated_gets_a_409_that_names_item_and_field(
    post, problem, sql, headers
):
    created(post("/labels", [{"note": "a", "red": 1, "green": 3}]))
    items = [
        *({"note": "b"}, {"note": "a"}, {"note": "b"}, {"note": None}, {"note": None}),
        *({"red": 1, "green": 1}, {"red": 1, "green": 3}, {"red": None, "green": 3}),
        *({"red": None, "green": 3}, {"red": 1, "green": 1}),
    ]
    document = problem(post("/labels", items, **headers), 409, "conflict")
    note, red = (
        [f"There are already labels with this {name}."] for name in ("note", "red and green")
    )
    assert document["details"] == {"1.note": note, "2.note": note, "6.red": red, "9.red": red}
    assert sql("SELECT count(*) FROM labels") == [(1,)]
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


def test_the_check_of_new_rows_covers_the_fields_that_only_an_import_sets(kinds_app, kinds):
    stored = UUID(kinds.post("/boxes", json={"title": "x"}).json["id"])
    first, second = database.uuid7(), database.uuid7()
    rows = [
        *((first, second), (second, stored), (stored, first), (first, None)),
        (database.uuid7(), UUID(MISSING)),
    ]
    items = [
        Item(place, {"title": "x", "id": row_id, "parent_id": parent_id})
        for place, (row_id, parent_id) in enumerate(rows)
    ]
    items.append(Item(5, {"title": "x", "version": 2**31, "owner": "x" * 256}))
    with kinds_app.app_context():
        invalid_items = find_invalid_items(BOXES, encode_items(BOXES, items))
    message = "There are already boxes with this id."
    assert invalid_items == [
        *((2, "id", message), (3, "id", message)),
        (4, "parent_id", "There are no boxes with this id."),
        (5, "version", "The number is out of range."),
        (5, "owner", "Longer than maximum length 255."),
    ]


# Children


def make_tree(client, headers=None):
    box = client.post("/boxes", json={"title": "x"}, headers=headers).json
    path = f"/boxes/{box['id']}/shelves"
    return path, client.post(path, json={"title": "x"}, headers=headers).json


@pytest.mark.parametrize("key", [{}, KEY])
def test_children_have_their_parent_and_its_owner(auth_kinds, auth_headers, key):
    alice, admin = auth_headers("alice", SCOPES), auth_headers("admin", "boxes:all,shelves:all")
    path, _ = make_tree(auth_kinds, alice)
    items = [{"title": f"{n}"} for n in range(1000)]
    response = auth_kinds.post(path, json=items, headers={**admin, **key})
    rows = created(response)
    assert [row["title"] for row in rows] == [item["title"] for item in items]
    assert {row["owner"] for row in rows} == {"alice"}
    assert {row["box_id"] for row in rows} == {path.split("/")[2]}


@pytest.mark.parametrize("key", [{}, KEY])
@pytest.mark.parametrize("scopes", [SCOPES, "books:all", "boxes:all,books:write"])
def test_children_of_an_invisible_or_missing_parent_get_a_404(
    auth_kinds, auth_headers, problem, sql, key, scopes
):
    _, shelf = make_tree(auth_kinds, auth_headers("alice", SCOPES))
    bob = {**auth_headers("bob", scopes), **key}
    for shelf_id in (shelf["id"], MISSING):
        path = f"/shelves/{shelf_id}/books"
        problem(auth_kinds.post(path, json=[{"title": "x"}], headers=bob), 404, "not_found")
        invalid = [{"title": "x" * 21}]
        problem(auth_kinds.post(path, json=invalid, headers=bob), 404, "not_found")
    assert sql("SELECT count(*) FROM books") == [(0,)]
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


@pytest.mark.parametrize("key", [{}, KEY])
@pytest.mark.parametrize("change", ["DELETE FROM shelves", "UPDATE shelves SET owner = 'bob'"])
def test_children_are_not_created_if_their_parent_goes_while_the_create_waits(
    auth_kinds, auth_headers, problem, sql, direct_url, key, change
):
    alice = auth_headers("alice", SCOPES)
    _, shelf = make_tree(auth_kinds, alice)
    path, items = f"/shelves/{shelf['id']}/books", [{"title": "x"}] * 1000
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    client = auth_kinds.application.test_client()
    with ThreadPoolExecutor(1) as pool:
        with closing(psycopg2.connect(**parameters_of(direct_url))) as blocking:
            blocking.cursor().execute(change)
            response = pool.submit(client.post, path, json=items, headers={**alice, **key})
            while sql(waiting) == [(0,)]:
                assert not response.done()
            blocking.commit()
        problem(response.result(), 404)
    assert sql("SELECT count(*) FROM books") == [(0,)]
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


@pytest.mark.parametrize("change", ["DELETE FROM boxes", "UPDATE boxes SET owner = 'bob'"])
@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_children_with_a_lost_answer_whose_parent_goes_get_a_503(
    tables,  # noqa: F811
    rows_removed,  # noqa: F811
    make_app,
    proxy,
    auth_headers,
    problem,
    sql,
    change,
    fault,
):
    """The children are stored with `lose`; a 404 would say that they are not."""
    app = make_app(DATABASE_URL=proxy.url, AUTH="tokens")
    app.register_blueprint(make_blueprint())
    client, alice = app.test_client(), auth_headers("alice", SCOPES)
    path, _ = make_tree(client, alice)
    getattr(proxy, fault).append("INSERT")
    proxy.before_reset = lambda: sql(change)
    response = client.post(path, json=[{"title": "new"}] * 3, headers=alice)
    problem(response, 503, "outcome_unknown")
    assert sql("SELECT count(*) FROM shelves WHERE title = 'new'") == [(3 * (fault == "lose"),)]
