"""The CPU time of a program with several processes, from /proc (proc_pid_stat(5))."""

import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and of its descendants, exited ones included.

    An exited process counts only if its parent has waited for it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:  # it has just exited
        return 0
    ticks = sum(map(int, fields[11:15]))  # utime, stime, and those of exited children
    return ticks / _TICKS_PER_SECOND + sum(cpu_seconds(int(child)) for child in children)
