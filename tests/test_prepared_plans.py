"""A plan for all values reads no more than a plan for the values of a request."""

import psycopg2
import pytest

from tests.conftest import PROJECTS, links
from tests.plans import assert_generic_plans_read_no_more
from tests.test_plans import INSERT_PROJECTS

# Of the 50 000 rows a third have the owner "many". Which rows are active:
STATES = {
    "the newest third": "n > 33000",
    "nine of ten": "n % 10 <> 0",
    "all but ten": "n % 5000 <> 0",
    "all": "true",
}
SORTS = (
    *("", "created_at", "name", "-name", "updated_at", "-updated_at", "is_active", "-is_active"),
    *("is_active,name", "-is_active,-created_at", "-created_at,name", "-name,is_active"),
)


@pytest.fixture(scope="module", params=STATES)
def loaded_client(request, app, direct_url):
    connection = psycopg2.connect(direct_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        insert = INSERT_PROJECTS.replace("n > 33000", STATES[request.param])
        for statement in (insert, "CHECKPOINT", "VACUUM ANALYZE projects"):
            cursor.execute(statement)
    connection.close()
    return app.test_client()


def list_paths(client):
    """Yield the paths of lists: first pages, later pages, and pages by cursor."""
    for sort in SORTS:
        for state in ("", "is_active=true&", "is_active=false&"):
            path = f"{PROJECTS}?{state}{f'sort={sort}&' if sort else ''}"
            yield from (f"{path}count=none", f"{path}page_size=100", f"{path}page=100&count=none")
            cursor = client.get(f"{path}page=50&count=none").json["next_cursor"]
            if cursor:
                yield f"{path}cursor={cursor}"
                yield links(client.get(f"{path}cursor={cursor}"))["prev"]


def test_prepared_lists_read_no_more_rows_than_their_texts(loaded_client, monkeypatch):
    requests = [("GET", path, {}) for path in list_paths(loaded_client)]
    assert len(requests) >= 3 * 3 * len(SORTS)
    assert_generic_plans_read_no_more(loaded_client, requests, monkeypatch)


def test_prepared_statements_on_one_row_read_no_more_rows_than_their_texts(
    loaded_client, monkeypatch
):
    urls = [f"{PROJECTS}/{row['id']}" for row in loaded_client.get(PROJECTS).json["items"]]
    keys = iter(range(1000))
    requests = [
        ("GET", urls[0], {}),
        ("POST", PROJECTS, lambda: {"json": {"name": "x"}}),
        ("POST", PROJECTS, lambda: {"json": {"name": "x"}, "headers": {"Idempotency-Key": next(keys)}}),
        *(
            (method, urls[0], {"json": body, "headers": headers})
            for method in ("PUT", "PATCH")
            for body in ({"name": "x"}, {"is_active": True})
            for headers in ({}, {"If-None-Match": '"77"'})
        ),
    ]
