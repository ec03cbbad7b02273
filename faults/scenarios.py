"""The list of all scenarios. A scenario is a function that gets an Environment and breaks it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# The argument is an environment.Environment; that module needs this one.
Run = Callable[[Any], None]


@dataclass(frozen=True)
class Scenario:
    """One fault. Variants of a fault are scenarios with the same number."""

    number: int
    title: str
    run: Run
    postgres_settings: Mapping[str, str] = field(default_factory=dict)
    service_settings: Mapping[str, str] = field(default_factory=dict)
    is_database_fault: bool = True  # the database fails, so the times of all responses are checked
    minimum_writes: int = 100  # with fewer acknowledged writes the scenario proves nothing
    # Whether acknowledged writes must not, may or must be lost. With `allowed` a loss is a note.
    data_loss: Literal["forbidden", "allowed", "required"] = "forbidden"
    ends_cursors: bool = False  # after the fault the service must refuse older cursors of the feed
    has_older_release: bool = False  # an older release serves first, on an older schema
    mutation: str = ""  # a name in mutations.MUTATIONS: the service runs with this bug
    skip_reason: Callable[[], str] = lambda: ""  # why the scenario cannot run on this machine
    prepare_network: Run = lambda env: None  # called before anything is started


SCENARIOS: list[Scenario] = []


def scenario(number: int, title: str, **options: Any) -> Callable[[Run], Run]:
    """Add the decorated function to SCENARIOS; `options` are fields of Scenario."""

    def register(run: Run) -> Run:
        SCENARIOS.append(Scenario(number, title, run, **options))
        return run

    return register
