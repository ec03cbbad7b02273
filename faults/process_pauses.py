"""Scenario 47: processes are paused and continue."""

import signal
import time

from faults.environment import FEW_WRITERS, Environment
from faults.network_faults import SILENCE_SECONDS
from faults.processes import child_pids, send_signal
from faults.scenarios import scenario


@scenario(47, "a worker is paused", is_database_fault=False)
def pause_worker(env: Environment) -> None:
    with env.load():
        env.sleep_share(0.2)
        _pause(env, [env.random.choice(env.service.worker_pids())])
        env.sleep_share(0.3)


@scenario(47, "PostgreSQL is paused")
def pause_database(env: Environment) -> None:
    with env.load(writers=FEW_WRITERS):
        env.sleep_share(0.2)
        postmaster = env.cluster.process.pid
        send_signal(signal.SIGSTOP, postmaster)  # first, so that it starts no more children
        _pause(env, [postmaster, *child_pids(postmaster)])
        env.sleep_share(0.4)


def _pause(env: Environment, pids: list[int]) -> None:
    env.fault_count = send_signal(signal.SIGSTOP, *pids)
    try:
        time.sleep(SILENCE_SECONDS)
    finally:
        send_signal(signal.SIGCONT, *pids)
    env.mark_recovered()
