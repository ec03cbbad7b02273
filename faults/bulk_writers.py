"""A writer that also sends requests for many rows: it creates, changes and appends with them.

Such a request must have an effect on all of its rows or on none. Each row has a marker of its own,
so the checks count each row.
"""

from faults.client import JSON, NDJSON
from faults.ledger import Attempt
from faults.writers import Writer

_MOST_ITEMS = 8  # of a request


class BulkWriter(Writer):
    """The work of one client thread: the operations of Writer, and those for many rows."""

    def create_many(self) -> Attempt:
        """Create several rows without a key, in one attempt."""
        return self._remember(
            self.client.create_many(
                self.new_marker(), self._choose_count(), content_type=self._choose_type()
            )
        )

    def create_many_keyed(self) -> Attempt:
        """Create several rows with one key; repeat the request until the outcome is known."""
        marker, count, content_type = self.new_marker(), self._choose_count(), self._choose_type()
        return self._repeat(
            lambda: self.client.create_many(marker, count, key=marker, content_type=content_type)
        )

    def change_many(self) -> Attempt | None:
        """Change several rows of this writer, which no other client changes.

        So the writer also knows the versions where the request does not contain them.
        """
        ids = self.random.sample(list(self.rows), min(self._choose_count(), len(self.rows)))
        if not ids:
            return None
        marker, items, content = self.new_marker(), [], []
        for n, row_id in enumerate(ids):
            etag, _ = self.rows.pop(row_id)
            item = {"operation": f"{marker}.{n}", "path": self._path(row_id), "if_match": etag}
            items.append(item)
            version = {"version": int(etag.strip('"'))} if self.random.random() < 0.5 else {}
            content.append({"id": row_id, self.resource.text_field: item["operation"]} | version)
        path = self.resource.path
        return self._remember(
            self.client.send("change", marker, "PATCH", path, content, items=items)
        )

    def append_many(self) -> Attempt:
        """Append a tag to each of several shared rows, only if all are as this writer read them."""
        count = min(self._choose_count(), len(self.shared_ids))
        marker, items, content = self.new_marker(), [], []
        for n, row_id in enumerate(self.random.sample(self.shared_ids, count)):
            read, tags = self._read_tags(marker, row_id)
            if tags is None:
                return read
            item = {"operation": f"{marker}.{n}", "path": read.path, "if_match": read.etag}
            items.append(item)
            fields = self.resource.tags_body([*tags, item["operation"]])
            content.append({"id": row_id, "version": read.version} | fields)
        path = self.resource.path
        return self.client.send("append", marker, "PATCH", path, content, items=items)

    def _choose_count(self) -> int:
        return self.random.randint(2, _MOST_ITEMS)

    def _choose_type(self) -> str:
        return self.random.choice([JSON, NDJSON])


MANY = {"create_many": 3, "create_many_keyed": 4, "change_many": 2, "append_many": 4}
MIXED = {
    "create": 20,
    "create_keyed": 30,
    "create_twice": 4,
    "append": 25,
    "change": 8,
    "delete": 5,
    "read": 10,
} | MANY
