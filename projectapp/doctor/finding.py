"""What the doctor has to say about one thing."""

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Finding:
    """`level` is OK, WARN or FAIL; `what` is so, `why` it matters, and what to `do` or type."""

    level: str
    check: str
    what: str
    why: str = ""
    do: str = ""
