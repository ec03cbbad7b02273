"""Row 47: processes are stopped for a while and go on, none the wiser."""

import signal
import time

from faults.lines import SILENCE
from faults.processes import children, tell
from faults.rows import row
from faults.stage import FEW, Stage


@row(47, "a worker is paused", database=False)
def pause_worker(stage: Stage) -> None:
    with stage.load():
        stage.pass_time(0.2)
        _pause(stage, [stage.random.choice(stage.service.workers())])
        stage.pass_time(0.3)


@row(47, "PostgreSQL is paused")
def pause_database(stage: Stage) -> None:
    with stage.load(workers=FEW):
        stage.pass_time(0.2)
        postmaster = stage.cluster.process.pid
        tell(signal.SIGSTOP, postmaster)  # first, so that it starts no other
        _pause(stage, [postmaster, *children(postmaster)])
        stage.pass_time(0.4)


def _pause(stage: Stage, pids: list[int]) -> None:
    stage.fired = tell(signal.SIGSTOP, *pids)
    try:
        time.sleep(SILENCE)
    finally:
        tell(signal.SIGCONT, *pids)
    stage.healed()
