"""A network of our own, in which packets can be lost: PostgreSQL one link away from the service.

Two network namespaces joined by a pair of virtual interfaces; nothing outside them is changed. A
blackhole route on PostgreSQL's side loses what it sends, acknowledgements too, while what it
receives arrives: the worst case, since a write takes effect and nobody learns of it. (netem, which
would lose both ways, is not in every kernel.)
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

from faults.cluster import Cluster
from faults.processes import end, launch, until
from faults.stage import Stage

NEAR, FAR = "10.231.0.1", "10.231.0.2"  # seen by nobody else
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_LONGEST = "600"  # seconds that the far namespace lives, should everything else fail
_OURS = Path("/proc/thread-self/ns/net")


def missing() -> str:
    """Why this cannot run here, or an empty string."""
    if os.geteuid() != 0:
        return "skipped: only root can make a network namespace"
    tools = [tool for tool in ("ip", "unshare", "nsenter") if not shutil.which(tool)]
    return f"skipped: there is no {tools[0]}" if tools else ""


def separate(stage: Stage) -> None:
    """Move this thread, and what it starts from now on, away; PostgreSQL still further."""
    home = os.open(_OURS, os.O_RDONLY)
    _check(_libc.unshare(_NEW_NETWORK))
    stage.at_end(lambda: (_check(_libc.setns(home, _NEW_NETWORK)), os.close(home)))
    far = launch(["unshare", "--net", "sleep", _LONGEST], stage.folder / "network.log")
    stage.at_end(lambda: end(far))
    theirs = Path(f"/proc/{far.pid}/ns/net")
    until(lambda: os.readlink(theirs) != os.readlink(_OURS), 5, "a network namespace")
    stage.cluster.inside = ["nsenter", "--net", "--target", str(far.pid)]
    stage.cluster.address = FAR
    with (stage.cluster.home / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {NEAR}/32 trust\n")
    _run("ip link set lo up")
    _run(f"ip link add near type veth peer name far netns {far.pid}")
    _run(f"ip addr add {NEAR}/30 dev near")
    _run("ip link set near up")
    _run(f"ip addr add {FAR}/30 dev far", stage.cluster)
    _run("ip link set far up", stage.cluster)


def lose_answers(cluster: Cluster, stop: bool = False) -> None:
    """Lose all that PostgreSQL sends, or stop losing it."""
    _run(f"ip route {'del' if stop else 'add'} blackhole {NEAR}/32", cluster)


def retransmissions() -> int:
    """TCP segments that were sent again in this thread's namespace so far."""
    text = Path("/proc/thread-self/net/snmp").read_text()
    names, values = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def _run(command: str, cluster: Cluster | None = None) -> None:
    inside = cluster.inside if cluster else []
    subprocess.run([*inside, *command.split()], check=True, timeout=10)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "a network namespace cannot be had")


_libc = ctypes.CDLL(None, use_errno=True)
