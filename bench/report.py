"""Print the results of runs of suite.py as tables, and draw the chart; see README.md.

A run is a JSON file: {delay in ms: {workload: {competitor: [measurement of a round, ...]}}}.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from chart import draw
from workers import ROOT

RUNS = ROOT / "instance/bench"
OWN = "projectapp"
WORKLOADS = {
    "one": "reading one",
    "ten": "ten and a total",
    "hundred": "a hundred and a total",
    "filtered": "ten archived",
    "deep": "page 5000",
    "search": "a search for two syllables",
    "create": "creating",
    "keyed": "creating with a key",
    "change": "changing with If-Match",
}


class Measurement(NamedTuple):
    """Requests a second, and the CPU time of a request in us: of the service and of PostgreSQL."""

    rate: float
    service_us: float
    postgres_us: float

    @property
    def us(self) -> float:
        return self.service_us + self.postgres_us


Rounds = Mapping[str, Mapping[str, Sequence[Measurement]]]  # by workload and competitor


def save(run: Mapping[str, Rounds], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run))


def load(path: Path) -> dict[str, Rounds]:
    return {
        delay: {
            workload: {name: [Measurement(*m) for m in rounds] for name, rounds in by_name.items()}
            for workload, by_name in by_workload.items()
        }
        for delay, by_workload in json.loads(path.read_text()).items()
    }


def ratios(
    own: Sequence[Measurement], others: Sequence[Measurement], value: Callable[[Measurement], float]
) -> list[float]:
    """Return the ratio of each round: a round measures all competitors."""
    return [value(a) / value(b) for a, b in zip(own, others, strict=True)]


def print_report(runs: Sequence[Mapping[str, Rounds]]) -> None:
    for delay in runs[0]:
        same_delay = [run[delay] for run in runs if delay in run]
        distance = f"{delay} ms a packet" if float(delay) else "the database is on this machine"
        print(f"\nRequests a second, and the ratios of projectapp's to the others' ({distance}):\n")
        print_table(same_delay, "a second", lambda m: m.rate, "to")
        print("\nCPU time of a request, service + PostgreSQL, and its ratios to the others':\n")
        print_table(same_delay, "us", lambda m: m.us, "of")


def print_table(
    runs: Sequence[Rounds], unit: str, value: Callable[[Measurement], float], preposition: str
) -> None:
    """Print a row for each workload.

    A ratio is the median of the runs, or of the rounds of a single run; in parentheses their range.
    """
    first = next(iter(runs[0].values()))
    others = [name for name in first if name != OWN and all(map(value, first[name]))]
    print_row("request", f"projectapp, {unit}", *(f"{preposition} {name}" for name in others))
    print_row(*["---"] * (2 + len(others)))
    for workload in runs[0]:
        by_run = [run[workload] for run in runs]
        values = [statistics.median(map(value, by_name[OWN])) for by_name in by_run]
        cells = [f"{statistics.median(values):.0f}"]
        if unit == "us":
            service = statistics.median(m.service_us for r in by_run for m in r[OWN])
            postgres = statistics.median(m.postgres_us for r in by_run for m in r[OWN])
            cells = [f"{service:.0f} + {postgres:.0f}"]
        for name in others:
            by_round = [ratios(by_name[OWN], by_name[name], value) for by_name in by_run]
            samples = [*map(statistics.median, by_round)] if len(runs) > 1 else by_round[0]
            spread = f"({min(samples):.2f}..{max(samples):.2f})"
            cells.append(f"{statistics.median(samples):.2f} {spread}")
        print_row(WORKLOADS[workload], *cells)


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="default: all in instance/bench")
    parser.add_argument("--chart", action="store_true", help="draw docs/benchmarks.svg")
    options = parser.parse_args()
    runs = [load(path) for path in options.runs or sorted(RUNS.glob("*.json"))]
    print_report(runs)
    if options.chart:
        rates = {
            workload: {
                name: [statistics.median(m.rate for m in run["0"][workload][name]) for run in runs]
                for name in by_name
            }
            for workload, by_name in runs[0]["0"].items()
        }
        draw(ROOT / "docs/benchmarks.svg", rates, WORKLOADS)


if __name__ == "__main__":
    main()
