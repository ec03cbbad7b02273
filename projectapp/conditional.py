"""Conditional requests (RFC 9110, 13): a row's version is its strong ETag."""

import re
from collections.abc import Sequence

from flask import Response, request

from projectapp.errors import BadRequest

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")


def etag(version: int) -> str:
    return f'"{version}"'


def expected_versions() -> list[int] | None:
    """The versions that If-Match lets pass; None when any will do. BadRequest if it is malformed.

    The comparison is strong, so weak tags, like tags that were never ours, match nothing.
    """
    tags = _tags("If-Match")
    if tags is None or tags == "*":
        return None
    own = [re.fullmatch(r'"([1-9][0-9]{0,9})"', tag) for tag in tags]
    return [version for match in own if match and (version := int(match[1])) < 2**31]


def not_modified(version: int) -> Response | None:
    """The 304 to send if If-None-Match names this version (compared weakly), else None."""
    tags = _tags("If-None-Match")
    if tags is None or (tags != "*" and etag(version) not in (t.removeprefix("W/") for t in tags)):
        return None
    return Response(status=304, headers={"ETag": etag(version)})


def _tags(header: str) -> Sequence[str] | None:
    value = request.headers.get(header)
    if value is None or value.strip() == "*":
        return value and "*"
    if not _LIST.fullmatch(value):
        raise BadRequest(f'{header} must be * or a list of entity tags such as "1".')
    return re.findall(_TAG, value)
