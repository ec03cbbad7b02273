"""Conditional requests (RFC 9110, 13): the ETag of a row is its version, as a strong tag."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from projectapp.http.application import Response
from projectapp.problems import BadRequest
from projectapp.request_state import current_request

_ETAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_ETAG_LIST = re.compile(rf"[ \t,]*{_ETAG}(?:[ \t]*,[ \t,]*{_ETAG})*[ \t,]*")


@dataclass(frozen=True)
class Versions:
    """A set of versions: the `listed` ones or, if `is_complement`, all others."""

    listed: list[int]
    is_complement: bool = False

    def __contains__(self, version: object) -> bool:
        return (version in self.listed) != self.is_complement


WRITE_CONDITION_HEADERS = ("If-Match", "If-None-Match")
NO_VERSION = Versions([])


def format_etag(version: int) -> str:
    return f'"{version}"'


def allowed_versions() -> Versions | None:
    """Return the versions that a write may change; None means any version.

    If-Match and If-None-Match must both allow a version (RFC 9110, 13.2.2). In If-Match a weak ETag
    matches nothing; in If-None-Match it matches like a strong one. An ETag that is not a version
    matches nothing. Raises BadRequest if a header is malformed.
    """
    if_match, if_none_match = _read_etags("If-Match"), _read_etags("If-None-Match")
    if if_none_match == "*":
        return NO_VERSION
    excluded = _parse_versions(etag.removeprefix("W/") for etag in if_none_match or ())
    if if_match is None or if_match == "*":
        return Versions(excluded, is_complement=True) if excluded else None
    return Versions([v for v in _parse_versions(if_match) if v not in excluded])


def not_modified_response(version: int) -> Response | None:
    """Return a 304 if If-None-Match contains this version, else None. Weak ETags match, too."""
    etags, current = _read_etags("If-None-Match"), format_etag(version)
    if etags is None or (etags != "*" and current not in (e.removeprefix("W/") for e in etags)):
        return None
    return Response(status=304, headers={"ETag": current})


def _parse_versions(etags: Iterable[str]) -> list[int]:
    matches = (re.fullmatch(r'"([1-9][0-9]{0,9})"', etag) for etag in etags)
    return [v for match in matches if match and (v := int(match[1])) < 2**31]  # type integer


def _read_etags(header: str) -> Sequence[str] | None:
    """Return the ETags of a header, "*", or None if the request does not have the header."""
    value = current_request().headers.get(header)
    if value is None:
        return None
    if value.strip() == "*":
        return "*"
    if not _ETAG_LIST.fullmatch(value):
        raise BadRequest(f'{header} must be * or a comma-separated list of ETags, such as "1".')
    return re.findall(_ETAG, value)
