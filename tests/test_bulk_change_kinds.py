"""Bulk changes of resources unlike projects: other column types, constraints, nullable JSON."""

import json
from typing import Any

import pytest
from flask import Blueprint

from projectapp.bulk import views as bulk_views
from projectapp.resources import views
from tests.test_bulk_kinds import LABELS, LabelSchema, labels_table
from tests.test_resource_kinds import (
    BOXES,
    DEFAULTS,
    VALUES,
    BoxSchema,
    rows_removed,
    tables,
)

__all__ = ["labels_table", "rows_removed", "tables"]  # fixtures

MISSING = "01900000-0000-7000-8000-000000000000"
BAD = 500  # the index of the invalid item among 1000


def make_blueprint() -> Blueprint:
    bp = Blueprint("kinds", __name__)
    for resource, schema in ((BOXES, BoxSchema), (LABELS, LabelSchema)):
        add_routes(bp, resource, schema)
    return bp


def add_routes(bp: Blueprint, resource: Any, schema: Any) -> None:
    write, path = f"{resource.name}:write", f"/{resource.name}"

    @bulk_views.creation(write, schema)
    def create(body):
        return bulk_views.create_response(resource, body, path)

    @bulk_views.update(write, schema)
    def patch_many(body):
        return bulk_views.update_response(resource, body)

    @views.update(write, schema, merge=True)
    def patch(row_id, body):
        return views.update_response(resource, row_id, body, merge=True)

    for rule, method, view in (
        (path, "POST", create),
        (path, "PATCH", patch_many),
        (f"{path}/<uuid:row_id>", "PATCH", patch),
    ):
        endpoint = f"{view.__name__}_{resource.name}"
        bp.add_url_rule(rule, endpoint=endpoint, view_func=view, methods=[method])


@pytest.fixture(scope="module")
def kinds_app(tables, labels_table, make_app):
    app = make_app()
    app.register_blueprint(make_blueprint())
    return app


@pytest.fixture
def kinds(kinds_app, rows_removed, sql):
    sql("DELETE FROM labels")
    return kinds_app.test_client()


def returned_items(response, status):
    assert response.status_code == status, response.text
    return response.json["items"]


@pytest.fixture
def create(kinds):
    """Create rows from items; return them."""
    return lambda path, items: returned_items(kinds.post(path, json=items), 201)


@pytest.fixture
def change(kinds):
    """Change rows with items; return them."""
    return lambda path, items: returned_items(kinds.patch(path, json=items), 200)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *VALUES.items(),
        *(("tags", []), ("amount", 1.005), ("amount", "7.50"), ("data", {"a": None, "c": 1.0})),
        *((name, None) for name, value in DEFAULTS.items() if value is None),
    ],
)
def test_an_item_changes_a_value_of_each_type_like_a_patch_of_one_row(
    kinds, create, change, name, value
):
    start = {"title": "x", **VALUES, "amount": 9, "day": "2026-05-05", "tags": ["x"], "ratio": 2}
    start |= {"data": {"a": 1}, "kind": "small", "key": "k", "scope": "s"}
    single, bulk, other = create("/boxes", [start] * 3)
    for _ in range(2):
        expected = kinds.patch(f"/boxes/{single['id']}", json={name: value}).json
        items = [{"id": other["id"], "title": "y"}, {"id": bulk["id"], name: value}]
        row = change("/boxes", items)[1]
        varying = {key: row[key] for key in ("id", "created_at", "updated_at")}
        assert json.dumps(row) == json.dumps({**expected, **varying})
        assert row["version"] == 2 or (name, value) == ("parent_id", None)


def test_a_json_column_that_is_not_jsonb_gets_the_value_of_a_patch_of_one_row(
    kinds, create, change
):
    single, bulk = create("/labels", [{"plain": {"a": 1}}] * 2)
    for value, version in (({"a": 1}, 1), ({"b": 1.0}, 2), ({"b": 1.0}, 2), (None, 3), (None, 3)):
        row = kinds.patch(f"/labels/{single['id']}", json={"plain": value}).json
        (changed,) = change("/labels", [{"id": bulk["id"], "plain": value}])
        for result in (row, changed):
            assert (result["plain"], result["version"]) == (value, version)


def test_each_item_changes_only_the_fields_that_it_has(create, change):
    rows = create("/boxes", [{"title": "x"}] * len(VALUES))
    items = [
        {"id": row["id"], name: value}
        for row, (name, value) in zip(rows, VALUES.items(), strict=True)
    ]
    for row, changed, item in zip(rows, change("/boxes", items), items, strict=True):
        assert changed == {**row, **item, "version": 2, "updated_at": changed["updated_at"]}


@pytest.mark.parametrize(
    ("path", "values", "field", "message"),
    [
        ("/boxes", {"amount": 1e8}, "amount", "The number is out of range."),
        ("/boxes", {"ratio": 1e39}, "ratio", "The number is out of range."),
        ("/boxes", {"title": "x" * 21}, "title", "Longer than maximum length 20."),
        ("/boxes", {"parent_id": MISSING}, "parent_id", "There are no boxes with this id."),
        ("/boxes", {"kind": "Large"}, "kind", "Must be one of: small, large."),
        ("/boxes", {"tags": ["a", 1]}, "tags.1", "Not a valid string."),
        ("/labels", {"red": 32768}, "red", "The number is out of range."),
        ("/labels", {"title": "50% off"}, "title", "Is odd."),
        ("/labels", {"size": -1}, "size", "Is negative."),
    ],
)
def test_a_value_that_only_its_column_refuses_gets_a_400_that_names_item_and_field(
    kinds, create, problem, sql, path, values, field, message
):
    rows = create(path, [{"title": "x"}] * 1000)
    query = f"SELECT * FROM {path[1:]} ORDER BY id"  # noqa: S608
    before = sql(query)
    items = [{"id": row["id"], "title": "y"} for row in rows]
    items[BAD] |= values
    document = problem(kinds.patch(path, json=items), 400, "validation_error")
    assert document["details"] == {f"{BAD}.{field}": [message]}
    assert sql(query) == before


def test_a_unique_value_of_another_row_gets_a_409_that_names_the_item(
    kinds, create, change, problem
):
    rows = create("/labels", [{"note": "a"}, {"note": "b"}, {"note": None}])
    items = [{"id": rows[0]["id"], "note": "a"}, {"id": rows[2]["id"], "note": "b"}]
    document = problem(kinds.patch("/labels", json=items), 409, "conflict")
    assert document["details"] == {"1.note": ["There are already labels with this note."]}
    items[1]["note"] = "c"
    assert [row["note"] for row in change("/labels", items)] == ["a", "c"]
