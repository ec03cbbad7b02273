"""Scenarios 1 to 4: the service's processes are killed, stopped and replaced."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

from faults.environment import WRITERS, Environment
from faults.ledger import longest_write_gap
from faults.processes import is_alive, send_signal, wait_until
from faults.scenarios import scenario
from faults.service import STOP_SECONDS

# The longest time without an acknowledged write; about half of it is the machine's noise.
KILL_GAP_SECONDS = 1.0
UPGRADE_GAP_SECONDS = 0.25
ORPHAN_SECONDS = 4.0  # after its master's death a worker must have ended
CONNECTIONS = 2 * WRITERS + 4  # of all clients: no more requests run at the same time


@scenario(1, "a worker is killed repeatedly", is_database_fault=False)
def kill_workers(env: Environment) -> None:
    with env.load():
        for _ in range(max(3, int(env.seconds / 2))):
            time.sleep(env.random.uniform(0.5, 1.5))
            wait_until(env.service.has_all_workers, 60, "a new worker")
            pid = env.random.choice(env.service.worker_pids())
            env.fault_count += send_signal(signal.SIGKILL, pid)
        time.sleep(1)
    unknown = sum(attempt.outcome == "info" for attempt in env.read_attempts())
    limit = CONNECTIONS * env.fault_count
    env.check(unknown <= limit, f"{unknown} requests got no answer; the limit is {limit}")
    _check_write_gap(env, KILL_GAP_SECONDS)


@scenario(2, "the master is killed, and a supervisor starts another", is_database_fault=False)
def kill_master(env: Environment) -> None:
    outages = []
    with env.load():
        for _ in range(2):
            env.sleep_share(0.2)
            workers = env.service.worker_pids()
            killed_at = time.monotonic()
            env.fault_count += send_signal(signal.SIGKILL, env.service.master_pid)
            with ThreadPoolExecutor() as pool:
                deadline = killed_at + ORPHAN_SECONDS + env.noise_seconds
                orphans = pool.submit(_count_orphans, workers, deadline)
                env.service.start_with_retries()
            env.mark_recovered()
            outages.append(f"{time.monotonic() - killed_at:.1f} s")
            failure = f"{orphans.result()} workers outlived their master by {ORPHAN_SECONDS} s"
            env.check(orphans.result() == 0, failure)
            env.sleep_share(0.1)
    env.notes.append("until all new workers served: " + ", ".join(outages))


@scenario(3, "the service is stopped under load", is_database_fault=False)
def stop_service(env: Environment) -> None:
    with env.load():
        env.sleep_share(0.3)
        with env.cluster.connect() as holder, holder.cursor() as cursor:
            # Writes must be running when the stop comes, so they wait for this lock; but not for
            # as long as the service's lock timeout.
            cursor.execute(f"BEGIN; LOCK TABLE {env.resource.name} IN EXCLUSIVE MODE")
            time.sleep(0.4)
            stopped_at = time.monotonic()
            env.fault_count = send_signal(signal.SIGTERM, env.service.master_pid)
            time.sleep(0.3)
            cursor.execute("COMMIT")
        master = env.service.master_pid
        wait_until(lambda: not is_alive(master), STOP_SECONDS, "the stop")
        seconds = time.monotonic() - stopped_at
        env.service.start()
        env.mark_recovered()
        env.sleep_share(0.3)
    attempts = env.read_attempts()
    running = [a for a in attempts if a.sent_at < stopped_at <= (a.done_at or stopped_at)]
    unanswered = [attempt for attempt in running if attempt.status is None]
    env.check(running, "no request ran when the stop came")
    env.check(not unanswered, f"{len(unanswered)} of {len(running)} running requests got no answer")
    resets = [a for a in attempts if a.sent_at >= stopped_at and a.outcome == "info"]
    env.notes.append(
        f"{len(running)} requests ran, the stop took {seconds:.1f} s, {len(resets)} resets after it"
    )


@scenario(4, "a new release takes over", is_database_fault=False)
def upgrade_service(env: Environment) -> None:
    with env.load():
        for _ in range(2):
            env.sleep_share(0.2)
            env.service.upgrade()
            env.fault_count += is_alive(env.service.master_pid)
        env.sleep_share(0.2)
    failed = [attempt for attempt in env.read_attempts() if attempt.is_server_failure]
    examples = ", ".join(f"{a.method} {a.status or a.exception}" for a in failed[:8])
    env.check(not failed, f"{len(failed)} requests failed: {examples}")
    _check_write_gap(env, UPGRADE_GAP_SECONDS)


def _count_orphans(workers: list[int], deadline: float) -> int:
    """Return how many of a dead master's workers are alive at the deadline."""
    time.sleep(max(0, deadline - time.monotonic()))
    return sum(map(is_alive, workers))


def _check_write_gap(env: Environment, limit_seconds: float) -> None:
    gap, limit = longest_write_gap(env.read_attempts()), limit_seconds + env.noise_seconds
    env.check(gap <= limit, f"no write was acknowledged for {gap:.2f} s; the limit is {limit:.2f}")
    env.notes.append(f"the longest time without an acknowledged write: {gap:.2f} s")
