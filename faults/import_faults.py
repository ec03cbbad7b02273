"""Scenario 49: a command imports a file while it is killed and while the database fails."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg2

from faults.cluster import service_environ
from faults.environment import FEW_WRITERS, Environment
from faults.pg_proxy import Harm
from faults.postgres_crashes import OUTAGE_SECONDS
from faults.processes import PYTHON, end_process, send_signal, start_process, wait_until
from faults.scenarios import scenario

ROWS = 15_000
BATCH_ROWS = 1000
INVALID_EVERY = 700  # so many lines from one invalid line to the next
# The exit status of an import that finished with rejected lines, and that had finished before.
REJECTED, FINISHED_BEFORE = 3, 0
_MOST_STARTS = 10
_RUN_SECONDS = 60  # the longest run of the command
_POLL_SECONDS = 0.1
# It waits for a batch that is being imported, also for one of a process that was killed.
_PROGRESS = "SELECT processed_items FROM imports FOR UPDATE"
# Each batch takes longer, so that the faults find a running import on a fast machine, too.
_SLOW_BATCHES = """
CREATE FUNCTION slow_batch() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(0.15); RETURN NEW; END $$;
CREATE TRIGGER slow_batch BEFORE UPDATE ON imports
FOR EACH ROW EXECUTE FUNCTION slow_batch()
"""
_IMPORT_STATEMENT = "imports"  # the table; only statements of the command contain it


@scenario(49, "an import is killed, loses answers and its database")
def interrupt_import(env: Environment) -> None:
    command = ImportCommand(env)
    env.cluster.sql(_SLOW_BATCHES)
    with env.load(writers=FEW_WRITERS):
        command.record_start()
        faults: list[Callable[[], int]] = [
            command.kill_two_processes,
            *[command.kill_at_random] * 2,
            command.kill_after_commit,
            command.lose_statements_and_answers,
            command.stop_database,
        ]
        for fault in faults:
            name = fault.__name__.replace("_", " ")
            command.log_line(name)
            fault_count = fault()
            env.check(fault_count, f"void: {name}: the import had ended before the fault")
            env.fault_count += fault_count
        command.run_to_end()
        command.record_end()
        env.sleep_share(0.1)
    command.check_errors_file()


class ImportCommand:
    """`flask RESOURCE import FILE`, which is started again after each fault.

    The functions that cause a fault return how often it happened while the command was running.
    """

    def __init__(self, env: Environment) -> None:
        """Write the file. Its invalid lines are of two kinds: only PostgreSQL finds the second."""
        self.env, self.resource = env, env.resource
        self.file, self.errors_file = env.folder / "import.ndjson", env.folder / "errors.ndjson"
        self.log = env.folder / "import.log"
        self.lines_without_errors_file = 0  # the first ones
        self.items: list[dict[str, Any]] = []  # for the ledger
        with self.file.open("w") as output:
            for line in range(1, ROWS + 1):
                marker = f"{env.scenario.number}.import-{line}"
                row = self.resource.file_row(marker, env.callers[0].parent_id)
                item: dict[str, Any] = {"operation": marker}
                if line % INVALID_EVERY == 0:
                    item["status"] = 400
                    is_early = line % (2 * INVALID_EVERY)
                    flag = {self.resource.flag_field: "perhaps"}
                    row |= flag if is_early else self.resource.refused_fields()
                self.items.append(item)
                output.write(json.dumps(row) + "\n")

    def record_start(self) -> None:
        self.ledger = self.env.new_ledger()
        self.attempt = self.ledger.record_request(
            operation=f"{self.env.scenario.number}.import",
            kind="create",
            method="CLI",
            path=self.resource.path,
            items=[{"operation": item["operation"]} for item in self.items],
            sent_at=time.monotonic(),
        )

    def log_line(self, text: str) -> None:
        with self.log.open("a") as log:
            log.write(f"--- {text}\n")

    def start(self, has_errors_file: bool = True) -> "subprocess.Popen[bytes]":
        env = self.env
        app = "faults.mutant:app" if env.scenario.mutation else "wsgi:app"
        environ = service_environ(env.proxy.url) | {"MUTATION": env.scenario.mutation}
        command = [PYTHON, "-m", "flask", "--app", app, self.resource.name, "import", self.file]
        options = ["--errors", self.errors_file] if has_errors_file else []
        process = start_process([*command, *options], self.log, environ)
        env.on_exit(lambda: end_process(process))
        return process

    def kill_two_processes(self) -> int:
        """Two processes import the same file; each batch must be imported once.

        They have no errors file: only one process at a time can write to it.
        """
        first, second = self.start(has_errors_file=False), self.start(has_errors_file=False)
        self._wait_for_progress(2 * BATCH_ROWS, first)
        count = _kill(first)
        self._wait_for_progress(self._progress() + 1, second)
        count *= _kill(second)
        self.lines_without_errors_file = self._progress()
        return 2 * count

    def kill_at_random(self) -> int:
        process = self._start_and_wait()
        time.sleep(self.env.random.uniform(0, 0.15))
        return _kill(process)

    def kill_after_commit(self) -> int:
        """Kill the command when a batch is committed, before the answer comes."""
        process, proxy = self._start_and_wait(), self.env.proxy
        proxy.before_reset = lambda: send_signal(signal.SIGKILL, process.pid)
        proxy.lose.append(_IMPORT_STATEMENT)
        process.wait(_RUN_SECONDS)
        proxy.before_reset = lambda: None
        proxy.lose.clear()
        return process.returncode == -signal.SIGKILL

    def lose_statements_and_answers(self) -> int:
        """Break the command's connections: from its first statement on, then after batches."""
        proxy = self.env.proxy
        proxy.lose += [_IMPORT_STATEMENT] * 2
        process = self._start_and_wait()
        dropped = proxy.harmed[Harm.DROP_QUERY]
        proxy.drop.append(_IMPORT_STATEMENT)
        proxy.lose.append(_IMPORT_STATEMENT)
        wait_until(
            lambda: process.poll() is not None or not (proxy.drop or proxy.lose),
            _RUN_SECONDS,
            "lost answers",
        )
        # A repeat of the lost batch must have no effect; then the next batch follows.
        self._wait_for_progress(self._progress() + 1, process)
        return _kill(process) and proxy.harmed[Harm.DROP_QUERY] - dropped

    def stop_database(self) -> int:
        process, cluster = self._start_and_wait(), self.env.cluster
        is_running = process.poll() is None
        cluster.stop("immediate")
        time.sleep(OUTAGE_SECONDS)
        cluster.start()
        self.env.mark_recovered()
        self.env.wait_until_ready()
        process.wait(_RUN_SECONDS)
        return is_running

    def run_to_end(self) -> None:
        """Start the command until it finishes, and then once more, which must do nothing."""
        statuses: list[int] = []
        while FINISHED_BEFORE not in statuses and len(statuses) < _MOST_STARTS:
            self.log_line("run to the end")
            statuses.append(self.start().wait(_RUN_SECONDS))
        log = self.log.read_text(errors="replace")
        failure = f"the import ended with the statuses {statuses}: {log[-300:]}"
        self.env.check(statuses[-2:] in ([REJECTED, FINISHED_BEFORE], [FINISHED_BEFORE]), failure)
        self.env.check("Traceback" not in log, "the import printed a traceback")

    def record_end(self) -> None:
        """Record the rows of the file as acknowledged, with the ids that they have."""
        title, name = self.resource.title_field, self.resource.name
        ids = dict(self.env.cluster.sql(f"SELECT {title}, id::text FROM {name}"))  # noqa: S608
        done_at = time.monotonic()
        self.ledger.record_response(
            self.attempt,
            status=201,
            items=[{"id": ids.get(item["operation"]), "etag": '"1"'} | item for item in self.items],
            wait_seconds=done_at - self.attempt.sent_at,  # no limit applies to a command
            done_at=done_at,
        )

    def check_errors_file(self) -> None:
        """Check that the errors file has each invalid line once."""
        path = self.errors_file
        texts = path.read_text().splitlines() if path.exists() else []
        lines = [json.loads(text)["error_line"] for text in texts]
        invalid = [line for line, item in enumerate(self.items, 1) if "status" in item]
        expected = [line for line in invalid if line > self.lines_without_errors_file]
        self.env.check(lines == expected, f"the errors file has the lines {lines}, not {expected}")
        self.env.notes.append(
            f"{ROWS - len(invalid)} rows were imported, {len(invalid)} lines rejected"
        )

    def _start_and_wait(self) -> "subprocess.Popen[bytes]":
        """Start the command; return when it has imported something, or has ended."""
        before, process = self._progress(), self.start()
        self._wait_for_progress(before + 1, process)
        return process

    def _wait_for_progress(self, goal: int, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + _RUN_SECONDS
        while process.poll() is None and self._progress() < goal and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _progress(self) -> int:
        """Return how many lines of the file are processed, or 0 while the database is away."""
        with suppress(psycopg2.Error):
            return sum(int(count) for (count,) in self.env.cluster.sql(_PROGRESS))
        return 0


def _kill(process: "subprocess.Popen[bytes]") -> int:
    """Kill the process; return 1 if this ended it, or 0 if it had ended."""
    if process.poll() is None:
        end_process(process)
    return process.returncode == -signal.SIGKILL
