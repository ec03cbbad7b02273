"""The rows of the fault matrix: each a function that takes a Stage, with its number and title."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from faults.stage import Stage

Play = Callable[[Stage], None]


@dataclass(frozen=True)
class Row:
    """One fault. `number` is that of the matrix; several rows may be variants of one number."""

    number: int
    title: str
    play: Play
    postgres: Mapping[str, str] = field(default_factory=dict)  # settings of its PostgreSQL
    settings: Mapping[str, str] = field(default_factory=dict)  # of its service
    database: bool = True  # the database is what fails, so that /health must go on answering
    least: int = 100  # writes that must be acknowledged, or it proves nothing
    loss: str = "never"  # of acknowledged writes: never, may (told, and no failure) or must
    bug: str = ""  # of bugs.BUGS, that is planted in the service
    skip: Callable[[], str] = lambda: ""  # the sentence why it cannot run here, if it cannot
    network: Callable[[Stage], None] = lambda stage: None  # called before anything runs


ROWS: list[Row] = []


def row(number: int, title: str, **options: object) -> Callable[[Play], Play]:
    """Enter a function into the matrix; `options` are Row's."""

    def enter(play: Play) -> Play:
        ROWS.append(Row(number, title, play, **options))
        return play

    return enter
