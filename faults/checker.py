"""Whether what is stored is what clients were told: the ledger against the API and against SQL."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

from faults.client import PROJECTS, Client
from faults.cluster import Cluster
from faults.ledger import Attempt, operations, outcome
from faults.workload import create_body

_STORED = "SELECT id::text, name, description, attributes, version, owner FROM projects"
_NOT_SERVED = (None, 401, 503)
_RETRIES = 40  # of a create whose outcome is unknown; a quarter of a second apart and more


class Stored(NamedTuple):
    """A row as SQL shows it."""

    name: str
    description: str
    attributes: dict[str, Any]
    version: int
    owner: str | None


@dataclass
class Findings:
    """Each finding is a sentence; a list that is empty is a promise that was kept."""

    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)  # stored, or said, and yet it cannot be
    leaked: list[str] = field(default_factory=list)  # served to who may not have it

    def merge(self, other: "Findings") -> None:
        self.lost += other.lost
        self.doubled += other.doubled
        self.untrue += other.untrue
        self.leaked += other.leaked


def stored(cluster: Cluster) -> dict[str, Stored]:
    """All rows by id, straight from PostgreSQL."""
    return {row[0]: Stored(*row[1:]) for row in cluster.sql(_STORED)}


def listed(client: Client) -> list[str]:
    """All ids that its caller sees by paging the API, in its order; the service must be well."""
    ids: list[str] = []
    cursor = ""
    while True:
        more = f"&cursor={quote(cursor)}" if cursor else ""
        page = client.send("walk", "final", "GET", f"{PROJECTS}?page_size=100&fields=name{more}")
        if page.outcome != "ok":
            raise RuntimeError(f"a page of the final reading: {page.status} {page.failure}")
        ids += [item["id"] for item in client.body["items"]]
        cursor = client.body["next_cursor"]
        if cursor is None:
            return ids


def settle(attempts: Iterable[Attempt], clients: Mapping[str | None, Client]) -> None:
    """Ask again for each create with a key whose outcome nobody knows; the client's ledger has it.

    The service must be well; the `clients` are by their callers' names.
    """
    for op, tries in operations(attempts).items():
        if tries[0].kind == "create" and tries[0].key and outcome(tries) == "info":
            client = clients[tries[0].caller]
            for _ in range(_RETRIES):
                said = client.send("create", op, "POST", PROJECTS, create_body(op), key=op)
                if said.outcome == "ok" or said.status == 422:
                    break
                time.sleep(max(said.wait, 0.25))


def check(
    attempts: list[Attempt],
    table: Mapping[str, Stored],
    paged: Mapping[str | None, Iterable[str]],
) -> Findings:
    """Hold what was told against what is stored; `paged` are the ids that each caller found."""
    found = Findings(sum(one.is_write and one.outcome == "ok" for one in attempts))
    writes = operations(one for one in attempts if one.is_write)
    changes: dict[str, list[Attempt]] = defaultdict(list)
    for tries in writes.values():
        if tries[0].kind != "create":
            changes[tries[0].path.rpartition("/")[2]].append(tries[-1])
    _creates(writes, changes, table, found)
    for row, made in changes.items():
        found.merge(_changes(row, made, table.get(row)))
    found.untrue += _unknown_to_all(writes, table)
    found.untrue += [flaw for one in attempts for flaw in one.flaws]
    _admission(attempts, found)
    for caller, ids in paged.items():
        own = {row for row, now in table.items() if now.owner == caller}
        found.untrue += _paging(list(ids), own)
    return found


def _creates(
    writes: Mapping[str, list[Attempt]],
    changes: Mapping[str, list[Attempt]],
    table: Mapping[str, Stored],
    found: Findings,
) -> None:
    """Each acknowledged create is there once; one that failed is not; none is there twice."""
    copies = Counter(row.name for row in table.values())
    for op, tries in writes.items():
        if tries[0].kind != "create":
            continue
        known = outcome(tries)
        # Where one of them was lost, that is said, and the other came in its place.
        ids = {
            one.id
            for one in tries
            if one.outcome == "ok" and (one.id in table or one.id in changes)
        }
        if copies[op] > 1:
            found.doubled.append(f"{op} is stored {copies[op]} times")
        elif len(ids) > 1:
            found.doubled.append(f"{op} was acknowledged under two ids")
        elif sum(one.outcome == "ok" and not one.replayed for one in tries) > 1:
            found.untrue.append(f"{op} was twice acknowledged as new")
        if known == "fail" and copies[op]:
            found.untrue.append(f"{op} was refused ({tries[-1].status}) and is stored")
        for one in tries:
            fate = [change for change in changes.get(one.id or "", []) if change.kind == "delete"]
            if one.outcome != "ok" or any(change.outcome != "fail" for change in fate):
                continue
            if one.id not in table and any(change.status == 503 for change in fate):
                found.untrue.append(f"a delete of {one.id} was refused (503) and it is gone")
            elif one.id not in table:
                found.lost.append(f"the create {op} was acknowledged as {one.id}")
            elif table[one.id].name != op or one.etag != '"1"':
                found.untrue.append(f"{op} was acknowledged as {one.id} {one.etag}")


def _changes(row: str, made: list[Attempt], now: Stored | None) -> Findings:
    """A row's versions strictly increase, one winner each, and the last word stands."""
    found = Findings()
    won = [one for one in made if one.outcome == "ok" and one.kind != "delete"]
    open_ = {one.op for one in made if one.outcome == "info"}
    deleted = {one.outcome for one in made if one.kind == "delete"}
    for etag, count in Counter(one.if_match for one in won).items():
        if count > 1:
            found.untrue.append(f"{row}: {count} changes won over version {etag}")
    for one in won:
        if one.version != int((one.if_match or "").strip('"')) + 1:
            found.untrue.append(f"{row}: a change of {one.if_match} made {one.etag}")
    if now is None:
        return found  # whether it may be gone is its create's question
    if "ok" in deleted:
        found.lost.append(f"the delete of {row} was acknowledged and it is there")
    last = max(won, key=lambda one: one.version, default=None)
    version, marker = (last.version, last.op) if last else (1, now.name)
    if now.version < version:
        found.lost.append(f"{row} is at {now.version}, acknowledged was {version}")
    tags = now.attributes.get("tags")
    if tags is None:
        right = open_ if now.version > version else {marker}
        if now.version >= version and now.description not in right:
            found.untrue.append(f"{row} at {now.version} says {now.description}, not {marker}")
        if now.version > version + len(open_):
            found.untrue.append(f"{row} is at {now.version}, past all that was asked")
    else:
        found.merge(_tags(row, tags, won, open_, now.version))
    return found


