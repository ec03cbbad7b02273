"""`pull` for a resource unlike projects: other types of columns, rows that refer to its rows."""

import json
from uuid import uuid4

import pytest
from flask.cli import AppGroup

from projectapp.bulk.import_command import SOME_REJECTED
from projectapp.bulk.pull_command import pull_command
from tests.test_bulk_kinds import LABELS, LabelSchema, labels_table  # noqa: F401 - a fixture
from tests.test_pull import counts
from tests.test_resource_kinds import (  # noqa: F401 - some are fixtures
    BOXES,
    SHELVES,
    VALUES,
    BoxSchema,
    ShelfSchema,
    create,
    kinds,
    kinds_app,
    rows_removed,
    tables,
)
from tests.tutorial_backends import FastAPIBackend, serving


class BoxBackend(FastAPIBackend):
    def create_box(self, **members):
        box = {"title": "x", "created_at": self.now(), "updated_at": self.now(), **members}
        self.projects[str(uuid4())] = box
        box["id"] = [*self.projects][-1]
        return box

    def respond(self, target):
        assert target.startswith(("/boxes?", "/labels?"))
        return 200, "application/json", json.dumps([*self.projects.values()]).encode()


@pytest.fixture
def backend():
    with serving(BoxBackend()) as backend:
        yield backend


@pytest.fixture
def pull(kinds_app, kinds, backend):  # noqa: F811
    def run(resource=BOXES, schema=BoxSchema):
        group = AppGroup(resource.name)
        group.add_command(pull_command(resource, schema, f"/{resource.name}"))
        result = kinds_app.test_cli_runner().invoke(group, ["pull", backend.url])
        assert not result.exception or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, counts(result.stdout)

    return run


def test_values_of_each_type_are_pulled_and_the_second_pull_changes_nothing(
    pull,
    backend,
    kinds,  # noqa: F811
):
    outer = backend.create_box()
    box = backend.create_box(**VALUES, parent_id=outer["id"], colour="red")
    assert pull() == (0, [2, 0, 0, 0, 0])
    stored = kinds.get(f"/boxes/{box['id']}").json
    expected = {**VALUES, "parent_id": outer["id"], "data": {"colour": "red", **VALUES["data"]}}
    assert stored == {**stored, **expected}
    assert pull() == (0, [0, 0, 0, 0, 0])
    box["amount"] = 2.5
    assert pull() == (0, [0, 1, 0, 0, 0])


def test_row_with_a_unique_value_is_updated_and_another_row_with_the_value_is_rejected(
    pull,
    backend,
    labels_table,  # noqa: F811
    sql,
):
    label = backend.create_box(title="old", note="a")
    assert pull(LABELS, LabelSchema) == (0, [1, 0, 0, 0, 0])
    label["title"] = "new"
    other = backend.create_box(note="a")
    assert pull(LABELS, LabelSchema) == (SOME_REJECTED, [0, 1, 0, 0, 1])
    other["note"] = "b"
    assert pull(LABELS, LabelSchema) == (0, [1, 0, 0, 0, 0])
    assert sorted(sql("SELECT title, note FROM labels")) == [("new", "a"), ("x", "b")]


def test_row_to_which_a_row_here_refers_is_not_deleted(pull, backend, kinds):  # noqa: F811
    box, outer, *_ = (backend.create_box() for _ in range(6))
    pull()
    shelf = create(kinds, f"/boxes/{box['id']}/shelves")
    inner = create(kinds, "/boxes", parent_id=outer["id"])
    del backend.projects[box["id"]], backend.projects[outer["id"]]
    assert pull() == (0, [0, 0, 0, 2, 0])
    for path in (f"/shelves/{shelf['id']}", f"/boxes/{inner['id']}"):
        assert kinds.delete(path).status_code == 204
    assert pull() == (0, [0, 0, 2, 0, 0])


def test_resource_with_a_parent_cannot_be_pulled():
    with pytest.raises(TypeError, match="without a parent"):
        pull_command(SHELVES, ShelfSchema, "/shelves")
