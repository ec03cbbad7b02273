"""Rows 1 to 4: the service's own processes are killed, stopped and replaced."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

from faults.ledger import Attempt, longest_gap
from faults.processes import is_alive, tell, until
from faults.rows import row
from faults.service import DRAIN
from faults.stage import WORKERS, Stage

GAP = 1.0  # seconds without one acknowledged write that a worker's death may cost; half is noise
UPGRADE_GAP = 0.25  # the same while one release replaces another
ORPHANS = 4.0  # seconds after which no worker of a dead master may be left
CONNECTIONS = 2 * WORKERS + 2  # of all clients: no more requests than that are ever under way


@row(1, "a worker is killed, again and again", database=False)
def kill_workers(stage: Stage) -> None:
    with stage.load():
        for _ in range(max(3, int(stage.seconds / 2))):
            time.sleep(stage.random.uniform(0.5, 1.5))
            until(stage.service.is_whole, 60, "a new worker")
            stage.fired += tell(signal.SIGKILL, stage.random.choice(stage.service.workers()))
        time.sleep(1)
    unknown = [one for one in stage.attempts() if one.outcome == "info"]
    most = CONNECTIONS * stage.fired
    stage.promise(len(unknown) <= most, f"{len(unknown)} requests without an answer, not <= {most}")
    _promise_no_gap(stage, GAP)


@row(2, "the master is killed, a supervisor starts another", database=False)
def kill_master(stage: Stage) -> None:
    outages = []
    with stage.load():
        for _ in range(2):
            stage.pass_time(0.2)
            workers = stage.service.workers()
            killed = time.monotonic()
            stage.fired += tell(signal.SIGKILL, stage.service.master)
            with ThreadPoolExecutor() as pool:
                living = pool.submit(_orphans, workers, killed + ORPHANS + stage.noise)
                stage.service.supervise()
            stage.healed()
            outages.append(f"{time.monotonic() - killed:.1f} s")
            sentence = f"{living.result()} workers outlived their master by {ORPHANS} s"
            stage.promise(living.result() == 0, sentence)
            stage.pass_time(0.1)
    stage.remarks.append("until all new workers served: " + ", ".join(outages))


@row(3, "a stop under load", database=False)
def stop_service(stage: Stage) -> None:
    with stage.load():
        stage.pass_time(0.3)
        with stage.cluster.connect() as holder, holder.cursor() as cursor:
            # Requests that run while the stop comes: writes wait for this lock, for less than the
            # service lets them wait.
            cursor.execute("BEGIN; LOCK TABLE projects IN EXCLUSIVE MODE")
            time.sleep(0.4)
            stopped = time.monotonic()
            stage.fired = tell(signal.SIGTERM, stage.service.master)
            time.sleep(0.3)
            cursor.execute("COMMIT")
        master = stage.service.master
        until(lambda: not is_alive(master), DRAIN, "the stop")
        took = time.monotonic() - stopped
        stage.service.start()
        stage.healed()
        stage.pass_time(0.3)
    running = [one for one in stage.attempts() if one.sent < stopped <= (one.done or stopped)]
    cut = [one for one in running if one.status is None]
    stage.promise(running, "no request ran when the stop came")
    stage.promise(not cut, f"{len(cut)} of {len(running)} running requests got no answer")
    late = [one for one in stage.attempts() if one.sent >= stopped and one.outcome == "info"]
    stage.remarks.append(
        f"{len(running)} requests ran, the stop took {took:.1f} s, {len(late)} resets after it"
    )


@row(4, "a new release takes over", database=False)
def replace_service(stage: Stage) -> None:
    with stage.load():
        for _ in range(2):
            stage.pass_time(0.2)
            stage.service.upgrade()
            stage.fired += is_alive(stage.service.master)
        stage.pass_time(0.2)
    failed = [one for one in stage.attempts() if one.failed]
    stage.promise(not failed, f"{len(failed)} requests failed: {_told(failed)}")
    _promise_no_gap(stage, UPGRADE_GAP)


def _orphans(workers: list[int], end: float) -> int:
    """How many of a dead master's workers are left when none should be."""
    time.sleep(max(0, end - time.monotonic()))
    return sum(map(is_alive, workers))


def _promise_no_gap(stage: Stage, most: float) -> None:
    gap, most = longest_gap(stage.attempts()), most + stage.noise
    stage.promise(gap <= most, f"no write was acknowledged for {gap:.2f} s, not <= {most:.2f} s")
    stage.remarks.append(f"the longest time without an acknowledged write: {gap:.2f} s")


def _told(attempts: list[Attempt]) -> str:
    return ", ".join(f"{one.method} {one.status or one.failure}" for one in attempts[:8])
