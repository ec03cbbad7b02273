"""Processes of our own: started with a log, ended by the pid that was started, come what may."""

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
# Where setpriv exists the kernel kills what we started when we die, even of a kill -9.
GUARD = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


class NeverReady(RuntimeError):
    """Something that was started, or should have come to pass, did not do so in its time."""


def free_port() -> int:
    """Choose a port that is free on 127.0.0.1, at random, below the ephemeral ports.

    It is unlikely that another test run takes it before it is used, or while a fault leaves it
    free for seconds.
    """
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind((ADDRESS, random.randrange(20000, 32768)))  # noqa: S311 - no secret
            return probe.getsockname()[1]


def launch(
    arguments: Sequence[str | Path],
    log: Path,
    environ: Mapping[str, str] | None = None,
    code: Path = config.ROOT,
    **options: int | None,
) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own, in the folder of the `code`, output to `log`.

    Its own session, so that a Ctrl-C reaches only us and `end` reaches its children.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [*GUARD, *map(str, arguments)],
            cwd=code,
            env={**os.environ, **(environ or {})},
            stdout=options.get("stdout", output),
            stderr=output,
            stdin=options.get("stdin", subprocess.DEVNULL),
            start_new_session=True,
        )


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and all that is left of its session, and wait for it.

    One that was waited for already is left alone: its pid may be another's by now.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for the condition and return the seconds it took; NeverReady when it stays false."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise NeverReady(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)
    return time.monotonic() - begun


def children(pid: int) -> list[int]:
    """The pids of its children; none when it is gone."""
    with suppress(OSError):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    """Whether it runs or could run again; a zombie, which can do nothing more, is not alive."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def tell(signal_number: int, *pids: int) -> int:
    """Send a signal to each; return how many it reached."""
    reached = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal_number)
            reached += 1
    return reached
