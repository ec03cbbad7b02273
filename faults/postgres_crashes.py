"""Rows 5 to 7 and 21: PostgreSQL stops, restarts, loses backends, forgets."""

import os
import signal
import time

import psycopg2

from faults.processes import until
from faults.rows import row
from faults.stage import Stage

AWAY = 1.5  # seconds
FORGETFUL = {"synchronous_commit": "off", "wal_writer_delay": "10s"}


@row(5, "PostgreSQL stops at once")
def stop_at_once(stage: Stage) -> None:
    _restart(stage, "immediate")


@row(6, "PostgreSQL restarts")
def restart(stage: Stage) -> None:
    _restart(stage, "fast")


@row(7, "all connections are terminated, again and again")
def terminate_backends(stage: Stage) -> None:
    with stage.load():
        for _ in range(6):
            stage.pass_time(0.12)
            backends = stage.cluster.backends()
            stage.cluster.sql("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", backends)
            stage.fired += len(backends)
        stage.healed()
        stage.pass_time(0.2)
    told = [one for one in stage.attempts() if one.status == 503 or one.outcome == "info"]
    sentence = f"{len(told)} requests failed, more than the {stage.fired} connections"
    stage.promise(len(told) <= stage.fired, sentence)


@row(7, "kill -9 of a backend, which restarts PostgreSQL")
def kill_backend(stage: Stage) -> None:
    with stage.load():
        stage.pass_time(0.3)
        before = stage.cluster.backends()
        os.kill(stage.random.choice(before), signal.SIGKILL)
        time.sleep(0.05)
        until(lambda: _accepts(stage), 30, "PostgreSQL's recovery")
        stage.healed()
        stage.fired = len(set(before) - set(stage.cluster.backends()))
        stage.pass_time(0.4)


@row(21, "PostgreSQL forgets: the ledger must see it", postgres=FORGETFUL, loss="must")
def forget(stage: Stage) -> None:
    with stage.load():
        stage.pass_time(0.3)
        stage.cluster.stop("immediate")
        stage.cluster.settings = {}
        stage.cluster.start()
        stage.healed()
        stage.pass_time(0.3)
    stage.fired = 1


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


def _accepts(stage: Stage) -> bool:
    try:
        return bool(stage.cluster.sql("SELECT 1"))
    except psycopg2.Error:
        return False
