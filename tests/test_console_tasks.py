"""The console of a second resource in Chromium: examples/tasks with a field of each type."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import config
from tests.accessibility import run_axe, run_axe_on_colors
from tests.conftest import PROJECTS, parameters_of, url_of
from tests.test_console_panel import SAVE, UNDO, Console
from tests.test_extending import GUIDE, apply_diff, replace_text

pytestmark = pytest.mark.slow

TASKS = "/api/v1/tasks"
PARENT = "#field-parent"
COLUMNS = """
    kind: Mapped[str] = mapped_column(sa.String(20), server_default="bug")
    is_billable: Mapped[bool | None]
    estimate: Mapped[float | None] = mapped_column(sa.Double)
    ticket: Mapped[UUID | None] = mapped_column(sa.Uuid)
    labels: Mapped[list[str]] = mapped_column(ARRAY(sa.Text), server_default="{}")
    extra: Mapped[Any] = mapped_column(JSONB, nullable=True)
"""
FIELDS = """
    kind = fields.String(load_default="bug", validate=OneOf(["bug", "wish"]))
    is_billable = StrictBoolean(load_default=None, allow_none=True)
    estimate = fields.Float(load_default=None, allow_none=True)
    ticket = fields.UUID(load_default=None, allow_none=True)
    labels = fields.List(fields.String(), load_default=list)
    extra = JSONObject(max_depth=3, load_default=None, allow_none=True)
