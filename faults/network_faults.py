"""Rows 8 to 11: the line to PostgreSQL is cut, loses answers, or swallows everything."""

import time

from faults import network
from faults.pg_proxy import Harm
from faults.rows import row
from faults.stage import FEW, Stage

SILENCE = 10.0  # seconds: more than the longest answer may take


@row(8, "the line is reset in the midst of a query")
def reset(stage: Stage) -> None:
    with stage.load():
        stage.pass_time(0.2)
        stage.proxy.harm_some_queries(Harm.RESET, 0.03)
        stage.pass_time(0.5)
        stage.proxy.harm_some_queries(None)
        stage.healed()
        stage.pass_time(0.3)
    stage.fired = stage.proxy.harmed[Harm.RESET]


@row(9, "the answer to a write is lost")
def lose_answers(stage: Stage) -> None:
    with stage.load():
        stage.pass_time(0.2)
        stage.proxy.harm_some_queries(Harm.LOSE_ANSWER, 0.05)
        stage.pass_time(0.6)
        stage.proxy.harm_some_queries(None)
        stage.healed()
        stage.pass_time(0.2)
    stage.fired = stage.proxy.harmed[Harm.LOSE_ANSWER]


@row(10, "a black hole that acknowledges")
def swallow(stage: Stage) -> None:
    fall_silent(stage, FEW)


def fall_silent(stage: Stage, workers: int) -> None:
    """Have PostgreSQL fall silent in the midst of a load."""
    with stage.load(workers=workers):
        stage.pass_time(0.2)
        stage.proxy.silent = True
        time.sleep(SILENCE)
        stage.proxy.silent = False
        stage.healed()
        stage.pass_time(0.4)
    stage.fired = stage.proxy.held_packets


@row(11, "a black hole that does not", skip=network.missing, network=network.separate)
def lose_packets(stage: Stage) -> None:
    # Past the proxy, which would acknowledge.
    stage.serve(stage.url(stage.cluster.port, stage.cluster.address))
    with stage.load(workers=FEW):
        stage.pass_time(0.2)
        before = network.retransmissions()
        network.lose_answers(stage.cluster)
        time.sleep(SILENCE)
        stage.fired = network.retransmissions() - before
        network.lose_answers(stage.cluster, stop=True)
        stage.healed()
        stage.pass_time(0.4)
