"""Compare the ledger with the table in PostgreSQL and with the list that the API shows."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from faults.client import Client
from faults.ledger import Attempt, group_by_operation, operation_outcome
from faults.stored import StoredRow

_NOT_SERVED = (None, 401, 503)
_RETRIES = 40  # of a create whose outcome is unknown, at least a quarter of a second apart


@dataclass
class Findings:
    """What is wrong, as sentences."""

    acknowledged: int = 0  # writes
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)  # in the responses and the table
    unauthorized: list[str] = field(default_factory=list)  # served without permission
    history: list[str] = field(default_factory=list)  # is incomplete, or names the wrong caller
    feed: list[str] = field(default_factory=list)  # a change is missing, repeated or out of order
    partial: list[str] = field(
        default_factory=list
    )  # requests with an effect on a part of the rows
    exports: list[str] = field(default_factory=list)  # a complete export has too few or old rows

    def merge(self, other: "Findings") -> None:
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.contradictions += other.contradictions
        self.unauthorized += other.unauthorized


def list_ids(client: Client) -> list[str]:
    """Return the ids of all rows that the API lists for the client's caller, page by page."""
    ids: list[str] = []
    cursor = ""
    while True:
        query = f"?page_size=100&fields={client.resource.title_field}"
        query += f"&cursor={quote(cursor)}" if cursor else ""
        page = client.send("walk", "final", "GET", client.resource.path + query)
        if page.outcome != "ok":
            raise RuntimeError(f"the last walk failed: {page.status} {page.exception}")
        ids += [row["id"] for row in client.body["items"]]
        cursor = client.body["next_cursor"]
        if cursor is None:
            return ids


def settle_creates(attempts: Iterable[Attempt], clients: Mapping[str | None, Client]) -> None:
    """Repeat each keyed create whose outcome is unknown; `clients` are by their callers' names."""
    for tries in group_by_operation(attempts).values():
        if tries[0].kind == "create" and tries[0].key and operation_outcome(tries) == "info":
            for _ in range(_RETRIES):
                attempt = _repeat_create(clients[tries[0].caller], tries[0])
                if attempt.outcome == "ok" or attempt.status == 422:
                    break
                time.sleep(max(attempt.retry_after_seconds, 0.25))


def _repeat_create(client: Client, first: Attempt) -> Attempt:
    if not first.items:
        return client.create(first.operation, key=first.key)
    return client.create_many(first.operation, len(first.items), first.key, first.content_type)


def check(
    attempts: list[Attempt],
    table: Mapping[str, StoredRow],
    listed_ids: Mapping[str | None, Iterable[str]],
) -> Findings:
    """Compare the attempts with the table, and the table with the ids that each caller sees.

    `attempts` are those of single rows, as `split_items` returns them.
    """
    findings = Findings(sum(attempt.is_acknowledged_write for attempt in attempts))
    writes = group_by_operation(attempt for attempt in attempts if attempt.is_write)
    changes: dict[str, list[Attempt]] = defaultdict(list)  # by the row's id
    for tries in writes.values():
        if tries[0].kind != "create":
            changes[tries[0].path.rpartition("/")[2]].append(tries[-1])
    _check_creates(writes, changes, table, findings)
    for row_id, row_changes in changes.items():
        findings.merge(_check_changes(row_id, row_changes, table.get(row_id)))
    findings.contradictions += _find_unknown_rows(writes, table)
    findings.contradictions += [sentence for a in attempts for sentence in a.violations]
    _check_tokens(attempts, findings)
    for caller, ids in listed_ids.items():
        own = {row_id for row_id, row in table.items() if row.owner == caller}
        findings.contradictions += _check_list(list(ids), own)
    return findings


def _check_creates(
    writes: Mapping[str, list[Attempt]],
    changes: Mapping[str, list[Attempt]],
    table: Mapping[str, StoredRow],
    findings: Findings,
) -> None:
    """Check that acknowledged creates exist once, refused ones do not, and no row exists twice."""
    copies = Counter(row.title for row in table.values())
    for marker, tries in writes.items():
        if tries[0].kind != "create":
            continue
        # A lost row is reported below; then a later attempt may have created another row.
        ids = {
            attempt.id
            for attempt in tries
            if attempt.outcome == "ok" and (attempt.id in table or attempt.id in changes)
        }
        if copies[marker] > 1:
            findings.duplicated.append(f"{marker} is stored {copies[marker]} times")
        elif len(ids) > 1:
            findings.duplicated.append(f"{marker} was acknowledged with two ids")
        elif sum(attempt.outcome == "ok" and not attempt.is_replay for attempt in tries) > 1:
            findings.contradictions.append(f"{marker} was acknowledged as new twice")
        if operation_outcome(tries) == "fail" and copies[marker]:
            sentence = f"{marker} was refused ({tries[-1].status}) and is stored"
            findings.contradictions.append(sentence)
        for attempt in tries:
            deletes = [c for c in changes.get(attempt.id or "", []) if c.kind == "delete"]
            if attempt.outcome != "ok" or any(delete.outcome != "fail" for delete in deletes):
                continue
            row = table.get(attempt.id or "")
            if row is None and any(delete.status == 503 for delete in deletes):
                sentence = f"a delete of {attempt.id} was refused (503) and the row is gone"
                findings.contradictions.append(sentence)
            elif row is None:
                findings.lost.append(f"the create {marker} was acknowledged as {attempt.id}")
            elif row.title != marker or attempt.etag != '"1"':
                sentence = f"{marker} was acknowledged as {attempt.id} {attempt.etag}"
                findings.contradictions.append(sentence)


