"""The result of a scenario: check the ledger and all responses, and make a row of the table."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Event

from faults.bulk_checker import check_atomicity, check_export
from faults.checker import Findings, check, list_ids, settle_creates
from faults.client import Client
from faults.environment import Environment
from faults.feed_checker import check_feed, check_history
from faults.feed_readers import FeedReader
from faults.feed_records import FeedRecord, read_record
from faults.ledger import Attempt, split_items
from faults.scenarios import Scenario
from faults.stored import read_history, read_table

# The longest times of a response while the database fails, in seconds.
ANY_RESPONSE_SECONDS = 8.5
HEALTH_SECONDS = 0.5  # /health has a thread of its own
OTHER_PROBE_SECONDS = 3.1  # 404, 405 and 415 wait for a thread
RECOVERY_SECONDS = 2.0  # after the recovery; then writes must succeed again
HEADER = (
    "| scenario | fault | count | acknowledged | lost | duplicated | 5xx not 503 | 503s"
    " | slowest s | recovery s | result |\n|" + "---|" * 11
)


@dataclass
class Result:
    """The result of one scenario; it has passed if there are no `failures`."""

    scenario: Scenario
    fault_count: int = 0
    findings: Findings = field(default_factory=Findings)
    server_errors: int = 0  # 5xx other than 501, 503 and 505
    unavailable: int = 0  # 503
    slowest_seconds: float = 0.0
    recovery_seconds: float | None = None
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skip_reason: str = ""

    def table_row(self) -> str:
        number, title, findings = self.scenario.number, self.scenario.title, self.findings
        if self.skip_reason:
            return f"| {number} | {title} |" + " |" * 8 + f" {self.skip_reason} |"
        recovery = "" if self.recovery_seconds is None else f"{self.recovery_seconds:.2f}"
        cells = [number, title, self.fault_count, findings.acknowledged, len(findings.lost)]
        cells += [len(findings.duplicated), self.server_errors, self.unavailable]
        cells += [f"{self.slowest_seconds:.2f}", recovery]
        cells += ["FAILED" if self.failures else "passed"]
        return "| " + " | ".join(map(str, cells)) + " |"


def evaluate(env: Environment) -> Result:
    """Wait until the service is ready, read all rows, and compare them with the ledger."""
    scenario = env.scenario
    result = Result(scenario, env.fault_count, failures=env.failures, notes=env.notes)
    env.wait_until_ready()
    clients = {caller.name: env.new_client(caller) for caller in env.callers}
    settle_creates(env.read_attempts(), clients)
    listed_ids = {name: list_ids(client) for name, client in clients.items()}
    records = _finish_readers(env, clients)
    requests = env.read_attempts()
    attempts = split_items(requests)
    table, history = (read(env.cluster, env.resource) for read in (read_table, read_history))
    findings = result.findings = check(attempts, table, listed_ids)
    findings.history += check_history(attempts, table, history, scenario.has_older_release)
    findings.partial += check_atomicity(requests, history)
    exports = {attempt.operation: attempt for attempt in requests if attempt.kind == "export"}
    for record in records:
        problems = check_feed(record, attempts, table, history, scenario.ends_cursors)
        findings.feed += (f"{record.name}: {problem}" for problem in problems)
        if export := exports.get(record.name):
            problems = check_export(record, export, attempts)
            findings.exports += (f"{record.name}: {problem}" for problem in problems)
    _check_responses(result, requests, env.noise_seconds)
    result.recovery_seconds = _check_recovery(env, requests)
    if env.noise_seconds > 1:
        env.notes.append(f"the machine is busy: {env.noise_seconds:.1f} s are added to all limits")
    may_lose = scenario.data_loss != "forbidden"
    (env.notes if may_lose else env.failures).extend(
        _summarize("acknowledged and lost", findings.lost)
        + _summarize("contradiction", findings.contradictions)
        + _summarize("history", findings.history)
    )
    # No cursor shows that a PostgreSQL without durability has lost changes.
    feed_may_lose = scenario.data_loss == "required" and not scenario.ends_cursors
    (env.notes if feed_may_lose else env.failures).extend(_summarize("feed", findings.feed))
    env.failures += _summarize("duplicated", findings.duplicated)
    env.failures += _summarize("unauthorized", findings.unauthorized)
    env.failures += _summarize("partly applied", findings.partial)
    env.failures += _summarize("export", findings.exports)
    if scenario.data_loss == "required" and not findings.lost:
        env.failures.append("void: no write was lost, so this ledger would not detect a loss")
    if result.fault_count == 0:
        env.failures.append("void: the fault did not happen")
    if findings.acknowledged < scenario.minimum_writes:
        env.failures.append(f"void: only {findings.acknowledged} writes were acknowledged")
    return result


def _finish_readers(env: Environment, clients: Mapping[str | None, Client]) -> list[FeedRecord]:
    """Let the readers of the feed go on until they have all changes; return their records.

    An export is the beginning of such a record.
    """
    paths = sorted([*env.ledgers.glob("*.feed"), *env.ledgers.glob("*.export")])
    for path in paths:
        record, is_export = read_record(path), path.suffix == ".export"
        failure = f"void: {record.name} received no change during the load"
        env.check(record.has_changes or is_export, failure)
        FeedReader(clients[record.caller], path, Event()).follow_to_end()
    return [read_record(path) for path in paths]


def _check_responses(result: Result, attempts: list[Attempt], noise_seconds: float) -> None:
    """Check the statuses of all responses; if the database failed, also their times."""
    allowed = (501, 503, 505)  # 501 and 505 are about the request, not about a failure
    errors = [a for a in attempts if (a.status or 0) >= 500 and a.status not in allowed]
    result.server_errors = len(errors)
    result.unavailable = sum(attempt.status == 503 for attempt in attempts)
    result.slowest_seconds = max((a.duration_seconds for a in attempts), default=0.0)
    counts = Counter(f"{a.status} for {a.method} {a.kind}" for a in errors)
    sentences = [f"{text}: {count}" for text, count in counts.items()]
    result.failures += _summarize("5xx other than 503", sentences)
    if not result.scenario.is_database_fault:
        return
    if result.slowest_seconds > ANY_RESPONSE_SECONDS + noise_seconds:
        result.failures.append(f"a response took {result.slowest_seconds:.1f} s")
    probes = [attempt for attempt in attempts if attempt.kind == "probe" and attempt.done_at]
    limits = {True: HEALTH_SECONDS + noise_seconds, False: OTHER_PROBE_SECONDS + noise_seconds}
    late = [a for a in probes if a.duration_seconds > limits[a.path == "/health"]]
    if len(late) > max(2, len(probes) // 50):  # a few late ones are the machine's noise
        examples = ", ".join(f"{a.path} {a.duration_seconds:.1f} s" for a in late[:4])
        result.failures.append(f"{len(late)} of {len(probes)} probes were late: {examples}")


def _check_recovery(env: Environment, attempts: list[Attempt]) -> float | None:
    """Return the seconds from the recovery to the first acknowledged write sent after it."""
    if env.recovered_at is None:
        return None
    writes = [a for a in attempts if a.is_write and a.sent_at >= env.recovered_at]
    first = min((a.done_at for a in writes if a.outcome == "ok"), default=None)
    seconds = first - env.recovered_at if first else None
    limit = RECOVERY_SECONDS + env.noise_seconds
    env.check(seconds is not None and seconds <= limit, f"no write within {limit:.1f} s")
    late = [a for a in writes if a.sent_at > env.recovered_at + limit]
    failed = [a for a in late if a.outcome != "ok" and (a.status or 503) >= 500]
    env.check(not failed, f"{len(failed)} writes failed later than {limit:.1f} s after recovery")
    return seconds


def _summarize(heading: str, sentences: list[str], limit: int = 4) -> list[str]:
    """Return one sentence with the first few of many; none if there are none."""
    if not sentences:
        return []
    return [f"{heading}, {len(sentences)}: " + "; ".join(sentences[:limit])]
