"""Scenario 50: clients export all rows while the database and the service fail."""

import signal
import time

from faults.environment import FEW_WRITERS, Environment
from faults.postgres_crashes import OUTAGE_SECONDS
from faults.processes import send_signal, wait_until
from faults.scenarios import scenario

ROWS_PER_SECOND = 500  # of load: so many rows exist before the first export
EXPORTERS = 3
MINIMUM_EXPORTS = 3  # complete ones; with fewer the scenario proves nothing
AWAY_SECONDS = 4.0
# The rows of a request have equal times. So many pages of an export end between equal times.
_REQUEST_ROWS = 500


@scenario(50, "exports during restarts, kills and an upgrade")
def interrupt_exports(env: Environment) -> None:
    _create_rows(env)
    times = []
    with env.load(writers=FEW_WRITERS, exporters=EXPORTERS):
        for fault in (_stop_database, _refuse_connections, _kill_worker, _upgrade):
            env.sleep_share(0.15)
            times.append(time.monotonic())
            fault(env)
        env.mark_recovered()
        env.sleep_share(0.2)
    exports = [attempt for attempt in env.read_attempts() if attempt.kind == "export"]
    complete_exports = [attempt for attempt in exports if attempt.status == 200]
    complete_count = len(complete_exports)
    broken_count = sum(attempt.status is None for attempt in exports)
    hit_count = sum(
        any(a.sent_at < time_of_fault < (a.done_at or 0) for time_of_fault in times)
        for a in complete_exports
    )
    env.fault_count = hit_count + broken_count
    failure = f"void: only {complete_count} exports were complete"
    env.check(complete_count >= MINIMUM_EXPORTS, failure)
    env.notes.append(
        f"{complete_count} exports were complete, {hit_count} of them in spite of a fault;"
        f" {broken_count} ended without their last chunk"
    )


def _create_rows(env: Environment) -> None:
    client = env.new_client()
    for n in range(int(env.seconds * ROWS_PER_SECOND / _REQUEST_ROWS)):
        attempt = client.create_many(f"{env.scenario.number}.before-{n}", _REQUEST_ROWS)
        env.check(attempt.outcome == "ok", f"a request for many rows got {attempt.status}")
    client.close()


def _stop_database(env: Environment) -> None:
    env.cluster.stop("immediate")
    time.sleep(OUTAGE_SECONDS)
    env.cluster.start()


def _refuse_connections(env: Environment) -> None:
    """Keep the database away for longer than a statement is retried: exports must go on later."""
    env.proxy.refuses = True
    env.proxy.cut()
    time.sleep(AWAY_SECONDS)
    env.proxy.refuses = False


def _kill_worker(env: Environment) -> None:
    send_signal(signal.SIGKILL, env.random.choice(env.service.worker_pids()))
    wait_until(env.service.has_all_workers, 60, "a new worker")


def _upgrade(env: Environment) -> None:
    env.service.upgrade()
