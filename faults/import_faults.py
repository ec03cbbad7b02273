"""Scenario 49: a command imports a file while it is killed and while the database fails."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2

from faults.cluster import service_environ
from faults.environment import FEW_WRITERS, Environment
from faults.pg_proxy import Harm
from faults.postgres_crashes import OUTAGE_SECONDS
from faults.processes import PYTHON, end_process, send_signal, start_process, wait_until
from faults.scenarios import scenario

ROWS_PER_SECOND = 1000  # of load: so many rows has the file
BATCH_ROWS = 1000
INVALID_EVERY = 700  # so many lines from one invalid line to the next
FINISHED = (0, 2)  # the exit status of a finished import: without and with rejected lines
_MOST_STARTS = 10
_RUN_SECONDS = 60  # the longest run of the command
_PROGRESS = "SELECT coalesce(max(processed_items), 0) FROM imports"
_IMPORT_STATEMENT = "imports"  # the table; only the command's statements contain it


@scenario(49, "an import is killed, loses answers and its database")
def interrupt_import(env: Environment) -> None:
    command = ImportCommand(env)
    with env.load(writers=FEW_WRITERS):
        command.record_start()
        faults: list[Callable[[], int]] = [
            *[command.kill_at_random] * 3,
            command.kill_after_commit,
            command.lose_statements_and_answers,
            command.kill_one_of_two,
            command.stop_database,
        ]
        for fault in faults:
            happened = fault()
            name = fault.__name__.replace("_", " ")
            env.check(happened, f"void: {name}: the import had ended before the fault")
            env.fault_count += happened
        env.mark_recovered()
        command.run_to_end()
        command.record_end()
        env.sleep_share(0.1)
    command.check_errors()


class ImportCommand:
    """`flask RESOURCE import FILE`, which is started again after each fault."""

    def __init__(self, env: Environment) -> None:
        """Write the file. Its invalid lines are of two kinds: only PostgreSQL finds the second."""
        self.env, self.resource = env, env.resource
        self.file, self.errors = env.folder / "import.ndjson", env.folder / "errors.ndjson"
        self.log = env.folder / "import.log"
        self.row_count = int(env.seconds * ROWS_PER_SECOND)
        self.invalid_lines: list[int] = []
        self.items: list[dict[str, Any]] = []  # for the ledger
        with self.file.open("w") as output:
            for line in range(1, self.row_count + 1):
                marker = f"{env.scenario.number}.import-{line}"
                body = self.resource.file_row(marker, env.callers[0].parent_id)
                item: dict[str, Any] = {"operation": marker}
                if line % INVALID_EVERY == 0:
                    self.invalid_lines.append(line)
                    is_found_early = line % (2 * INVALID_EVERY)
                    flag = {self.resource.flag_field: "perhaps"}
                    body |= flag if is_found_early else self.resource.refused_fields()
                    item["status"] = 400
                self.items.append(item)
                output.write(json.dumps(body) + "\n")

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

    def start(self) -> "subprocess.Popen[bytes]":
        env = self.env
        app = "faults.mutant:app" if env.scenario.mutation else "wsgi:app"
        environ = service_environ(env.proxy.url) | {"MUTATION": env.scenario.mutation}
        command = [PYTHON, "-m", "flask", "--app", app, self.resource.name, "import", self.file]
        process = start_process([*command, "--errors", self.errors], self.log, environ)
        env.on_exit(lambda: end_process(process))
        return process

    def start_and_wait(self, batches: int = 1) -> "subprocess.Popen[bytes]":
        """Start the command; return when it has imported some batches, or has ended."""
        first, process = self._progress(), self.start()
        goal = first + batches * BATCH_ROWS

        def has_come_far() -> bool:
            return process.poll() is not None or self._progress() >= goal

        wait_until(has_come_far, _RUN_SECONDS, "the import's progress")
        return process

    def kill_at_random(self) -> int:
        process = self.start_and_wait()
        time.sleep(self.env.random.uniform(0, 0.15))
        return _kill(process)

    def kill_after_commit(self) -> int:
        """Kill the command when a batch is committed, before the answer comes."""
        process, proxy = self.start_and_wait(), self.env.proxy
        proxy.before_reset = lambda: send_signal(signal.SIGKILL, process.pid)
        proxy.lose.append(_IMPORT_STATEMENT)
        process.wait(_RUN_SECONDS)
        proxy.before_reset = lambda: None
        return process.returncode == -signal.SIGKILL

    def lose_statements_and_answers(self) -> int:
        """The command goes on, or ends and is started again: that is its decision."""
        proxy = self.env.proxy
        before = proxy.harmed.total()
        proxy.lose += [_IMPORT_STATEMENT] * 2
        process = self.start_and_wait(2)
        proxy.drop.append(_IMPORT_STATEMENT)
        proxy.lose.append(_IMPORT_STATEMENT)
        wait_until(
            lambda: process.poll() is not None or not (proxy.drop or proxy.lose),
            _RUN_SECONDS,
            "lost answers",
        )
        _kill(process)
        return (proxy.harmed.total() - before) * (proxy.harmed[Harm.DROP_QUERY] > 0)

    def kill_one_of_two(self) -> int:
        """Two processes import the same file; each batch must be imported once."""
        other, process = self.start(), self.start_and_wait(2)
        both = other.poll() is None and process.poll() is None
        return _kill(other) * both + _kill(process) * both

    def stop_database(self) -> int:
        process, cluster = self.start_and_wait(), self.env.cluster
        is_running = process.poll() is None
        cluster.stop("immediate")
        time.sleep(OUTAGE_SECONDS)
        cluster.start()
        self.env.wait_until_ready()
        process.wait(_RUN_SECONDS)
        return is_running

    def run_to_end(self) -> None:
        """Start the command until it finishes; then start it once more, which must do nothing."""
        starts, status = 0, -1
        while status not in FINISHED and starts < _MOST_STARTS:
            starts += 1
            status = self.start().wait(_RUN_SECONDS)
        text = self.log.read_text(errors="replace")[-300:]
        self.env.check(status in FINISHED, f"the import ended with {status}: {text}")
        again = self.start().wait(_RUN_SECONDS)
        self.env.check(
            again == status, f"a finished import ended with {again}, first with {status}"
        )
        self.env.check("Traceback" not in self.log.read_text(), "the import printed a traceback")

    def record_end(self) -> None:
        """Record the rows of the file as acknowledged, with the ids that they have."""
        title = self.resource.title_field
        statement = f"SELECT {title}, id::text FROM {self.resource.name}"  # noqa: S608
        ids = dict(self.env.cluster.sql(statement))
        done_at = time.monotonic()
        self.ledger.record_response(
            self.attempt,
            status=201,
            items=[item | {"id": ids.get(item["operation"]), "etag": '"1"'} for item in self.items],
            wait_seconds=done_at - self.attempt.sent_at,  # no limit applies to a command
            done_at=done_at,
        )

    def check_errors(self) -> None:
        """Check that the file of the errors has each invalid line once."""
        lines = _read_error_lines(self.errors)
        failure = (
            f"the errors file has the lines {lines[:9]}, and {self.invalid_lines[:9]} are invalid"
        )
        self.env.check(lines == self.invalid_lines, failure)
        rows = self.row_count - len(lines)
        self.env.notes.append(f"{rows} rows were imported, {len(lines)} lines rejected")

    def _progress(self) -> int:
        with suppress(psycopg2.Error):
            ((count,),) = self.env.cluster.sql(_PROGRESS)
            return int(count)
        return 0


def _kill(process: "subprocess.Popen[bytes]") -> int:
    """Kill the process; return 1 if this ended it."""
    if process.poll() is None:
        end_process(process)
    return process.returncode == -signal.SIGKILL


def _read_error_lines(path: Path) -> list[int]:
    return [json.loads(line)["error_line"] for line in path.read_text().splitlines()]
