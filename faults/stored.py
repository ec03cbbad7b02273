"""What PostgreSQL has stored: the rows of a resource and their history."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from faults.cluster import Cluster
from faults.resource import Resource

_HISTORY = """
SELECT row_id::text, version, operation, owner, caller, credential, request_id
FROM changes WHERE resource = %s ORDER BY seq
"""


class StoredRow(NamedTuple):
    """A row; `tags` is None if the row is not for tags."""

    title: str
    text: str
    tags: list[str] | None
    version: int
    owner: str | None

    @property
    def digest(self) -> str:
        """A short text that differs for rows that differ."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:16]


class StoredChange(NamedTuple):
    """A change of a row, as the table `changes` shows it. `version` is the one after the change."""

    id: str
    version: int
    operation: str
    owner: str | None
    caller: str | None
    credential: str
    request_id: str | None


def make_row(resource: Resource, fields: Mapping[str, Any]) -> StoredRow:
    """Make a row from the fields of a response, or from the columns of the table."""
    title, text = fields[resource.title_field], fields[resource.text_field]
    return StoredRow(title, text, resource.read_tags(fields), fields["version"], fields["owner"])


def read_table(cluster: Cluster, resource: Resource) -> dict[str, StoredRow]:
    """Return all rows by id, read directly from PostgreSQL."""
    names = ["version", "owner", resource.title_field, resource.text_field]
    names += [resource.json_field] if resource.json_field else []
    rows = cluster.sql(f"SELECT id::text, {', '.join(names)} FROM {resource.name}")  # noqa: S608
    return {row_id: make_row(resource, dict(zip(names, row, strict=True))) for row_id, *row in rows}


def read_history(cluster: Cluster, resource: Resource) -> dict[str, list[StoredChange]]:
    """Return the changes of each row by its id, the oldest first, read directly from PostgreSQL."""
    changes: dict[str, list[StoredChange]] = {}
    for values in cluster.sql(_HISTORY, resource.name):
        change = StoredChange(*values)
        changes.setdefault(change.id, []).append(change)
    return changes
