"""The result of one check."""

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Finding:
    """`level` is OK, WARN or FAIL, and `check` is the name of the check.

    `summary` is what was found. For a problem, `reason` is its cause or its consequence, and
    `remedy` is what to type or to do.
    """

    level: str
    check: str
    summary: str
    reason: str = ""
    remedy: str = ""
