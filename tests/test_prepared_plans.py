"""A prepared statement reads no more than its text, whose plan depends on the values."""

import psycopg2
import pytest

from projectapp.database import prepared
from tests.conftest import PROJECTS, links
from tests.plans import compare_plans
from tests.test_plans import INSERT_PROJECTS

# Which of the 50 000 rows are active. A third of the rows has the owner "many".
STATES = [
    pytest.param("n % 10 <> 0", id="nine of ten"),
    pytest.param("n > 33000", id="the newest third", marks=pytest.mark.slow),
    pytest.param("n % 5000 <> 0", id="all but ten", marks=pytest.mark.slow),
    pytest.param("true", id="all", marks=pytest.mark.slow),
]
SORTS = (
    *("", "created_at", "name", "-name", "updated_at", "-updated_at", "is_active", "-is_active"),
    *("is_active,name", "-is_active,-created_at", "-created_at,name", "-name,is_active"),
)
ALL_FIELDS = {"name": "x", "description": "y", "is_active": True, "attributes": {"a": 1}}


@pytest.fixture(scope="module", params=STATES)
def loaded_client(request, app, direct_url):
    connection = psycopg2.connect(direct_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        insert = INSERT_PROJECTS.replace("n > 33000", request.param)
        for statement in (insert, "CHECKPOINT", "VACUUM ANALYZE projects"):
            cursor.execute(statement)
    connection.close()
    return app.test_client()


@pytest.fixture(autouse=True)
def _no_maximum(monkeypatch):
    """All statements of a test are prepared."""
    monkeypatch.setattr(prepared, "MAX_PREPARED", 1000)


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


def test_a_prepared_list_reads_no_more_than_its_text(loaded_client):
    paths = list(list_paths(loaded_client))
    assert len(paths) > 3 * 3 * len(SORTS)
    for path in paths:
        compare_plans(loaded_client, [("GET", path, {})] * 3)


@pytest.mark.parametrize("body", [{"name": "x"}, ALL_FIELDS])
def test_a_prepared_write_reads_no_more_than_its_text(loaded_client, body):
    urls = [f"{PROJECTS}/{row['id']}" for row in loaded_client.get(PROJECTS).json["items"]]
    compare_plans(loaded_client, [("GET", urls[0], {})] * 3)
    compare_plans(loaded_client, [("POST", PROJECTS, {"json": body})] * 3)
    keys = [{"Idempotency-Key": f"{n} {len(body)}"} for n in range(3)]
    compare_plans(
        loaded_client, [("POST", PROJECTS, {"json": body, "headers": key}) for key in keys]
    )
    any_version = {"If-Match": ", ".join(f'"{n}"' for n in range(100))}
    for method in ("PUT", "PATCH"):
        for headers in ({}, any_version):
            compare_plans(
                loaded_client, [(method, urls[0], {"json": body, "headers": headers})] * 3
            )
    for headers, some_urls in (({}, urls[1:4]), (any_version, urls[4:7])):
        compare_plans(loaded_client, [("DELETE", url, {"headers": headers}) for url in some_urls])
