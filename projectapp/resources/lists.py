"""Finds a page of any resource: filters, a search, a sort, a cursor.

The statements are built once per combination of parameters and cached.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from operator import eq, ge, gt, le, lt
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.operators import nulls_first_op

from projectapp import auth, database
from projectapp.database.statements import CompiledStatement, compile_select
from projectapp.resources.cursors import Position
from projectapp.resources.page_statement import (
    Page,
    page_from_row,
    page_statement,
    start_parameters,
)
from projectapp.resources.resource import Resource
from projectapp.resources.search import (
    search_filter,
    search_parameters,
    search_rank,
    search_segments,
)
from projectapp.resources.subqueries import Filter, ListSpec, Start

RANGES: dict[str, Callable[[Any, Any], Any]] = {"gte": ge, "gt": gt, "lte": le, "lt": lt}

_LARGE_OFFSET = 1000  # rows; skipping more is cheaper by their keys alone


def find_page(
    resource: Resource,
    filters: Mapping[str, Any],
    sort: Sequence[str],
    fields: Collection[str],
    count_mode: str,
    page_size: int,
    start: int | Position,
) -> Page:
    """Return the page of the rows that match all `filters`, from an offset or a position on.

    The name of a filter is the name of a column, which must equal the value or, for JSON, contain
    it. A suffix such as `_gte` makes it a range. The filter `of_owner` is for the column `owner`,
    and `q` is a search. `sort` has sort keys of the resource, with "-" for descending. Without
    `sort`, the best matches of a search come first, or without a search the newest rows. Each row
    has these `fields`, in the resource's order.
    `count_mode` is one of COUNT_MODES. Raises InvalidCursor for a position of another list.
    """
    is_restricted = auth.visible_owner(resource.name) is not None
    has_all_fields = len(fields) == len(resource.fields)
    shape = resource, frozenset(filters), tuple(sort), is_restricted
    offset = 0 if isinstance(start, Position) else start
    values = {**filter_values(filters), "page_size": page_size, "offset": offset}
    if not has_all_fields:
        values["fields"] = list(fields)
    list_start = None
    if isinstance(start, Position):
        list_start, start_values = start_parameters(list_spec(*shape), start)
        values |= start_values
    statement = _page(*shape, has_all_fields, count_mode, list_start, offset > _LARGE_OFFSET)
    return page_from_row(database.execute(statement, values), values, count_mode, list_start)


@lru_cache(maxsize=256)  # about 14 KiB each
def _page(
    resource: Resource,
    filter_names: frozenset[str],
    sort: tuple[str, ...],
    is_restricted: bool,
    has_all_fields: bool,
    count_mode: str,
    start: Start | None,
    skips_many: bool,
) -> CompiledStatement:
    spec = list_spec(resource, filter_names, sort, is_restricted)
    render_json = resource.as_json if has_all_fields else resource.selected_as_json
    statement = page_statement(spec, render_json, count_mode, start, skips_many)
    if not skips_many:
        statement = plan_once_if_plain(resource, spec, filter_names, statement)
    return compile_select(statement)


def filter_values(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the parameters that the conditions of these filters have."""
    values = dict(filters)
    return values | search_parameters(values.pop("q")) if "q" in values else values


def plan_once_if_plain(
    resource: Resource, spec: ListSpec, filter_names: frozenset[str], statement: sa.Select[Any]
) -> sa.Select[Any]:
    """Mark a statement that reads a page of a list in the order of an index, with any values."""
    if not _is_plain(spec, filter_names):
        return statement
    # One plan for each state, which may be rare, and only for callers who see all rows.
    planned_values: dict[str, Any] = dict.fromkeys(filter_names, (False, True))
    planned_values[auth.owner_parameter(resource.name)] = (None,)
    return database.plan_once(statement, planned_values)


def _is_plain(spec: ListSpec, filter_names: frozenset[str]) -> bool:
    """Whether an index has each page as consecutive rows, for all values of the filters."""
    are_states = all(
        name in spec.table.c and isinstance(spec.table.c[name].type, sa.Boolean)
        for name in filter_names
    )
    return are_states and all(filter_.follows_order for filter_ in spec.filters)


