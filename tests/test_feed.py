import pytest

from projectapp.projects.models import PROJECTS as RESOURCE
from projectapp.resources.feed import START, item_json, read_changes
import json


def test_first(app, client, make_project, sql):
    p = make_project(name="a")
    make_project(name="b")
    client.put(f"/api/v1/projects/{p['id']}", json={"name": "c"})
    with app.test_request_context():
        page = read_changes(RESOURCE, START, 2, None)
        print(page)
        page2 = read_changes(RESOURCE, page.next_cursor, 2, None)
        print(page2)
        for c in page.changes + page2.changes:
            print(json.loads(item_json(RESOURCE, c, None)))
        print(len(page.next_cursor.encode("projects")), page.next_cursor.encode("projects"))
        print(read_changes(RESOURCE, page2.next_cursor, 2, None))
        print(read_changes(RESOURCE, None, 2, None))
