"""What came of a row: the ledger checked, the answers judged, one line of the table."""

from collections import Counter
from dataclasses import dataclass, field

from faults.checker import Findings, check, listed, settle, stored
from faults.ledger import Attempt
from faults.rows import Row
from faults.stage import Stage

LONGEST = 8.5  # seconds that an answer may take under a database fault
HEALTH = 0.5  # seconds that /health may take, which has a thread of its own
OTHER = 3.1  # seconds that 404, 405, 415 may: they wait for threads that wait for the database
RECOVERY = 2.0  # seconds after the healing within which writes succeed again
HEADER = (
    "| row | fault | fired | acked | lost | doubled | 5xx not 503 | 503s | slowest s"
    " | recovery s | verdict |\n|" + "---|" * 11
)


@dataclass
class Verdict:
    """One row's result; it is good when nothing is `broken`."""

    row: Row
    fired: int = 0
    findings: Findings = field(default_factory=Findings)
    errors: int = 0
    unavailable: int = 0
    slowest: float = 0.0
    recovery: float | None = None
    broken: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    skipped: str = ""

    def line(self) -> str:
        """The row of the markdown table."""
        if self.skipped:
            return f"| {self.row.number} | {self.row.title} |" + " |" * 8 + f" {self.skipped} |"
        recovery = "" if self.recovery is None else f"{self.recovery:.2f}"
        found = self.findings
        cells = [self.row.number, self.row.title, self.fired, found.acknowledged, len(found.lost)]
        cells += [len(found.doubled), self.errors, self.unavailable, f"{self.slowest:.2f}"]
        cells += [recovery, "BROKEN" if self.broken else "kept"]
        return "| " + " | ".join(map(str, cells)) + " |"


def judge(stage: Stage) -> Verdict:
    """Wait until the service is well again, read everything, and hold it against the ledger."""
    row, verdict = stage.row, Verdict(stage.row, stage.fired, remarks=stage.remarks)
    stage.wait_until_ready()
    clients = {caller.name: stage.client(caller) for caller in stage.callers}
    settle(stage.attempts(), clients)
    paged = {name: listed(client) for name, client in clients.items()}
    attempts = stage.attempts()
    found = verdict.findings = check(attempts, stored(stage.cluster), paged)
    _answers(verdict, attempts, stage.noise)
    verdict.recovery = _recovery(stage, attempts)
    broken = verdict.broken
    broken += stage.broken
    if stage.noise > 1:
        stage.remarks.append(f"the machine is busy: all may be late by {stage.noise:.1f} s")
    told = broken if row.loss == "never" else verdict.remarks
    told += _some("acknowledged and lost", found.lost) + _some("untrue", found.untrue)
    broken += _some("doubled", found.doubled) + _some("served to a stranger", found.leaked)
    if row.loss == "must" and not found.lost:
        broken.append("void: nothing was lost, so this ledger would see no loss")
    if verdict.fired == 0:
        broken.append("void: the fault did not fire")
    if found.acknowledged < row.least:
        broken.append(f"void: {found.acknowledged} acknowledged writes are too few")
    return verdict


def _answers(verdict: Verdict, attempts: list[Attempt], noise: float) -> None:
    """What no answer may be, and how long it may take."""
    known = (501, 503, 505)  # 501 and 505 are said of a message, not of a failure
    strange = [one for one in attempts if (one.status or 0) >= 500 and one.status not in known]
    verdict.errors = len(strange)
    verdict.unavailable = sum(one.status == 503 for one in attempts)
    verdict.slowest = max((one.seconds for one in attempts), default=0.0)
    told = Counter(f"{one.status} for {one.method} {one.kind}" for one in strange)
    verdict.broken += _some("no 5xx but 503", [f"{text}: {n}" for text, n in told.items()])
    if verdict.row.database:
        probes = [one for one in attempts if one.kind == "probe" and one.done]
        most = {True: HEALTH + noise, False: OTHER + noise}
        late = [one for one in probes if one.seconds > most[one.path == "/health"]]
        if verdict.slowest > LONGEST + noise:
            verdict.broken.append(f"an answer took {verdict.slowest:.1f} s")
        if len(late) > max(2, len(probes) // 50):  # the machine's own noise
            told = ", ".join(f"{one.path} {one.seconds:.1f} s" for one in late[:4])
            verdict.broken.append(f"{len(late)} of {len(probes)} probes were late: {told}")


def _recovery(stage: Stage, attempts: list[Attempt]) -> float | None:
    """Seconds from the healing to the first acknowledged write that was sent after it."""
    if stage.healed_at is None:
        return None
    since = [one for one in attempts if one.is_write and one.sent >= stage.healed_at]
    first = min((one.done for one in since if one.outcome == "ok"), default=None)
    seconds = first - stage.healed_at if first else None
    most = RECOVERY + stage.noise
    stage.promise(seconds is not None and seconds <= most, f"no write within {most:.1f} s")
    late = [one for one in since if one.outcome != "ok" and (one.status or 503) >= 500]
    late = [one for one in late if one.sent > stage.healed_at + most]
    stage.promise(not late, f"{len(late)} failures of writes sent {most:.1f} s after the healing")
    return seconds


def _some(what: str, sentences: list[str], most: int = 4) -> list[str]:
    """The first few sentences under one heading, and how many there are."""
    if not sentences:
        return []
    return [f"{what}, {len(sentences)}: " + "; ".join(sentences[:most])]