"""
TICKET = "01900000-0000-7000-8000-000000000000"


@pytest.fixture
def tasks_app(app_copy, sql, direct_url):
    """A copy of the application with tasks, and the URL of its migrated database."""
    folder = app_copy / "projectapp" / "tasks"
    if not folder.exists():
        shutil.copytree(config.ROOT / "examples" / "tasks", folder)
        for diff in re.findall(r"^```diff\n(.*?)^```", GUIDE, re.M | re.S):
            apply_diff(app_copy / "projectapp" / "__init__.py", diff)
    replace_text(folder / "models.py", "\n    search: Mapped", f"{COLUMNS}\n    search: Mapped")
    replace_text(
        folder / "models.py",
        "import sqlalchemy as sa\n",
        "from typing import Any\n\nimport sqlalchemy as sa\n"
        "from sqlalchemy.dialects.postgresql import ARRAY, JSONB\n",
    )
    replace_text(folder / "schemas.py", "\n\nTaskQuery = ", f"{FIELDS}\n\nTaskQuery = ")
    replace_text(folder / "schemas.py", "import Integer,", "import Integer, JSONObject,")
    replace_text(folder / "schemas.py", "import Length", "import Length, OneOf")
    name = f"test_console_tasks_{os.getpid()}"
    sql(f"CREATE DATABASE {name}")
    url = url_of({**parameters_of(direct_url), "dbname": name})
    settings = config.Config.declared_settings()
    environ = {name: value for name, value in os.environ.items() if name not in settings}
    environ |= {"APP_ENV": "testing", "DATABASE_URL": url}
    for arguments in (("upgrade",), ("migrate", "-m", "create tasks"), ("upgrade",)):
        subprocess.run(
            [sys.executable, "-m", "flask", "db", *arguments],
            cwd=app_copy,
            env=environ,
            check=True,
        )
    yield app_copy, url
    sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def console(browser, serve, tasks_app):
    folder, url = tasks_app
    with serve(cwd=folder, DATABASE_URL=url, MIGRATIONS_DATABASE_URL="") as server:
        yield Console(browser, server)


def set_value(console, selector, value):
    """Set the value of a control that is not typed, such as a time or a choice."""
    console.page.wait_for(
        selector,
        f"value = {json.dumps(value)};"
        " for (const type of ['input', 'change'])"
        f" document.querySelector('{selector}').dispatchEvent(new Event(type, {{bubbles: true}}))",
    )


def open_tasks(console):
    console.page.open(f"{console.origin}/console?lang=en&resource=tasks")
    console.page.wait_for(".list")


def choose_project(console, text):
    """Search a project by a part of its name, and choose it with Enter."""
    console.type(PARENT, text)
    console.sees("#parent-choices [aria-selected=true]", text)
    console.press("Enter", "Enter")
    console.sees("[data-field=parent] .parent-row", text)


def test_a_task_with_a_field_of_each_type_is_created_in_a_project_that_is_chosen_by_name(console):
    for name in ("Website", "번역 프로젝트"):
        assert console.api("POST", PROJECTS, {"name": name})[0] == 201
    project = console.api("GET", f"{PROJECTS}?name=Website")[2]["items"][0]
    open_tasks(console)
    console.click_text(".empty", "New")
    console.page.wait_for(PARENT)
    console.click(SAVE)
    console.sees("[data-field=parent] .field-error", "Choose")
    console.type(PARENT, "Webs")
    console.sees("#parent-choices [aria-selected=true]", "Website")
    assert run_axe(console.page) + run_axe_on_colors(console.page) == []
    choose_project(console, "Webs")
    console.type("#field-title", "First task")
    console.page.wait_for("#field-is_done", "click()")
    console.type("#field-priority", "1.5")
    set_value(console, "#field-due_at", "2027-01-31T09:30:15")
    set_value(console, "#field-kind", "wish")
    set_value(console, "#field-is_billable", "false")
    console.type("#field-estimate", "0.1")
    console.type("#field-ticket", TICKET)
    console.type("#field-labels", '["웹", "a b"]')
    console.type("#field-extra", '{"big": 12345678901234567890}')
    console.click(SAVE)
    console.sees("[data-field=priority] .field-error", "integer")
    assert run_axe(console.page) + run_axe_on_colors(console.page) == []
    console.type("#field-priority", "-2")
    console.save()
    console.page.wait_until("new URLSearchParams(location.search).get('id')?.length === 36")
    [task] = console.api("GET", TASKS)[2]["items"]
    due_at = console.page.run("new Date('2027-01-31T09:30:15').toISOString()")
    assert {**task, "due_at": task["due_at"][:19]} == {
        **task,
        **{"project_id": project["id"], "title": "First task", "notes": None, "is_done": True},
        **{"priority": -2, "due_at": due_at[:19], "kind": "wish", "is_billable": False},
        **{"estimate": 0.1, "ticket": TICKET, "labels": ["웹", "a b"]},
        **{"extra": {"big": 12345678901234567890}, "version": 1},
    }


def test_a_field_of_each_type_can_be_changed_cleared_and_restored(console):
    project = console.api("POST", PROJECTS, {"name": "Website"})[2]
    values = {"title": "A task", "notes": "text", "is_done": True, "priority": 3, "kind": "wish"}
    values |= {"is_billable": True, "estimate": 2.5, "ticket": TICKET, "labels": ["a"]}
    values |= {"extra": {"a": 1}, "due_at": "2027-01-31T09:30:15.000000Z"}
    path = f"{PROJECTS}/{project['id']}/tasks"
    status, _, task = console.api("POST", path, values)
    assert (status, {**task, **values}) == (201, task)
    console.page.open(f"{console.origin}/console?lang=en&resource=tasks&id={task['id']}")
    for name in ("notes", "estimate", "ticket", "extra", "due_at"):
        console.click(f"[data-field={name}] .null-switch input")
    console.page.wait_for("#field-is_done", "click()")
    console.type("#field-priority", "0")
    set_value(console, "#field-kind", "bug")
    set_value(console, "#field-is_billable", "")
    console.type("#field-labels", "[]")
    console.save()
    [put] = console.requests("PUT")
    changes = dict.fromkeys(("notes", "estimate", "ticket", "extra", "due_at", "is_billable"))
    changes |= {"is_done": False, "priority": 0, "kind": "bug", "labels": []}
    assert json.loads(put["postData"]) == changes
    stored = console.api("GET", f"{TASKS}/{task['id']}")[2]
    assert {**stored, **changes} == stored
    console.click(UNDO)
    console.page.wait_until("document.querySelector('#field-priority').value === '3'")
    restored = console.api("GET", f"{TASKS}/{task['id']}")[2]
    assert {**restored, **values, "version": 3} == restored


def test_the_palette_creates_a_task_and_shows_the_rows_that_were_open(console):
    assert console.api("POST", PROJECTS, {"name": "\u202eWebsite"})[0] == 201
    open_tasks(console)
    console.press("k", "KeyK", ctrl=True)
    console.type("dialog.palette input", "tasks: new")
    console.sees("dialog.palette [aria-selected=true]", "Tasks: new")
    console.press("Enter", "Enter")
    choose_project(console, "Website")
    console.sees("[data-field=parent]", "⟦U+202E⟧Website")
    console.type("#field-title", "First task")
    console.save()
    console.page.wait_until("new URLSearchParams(location.search).get('id')?.length === 36")
    # The project of a task opens from the task, and the task again from the palette.
    console.click(".row-facts .link-button")
    console.sees(".panel-head", "⟦U+202E⟧Website")
    console.press("k", "KeyK", ctrl=True)
    console.type("dialog.palette input", "first")
    console.sees("dialog.palette [aria-selected=true]", "First task")
    console.press("Enter", "Enter")
    console.sees(".panel-head", "First task")
    assert console.value("#field-title") == "First task"
