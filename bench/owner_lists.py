"""Measure the lists of callers who see only their own rows, at a million rows; see README.md."""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from flask.testing import FlaskClient  # noqa: E402 - the path comes first
from lists import FILL, PROJECTS, QUERIES, Database, get_milliseconds  # noqa: E402

import config  # noqa: E402
from projectapp import create_app  # noqa: E402
from projectapp.auth import token_admin  # noqa: E402
from projectapp.devdb import DevPostgres  # noqa: E402

ROUNDS = 11
# The rows of an owner are scattered over time, or follow each other ("at once"). All other rows
# belong to 10 000 other owners.
OWNERS = {
    "third": "n % 3 = 0",
    "third, at once": "n BETWEEN {rows} * 2 / 10 AND {rows} * 7 / 10",
    "thousandth": "n % 667 = 1",
    "thousandth, at once": "n BETWEEN {rows} / 10 AND {rows} / 10 + {rows} * 15 / 10000",
    "ten": "n % ({rows} / 15) = 2",
}
SORTS = (
    *("-created_at", "created_at", "name", "-name", "updated_at", "-updated_at"),
    *("is_active", "-is_active", "is_active,name", "-is_active,-updated_at", "name,-created_at"),
)
MORE_QUERIES = (
    *(f"?sort={sort}" for sort in SORTS),
    *(f"?is_active={value}&sort={sort}" for value in ("true", "false") for sort in SORTS[::2]),
    *("?page=500", "?page=500&sort=name", "?page=500&sort=-is_active,name"),
    "?updated_at[gte]=2026-01-20T00:00:00Z&sort=updated_at",
    "?updated_at[lt]=2026-01-20T00:00:00Z&is_active=false",
    "?name=번역 123&sort=name",
)
CURSOR_SORTS = ("-created_at", "name", "is_active", "-is_active,-updated_at")


def fill(target: Database, rows: int) -> None:
    """Insert rows with owners. Building the indexes afterwards takes less time."""
    target.migrate()
    indexes = "schemaname = 'public' AND tablename = 'projects' AND indexname <> 'projects_pkey'"
    definitions = target.sql(f"SELECT indexname, indexdef FROM pg_indexes WHERE {indexes}")  # noqa: S608
    for name, _ in definitions:
        target.sql(f"DROP INDEX {name}")
    cases = " ".join(
        f"WHEN {condition} THEN '{owner}'" for owner, condition in OWNERS.items()
    ).format(rows=rows)
    statement = FILL.format(rows=rows).replace("updated_at)", "updated_at, owner)")
    value = f"CASE {cases} ELSE 'owner ' || floor(random() * 10000) END"
    target.sql(statement.replace("'30 days'", f"'30 days', {value}"))
    for _, definition in definitions:
        target.sql(definition)
    target.sql("CHECKPOINT")  # VACUUM marks a page as visible to all only if it is on disk
    target.sql("VACUUM ANALYZE projects")


class Caller:
    """A client that sends the token of one owner."""

    def __init__(self, client: FlaskClient, owner: str) -> None:
        with client.application.app_context():
            token = token_admin.create_token("bench", owner, ["projects:read"], None)
        self._client, self._headers = client, {"Authorization": f"Bearer {token}"}

    def get(self, path: str):
        return self._client.get(path, headers=self._headers)

    def cursor_query(self, sort: str, last: bool) -> str | None:
        """Return the query for the second page or the last one, or None if there is one page."""
        query = f"?sort={sort}&page_size=10&count=exact"
        total = self.get(PROJECTS + query).json["total"]
        page = (total - 1) // 10 if last else 1
        cursor = page and self.get(f"{PROJECTS}{query}&page={page}").json["next_cursor"]
        return f"?sort={sort}&cursor={cursor}" if cursor else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder), config.Development(os.environ).EMBEDDED_POSTGRES_BIN)
        server.start()
        try:
            run(server, rows)
        finally:
            server.release()


def run(server: DevPostgres, rows: int) -> None:
    target = Database(server, "owners")
    fill(target, rows)
    settings = {"DATABASE_URL": target.url, "LOG_LEVEL": "error", "AUTH": "tokens"}
    client = create_app(config.Development(settings)).test_client()
    callers = [Caller(client, owner) for owner in OWNERS]
    queries = {**QUERIES, **{query: query for query in MORE_QUERIES}}
    lists = {name: [query] * len(callers) for name, query in queries.items()}
    for sort in CURSOR_SORTS:
        for name, last in (("second", False), ("last", True)):
            pages = [caller.cursor_query(sort, last) for caller in callers]
            lists[f"{name} page by cursor, {sort}"] = pages
    print(f"| list, ms of {rows} rows | {' | '.join(OWNERS)} |")
    print("|---" * (1 + len(OWNERS)) + "|")
    for name, pages in lists.items():
        cells = []
        for caller, query in zip(callers, pages, strict=True):
            if query is None:
                cells.append("")
                continue
            path = PROJECTS + quote(query, safe="?=&[]{}:,-")
            times = [get_milliseconds(caller, path) for _ in range(ROUNDS)][1:]
            cells.append(f"{statistics.median(times):.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
