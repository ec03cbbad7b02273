"""Plays a row in a folder of its own and within its time; what goes wrong breaks the row alone."""

import shutil
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import config
from faults.processes import NeverReady
from faults.rows import Row
from faults.stage import Stage
from faults.verdict import Verdict, judge

LONGEST = 600  # seconds that a row may take, whatever it waits for


@contextmanager
def workshop(keep: bool) -> Iterator[Path]:
    """A temporary folder; unless `keep`, it goes when the block ends, also if a signal ends it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))  # so that everything is ended
    signal.signal(signal.SIGALRM, _too_long)
    home = Path(tempfile.mkdtemp(prefix="faults-")).resolve()
    try:
        yield home
    finally:
        if keep:
            print(f"\nKept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)


def play(
    row: Row, template: Path, folder: Path, given: Namespace, code: Path = config.ROOT
) -> Verdict:
    """Play one row, `given` being its `seconds`, `seed` and `keep`; the workshop must be open."""
    if reason := row.skip():
        return Verdict(row, skipped=reason)
    folder.mkdir()
    signal.alarm(LONGEST)
    try:
        with Stage(row, template, folder, given.seconds, given.seed, code) as stage:
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
