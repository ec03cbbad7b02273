"""Clients that only read: `walk` pages through the list, `probe` requests what needs no data."""

import random
from threading import Event
from urllib.parse import quote

from faults.client import Client

PAGE_SIZE = 100
PROBE_SECONDS = 0.25  # between two probes


def walk(client: Client, name: str, permanent_ids: set[str], stop: Event) -> None:
    """Walk through all pages again and again; each walk must show all of `permanent_ids`."""
    chance = random.Random(name)  # noqa: S311 - no secret
    title = client.resource.title_field
    fields = f"{title},owner" if client.caller.name else title
    count = 0
    while not stop.wait(0.2):
        count += 1
        sort, cursor, seen_ids = chance.choice(["-created_at", title, f"-{title}"]), "", list[str]()
        while not stop.is_set():
            option = f"&cursor={quote(cursor)}" if cursor else "&count=none"
            query = f"?sort={sort}&page_size={PAGE_SIZE}&fields={fields}{option}"
            page = client.send("walk", f"{name}-{count}", "GET", client.resource.path + query)
            if page.outcome != "ok":
                stop.wait(page.retry_after_seconds or 0.2)
                continue
            seen_ids += [row["id"] for row in client.body["items"] if row["id"] in permanent_ids]
            cursor = client.body["next_cursor"]
            if cursor is None:
                if len(seen_ids) != len(permanent_ids):
                    sentence = (
                        f"a walk by {sort} saw {len(seen_ids)} of {len(permanent_ids)} rows"
                        " that existed all the time"
                    )
                    client.ledger.add_violation(page, sentence)
                break
            stop.wait(0.01)


def probe(client: Client, name: str, stop: Event) -> None:
    """GET /health as an orchestrator does, on a new connection each time.

    Every fourth probe is another request that needs no database, but a thread of the service.
    """
    others = (  # method, path, content, content type, expected statuses: 503 if no thread is free
        ("GET", "/api/v1/nothing", None, "", {404, 503}),
        ("DELETE", client.resource.path, None, "", {405, 503}),
        # With AUTH an anonymous client gets 401.
        ("POST", client.create_path, "text", "text/plain", {415, 401, 503}),
    )
    count = 0
    while not stop.wait(PROBE_SECONDS):
        client.close()
        count += 1
        method, path, content, content_type, statuses = "GET", "/health", None, "", {200}
        if count % 4 == 0:
            method, path, content, content_type, statuses = others[count // 4 % len(others)]
        attempt = client.send(
            "probe", f"{name}-{count}", method, path, content, content_type=content_type
        )
        if attempt.status and attempt.status not in statuses:
            sentence = f"{method} {path}: {attempt.status}, not one of {statuses}"
            client.ledger.add_violation(attempt, sentence)
