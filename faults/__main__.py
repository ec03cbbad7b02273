"""Run the fault scenarios and print a table of the results."""

import argparse
import itertools
import random
import sys
import time
from pathlib import Path

from faults import (  # noqa: F401 - these modules add their scenarios to SCENARIOS
    export_faults,
    hostile_requests,
    import_faults,
    locks,
    network_faults,
    postgres_crashes,
    process_kills,
    process_pauses,
    replication,
    slow_clients,
    token_revocation,
)
from faults.cluster import make_template
from faults.mutation_check import check_mutations
from faults.resource import load_resource, resource_names
from faults.result import HEADER, Result
from faults.runner import Options, run_scenario, temporary_directory
from faults.scenarios import SCENARIOS, Scenario

SMOKE = {1, 5, 9, 22, 28}
LOAD_SECONDS, SHORT_LOAD_SECONDS = 15.0, 8.0


def main() -> int:
    arguments = _parse_arguments()
    options = Options(
        load_resource(arguments.resource), arguments.seconds, arguments.seed, arguments.keep
    )
    scenarios = [scenario for scenario in SCENARIOS if scenario.number in arguments.scenarios]
    start = time.monotonic()
    with temporary_directory(options.keep) as folder:
        template = make_template(folder)
        if arguments.mutations:
            numbers = itertools.count()

            def run(scenario: Scenario) -> Result:
                return run_scenario(scenario, template, folder / f"run{next(numbers)}", options)

            return not check_mutations(run)
        scenarios.sort(key=lambda scenario: scenario.number)
        results = _run_all(scenarios, template, folder, options)
    failed = sum(bool(result.failures) for result in results)
    acknowledged = sum(result.findings.acknowledged for result in results)
    print(
        f"\n{len(results)} scenarios with {options.resource.name}, {failed} failed,"
        f" {acknowledged} acknowledged writes, seed {options.seed},"
        f" {time.monotonic() - start:.0f} s"
    )
    return int(failed > 0)


def _run_all(
    scenarios: list[Scenario], template: Path, folder: Path, options: Options
) -> list[Result]:
    results = []
    print(HEADER, flush=True)
    for number, scenario in enumerate(scenarios):
        results.append(run_scenario(scenario, template, folder / f"run{number}", options))
        print(results[-1].table_row(), flush=True)
    for result in results:
        sentences = [*result.failures, *(f"(note) {note}" for note in result.notes)]
        if sentences:
            print(f"\nScenario {result.scenario.number}, {result.scenario.title}:\n")
            print("\n".join(f"- {sentence}" for sentence in sentences))
    return results


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    numbers = {scenario.number for scenario in SCENARIOS}
    parser.add_argument(
        "--scenarios", type=_parse_numbers, default=numbers, help="such as 1,5,9; default: all"
    )
    parser.add_argument("--smoke", action="store_true", help="run a few scenarios in 2 minutes")
    parser.add_argument(
        "--mutations", action="store_true", help="check that the scenarios detect deliberate bugs"
    )
    parser.add_argument(
        "--resource", default="projects", choices=resource_names(), help="default: %(default)s"
    )
    parser.add_argument("--seconds", type=float, help="how long the load of a scenario lasts")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311
    parser.add_argument("--keep", action="store_true", help="keep logs, ledgers and data")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.scenarios = SMOKE
    if not arguments.scenarios & numbers:
        parser.error("--scenarios needs at least one of " + ", ".join(map(str, sorted(numbers))))
    is_short = arguments.smoke or arguments.mutations
    arguments.seconds = arguments.seconds or (SHORT_LOAD_SECONDS if is_short else LOAD_SECONDS)
    return arguments


def _parse_numbers(text: str) -> set[int]:
    return {int(number) for number in text.split(",") if number.isdigit()}


if __name__ == "__main__":
    sys.exit(main())
