"""Rows 8 to 11: the line to PostgreSQL is cut, loses answers, or swallows everything."""

from faults.proxy import Mode
from faults.rows import row
from faults.stage import Stage


@row(9, "the answer to a write is lost")
def lose_answers(stage: Stage) -> None:
    with stage.load():
        stage.pass_time(0.2)
        stage.proxy.set(Mode.DROP_ANSWER, chance=0.05)
        stage.pass_time(0.6)
        stage.proxy.set(Mode.FORWARD)
        stage.healed()
        stage.pass_time(0.2)
    stage.fired = stage.proxy.counts["dropped"]
