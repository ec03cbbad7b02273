"""Rows 5 to 7: PostgreSQL stops, restarts and loses backends."""

import time

from faults.rows import row
from faults.stage import Stage

AWAY = 1.5  # seconds


@row(5, "PostgreSQL stops at once")
def stop_at_once(stage: Stage) -> None:
    _restart(stage, "immediate")


def _restart(stage: Stage, how: str) -> None:
    with stage.load():
        stage.pass_time(0.3)
        before = set(stage.cluster.backends())
        stage.cluster.stop(how)
        time.sleep(AWAY)
        stage.cluster.start()
        stage.healed()
        stage.pass_time(0.4)
        stage.fired = len(before - set(stage.cluster.backends()))
