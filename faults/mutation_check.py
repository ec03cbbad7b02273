"""Check the scenarios themselves: they detect each mutation, and nothing without a mutation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from faults import mutations
from faults.export_faults import interrupt_exports
from faults.hostile_requests import send_deep_json, send_repeated_names
from faults.import_faults import interrupt_import
from faults.locks import change_one_row, commit_in_another_order
from faults.network_faults import lose_answers
from faults.postgres_crashes import NO_DURABILITY, stop_immediately
from faults.process_kills import kill_workers
from faults.result import Result
from faults.scenarios import SCENARIOS, Run, Scenario
from faults.token_revocation import revoke_tokens

LOST, DUPLICATED, CONTRADICTION = "acknowledged and lost", "duplicated", "contradiction"
UNAUTHORIZED, SERVER_ERROR = "unauthorized", "5xx other than 503"
FEED, HISTORY, PARTIAL, EXPORT = "feed", "history", "partly applied", "export"
HEADER = "| mutation | scenario | detected by | result |\n|---|---|---|---|"
_LONGEST_CELL = 160  # characters


@dataclass(frozen=True)
class MutationCheck:
    """A mutation, a scenario that must detect it, and how the sentences of its failures begin.

    Without a mutation the scenario must not report any of these failures.
    """

    run: Run  # the scenario's function
    expected: tuple[str, ...] = ()
    mutation: Callable[[], None] | None = None
    postgres_settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        if self.mutation:
            return self.mutation.__name__.replace("_", " ")
        settings = (f"{name}={value}" for name, value in self.postgres_settings.items())
        return ", ".join(settings) or "none"

    @property
    def scenario(self) -> Scenario:
        (scenario,) = (scenario for scenario in SCENARIOS if scenario.run is self.run)
        settings = {**scenario.postgres_settings, **self.postgres_settings}
        name = self.mutation.__name__ if self.mutation else ""
        return replace(scenario, mutation=name, postgres_settings=settings)

    def evaluate(self, result: Result) -> tuple[bool, str]:
        """Return whether the result is right, and a row of the table."""
        prefixes = self.expected or _FALSE_ALARMS
        detected = [failure for failure in result.failures if failure.startswith(prefixes)]
        is_right = bool(detected) == bool(self.expected)
        words = ("MISSED", "detected") if self.expected else ("FALSE ALARM", "clean")
        failure = (detected or result.failures or ["nothing"])[0].replace("|", "/")
        cells = [self.title, str(result.scenario.number), failure[:_LONGEST_CELL], words[is_right]]
        return is_right, f"| {' | '.join(cells)} |"


_CHECKS = [
    MutationCheck(kill_workers, (LOST,), mutations.acknowledge_before_commit),
    MutationCheck(stop_immediately, (LOST,), mutations.acknowledge_before_commit),
    MutationCheck(lose_answers, (DUPLICATED,), mutations.ignore_idempotency_key),
    MutationCheck(lose_answers, (DUPLICATED,), mutations.retry_lost_create_with_new_id),
    MutationCheck(lose_answers, (CONTRADICTION,), mutations.report_lost_write_as_refused),
    MutationCheck(change_one_row, (CONTRADICTION, LOST), mutations.ignore_if_match),
    MutationCheck(send_deep_json, (SERVER_ERROR,), mutations.parse_json_like_python),
    MutationCheck(send_repeated_names, ("a name twice",), mutations.parse_json_like_python),
    MutationCheck(revoke_tokens, (UNAUTHORIZED,), mutations.skip_token_check),
    MutationCheck(revoke_tokens, (UNAUTHORIZED,), mutations.show_rows_of_all_owners),
    MutationCheck(commit_in_another_order, (FEED,), mutations.forget_running_transactions),
    MutationCheck(commit_in_another_order, (HISTORY,), mutations.send_caller_of_previous_write),
    MutationCheck(kill_workers, (PARTIAL,), mutations.create_many_in_parts),
    MutationCheck(lose_answers, (PARTIAL,), mutations.change_many_in_parts),
    MutationCheck(interrupt_import, (DUPLICATED,), mutations.import_batches_without_claim),
    MutationCheck(interrupt_exports, (EXPORT,), mutations.skip_equal_times_in_exports),
    MutationCheck(interrupt_exports, (EXPORT,), mutations.end_exports_after_errors),
    MutationCheck(stop_immediately, (LOST,), postgres_settings=NO_DURABILITY),
]
# Failures that must not appear without a mutation. Slow responses are not among them: the machine
# may be busy, and the full run checks times.
_FALSE_ALARMS = (
    "void",
    "the scenario did not end",
    *(prefix for check in _CHECKS for prefix in check.expected),
)
_WITHOUT_MUTATION = [MutationCheck(run) for run in dict.fromkeys(check.run for check in _CHECKS)]


def check_mutations(run_scenario: Callable[[Scenario], Result]) -> bool:
    """Run all checks and print a table; return whether all results are right."""
    print(HEADER, flush=True)
    are_right = []
    for check in [*_WITHOUT_MUTATION, *_CHECKS]:
        is_right, row = check.evaluate(run_scenario(check.scenario))
        are_right.append(is_right)
        print(row, flush=True)
    print(
        f"\n{len(_CHECKS)} mutations, {len(_WITHOUT_MUTATION)} scenarios without one,"
        f" {are_right.count(False)} wrong results"
    )
    return all(are_right)