def _check_changes(row_id: str, changes: list[Attempt], row: StoredRow | None) -> Findings:
    """Check that versions increase, that one change made each, and that the last is stored."""
    findings = Findings()
    acknowledged_changes = [a for a in changes if a.outcome == "ok" and a.kind != "delete"]
    unknown = {attempt.operation for attempt in changes if attempt.outcome == "info"}
    for etag, count in Counter(attempt.if_match for attempt in acknowledged_changes).items():
        if count > 1:
            sentence = f"{row_id}: {count} changes of version {etag} were acknowledged"
            findings.contradictions.append(sentence)
    for attempt in acknowledged_changes:
        if attempt.version != int((attempt.if_match or "").strip('"')) + 1:
            sentence = f"{row_id}: a change of {attempt.if_match} made {attempt.etag}"
            findings.contradictions.append(sentence)
    if row is None:
        return findings  # _check_creates decides whether it may be gone
    if any(attempt.kind == "delete" and attempt.outcome == "ok" for attempt in changes):
        findings.lost.append(f"the delete of {row_id} was acknowledged and the row exists")
    last = max(acknowledged_changes, key=lambda attempt: attempt.version, default=None)
    version, marker = (last.version, last.operation) if last else (1, row.title)
    if row.version < version:
        sentence = f"{row_id} has version {row.version}; {version} was acknowledged"
        findings.lost.append(sentence)
    if row.tags is not None:
        findings.merge(_check_tags(row_id, row.tags, acknowledged_changes, unknown, row.version))
        return findings
    possible_markers = unknown if row.version > version else {marker}
    if row.version >= version and row.text not in possible_markers:
        sentence = f"{row_id}, version {row.version}, contains {row.text}, not {marker}"
        findings.contradictions.append(sentence)
    if row.version > version + len(unknown):
        sentence = f"{row_id} has version {row.version}, more than there were changes"
        findings.contradictions.append(sentence)
    return findings


def _check_tags(
    row_id: str, tags: list[str], appends: list[Attempt], unknown: set[str], version: int
) -> Findings:
    """Check that the append that made version v wrote tag number v - 1. No other tag may exist.

    This also checks the order: an append that began after another had ended has a higher version.
    """
    findings = Findings()
    if len(tags) != version - 1:
        findings.contradictions.append(f"{row_id} has version {version} and {len(tags)} tags")
    for tag, count in Counter(tags).items():
        if count > 1:
            findings.duplicated.append(f"{row_id} has the tag {tag} {count} times")
    for attempt in appends:
        if tags[attempt.version - 2 : attempt.version - 1] != [attempt.operation]:
            sentence = f"the tag {attempt.operation} of version {attempt.version} of {row_id}"
            findings.lost.append(sentence)
    for tag in sorted(set(tags) - {attempt.operation for attempt in appends} - unknown):
        sentence = f"{row_id} has the tag {tag}, and its append was refused"
        findings.contradictions.append(sentence)
    return findings


def _find_unknown_rows(
    writes: Mapping[str, list[Attempt]], table: Mapping[str, StoredRow]
) -> Iterator[str]:
    for row_id, row in table.items():
        if row.title not in writes:
            yield f"{row_id} has the title {row.title}, which no client sent"
        elif row.owner != writes[row.title][0].caller:
            sender = writes[row.title][0].caller
            yield f"{row_id} belongs to {row.owner}, and {sender} sent {row.title}"


def _check_tokens(attempts: list[Attempt], findings: Findings) -> None:
    """Check that no request with a revoked token was served, and that good tokens were accepted."""
    revocations = {attempt.token: attempt for attempt in attempts if attempt.kind == "revoke"}
    for attempt in attempts:
        if not attempt.token or not attempt.done_at or attempt.kind == "revoke":
            continue
        revocation = revocations.get(attempt.token)
        request = f"{attempt.kind} ({attempt.method} {attempt.status})"
        is_served = attempt.status not in _NOT_SERVED
        if revocation and revocation.done_at and attempt.sent_at > revocation.done_at and is_served:
            age = attempt.sent_at - revocation.done_at
            findings.unauthorized.append(f"a {request} with a token revoked {age:.2f} s before")
        # The service repeats a delete whose answer was lost, and returns 204 if the row is gone.
        is_absent = attempt.status == 404 or (attempt.method == "DELETE" and attempt.status == 204)
        if attempt.kind == "trespass" and is_served and not is_absent:
            findings.unauthorized.append(f"a {request} of {attempt.caller} on {attempt.path}")
        if attempt.status == 401 and not (revocation and revocation.sent_at < attempt.done_at):
            findings.contradictions.append(f"a {request} although the token was good")


def _check_list(listed_ids: list[str], stored_ids: set[str]) -> Iterator[str]:
    if len(set(listed_ids)) != len(listed_ids):
        yield f"the pages show {len(listed_ids) - len(set(listed_ids))} rows twice"
    if missing := stored_ids - set(listed_ids):
        yield f"the pages do not show {len(missing)} rows that SQL shows"
    if additional := set(listed_ids) - stored_ids:
        yield f"the pages show {len(additional)} rows that SQL does not show"
