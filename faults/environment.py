"""What a scenario gets: a new database, the service, a proxy between them, and clients."""

import json
import random
import select
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import config
from faults.bulk_writers import MIXED
from faults.client import Caller, Client
from faults.cluster import Cluster, copy_data
from faults.feed_records import read_record
from faults.ledger import Attempt, Ledger, read_attempts
from faults.pg_proxy import Proxy
from faults.processes import PYTHON, NotReady, end_process, start_process, wait_until
from faults.resource import Resource
from faults.scenarios import Scenario
from faults.service import Service

WRITERS = 6  # client threads; a walker and a prober come in addition
# With the walker these are fewer than the threads of a worker process, so no request has to wait
# for a thread, even if all of them wait for the database.
FEW_WRITERS = 2
MANY_WRITERS = 16  # more than the service has threads
_CLIENTS_START_SECONDS, _CLIENTS_STOP_SECONDS = 120, 60


class Environment:
    """All parts run when the scenario begins, and stop when it ends.

    `seconds` is how long the load of the scenario should last. Only this scenario uses `folder`.
    `code` is the folder of the release that serves.
    """

    def __init__(
        self,
        scenario: Scenario,
        resource: Resource,
        template: Path,
        folder: Path,
        seconds: float,
        seed: int,
        code: Path = config.ROOT,
    ) -> None:
        self.scenario, self.resource, self.folder = scenario, resource, folder
        self.seconds, self.seed = seconds, seed
        self.random = random.Random(f"{seed}-{scenario.number}")  # noqa: S311 - no secret
        self.cluster = Cluster(copy_data(template, folder / "data"), scenario.postgres_settings)
        self.ledgers = folder / "ledgers"
        self.ledgers.mkdir()
        self.fault_count = 0  # how often the fault has happened; with 0 the scenario fails
        self.recovered_at: float | None = None  # on the monotonic clock
        self.failures: list[str] = []  # sentences
        self.notes: list[str] = []  # for the reader of the results; the scenario does not fail
        self.callers: list[Caller] = []  # the clients work for them in turn
        self._ledger_count = 0
        self.service = Service(folder / "service.log", scenario.mutation, code)
        self.service.settings = scenario.service_settings
        self._exits = ExitStack()

    def __enter__(self) -> "Environment":
        self.on_exit(self.cluster.end)
        self.on_exit(self.service.end)
        try:
            self.scenario.prepare_network(self)
            self.cluster.start()
            self.proxy = Proxy(self.cluster.parameters, self.seed)
            self.on_exit(self.proxy.close)
            self.callers = [self.new_caller()]
            self.restart_service(self.proxy.url)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def on_exit(self, function: Callable[[], object]) -> None:
        """Call the function when the scenario ends, before the functions of earlier calls."""
        self._exits.callback(function)

    def database_url(self, port: int | str, host: str = "127.0.0.1", options: str = "") -> str:
        return f"postgresql://postgres@{host}:{port}/postgres?sslmode=disable{options}"

    def restart_service(self, database_url: str) -> None:
        """Kill the service, and start it on this database."""
        self.service.end()
        self.service.database_url = database_url
        self.service.start()

    @contextmanager
    def load(
        self,
        weights: Mapping[str, int] = MIXED,
        writers: int = WRITERS,
        shared_rows: int = 4,
        exporters: int = 0,
    ) -> Iterator[None]:
        """Run clients while the block runs; then let them finish their last operations.

        `weights` says how often each operation (a method of BulkWriter) is chosen. The writers of a
        caller append to the same rows; `shared_rows` is their number. `exporters` is the number of
        clients that export all rows again and again.
        """
        self._ledger_count += 1
        plan = {
            "resource": self.resource.name,
            "port": self.service.port,
            "folder": str(self.ledgers),
            "name": self.load_name,
            "seed": self.seed,
            "writers": writers,
            "weights": weights,
            "shared_rows": shared_rows,
            "exporters": exporters,
            "callers": self.callers,
        }
        log = self.folder / "clients.log"  # has text only if a client fails
        command = [PYTHON, "-m", "faults.client_process", json.dumps(plan)]
        clients = start_process(command, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            has_output = select.select([clients.stdout], [], [], _CLIENTS_START_SECONDS)[0]
            if not has_output or clients.stdout.readline() != b"ready\n":
                raise NotReady("the clients: " + log.read_text()[-500:])
            yield
            self._wait_for_clients()
            clients.stdin.close()
            clients.wait(_CLIENTS_STOP_SECONDS)
            self.check(not log.read_text(), "a client failed: " + log.read_text()[-300:])
        finally:
            end_process(clients)

    def _wait_for_clients(self) -> None:
        """Wait for enough writes, and for the readers, which takes longer on a busy machine."""
        deadline = time.monotonic() + _CLIENTS_STOP_SECONDS
        while time.monotonic() < deadline:
            writes = sum(attempt.is_acknowledged_write for attempt in self.read_attempts())
            records = map(read_record, self.ledgers.glob("*.feed"))
            if writes >= self.scenario.minimum_writes and all(r.has_changes for r in records):
                return
            time.sleep(0.5)

    @property
    def load_name(self) -> str:
        """The beginning of the names of all operations of the current load."""
        return f"{self.scenario.number}.{self._ledger_count}"

    def shared_row(self, n: int) -> str:
        """Return the title of the n-th row that the clients of the current load append to."""
        return f"{self.load_name}-shared{n}"

    def read_attempts(self) -> list[Attempt]:
        """Return all attempts of all clients so far, in the order in which they were sent."""
        return read_attempts(self.ledgers)

    def new_ledger(self) -> Ledger:
        """Make a ledger for requests of the scenario itself. The checks read all ledgers."""
        self._ledger_count += 1
        return Ledger(self.ledgers / f"scenario-{self._ledger_count}.jsonl")

    def new_caller(self, name: str | None = None, tokens: Sequence[str] = ("",)) -> Caller:
        """Make a caller, and a parent for its rows if the resource needs it."""
        if not self.resource.parent:
            return Caller(name, tokens)
        table, title = self.resource.parent.name, self.resource.parent.title_field
        ((parent_id,),) = self.cluster.sql(
            f"INSERT INTO {table} (id, {title}, owner)"  # noqa: S608 - names of a Resource
            " VALUES (gen_random_uuid(), 'parent', %s) RETURNING id::text",
            name,
        )
        return Caller(name, tokens, parent_id)

    def new_client(self, caller: Caller | None = None) -> Client:
        """Make a client for requests of the scenario itself, by default of the first caller."""
        ledger = self.new_ledger()
        return Client(self.service.port, ledger, self.resource, caller or self.callers[0])

    @property
    def noise_seconds(self) -> float:
        """The seconds that are added to each limit: 20 times the median of a create.

        These creates are from before the fault. On an idle machine the result is about 0.2.
        """
        creates = [a for a in self.read_attempts() if "-permanent" in a.operation]
        durations = [attempt.duration_seconds for attempt in creates if attempt.duration_seconds]
        return 20 * statistics.median(durations) if durations else 0.0

    def sleep_share(self, share: float) -> None:
        """Sleep for a share of the scenario's `seconds`."""
        time.sleep(share * self.seconds)

    def mark_recovered(self) -> None:
        """Record that the fault is over now; the recovery is measured from here."""
        self.recovered_at = time.monotonic()

    def check(self, condition: object, failure: str) -> None:
        """Let the scenario fail with this sentence unless the condition is true."""
        if not condition:
            self.failures.append(failure)

    def wait_until_ready(self, timeout_seconds: float = 60) -> None:
        wait_until(lambda: self.service.status("/ready") == 200, timeout_seconds, "/ready")
