"""The console of a second resource in Chromium: examples/tasks with a field of each type."""

import json
import os
import re
import shutil
import subprocess
import sys

import psycopg2
import pytest

import config
from tests.accessibility import run_axe, run_axe_on_colors
from tests.conftest import PROJECTS, copy_application, parameters_of, url_of
from tests.console import CTRL, SAVE, UNDO, Console
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


@pytest.fixture(scope="module")
def tasks_server(serve, app, direct_url, tmp_path_factory):
    """A server of a copy of the application with tasks, and the URL of its migrated database."""
    copy = copy_application(tmp_path_factory.mktemp("tasks"))
    folder = copy / "projectapp" / "tasks"
    if not folder.exists():
        shutil.copytree(config.ROOT / "examples" / "tasks", folder)
        for diff in re.findall(r"^```diff\n(.*?)^```", GUIDE, re.M | re.S):
            apply_diff(copy / "projectapp" / "__init__.py", diff)
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
    url = url_of({**parameters_of(direct_url), "dbname": name})
    settings = config.Config.declared_settings()
    environ = {name: value for name, value in os.environ.items() if name not in settings}
    environ |= {"APP_ENV": "testing", "DATABASE_URL": url}
    run_sql(direct_url, f"CREATE DATABASE {name}")
    for arguments in (("upgrade",), ("migrate", "-m", "create tasks"), ("upgrade",)):
        subprocess.run(
            [sys.executable, "-m", "flask", "db", *arguments], cwd=copy, env=environ, check=True
        )
    with serve(cwd=copy, DATABASE_URL=url, MIGRATIONS_DATABASE_URL="") as server:
        yield server, url
    run_sql(direct_url, f"DROP DATABASE {name} WITH (FORCE)")


def run_sql(url, statement):
    connection = psycopg2.connect(**parameters_of(url))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


@pytest.fixture
def console(browser, tasks_server):
    server, url = tasks_server
    run_sql(url, "DELETE FROM tasks; DELETE FROM projects")
    console = Console(browser, server)
    yield console
    assert console.errors() == []


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
    console.wait_for_text(text, "#parent-choices [aria-selected=true]")
    console.press("Enter")
    console.wait_for_text(text, "[data-field=parent] .parent-row")


def test_a_task_with_a_field_of_each_type_is_created_in_a_project_that_is_chosen_by_name(console):
    console.page("Emulation.setTimezoneOverride", timezoneId="Asia/Seoul")
    for name in ("Website", "번역 프로젝트"):
        assert console.api("POST", PROJECTS, {"name": name})[0] == 201
    project = console.api("GET", f"{PROJECTS}?name=Website")[2]["items"][0]
    open_tasks(console)
    console.click_text("New", ".empty")
    console.page.wait_for(PARENT)
    console.click(SAVE)
    console.wait_for_text("Choose", "[data-field=parent] .field-error")
    console.type(PARENT, "Webs")
    console.wait_for_text("Website", "#parent-choices [aria-selected=true]")
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
    console.wait_for_text("integer", "[data-field=priority] .field-error")
    assert run_axe(console.page) + run_axe_on_colors(console.page) == []
    console.type("#field-priority", "-2")
    console.save()
    console.wait_for_id()
    [task] = console.api("GET", TASKS)[2]["items"]
    assert task == {
        **task,
        **{"project_id": project["id"], "title": "First task", "notes": None, "is_done": True},
        **{"priority": -2, "kind": "wish", "is_billable": False},
        **{"due_at": "2027-01-31T00:30:15.000000Z"},
        **{"estimate": 0.1, "ticket": TICKET, "labels": ["웹", "a b"]},
        **{"extra": {"big": 12345678901234567890}, "version": 1},
    }
    check_times_in_utc(console, task)


def check_times_in_utc(console, task):
    """Another zone changes how times are written and entered, in a form and in a filter."""
    query = f"lang=en&resource=tasks&id={task['id']}&created_at[gte]=2026-01-01T00:00:05Z"
    console.page.open(f"{console.origin}/console?{query}")
    console.wait_for_text("GMT+9", "[data-field=due_at] label")
    assert console.value("#field-due_at") == "2027-01-31T09:30:15"
    set_value(console, "#field-due_at", "2027-02-01T00:00:05")
    console.page.run("[...document.querySelectorAll('input[name=zone]')].at(-1).click()")
    console.wait_for_text("UTC", "[data-field=due_at] label")
    assert console.value("#field-due_at") == "2027-01-31T15:00:05"
    console.save()
    stored = console.api("GET", f"{TASKS}/{task['id']}")[2]
    assert stored["due_at"] == "2027-01-31T15:00:05.000000Z"
    console.click(".filter-edit")
    console.wait_for_text("UTC", ".filter-form label")
    start = ".filter-form input"
    assert console.value(start) == "2026-01-01T00:00:05"
    set_value(console, start, "2026-01-02T09:00:00")
    console.click(".filter-form .primary")
    console.page.wait_until("location.search.includes('2026-01-02T09%3A00%3A00.000Z')")


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
    console.press("k", modifiers=CTRL)
    console.type("dialog.palette input", "tasks: new")
    console.wait_for_text("Tasks: new", "dialog.palette [aria-selected=true]")
    console.press("Enter")
    choose_project(console, "Website")
    console.wait_for_text("⟦U+202E⟧Website", "[data-field=parent]")
    console.type("#field-title", "First task")
    console.save()
    console.wait_for_id()
    # The project of a task opens from the task, and the task again from the palette.
    console.click(".row-facts .link-button")
    console.wait_for_text("⟦U+202E⟧Website", ".panel-head")
    console.press("k", modifiers=CTRL)
    console.type("dialog.palette input", "first")
    console.wait_for_text("First task", "dialog.palette [aria-selected=true]")
    console.press("Enter")
    console.wait_for_text("First task", ".panel-head")
    assert console.value("#field-title") == "First task"
