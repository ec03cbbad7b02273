"""Whether the contenders answer what projectapp answers."""

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
WRONG: tuple[dict[str, Any], ...] = (
    {"name": ""},
    {"name": "n" * 201},
    {"name": None},
    {"name": 1},
    {"description": "d" * 1001},
    {"is_active": "yes"},
    {"attributes": []},
    {"color": "red"},
)
_EXTRA = {"next_cursor", "total_is_estimate"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def disagreements(urls: dict[str, str], project_id: str, lists: Sequence[str] = LISTS) -> list[str]:
    """What each service answers otherwise than "projectapp", one of the names of their base URLs.

    All serve one database, which has the project of that id and is changed by nobody else; each
    of them makes two projects there. Empty if they agree.
    """
    answers = {name: _reads(url, project_id, lists) for name, url in urls.items()}
    for name, url in urls.items():
        answers[name] |= _writes(url)
    return [
        f"{name}: {request}: {difference}"
        for name, found in answers.items()
        for request, wanted in answers["projectapp"].items()
        for difference in _differences(found[request], wanted)
    ]


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    ignored = _EXTRA | ({"total"} if wanted.get("total_is_estimate") else set())
    for member in sorted((found.keys() | wanted.keys()) - ignored):
        # As text, since Python has True == 1.0.
        is_, should = (
            json.dumps(answer[member], sort_keys=True, ensure_ascii=False)
            if member in answer
            else "missing"
            for answer in (found, wanted)
        )
        if is_ != should:
            yield f"{member} is {is_:.200}, not {should:.200}"


def _reads(url: str, project_id: str, lists: Sequence[str]) -> dict[str, Any]:
    paths = [f"/{project_id}", f"/{UUID(int=0)}", *lists]
    return {f"GET {path}": _send(url, "GET", path) for path in paths}


def _writes(url: str) -> dict[str, Any]:
    key = {"Idempotency-Key": str(uuid4())}
    made, first, again = (_send(url, "POST", "", NEW, headers) for headers in ({}, key, key))
    path = f"/{made.get('id')}"
    answers = {
        "POST": made,
        "POST with a key": first,
        "the same key again": again,
        "its answer": {"is the first": again == first},
        "POST of another body with the key": _send(url, "POST", "", {"name": "other"}, key),
        "PATCH of another version": _send(url, "PATCH", path, {"name": "x"}, {"If-Match": '"7"'}),
        "PATCH": _send(url, "PATCH", path, {"name": "새 이름"}, {"If-Match": '"1"'}),
        "the same PATCH again": _send(url, "PATCH", path, {"name": "y"}, {"If-Match": '"1"'}),
        "PATCH of nothing": _send(
            url, "PATCH", f"/{UUID(int=0)}", {"name": "x"}, {"If-Match": "*"}
        ),
        "GET after PATCH": _send(url, "GET", path),
    }
    for wrong in WRONG:
        answers[f"POST {wrong}"] = _send(url, "POST", "", {**NEW, **wrong})
    return {request: _anonymous(answer) for request, answer in answers.items()}


def _send(
    url: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The members of the answer's object, its status and headers; of an error the status alone."""
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
                **json.load(answer, parse_int=float),  # JavaScript has 1 for 1.0
            }
    except HTTPError as error:
        error.close()
        return {"status": error.code}


def _anonymous(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer about a new project without the ids and times, where those have their form."""
    moved = answer.get("updated_at") != answer.get("created_at")
    text = json.dumps({**answer, "has moved": moved})
    return json.loads(_UUID.sub("UUID", _TIME.sub("time", text)))
