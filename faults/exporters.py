"""A client that exports all rows again and again, as NDJSON and as CSV in turn.

It reads slowly, so that the faults happen while exports run. Each complete export becomes the first
reading of a reader of the feed (feed_records.py), whose cursor is that of the export: with the feed
from there it must become an exact copy of the table.
"""

import csv
import io
import itertools
import json
import random
from pathlib import Path
from threading import Event
from typing import Any

from faults.client import Client
from faults.feed_records import FeedWriter
from faults.resource import Resource

_SLOWEST, _FASTEST = 400_000, 800_000  # bytes per second


def export_repeatedly(client: Client, name: str, folder: Path, stop: Event) -> None:
    """Export until `stop` is set; write a file OPERATION.export for each complete export."""
    formats, chance = itertools.cycle(["ndjson", "csv"]), random.Random(name)  # noqa: S311
    count = 0
    while not stop.is_set():
        count += 1
        operation, format_name = f"{name}-{count}", next(formats)
        path = f"{client.resource.path}/export?format={format_name}"
        attempt = client.begin("export", operation, "GET", path)
        response = client.read_slowly(attempt, chance.uniform(_SLOWEST, _FASTEST))
        if response is None:
            stop.wait(min(attempt.retry_after_seconds, 1) or 0.2)
            continue
        headers, body = response
        try:
            rows = parse_export(client.resource, format_name, body)
        except ValueError as error:
            sentence = f"a complete export with an incomplete row: {error}"
            client.ledger.add_violation(attempt, sentence)
            continue
        if extra_rows := len(rows) - len({row["id"] for row in rows}):
            client.ledger.add_violation(attempt, f"an export has {extra_rows} rows twice")
        writer = FeedWriter(folder / f"{operation}.export", client.caller.name, client.resource)
        # The cursor is older than the head of the response.
        head_at = (attempt.done_at or 0.0) - attempt.wait_seconds
        writer.begin(head_at, headers["Changes-Cursor"], rows)
        writer.close()
    client.close()


def parse_export(resource: Resource, format_name: str, body: bytes) -> list[dict[str, Any]]:
    """Return the rows as a list shows them; raise ValueError if one is not complete."""
    if format_name == "ndjson":
        return [json.loads(line) for line in body.splitlines()]
    rows: list[dict[str, Any]] = []
    try:
        names, *records = csv.reader(io.StringIO(body.decode(), newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(f"CSV: {error}") from error
    for record in records:
        row: dict[str, Any] = dict(zip(names, record, strict=True))
        row |= {"version": int(row["version"]), "owner": row["owner"] or None}
        if resource.json_field:
            row[resource.json_field] = json.loads(row[resource.json_field])
        rows.append(row)
    return rows
