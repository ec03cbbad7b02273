"""The harness is held against bugs that were planted: each must be caught, and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from faults.callers import revoke
from faults.contention import storm
from faults.crashes import FORGETFUL, stop_at_once
from faults.hostile import nest, repeat_names
from faults.kills import kill_workers
from faults.lines import lose_answers
from faults.rows import ROWS, Play, Row
from faults.verdict import Verdict

LOST, DOUBLED, UNTRUE = "acknowledged and lost", "doubled", "untrue"
LEAKED = "served to a stranger"
HEADER = "| bug | row | caught by | verdict |\n|---|---|---|---|"
_LONGEST = 160  # characters of a promise in the table


@dataclass(frozen=True)
class Planted:
    """A bug, the row that must catch it, and how the promises that it breaks begin."""

    title: str
    play: Play
    promises: tuple[str, ...] = ()
    bug: str = ""  # of bugs.BUGS
    postgres: Mapping[str, str] = field(default_factory=dict)

    @property
    def row(self) -> Row:
        (row,) = (row for row in ROWS if row.play is self.play)
        return replace(row, bug=self.bug, postgres={**row.postgres, **self.postgres})

    def line(self, verdict: Verdict) -> tuple[bool, str]:
        """Whether the row said what it should, and the line that tells."""
        caught = [one for one in verdict.broken if one.startswith(self.promises or _FALSE)]
        good = bool(caught) == bool(self.promises)
        words = ("MISSED", "caught") if self.promises else ("FALSE ALARM", "clean")
        said = (caught or verdict.broken or ["nothing"])[0].replace("|", "/")[:_LONGEST]
        return good, f"| {self.title} | {verdict.row.number} | {said} | {words[good]} |"


_BUGS = [
    Planted("201 before the commit", kill_workers, (LOST,), "early"),
    Planted("201 before the commit", stop_at_once, (LOST,), "early"),
    Planted("Idempotency-Key is ignored", kill_workers, (DOUBLED,), "keyless"),
    Planted("Idempotency-Key is ignored", lose_answers, (DOUBLED,), "keyless"),
    Planted("a lost create made again under a new id", lose_answers, (DOUBLED,), "renamed"),
    Planted("a lost write called refused", lose_answers, (UNTRUE,), "denied"),
    Planted("If-Match is not checked", storm, (UNTRUE, LOST), "careless"),
    Planted("JSON as Python takes it", nest, ("no 5xx but 503",), "gullible"),
    Planted("JSON as Python takes it", repeat_names, ("a name twice",), "gullible"),
    Planted("a remembered token is not checked", revoke, (LEAKED,), "trusting"),
    Planted("everybody sees everybody's rows", revoke, (LEAKED,), "communal"),
    Planted("synchronous_commit=off", stop_at_once, (LOST,), postgres=FORGETFUL),
]
# Without a bug a row must say none of these. How long it took, on a machine that others use as
# well, is the matrix's question and not this one's.
_FALSE = ("void", "the row did not end", *(said for bug in _BUGS for said in bug.promises))
_CLEAN = [Planted("none", play) for play in dict.fromkeys(bug.play for bug in _BUGS)]


def prove(play: Callable[[Row], Verdict]) -> bool:
    """Play all of it and print a table; whether each bug was caught, and nothing without one."""
    print(HEADER, flush=True)
    results = []
    for planted in [*_CLEAN, *_BUGS]:
        good, line = planted.line(play(planted.row))
        results.append(good)
        print(line, flush=True)
    print(f"\n{len(_BUGS)} bugs, {len(_CLEAN)} rows without one, {results.count(False)} wrong")
    return all(results)
