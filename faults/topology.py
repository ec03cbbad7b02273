"""Rows 41 to 43: a replica takes over, a replica is missing, the database is read-only."""

import shutil
import subprocess
import time
from contextlib import closing

from faults.cluster import Cluster, binaries
from faults.lines import SILENCE
from faults.processes import until
from faults.rows import row
from faults.stage import FEW, Stage
from projectapp.devdb import supervisor

DEAD = 1.0  # seconds from the primary's death to the promotion
RELOAD = 0.3  # seconds after which a changed setting holds everywhere


@row(41, "a synchronous replica takes over")
def fail_over(stage: Stage) -> None:
    _fail_over(stage, "sync")


@row(41, "an asynchronous replica takes over", loss="may")
def fail_over_lossy(stage: Stage) -> None:
    _fail_over(stage, "async")


@row(42, "the synchronous replica is missing")
def miss_replica(stage: Stage) -> None:
    with stage.load(workers=FEW):
        stage.pass_time(0.2)
        _configure(stage.cluster, "synchronous_standby_names", "nosuch")
        begun = time.monotonic()
        time.sleep(SILENCE)
        ended = time.monotonic()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        ((stage.fired,),) = stage.cluster.sql(waiting)
        _configure(stage.cluster, "synchronous_standby_names", "")
        stage.healed()
        stage.pass_time(0.4)
    writes = [one for one in stage.attempts() if one.is_write and begun < (one.done or 0) < ended]
    untrue = [one for one in writes if one.outcome == "ok" and one.sent > begun + RELOAD]
    stage.promise(not untrue, f"{len(untrue)} writes were acknowledged without the replica")
    stage.promise(
        any(one.code == "outcome_unknown" for one in writes),
        "no write was answered with outcome_unknown",
    )


@row(43, "the database is read-only")
def read_only(stage: Stage) -> None:
    with stage.load():
        stage.pass_time(0.2)
        _configure(stage.cluster, "default_transaction_read_only", "on")
        backends = stage.cluster.backends()
        stage.cluster.sql("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", backends)
        time.sleep(RELOAD)
        begun = time.monotonic()
        stage.pass_time(0.3)
        stage.promise(stage.service.status("/ready") == 503, "/ready was not 503")
        ended = time.monotonic()
        _configure(stage.cluster, "default_transaction_read_only", "off")
        stage.healed()
        stage.pass_time(0.3)
    during = [one for one in stage.attempts() if begun < one.sent and (one.done or ended) < ended]
    refused = {one.status for one in during if one.kind in ("read", "walk")} - {200, 404}
    stage.promise(not refused, f"reads were answered with {refused}")
    written = [one for one in during if one.is_write and one.status != 503]
    told = {one.status for one in written}
    stage.promise(not written, f"{len(written)} writes were answered with {told}, not 503")
    stage.fired = sum(one.is_write and one.status == 503 for one in during)


def _fail_over(stage: Stage, kind: str) -> None:
    primary, replica = stage.cluster, _replica(stage)
    if kind == "sync":
        _configure(primary, "synchronous_standby_names", "*")
    state = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
    until(lambda: primary.sql(state) == [(kind,)], 20, f"a replica that is {kind}")
    ports = f"{primary.port},{primary.address}:{replica.port}"
    stage.serve(stage.url(ports, more="&target_session_attrs=read-write"))
    with stage.load():
        stage.pass_time(0.4)
        primary.stop("kill")
        stage.cluster = replica
        time.sleep(DEAD)
        ((stage.fired,),) = replica.sql("SELECT pg_promote()::int")
        stage.healed()
        stage.pass_time(0.6)
    stage.promise(replica.sql("SHOW transaction_read_only") == [("off",)], "it was not promoted")


def _replica(stage: Stage) -> Cluster:
    """A streaming copy of the stage's cluster."""
    home, primary = stage.folder / "replica", stage.cluster
    home.mkdir(mode=0o700)
    shutil.chown(home, primary.home.owner(), primary.home.group())
    command = [binaries() / "pg_basebackup", "-D", home, "-R", "-X", "stream", "-c", "fast"]
    where = ["-h", primary.address, "-p", str(primary.port), "-U", "postgres"]
    subprocess.run([*supervisor.unprivileged_prefix(), *command, *where], check=True, timeout=60)
    replica = Cluster(home)
    stage.at_end(replica.end)
    replica.start()
    return replica


def _configure(cluster: Cluster, name: str, value: str) -> None:
    """Change a setting of the running server."""
    with closing(cluster.connect()) as used, used.cursor() as cursor:
        cursor.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        cursor.execute("SELECT pg_reload_conf()")
