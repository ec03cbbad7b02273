"""The result of one check."""

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Finding:
    level: str  # OK, WARN or FAIL
    check: str  # the subject of the check, such as tls
    summary: str
    reason: str = ""  # of a problem: its cause or its consequence
    remedy: str = ""  # of a problem: what to type or to do
