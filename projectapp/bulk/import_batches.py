"""Reads the items of an import in batches, and validates them."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import click
from marshmallow import Schema, fields
from marshmallow.validate import Length

from projectapp.bulk.import_errors import ERROR_FIELDS, Rejection
from projectapp.bulk.import_source import ImportFile, SourceItem
from projectapp.bulk.items import Item, RawItem, load_items
from projectapp.http.fields import Integer, Timestamp
from projectapp.request_state import OWNER_LENGTH
from projectapp.resources.resource import Resource
from projectapp.resources.schemas import ResourceSchema

_MAX_VERSION = 2**30  # a row with the greatest integer could not be changed or deleted
_MAX_BATCH_ITEMS = 1000
_MAX_BATCH_CHARACTERS = 2**18  # bounds the memory, and the time of the statement


@dataclass
class Batch:
    """Consecutive items of the file. Each one is either valid or rejected.

    `first` is the number of items before them. `items` are the valid ones. The keys of `rejections`
    are places. `position_bytes` is where the file has been read.
    """

    first: int
    source_items: list[SourceItem]
    items: list[Item]
    position_bytes: int = 0
    rejections: dict[int, Rejection] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return self.first + len(self.source_items)

    def part(self, start: int, end: int) -> "Batch":
        """Return the items from number `start` to `end` of the file, as a batch."""
        source_items = self.source_items[start - self.first : end - self.first]
        places = {item.raw_item.place for item in source_items}
        items = [item for item in self.items if item.place in places]
        rejections = {p: rejection for p, rejection in self.rejections.items() if p in places}
        return Batch(start, source_items, items, self.position_bytes, rejections)

    def reject(self, rejections: dict[int, Rejection]) -> None:
        self.rejections |= rejections
        self.items = [item for item in self.items if item.place not in self.rejections]

    def rejected_items(self) -> Iterator[tuple[SourceItem, Rejection]]:
        """Yield the rejected items in the order of the file."""
        for item in self.source_items:
            rejection = self.rejections.get(item.raw_item.place)
            if rejection:
                yield item, rejection


def import_schema(
    resource: Resource, schema_class: type[ResourceSchema], keeps_read_only: bool
) -> Schema:
    """Return the schema of the items of a file.

    It has the parent's id of a child and, with `keeps_read_only`, the fields that the API sets.
    """
    added: dict[str, fields.Field[Any]] = {}
    if resource.parent_key:
        added[resource.parent_key] = fields.UUID(required=True)
    if keeps_read_only:
        added |= {
            "id": fields.UUID(required=True),
            "version": Integer(minimum=1, maximum=_MAX_VERSION),
            "created_at": Timestamp(),
            "updated_at": Timestamp(),
            "owner": fields.String(allow_none=True, validate=Length(1, OWNER_LENGTH)),
        }
    return schema_class.from_dict(added)()


class BatchReader:
    """Reads and validates the items of a file.

    `unknown_into` is the field that gets the members that are not fields, or None. `fixed_values`
    replace the values of each item. Raises a ClickException if the header row of a CSV file does
    not fit the schema.
    """

    def __init__(
        self,
        source: ImportFile,
        schema: Schema,
        unknown_into: str | None,
        fixed_values: Mapping[str, Any],
    ) -> None:
        self._source, self._schema, self._unknown_into = source, schema, unknown_into
        self._fixed_values = fixed_values
        self.ignored_names = frozenset(ERROR_FIELDS) - schema.fields.keys()
        target = schema.load_fields.get(unknown_into or "")
        if unknown_into and not isinstance(target, fields.Mapping):
            names = [n for n, f in schema.load_fields.items() if isinstance(f, fields.Mapping)]
            raise click.ClickException(
                f"--unknown-into must name a field that is a JSON object: {', '.join(names)}."
            )
        if source.format == "csv":
            self._check_columns()

    def _check_columns(self) -> None:
        """Check the header row, so that a wrong name is one error instead of one for each line."""
        source, schema = self._source, self._schema
        possible = f"The fields are {', '.join(schema.load_fields)}."
        for column, name in source.renamed.items():
            if column not in source.columns:
                raise click.ClickException(
                    f"--column: {source.name} has no column {column}. Its columns are"
                    f" {', '.join(source.columns)}."
                )
            if name not in schema.fields:
                raise click.ClickException(f"--column: there is no field {name}. {possible}")
        names = [source.renamed.get(column, column) for column in source.columns]
        known = {*schema.fields, *self.ignored_names}
        if not known & {*names}:
            raise click.ClickException(
                f"The first line of {source.name} must be a header with the names of fields."
                f' {possible} --column "NAME=FIELD" maps a column to a field.'
            )
        counts = Counter(names)  # a header can have 200 000 names
        for number, name in enumerate(names, 1):
            if not name:
                raise click.ClickException(f"Column {number} of {source.name} has no name.")
            if counts[name] > 1:
                raise click.ClickException(f"{source.name} has the column {name} twice.")
            if name not in known and not self._unknown_into:
                raise click.ClickException(
                    f"{source.name} has the unknown column {name}. {possible} --column"
                    f' "{name}=FIELD" maps it to a field; --unknown-into FIELD puts all unknown'
                    " columns into a field that is a JSON object."
                )
        for name, schema_field in schema.load_fields.items():
            if schema_field.required and name not in counts:
                raise click.ClickException(
                    f"{source.name} has no column {name}, which each row needs."
                )

    def read(self, first: int) -> Iterator[Batch]:
        """Yield the items after the first `first` ones of the file, in batches."""
        source_items: list[SourceItem] = []
        characters = 0
        for number, source_item in enumerate(self._source.items(self._schema)):
            if number < first:
                continue
            source_items.append(source_item)
            characters += len(source_item.text)
            if len(source_items) == _MAX_BATCH_ITEMS or characters >= _MAX_BATCH_CHARACTERS:
                yield self._validate(first, source_items)
                first, source_items, characters = number + 1, [], 0
        if source_items:
            yield self._validate(first, source_items)
        self._source.require_same_state()

    def _validate(self, first: int, source_items: list[SourceItem]) -> Batch:
        self._source.require_same_state()
        raw_items = map(self._fit, (item.raw_item for item in source_items))
        items, errors = load_items(self._schema, raw_items)
        for item in items:
            item.values.update(self._fixed_values)
        batch = Batch(first, source_items, items, self._source.position_bytes)
        batch.reject(_rejections(errors))
        return batch

    def _fit(self, raw_item: RawItem) -> RawItem:
        """Return an item without the ERROR_FIELDS; unknown members move into `unknown_into`."""
        value, target = raw_item.value, self._unknown_into
        if not isinstance(value, dict):
            return raw_item
        ignored = self.ignored_names & value.keys()
        unknown = value.keys() - self._schema.fields.keys() - ignored if target else set()
        if not ignored and not unknown:
            return raw_item
        rest = {n: v for n, v in value.items() if n not in ignored and n not in unknown}
        exact = raw_item.exact
        if unknown and target:
            members = rest.get(target) or {}
            if not isinstance(members, dict):
                return raw_item  # the schema reports it
            if clash := members.keys() & unknown:
                name = min(clash)
                error = f"{target} has a member {name}, too."
                return raw_item._replace(value=None, error=error, field=name)
            moved = {name: item for name, item in value.items() if name in unknown}
            rest[target] = {**members, **moved}
            if exact:
                own = exact.get(target) or json.dumps(members, ensure_ascii=False)
                texts = {
                    n: exact.get(n) or json.dumps(v, ensure_ascii=False) for n, v in moved.items()
                }
                exact = {**exact, target: _add_members(own, texts)}
        return raw_item._replace(value=rest, exact=exact)


def _add_members(json_object: str, texts: dict[str, str]) -> str:
    """Add members, given as JSON texts, to the JSON text of an object."""
    own = json_object.strip()[1:-1].strip()
    members = [own] if own else []
    members += [f"{json.dumps(name, ensure_ascii=False)}: {text}" for name, text in texts.items()]
    return "{" + ", ".join(members) + "}"


def _rejections(errors: dict[str, list[str]]) -> dict[int, Rejection]:
    """Return the errors of `load_items` as one Rejection for each item."""
    by_place: dict[int, dict[str, str]] = {}
    for name, messages in errors.items():
        place, _, field_name = name.partition(".")
        by_place.setdefault(int(place), {})[field_name] = " ".join(messages)
    return {place: join_rejection(texts) for place, texts in by_place.items()}


def join_rejection(reasons: dict[str, str]) -> Rejection:
    """Return the reasons of an item's fields as one Rejection."""
    if len(reasons) == 1:
        return Rejection(*next(iter(reasons.items())))
    texts = (f"{name}: {reason}" for name, reason in reasons.items())
    return Rejection(", ".join(reasons), " ".join(texts))
