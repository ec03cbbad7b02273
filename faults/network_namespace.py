"""A network in which packets can be lost between the service and PostgreSQL.

It consists of two network namespaces, joined by a pair of virtual interfaces; nothing outside them
changes. A blackhole route on PostgreSQL's side loses what it sends, also acknowledgements, while it
still receives. This is the worst case: a write takes effect and the service does not learn of it.
(netem would lose both directions, and not every kernel has it.)
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

from faults.cluster import Cluster
from faults.environment import Environment
from faults.processes import end_process, start_process, wait_until

SERVICE_ADDRESS, DATABASE_ADDRESS = "10.231.0.1", "10.231.0.2"  # not visible outside
_CLONE_NEWNET = 0x40000000
_LONGEST_SECONDS = "600"  # the database's namespace ends after this in any case
_OWN_NAMESPACE = Path("/proc/thread-self/ns/net")


def skip_reason() -> str:
    """Return why this machine cannot run the scenario, or an empty string."""
    if os.geteuid() != 0:
        return "skipped: only root can make a network namespace"
    missing = [tool for tool in ("ip", "unshare", "nsenter") if not shutil.which(tool)]
    return f"skipped: {missing[0]} is not installed" if missing else ""


def separate_database(env: Environment) -> None:
    """Move this thread and all that it starts into one namespace, and PostgreSQL into another."""
    original = os.open(_OWN_NAMESPACE, os.O_RDONLY)
    _check(_libc.unshare(_CLONE_NEWNET))
    env.on_exit(lambda: (_check(_libc.setns(original, _CLONE_NEWNET)), os.close(original)))
    holder = start_process(["unshare", "--net", "sleep", _LONGEST_SECONDS], env.folder / "net.log")
    env.on_exit(lambda: end_process(holder))
    other = Path(f"/proc/{holder.pid}/ns/net")
    wait_until(lambda: os.readlink(other) != os.readlink(_OWN_NAMESPACE), 5, "a network namespace")
    env.cluster.command_prefix = ["nsenter", "--net", "--target", str(holder.pid)]
    env.cluster.address = DATABASE_ADDRESS
    with (env.cluster.home / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {SERVICE_ADDRESS}/32 trust\n")
    _run("ip link set lo up")
    _run(f"ip link add service type veth peer name database netns {holder.pid}")
    _run(f"ip addr add {SERVICE_ADDRESS}/30 dev service")
    _run("ip link set service up")
    _run(f"ip addr add {DATABASE_ADDRESS}/30 dev database", env.cluster)
    _run("ip link set database up", env.cluster)


def start_packet_loss(cluster: Cluster) -> None:
    """Lose all that PostgreSQL sends."""
    _run(f"ip route add blackhole {SERVICE_ADDRESS}/32", cluster)


def stop_packet_loss(cluster: Cluster) -> None:
    _run(f"ip route del blackhole {SERVICE_ADDRESS}/32", cluster)


def count_retransmissions() -> int:
    """Return how many TCP segments were sent again in this thread's namespace so far."""
    text = Path("/proc/thread-self/net/snmp").read_text()
    names, values = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def _run(command: str, cluster: Cluster | None = None) -> None:
    """Run a command in this thread's namespace, or in that of the cluster."""
    prefix = cluster.command_prefix if cluster else []
    subprocess.run([*prefix, *command.split()], check=True, timeout=10)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "the network namespace cannot be changed")


_libc = ctypes.CDLL(None, use_errno=True)
