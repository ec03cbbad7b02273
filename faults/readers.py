"""Clients that only look: one walks all pages, one asks what must answer whatever is broken."""

import random
from threading import Event
from urllib.parse import quote

from faults.client import PROJECTS, Client

PAGE = 100
PROBE_EVERY = 0.25  # seconds
_SORTS = ("-created_at", "name", "-name")
_PROBES = (  # method, path, content, its type, the answers it may get: 503 if no thread is free
    ("GET", "/api/v1/nothing", None, "", {404, 503}),
    ("DELETE", PROJECTS, None, "", {405, 503}),
    # Who is nobody learns no more, with AUTH.
    ("POST", PROJECTS, "text", "text/plain", {415, 401, 503}),
)


def walk(client: Client, name: str, always: set[str], stop: Event) -> None:
    """Walk all pages again and again; note a walk that misses one of the ids in `always`."""
    chance = random.Random(name)  # noqa: S311 - no secret
    count = 0
    while not stop.wait(0.2):
        count += 1
        sort, cursor, seen = chance.choice(_SORTS), "", list[str]()
        while not stop.is_set():
            fields = "name,owner" if client.caller.name else "name"
            more = f"&cursor={quote(cursor)}" if cursor else "&count=none"
            path = f"{PROJECTS}?sort={sort}&page_size={PAGE}&fields={fields}{more}"
            page = client.send("walk", f"{name}-{count}", "GET", path)
            if page.outcome != "ok":
                stop.wait(page.wait or 0.2)
                continue
            seen += [item["id"] for item in client.body["items"] if item["id"] in always]
            cursor = client.body["next_cursor"]
            if cursor is None:
                if len(seen) != len(always):
                    flaw = f"by {sort}, {len(seen)} of {len(always)} rows that were always there"
                    client.ledger.note(page, f"a walk {flaw} were seen")
                break
            stop.wait(0.01)


def probe(client: Client, name: str, stop: Event) -> None:
    """Ask for /health, as an orchestrator does: on a new connection each time."""
    count = 0
    while not stop.wait(PROBE_EVERY):
        client.close()
        count += 1
        if count % 4:
            method, path, content, kind, expected = "GET", "/health", None, "", {200}
        else:
            method, path, content, kind, expected = _PROBES[count // 4 % len(_PROBES)]
        probed = client.send("probe", f"{name}-{count}", method, path, content, content_type=kind)
        if probed.status and probed.status not in expected:
            client.ledger.note(probed, f"{method} {path}: {probed.status}, not of {expected}")
