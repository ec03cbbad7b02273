"""Exports of resources unlike projects: columns of each type, and children."""

import json

import pytest
from flask import Blueprint

from projectapp.bulk import exports
from projectapp.bulk.csv_reader import parse_csv
from projectapp.resources.schemas import list_query
from tests.test_resource_kinds import BOOKS, BOXES, SHELVES, BookSchema, BoxSchema, ShelfSchema
from tests.test_resource_kinds import tables as tables  # a fixture

SCHEMAS = {BOXES: BoxSchema(), SHELVES: ShelfSchema(), BOOKS: BookSchema()}
BOX_COLUMNS = (
    "id, title, key, scope, parent_id, amount, ratio, day, kind, tags, data, created_at, owner"
)


@pytest.fixture
def kinds_client(tables, make_app, sql):
    app = make_app()
    bp = Blueprint("exports_of_kinds", __name__)
    for resource in SCHEMAS:

        def export_rows(query, resource=resource):
            return exports.export_response(resource, query)

        view = exports.export(f"{resource.name}:read", list_query(resource))(export_rows)
        bp.add_url_rule(f"/{resource.name}/export", resource.name, view)
    app.register_blueprint(bp)
    yield app.test_client()
    sql("DELETE FROM books; DELETE FROM shelves; DELETE FROM boxes")


@pytest.mark.parametrize("resource", SCHEMAS, ids=lambda resource: resource.name)
def test_csv_of_each_type_has_the_same_values_as_json(kinds_client, sql, resource):
    insert = f"INSERT INTO boxes ({BOX_COLUMNS}) VALUES (gen_random_uuid(), "  # noqa: S608
    for values in (
        "'=a', '-b', '', NULL, 1.50, 0.1, '2026-01-31', 'large', '{=a,\"b,c\",NULL}',"
        """ '{"a": 1.10}', now(), 'ann')""",
        "'a', NULL, NULL, NULL, -1.00, 'NaN', '0099-01-01', 'small', '{}', 'null', now(), NULL)",
        """'', '"', E'\\r\\n', NULL, 0, -1e-7, '2026-01-31', 'small', '{}', '"=1"', now(), '@b')""",
        "'a', 'b', 'c', NULL, 0, NULL, '2026-01-31', 'small', '{}', NULL, now(), 'b')",
    ):
        sql(insert + values)
    sql("UPDATE boxes SET parent_id = id WHERE title = '=a'")
    sql(
        "INSERT INTO shelves (id, box_id, title, owner) SELECT gen_random_uuid(), id, title, owner"
        " FROM boxes"
    )
    sql(
        "INSERT INTO books (id, shelf_id, title, is_read, owner)"
        " SELECT gen_random_uuid(), id, title, title = 'a', owner FROM shelves"
    )
    path = f"/{resource.name}/export"
    rows = [json.loads(line) for line in kinds_client.get(path).text.split("\n")[:-1]]
    assert len(rows) == 4
    lines = kinds_client.get(f"{path}?format=csv").get_data().decode().splitlines(keepends=True)
    items = [*parse_csv(lines, SCHEMAS[resource])]
    assert [item.error for item in items] == [None] * 4
    assert [item.value for item in items] == rows
