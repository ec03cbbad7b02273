"""Check that the competitors give the same answers as projectapp."""

import json
import re
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from uuid import UUID, uuid4

PROJECTS = "/api/v1/projects"
LISTS = (
    "?page_size=10",
    "?page_size=100",
    "?page=5000&page_size=10",
    "?is_active=false&page_size=10",
    "?q=번역&page_size=10",
    "?q=_%&page_size=10",
)
NEW = {
    "name": "번역 Translation",
    "description": "100 %_",
    "is_active": False,
    "attributes": {"team": "core", "tags": ["web", 1.5, None]},
}
INVALID: tuple[dict[str, Any], ...] = (
    {"name": ""},
    {"name": "n" * 201},
    {"name": None},
    {"name": 1},
    {"description": "d" * 1001},
    {"is_active": "yes"},
    {"attributes": []},
    {"color": "red"},
)
_ONLY_PROJECTAPP = {"next_cursor", "total_is_estimate"}  # members of a list
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def find_differences(
    urls: dict[str, str], project_id: str, lists: Sequence[str] = LISTS
) -> list[str]:
    """Return the differences between the service named "projectapp" and the others, as sentences.

    `urls` are the services' base URLs. They share a database, which contains this project, and
    which nothing else changes. Each service creates two projects.
    """
    answers = {name: _send_reads(url, project_id, lists) for name, url in urls.items()}
    for name, url in urls.items():
        answers[name] |= _send_writes(url)
    return [
        f"{name}: {request}: {difference}"
        for name, actual in answers.items()
        for request, expected in answers["projectapp"].items()
        for difference in _compare(actual[request], expected)
    ]


def _compare(actual: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    ignored = _ONLY_PROJECTAPP | ({"total"} if expected.get("total_is_estimate") else set())
    for member in sorted((actual.keys() | expected.keys()) - ignored):
        # As text, because True == 1.0 in Python.
        actual_text, expected_text = (
            json.dumps(answer[member], sort_keys=True, ensure_ascii=False)
            if member in answer
            else "missing"
            for answer in (actual, expected)
        )
        if actual_text != expected_text:
            yield f"{member} is {actual_text:.200}, not {expected_text:.200}"


def _send_reads(url: str, project_id: str, lists: Sequence[str]) -> dict[str, Any]:
    paths = [f"/{project_id}", f"/{UUID(int=0)}", *lists]
    return {f"GET {path}": _send(url, "GET", path) for path in paths}


def _send_writes(url: str) -> dict[str, Any]:
    key = {"Idempotency-Key": str(uuid4())}
    created, first, again = (_send(url, "POST", "", NEW, headers) for headers in ({}, key, key))
    path = f"/{created.get('id')}"
    answers = {
        "POST": created,
        "POST with a key": first,
        "the same key again": again,
        "its answer": {"is the first one": again == first},
        "POST of another body with the key": _send(url, "POST", "", {"name": "other"}, key),
        "PATCH of another version": _send(url, "PATCH", path, {"name": "x"}, {"If-Match": '"7"'}),
        "PATCH": _send(url, "PATCH", path, {"name": "새 이름"}, {"If-Match": '"1"'}),
        "the same PATCH again": _send(url, "PATCH", path, {"name": "y"}, {"If-Match": '"1"'}),
        "PATCH of an unknown id": _send(
            url, "PATCH", f"/{UUID(int=0)}", {"name": "x"}, {"If-Match": "*"}
        ),
        "GET after PATCH": _send(url, "GET", path),
    }
    for invalid in INVALID:
        answers[f"POST {invalid}"] = _send(url, "POST", "", {**NEW, **invalid})
    return {request: _hide_ids_and_times(answer) for request, answer in answers.items()}


def _send(
    url: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the answer's JSON members, status and headers; for an error only the status."""
    target = url + PROJECTS + quote(path, safe="/?=&")
    data = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(target, data, sent, method=method)  # noqa: S310 - http
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - http
            return {
                "status": answer.status,
                "type": answer.headers.get_content_type(),
                **{name: answer.headers[name] for name in ("ETag", "Location")},
                **json.load(answer, parse_int=float),  # JavaScript writes 1 for 1.0
            }
    except HTTPError as error:
        error.close()
        return {"status": error.code}


def _hide_ids_and_times(answer: dict[str, Any]) -> dict[str, Any]:
    """Replace well-formed ids and times, which differ between the services."""
    is_updated = answer.get("updated_at") != answer.get("created_at")
    text = json.dumps({**answer, "is updated": is_updated})
    return json.loads(_UUID.sub("UUID", _TIME.sub("time", text)))
