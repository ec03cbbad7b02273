"""The stage on which a row plays its fault: a fresh database, the service, a proxy, clients."""

import json
import random
import select
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import config
from faults.client import NOBODY, Caller, Client
from faults.cluster import Cluster, copy
from faults.ledger import Attempt, Ledger, read
from faults.pg_proxy import Proxy
from faults.processes import PYTHON, NeverReady, end, launch, until
from faults.service import Service
from faults.workload import MIXED

if TYPE_CHECKING:
    from faults.rows import Row

WORKERS = 6  # client threads that write; a walker and a prober come on top
# Of these and the walker there are fewer than a worker process has threads: whatever they wait for,
# nobody waits for a thread.
FEW = 2
CROWD = 16  # more than there are threads
_CLIENTS_START, _CLIENTS_STOP = 120, 60  # seconds


class Stage:
    """What a row is given. It runs when the row begins, and is gone when the row ends.

    `seconds` is the load's length that the row should plan with; `folder` is its own; the service
    is that of the release in `code`.
    """

    def __init__(
        self,
        row: "Row",
        template: Path,
        folder: Path,
        seconds: float,
        seed: int,
        code: Path = config.ROOT,
    ) -> None:
        self.row, self.folder, self.seconds, self.seed = row, folder, seconds, seed
        self.random = random.Random(f"{seed}-{row.number}")  # noqa: S311 - no secret
        self.cluster = Cluster(copy(template, folder / "data"), row.postgres)
        self.ledgers = folder / "ledgers"
        self.ledgers.mkdir()
        self.fired = 0  # how often the fault demonstrably happened; 0 makes the row void
        self.healed_at: float | None = None  # on the monotonic clock
        self.broken: list[str] = []  # promises of this row that were not kept
        self.remarks: list[str] = []  # what a reader should know and nobody promised
        self.callers = [NOBODY]  # who all clients are, in turn
        self._loads = 0
        self.service = Service(folder / "service.log", row.bug, code)
        self.service.settings = row.settings
        self._ends: list[Callable[[], object]] = [self.cluster.end, self.service.end]

    def __enter__(self) -> "Stage":
        try:
            self.row.network(self)
            self.cluster.start()
            self.proxy = Proxy(self.cluster.parameters, self.seed)
            self.at_end(self.proxy.close)
            self.serve(self.proxy.url)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self._ends:
            self._ends.pop()()

    def at_end(self, act: Callable[[], object]) -> None:
        """Have it called when the row ends, before what was given earlier."""
        self._ends.append(act)

    def url(self, port: int | str, host: str = "127.0.0.1", more: str = "") -> str:
        return f"postgresql://postgres@{host}:{port}/postgres?sslmode=disable{more}"

    def serve(self, url: str) -> None:
        """Start the service on this database, in place of the one that runs."""
        self.service.end()
        self.service.url = url
        self.service.start()

    @contextmanager
    def load(
        self, weights: Mapping[str, int] = MIXED, workers: int = WORKERS, lists: int = 4
    ) -> Iterator[None]:
        """Clients work while the block runs; on its end they finish what they began."""
        self._loads += 1
        plan = {
            "port": self.service.port,
            "folder": str(self.ledgers),
            "name": self.load_name,
            "seed": self.seed,
            "workers": workers,
            "weights": weights,
            "lists": lists,
            "callers": self.callers,
        }
        log = self.folder / "clients.log"  # where nothing but a failure of theirs is written
        command = [PYTHON, "-m", "faults.clients", json.dumps(plan)]
        clients = launch(command, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            spoken = select.select([clients.stdout], [], [], _CLIENTS_START)[0]
            if not spoken or clients.stdout.readline() != b"ready\n":
                raise NeverReady("the clients: " + log.read_text()[-500:])
            yield
            self._wait_for_writes()
            clients.stdin.close()
            clients.wait(_CLIENTS_STOP)
            self.promise(not log.read_text(), "a client failed: " + log.read_text()[-300:])
        finally:
            end(clients)

    def _wait_for_writes(self) -> None:
        """On a busy machine the row's seconds may be too few for the writes that it needs."""
        end = time.monotonic() + _CLIENTS_STOP
        while time.monotonic() < end:
            acknowledged = sum(one.is_write and one.outcome == "ok" for one in self.attempts())
            if acknowledged >= self.row.least:
                return
            time.sleep(0.5)

    @property
    def load_name(self) -> str:
        return f"{self.row.number}.{self._loads}"

    def list_name(self, n: int) -> str:
        """The name of the n-th row that all clients of the present load append to."""
        return f"{self.load_name}-list{n}"

    def attempts(self) -> list[Attempt]:
        """All that clients asked so far, in order."""
        return read(self.ledgers)

    def ledger(self) -> Ledger:
        """A ledger of the row's own, which is checked with all others."""
        self._loads += 1
        return Ledger(self.ledgers / f"row-{self._loads}.jsonl")

    def client(self, caller: Caller = NOBODY) -> Client:
        """A client of the row's own."""
        return Client(self.service.port, self.ledger(), caller)

    @property
    def noise(self) -> float:
        """Seconds by which all may be late, many times what a create took before the fault.

        That is a fifth of a second where nothing else runs, and more on a busy machine.
        """
        before = [one.seconds for one in self.attempts() if "-always" in one.op and one.seconds]
        return 20 * statistics.median(before) if before else 0.0

    def pass_time(self, share: float) -> None:
        """Let a share of the row's seconds go by."""
        time.sleep(share * self.seconds)

    def healed(self) -> None:
        """Say that the fault is over, now; recovery is measured from here."""
        self.healed_at = time.monotonic()

    def promise(self, kept: object, sentence: str) -> None:
        """Break the row with the sentence unless `kept` is true."""
        if not kept:
            self.broken.append(sentence)

    def wait_until_ready(self, seconds: float = 60) -> None:
        until(lambda: self.service.status("/ready") == 200, seconds, "/ready")
