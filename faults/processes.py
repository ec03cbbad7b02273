"""Start, signal and end processes; only processes that we started are ended, by their pid."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import config

PYTHON = sys.executable
ADDRESS = "127.0.0.1"
# With setpriv the kernel kills our processes when we die, even by kill -9.
KILLED_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


class NotReady(RuntimeError):
    """Something did not start or did not happen in time."""


def free_port() -> int:
    """Choose a port that is free on 127.0.0.1, at random, below the ephemeral ports.

    It is unlikely that another test run takes it before it is used, or while a fault leaves it
    free for seconds.
    """
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind((ADDRESS, random.randrange(20000, 32768)))  # noqa: S311 - no secret
            return probe.getsockname()[1]


def start_process(
    arguments: Sequence[str | Path],
    log: Path,
    environ: Mapping[str, str] | None = None,
    code: Path = config.ROOT,
    **pipes: int,
) -> "subprocess.Popen[bytes]":
    """Start a process in the folder `code`; its output is appended to `log`.

    It has a session of its own, so that Ctrl-C reaches only us and `end_process` its children.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [*KILLED_WITH_PARENT, *map(str, arguments)],
            cwd=code,
            env={**os.environ, **(environ or {})},
            stdout=pipes.get("stdout", output),
            stderr=output,
            stdin=pipes.get("stdin", subprocess.DEVNULL),
            start_new_session=True,
        )


def end_process(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and what is left of its session, and wait for it.

    Do nothing if its exit status has been collected: the pid may belong to another process by now.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def wait_until(condition: Callable[[], object], timeout_seconds: float, what: str) -> None:
    """Wait until the condition is true; raise NotReady, which names `what`, if it stays false."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_seconds:
            raise NotReady(f"{what}: not within {timeout_seconds:g} s")
        time.sleep(0.02)


def child_pids(pid: int) -> list[int]:
    """Return the pids of a process's children; none if the process is gone."""
    with suppress(OSError):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    """Return whether the process can still run; a zombie cannot."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def send_signal(signal_number: int, *pids: int) -> int:
    """Send a signal to each process; return how many of them existed."""
    reached = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal_number)
            reached += 1
    return reached
