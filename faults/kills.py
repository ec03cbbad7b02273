"""Rows 1 to 4: the service's own processes are killed, stopped and replaced."""

import signal
from itertools import pairwise

from faults.ledger import read
from faults.processes import tell, until
from faults.rows import row
from faults.service import WORKERS
from faults.stage import Stage

GAP = 0.5  # seconds without a single acknowledged write that one worker's death may cost


@row(1, "a worker is killed, again and again", database=False)
def kill_workers(stage: Stage) -> None:
    with stage.load():
        for _ in range(max(3, int(stage.seconds / 2))):
            stage.pass_time(stage.random.uniform(0.5, 1.5) / stage.seconds)
            until(lambda: len(stage.service.workers()) == WORKERS, 10, "a new worker")
            stage.fired += tell(signal.SIGKILL, stage.random.choice(stage.service.workers()))
        stage.pass_time(1 / stage.seconds)
    acknowledged = [one.done for one in read(stage.ledgers) if one.is_write and one.outcome == "ok"]
    times = sorted(acknowledged)
    gap = max(after - before for before, after in pairwise(times))
    stage.remarks.append(f"the longest gap was {gap:.2f} s")
