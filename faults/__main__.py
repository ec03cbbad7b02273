"""Run the fault matrix and print it as a table: `python -m faults --help`."""

import argparse
import itertools
import random
import sys
import time
from pathlib import Path

from faults import callers, contention, crashes, hostile, kills, lines, pauses, slow, topology  # noqa: F401 - their rows
from faults.cluster import make_template
from faults.playing import play, workshop
from faults.proof import prove
from faults.rows import ROWS, Row
from faults.verdict import HEADER, Verdict

SMOKE = {1, 5, 9, 22, 28}
SECONDS, SMOKE_SECONDS = 15.0, 8.0


def main() -> int:
    given = _arguments()
    rows = sorted((row for row in ROWS if row.number in given.rows), key=lambda row: row.number)
    begun = time.monotonic()
    with workshop(given.keep) as home:
        template = make_template(home)
        if given.seeded:
            number = itertools.count()
            return not prove(lambda row: play(row, template, home / f"row{next(number)}", given))
        verdicts = _play_all(rows, template, home, given)
    bad = sum(bool(verdict.broken) for verdict in verdicts)
    acked = sum(verdict.findings.acknowledged for verdict in verdicts)
    print(
        f"\n{len(verdicts)} rows, {bad} broken, {acked} acknowledged writes, seed {given.seed},"
        f" {time.monotonic() - begun:.0f} s"
    )
    return int(bad > 0)


def _play_all(
    rows: list[Row], template: Path, home: Path, given: argparse.Namespace
) -> list[Verdict]:
    verdicts = []
    print(HEADER, flush=True)
    for number, row in enumerate(rows):
        verdicts.append(play(row, template, home / f"row{number}", given))
        print(verdicts[-1].line(), flush=True)
    for verdict in verdicts:
        said = [*verdict.broken, *(f"(remark) {remark}" for remark in verdict.remarks)]
        if said:
            print(f"\nRow {verdict.row.number}, {verdict.row.title}:\n")
            print("\n".join(f"- {sentence}" for sentence in said))
    return verdicts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    numbers = {row.number for row in ROWS}
    parser.add_argument("--rows", default=numbers, help="such as 1,5,9; all by default")
    parser.add_argument("--smoke", action="store_true", help="a few rows in 100 seconds")
    parser.add_argument("--seeded", action="store_true", help="prove that planted bugs are caught")
    parser.add_argument("--seconds", type=float, help="of load for a row")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311
    parser.add_argument("--keep", action="store_true", help="keep logs, ledgers and data")
    given = parser.parse_args()
    if isinstance(given.rows, str):
        given.rows = {int(number) for number in given.rows.split(",") if number.isdigit()}
    if given.smoke:
        given.rows = SMOKE
    if not given.rows & numbers:
        parser.error("--rows must name some of " + ", ".join(map(str, sorted(numbers))))
    given.seconds = given.seconds or (SMOKE_SECONDS if given.smoke or given.seeded else SECONDS)
    return given


if __name__ == "__main__":
    sys.exit(main())
