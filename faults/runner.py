"""Run a scenario in a folder of its own and within its time limit."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import config
from faults.environment import Environment
from faults.processes import NotReady
from faults.resource import Resource
from faults.result import Result, evaluate
from faults.scenarios import Scenario

LONGEST_SECONDS = 600  # of a scenario


@dataclass(frozen=True)
class Options:
    """How to run scenarios: the options of the command line."""

    resource: Resource
    seconds: float  # of load for a scenario
    seed: int
    keep: bool  # logs, ledgers and data


@contextmanager
def temporary_directory(keep: bool) -> Iterator[Path]:
    """Make a temporary folder; delete it at the end, also after a signal, unless `keep`.

    It also prepares the alarm that ends a scenario.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))  # the processes are ended on the way out
    signal.signal(signal.SIGALRM, _raise_not_ready)
    folder = Path(tempfile.mkdtemp(prefix="faults-")).resolve()
    try:
        yield folder
    finally:
        if keep:
            print(f"\nKept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def run_scenario(
    scenario: Scenario, template: Path, folder: Path, options: Options, code: Path = config.ROOT
) -> Result:
    """Run a scenario, inside a `temporary_directory` block. Exceptions become failures."""
    if reason := scenario.skip_reason():
        return Result(scenario, skip_reason=reason)
    folder.mkdir()
    signal.alarm(LONGEST_SECONDS)
    try:
        with Environment(
            scenario, options.resource, template, folder, options.seconds, options.seed, code
        ) as env:
            scenario.run(env)
            return evaluate(env)
    except Exception as error:
        text = " ".join(str(error).split())[-400:]
        failure = f"the scenario did not end: {type(error).__name__}: {text}"
        return Result(scenario, failures=[failure])
    finally:
        signal.alarm(0)
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _raise_not_ready(*_: object) -> None:
    # No OSError: a client would handle it.
    raise NotReady(f"the scenario took more than {LONGEST_SECONDS} s")
