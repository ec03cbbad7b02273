"""Rows 22 to 24: clients that go away, that are slow, that never stop sending."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from faults.abuse import JSON, OK, Range, Shot, beside, chunks, head, promise_undisturbed
from faults.client import PROJECTS
from faults.hostile import BODIES, CHUNKED
from faults.raw import CLOSED, SILENT, Answer, Line, held
from faults.rows import row
from faults.stage import Stage
from faults.workload import create_body

ROUNDS = 3
SLOW = 50  # of each kind
DROPPED = 12.5  # seconds after which no slow client is left: 12, and noise
FAT = 80  # projects of 15 KB: a list of them is more than the kernel takes off the service's hands
GIGABYTE = 2**30
PROMPT = 1.0  # seconds; it takes some milliseconds where nothing else runs
GROWTH = 16 * 2**20  # bytes of a worker


def _cut(method: str, path: str, kind: str) -> dict[str, bytes]:
    """The beginnings of a request, by what they are."""
    body = b'{@, "is_active": false}'
    whole = head(method, path, f"{kind}\r\nContent-Length: 90")
    parts = chunks(body, 9, b"")
    chunked = head(method, path, f"{kind}\r\n{CHUNKED}")
    return {
        "half a head": whole[: len(whole) // 2],
        "a head": whole,
        "half a body": whole + body,
        "a body less a byte": whole + body + b" " * 5,
        "half a chunked body": chunked + parts[: len(parts) // 2],
        "a chunked body without an end": chunked + parts,
    }
