"""Conditional requests (RFC 9110, 13): a row's version is its strong ETag."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flask import Response, request

from projectapp.problems import BadRequest

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")


@dataclass(frozen=True)
class Versions:
    """The versions that are `listed` or, if `is_complement`, all but those."""

    listed: list[int]
    is_complement: bool = False

    def __contains__(self, version: object) -> bool:
        return (version in self.listed) != self.is_complement


WRITE_CONDITION_HEADERS = ("If-Match", "If-None-Match")
NO_VERSION = Versions([])


def format_etag(version: int) -> str:
    return f'"{version}"'


def allowed_versions() -> Versions | None:
    """The versions that a write may change; None when any will do. BadRequest if it is malformed.

    If-Match and If-None-Match must both let a version pass (RFC 9110, 13.2.2). The first compares
    strongly, so weak tags, like tags that were never ours, match nothing; the second weakly.
    """
    wanted, unwanted = _tags("If-Match"), _tags("If-None-Match")
    if unwanted == "*":
        return NO_VERSION
    excluded = _versions(tag.removeprefix("W/") for tag in unwanted or ())
    if wanted is None or wanted == "*":
        return Versions(excluded, is_complement=True) if excluded else None
    return Versions([version for version in _versions(wanted) if version not in excluded])


def not_modified_response(version: int) -> Response | None:
    """The 304 to send if If-None-Match names this version (compared weakly), else None."""
    tags = _tags("If-None-Match")
    if tags is None or (
        tags != "*" and format_etag(version) not in (t.removeprefix("W/") for t in tags)
    ):
        return None
    return Response(status=304, headers={"ETag": format_etag(version)})


def _versions(tags: Iterable[str]) -> list[int]:
    own = [re.fullmatch(r'"([1-9][0-9]{0,9})"', tag) for tag in tags]
    return [version for match in own if match and (version := int(match[1])) < 2**31]


def _tags(header: str) -> Sequence[str] | None:
    value = request.headers.get(header)
    if value is None or value.strip() == "*":
        return value and "*"
    if not _LIST.fullmatch(value):
        raise BadRequest(f'{header} must be * or a list of entity tags such as "1".')
    return re.findall(_TAG, value)
