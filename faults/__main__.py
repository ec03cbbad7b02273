"""Run the fault matrix and print it as a table: `python -m faults --help`."""

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from faults import contention, crashes, hostile, kills, lines, pauses, slow, topology  # noqa: F401 - their rows
from faults.cluster import make_template
from faults.processes import NeverReady
from faults.proof import prove
from faults.rows import ROWS, Row
from faults.stage import Stage
from faults.verdict import HEADER, Verdict, judge

SMOKE = {1, 5, 9, 22, 28}
SECONDS, SMOKE_SECONDS = 15.0, 8.0
LONGEST = 300  # seconds that a row may take, whatever it waits for


def main() -> int:
    given = _arguments()
    rows = sorted((row for row in ROWS if row.number in given.rows), key=lambda row: row.number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))  # so that everything is ended
    signal.signal(signal.SIGALRM, _too_long)
    home = Path(tempfile.mkdtemp(prefix="faults-"))
    begun = time.monotonic()
    try:
        template = make_template(home)
        if given.seeded:
            number = itertools.count()
            return not prove(lambda row: _play(row, template, home / f"row{next(number)}", given))
        verdicts = _play_all(rows, template, home, given)
    finally:
        if given.keep:
            print(f"\nKept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
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
        verdicts.append(_play(row, template, home / f"row{number}", given))
        print(verdicts[-1].line(), flush=True)
    for verdict in verdicts:
        said = [*verdict.broken, *(f"(remark) {remark}" for remark in verdict.remarks)]
        if said:
            print(f"\nRow {verdict.row.number}, {verdict.row.title}:\n")
            print("\n".join(f"- {sentence}" for sentence in said))
    return verdicts


def _play(row: Row, template: Path, folder: Path, given: argparse.Namespace) -> Verdict:
    """Play one row; what goes wrong in the playing breaks that row and no other."""
    if reason := row.skip():
        return Verdict(row, skipped=reason)
    folder.mkdir()
    signal.alarm(LONGEST)
    try:
        with Stage(row, template, folder, given.seconds, given.seed) as stage:
            row.play(stage)
            return judge(stage)
    except Exception as error:
        return Verdict(row, broken=[_told(error)])
    finally:
        signal.alarm(0)
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _too_long(*_: object) -> None:
    raise NeverReady(f"not within {LONGEST} s")  # and no OSError, which a client would take


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"the row did not end: {type(error).__name__}: {text[-400:]}"


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