@lru_cache(maxsize=256)
def list_spec(
    resource: Resource, filter_names: frozenset[str], sort: tuple[str, ...], is_restricted: bool
) -> ListSpec:
    """Return the list with these filters; `find_page` explains them and the sort.

    `is_restricted` says whether the caller sees only rows of one owner.
    """
    table = resource.table
    sort_keys = [(key.removeprefix("-"), key.startswith("-")) for key in sort or ["-created_at"]]
    id_key = ("id", sort_keys[-1][1])  # in the last key's direction, so that one index serves both
    # All rows have the same value of a key for which there is a filter.
    keys = [*(key for key in sort_keys if key[0] not in filter_names), id_key]
    is_ranked = "q" in filter_names and not sort
    segments: Sequence[Filter] = search_segments(table) if is_ranked else ()
    state = ""  # the first key if it is a boolean: rows with the same value are one segment
    if _is_boolean(table.c[keys[0][0]]):
        state, descends = keys.pop(0)
        segments = _state_filters(state)[:: 1 if descends else -1]
    equal_columns = {state, *filter_names} & {*table.c.keys()}
    if is_restricted or "of_owner" in filter_names:
        equal_columns.add("owner")
    index = _best_index(resource, equal_columns, state, keys[0][0])
    # A list whose sort begins with a state has both of its values, too.
    split_column = index.split_column or (state if state in index.served_columns else None)
    # All rows of one parent have one owner, so the caller sees all of them or none.
    is_visible_served = not {"owner", resource.parent_key}.isdisjoint(index.served_columns)
    filters = [Filter(resource.is_visible, not is_restricted or is_visible_served)]
    if resource.parent and resource.parent_key in filter_names:
        parent = sa.exists().where(resource.parent.is_row(resource.parent_key))
        filters.append(Filter(lambda c: parent, follows_order=True))
    filters += (_filter(resource, name, index.served_columns) for name in sorted(filter_names))
    if index.nulls_first and split_column and not all(f.follows_order for f in filters):
        # Before PostgreSQL 18, an index of the owner finds a range of a key only if there is also a
        # condition for the column before the key.
        filters.append(Filter(lambda c: c[split_column].in_([sa.true(), sa.false()])))
    has_range = any(name.rpartition("_")[0] == keys[0][0] for name in filter_names)
    return ListSpec(
        table=table,
        columns=[*resource.fields, *(["search"] if "q" in filter_names else [])],
        filters=filters,
        segments=segments,
        segment_number=search_rank if is_ranked else None,
        keys=keys,
        parts=_state_filters(split_column) if split_column else (),
        consecutive_by=None if has_range else split_column,
        nulls_first=index.nulls_first,
        is_restricted=is_restricted,
    )


class _ListIndex(NamedTuple):
    """An index in the order of a list. It also serves filters of the `served_columns`.

    The `split_column` is a boolean column before the list's keys that has both values in the list.
    So the index has the rows with each value in order, but not all rows.
    """

    served_columns: frozenset[str | None]
    split_column: str | None = None
    nulls_first: bool = False


def _best_index(
    resource: Resource, equal_columns: set[str], state: str, first_key: str
) -> _ListIndex:
    """Return the best index of a list whose order begins with `first_key`.

    Before `first_key` it has only `equal_columns`, which have one value in each segment, and at
    most one `split_column`. An index with the parent's id is better than all others. Then come
    indexes with the `state` of the segments, with the owner, with NULLS FIRST, without a
    `split_column`, and with the most columns.
    """
    table = resource.table
    candidates = [_ListIndex(frozenset({first_key}))]
    for index in table.indexes:
        names, nulls_first = _index_order(index)
        if first_key in names and index.dialect_options["postgresql"]["using"] in (False, "btree"):
            leading = {*names[: names.index(first_key)]}
            others = [*(leading - equal_columns)]
            if not others or (len(others) == 1 and _is_boolean(table.c.get(str(others[0])))):
                served_columns = frozenset({*leading, first_key})
                split_column = others[0] if others else None
                candidates.append(_ListIndex(served_columns, split_column, nulls_first))

    def rank(index: _ListIndex) -> tuple[bool, bool, bool, bool, bool, int]:
        columns = index.served_columns
        beginnings = resource.parent_key in columns, state in columns, "owner" in columns
        return *beginnings, index.nulls_first, not index.split_column, len(columns)

    return max(candidates, key=rank)


def _index_order(index: sa.Index) -> tuple[list[str | None], bool]:
    """Return the names of an index's columns, and whether its last one has NULLS FIRST.

    An expression has no name, or that of its function.
    """
    names, modifier = [], None
    expressions: list[Any] = [*index.expressions]
    for expression in expressions:
        modifier = getattr(expression, "modifier", None)
        column = expression.element if modifier is nulls_first_op else expression
        names.append(getattr(column, "name", None))
    return names, modifier is nulls_first_op


def _is_boolean(column: sa.Column[Any] | None) -> bool:
    return column is not None and isinstance(column.type, sa.Boolean) and not column.nullable


def _filter(resource: Resource, name: str, served_columns: Collection[str | None]) -> Filter:
    """Return the filter of a parameter of `find_page`."""
    if name == "q":
        return search_filter(resource.table)
    column_name, compare = name, eq
    stem, _, suffix = name.rpartition("_")
    if name == "of_owner":
        column_name = "owner"
    elif name not in resource.table.c:
        column_name, compare = stem, RANGES[suffix]
    type_ = resource.table.c[column_name].type
    value = sa.bindparam(name, type_=type_)
    if isinstance(type_, JSONB):
        return Filter(lambda c: c[column_name].contains(value))
    return Filter(lambda c: compare(c[column_name], value), column_name in served_columns)


def _state_filters(column_name: str) -> list[Filter]:
    """Return the filters for true and for false in a boolean column that is never null."""
    return [
        Filter(lambda c: c[column_name], follows_order=True),
        Filter(lambda c: sa.not_(c[column_name]), follows_order=True),
    ]