def _tags(row: str, tags: list[str], won: list[Attempt], open_: set[str], version: int) -> Findings:
    """An append that made version v is the list's tag number v - 1, and nothing else is there.

    That covers order: of two appends that did not overlap the later one made a later version.
    """
    found = Findings()
    if len(tags) != version - 1:
        found.untrue.append(f"{row} is at {version} with {len(tags)} tags")
    for tag, count in Counter(tags).items():
        if count > 1:
            found.doubled.append(f"{row} has the tag {tag} {count} times")
    for one in won:
        if tags[one.version - 2 : one.version - 1] != [one.op]:
            found.lost.append(f"the tag {one.op} of version {one.version} of {row}")
    for tag in sorted(set(tags) - {one.op for one in won} - open_):
        found.untrue.append(f"{row} has the tag {tag}, whose append was refused")
    return found


def _unknown_to_all(
    writes: Mapping[str, list[Attempt]], table: Mapping[str, Stored]
) -> Iterator[str]:
    for row, now in table.items():
        if now.name not in writes:
            yield f"{row} is called {now.name}, which nobody sent"
        elif now.owner != writes[now.name][0].caller:
            yield f"{row} is {now.owner}'s, and {now.name} was sent by {writes[now.name][0].caller}"


def _admission(attempts: list[Attempt], found: Findings) -> None:
    """A token that was revoked gets nothing that is asked after that; any other is taken."""
    ends = {one.token: one for one in attempts if one.kind == "revoke"}
    for one in attempts:
        if not one.token or not one.done or one.kind == "revoke":
            continue
        end, told = ends.get(one.token), f"{one.kind} ({one.method} {one.status})"
        if end and end.done and one.sent > end.done and one.status not in _NOT_SERVED:
            late = one.sent - end.done
            found.leaked.append(f"a {told} with a token revoked {late:.2f} s before")
        # A delete whose answer was lost is told as done where there is nothing, as for a stranger.
        absent = (404, 204) if one.method == "DELETE" else (404,)
        if one.kind == "trespass" and one.status not in _NOT_SERVED + absent:
            found.leaked.append(f"a {told} of {one.caller}'s on {one.path}")
        if one.status == 401 and not (end and end.sent < one.done):
            found.untrue.append(f"a {told} was refused for a good token")


def _paging(paged: list[str], table: set[str]) -> Iterator[str]:
    if len(set(paged)) != len(paged):
        yield f"paging showed {len(paged) - len(set(paged))} rows twice"
    if missing := table - set(paged):
        yield f"paging did not show {len(missing)} rows that SQL shows"
    if strange := set(paged) - table:
        yield f"paging showed {len(strange)} rows that SQL does not"
