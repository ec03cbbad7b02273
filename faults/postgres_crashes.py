"""Scenarios 5 to 7 and 21: PostgreSQL stops, restarts, loses backends, loses commits."""

import os
import signal
import time

import psycopg2

from faults.environment import Environment
from faults.processes import wait_until
from faults.scenarios import scenario

OUTAGE_SECONDS = 1.5
NO_DURABILITY = {"synchronous_commit": "off", "wal_writer_delay": "10s"}


@scenario(5, "PostgreSQL stops immediately")
def stop_immediately(env: Environment) -> None:
    _restart(env, "immediate")


@scenario(6, "PostgreSQL restarts")
def restart(env: Environment) -> None:
    _restart(env, "fast")


@scenario(7, "all connections are terminated repeatedly")
def terminate_backends(env: Environment) -> None:
    with env.load():
        for _ in range(6):
            env.sleep_share(0.12)
            env.fault_count += env.cluster.terminate_backends()
        env.mark_recovered()
        env.sleep_share(0.2)
    failed = [a for a in env.read_attempts() if a.status == 503 or a.outcome == "info"]
    failure = f"{len(failed)} requests failed, more than the {env.fault_count} connections"
    env.check(len(failed) <= env.fault_count, failure)


@scenario(7, "kill -9 of a backend, so that PostgreSQL restarts")
def kill_backend(env: Environment) -> None:
    with env.load():
        env.sleep_share(0.3)
        pids_before = env.cluster.backend_pids()
        os.kill(env.random.choice(pids_before), signal.SIGKILL)
        time.sleep(0.05)
        wait_until(lambda: _accepts_queries(env), 30, "PostgreSQL's recovery")
        env.mark_recovered()
        env.fault_count = len(set(pids_before) - set(env.cluster.backend_pids()))
        env.sleep_share(0.4)


@scenario(
    21,
    "PostgreSQL loses commits; the ledger must detect it",
    postgres_settings=NO_DURABILITY,
    data_loss="required",
)
def lose_commits(env: Environment) -> None:
    with env.load():
        env.sleep_share(0.3)
        env.cluster.stop("immediate")
        env.cluster.settings = {}
        env.cluster.start()
        env.mark_recovered()
        env.sleep_share(0.3)
    env.fault_count = 1


def _restart(env: Environment, mode: str) -> None:
    with env.load():
        env.sleep_share(0.3)
        pids_before = set(env.cluster.backend_pids())
        env.cluster.stop(mode)
        time.sleep(OUTAGE_SECONDS)
        env.cluster.start()
        env.mark_recovered()
        env.sleep_share(0.4)
        env.fault_count = len(pids_before - set(env.cluster.backend_pids()))


def _accepts_queries(env: Environment) -> bool:
    try:
        return bool(env.cluster.sql("SELECT 1"))
    except psycopg2.Error:
        return False
