"""Scenarios 41 to 44: a replica takes over or is missing, a read-only database, a restore."""

import shutil
import subprocess
import time
from contextlib import closing

from faults.cluster import Cluster, binaries
from faults.environment import FEW_WRITERS, Environment
from faults.network_faults import SILENCE_SECONDS
from faults.processes import wait_until
from faults.scenarios import scenario
from projectapp.devdb import supervisor

PROMOTION_SECONDS = 1.0  # from the primary's end to the promotion
RELOAD_SECONDS = 0.3  # after this a changed setting holds in all backends


@scenario(41, "a synchronous replica takes over", ends_cursors=True)
def fail_over_to_synchronous_replica(env: Environment) -> None:
    _fail_over(env, "sync")


@scenario(41, "an asynchronous replica takes over", data_loss="allowed", ends_cursors=True)
def fail_over_to_asynchronous_replica(env: Environment) -> None:
    _fail_over(env, "async")


@scenario(42, "the synchronous replica is missing")
def miss_synchronous_replica(env: Environment) -> None:
    with env.load(writers=FEW_WRITERS):
        env.sleep_share(0.2)
        _configure(env.cluster, "synchronous_standby_names", "missing")
        start = time.monotonic()
        time.sleep(SILENCE_SECONDS)
        end = time.monotonic()
        ((env.fault_count,),) = env.cluster.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        )
        _configure(env.cluster, "synchronous_standby_names", "")
        env.mark_recovered()
        env.sleep_share(0.4)
    writes = [a for a in env.read_attempts() if a.is_write and start < (a.done_at or 0) < end]
    wrong = [a for a in writes if a.outcome == "ok" and a.sent_at > start + RELOAD_SECONDS]
    env.check(not wrong, f"{len(wrong)} writes were acknowledged without the replica")
    env.check(
        any(attempt.error_code == "outcome_unknown" for attempt in writes),
        "no write was answered with outcome_unknown",
    )


@scenario(43, "the database is read-only")
def make_database_read_only(env: Environment) -> None:
    with env.load():
        env.sleep_share(0.2)
        _configure(env.cluster, "default_transaction_read_only", "on")
        env.cluster.terminate_backends()
        time.sleep(RELOAD_SECONDS)
        start = time.monotonic()
        env.sleep_share(0.3)
        env.check(env.service.status("/ready") == 503, "/ready was not 503")
        end = time.monotonic()
        _configure(env.cluster, "default_transaction_read_only", "off")
        env.mark_recovered()
        env.sleep_share(0.3)
    attempts = [a for a in env.read_attempts() if start < a.sent_at and (a.done_at or end) < end]
    statuses = {a.status for a in attempts if a.kind in ("read", "walk")} - {200, 404}
    env.check(not statuses, f"reads were answered with {statuses}")
    writes = [attempt for attempt in attempts if attempt.is_write]
    wrong = [attempt for attempt in writes if attempt.status != 503]
    statuses = {attempt.status for attempt in wrong}
    env.check(not wrong, f"{len(wrong)} writes were answered with {statuses}, not 503")
    env.fault_count = len(writes) - len(wrong)


@scenario(44, "a backup is restored", data_loss="required", ends_cursors=True)
def restore_backup(env: Environment) -> None:
    with env.load():
        env.sleep_share(0.1)
        backup = _copy_cluster(env, "backup")
        env.sleep_share(0.1)
        primary = env.cluster
        primary.stop()
        # At the end of its WAL the backup begins another timeline.
        signal_file = backup.home / "recovery.signal"
        signal_file.touch()
        shutil.chown(signal_file, backup.home.owner(), backup.home.group())
        backup.settings, backup.port = {"restore_command": "false"}, primary.port
        backup.start()
        env.cluster = backup
        env.mark_recovered()
        env.sleep_share(0.2)
    ((env.fault_count,),) = backup.sql(
        "SELECT count(*) FROM pg_ls_waldir() WHERE name LIKE '%.history'"
    )


def _fail_over(env: Environment, sync_state: str) -> None:
    primary, replica = env.cluster, _start_replica(env)
    if sync_state == "sync":
        _configure(primary, "synchronous_standby_names", "*")
    query = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
    wait_until(lambda: primary.sql(query) == [(sync_state,)], 20, f"a replica ({sync_state})")
    hosts = f"{primary.port},{primary.address}:{replica.port}"
    env.restart_service(env.database_url(hosts, options="&target_session_attrs=read-write"))
    with env.load():
        env.sleep_share(0.4)
        primary.stop("kill")
        env.cluster = replica
        time.sleep(PROMOTION_SECONDS)
        ((env.fault_count,),) = replica.sql("SELECT pg_promote()::int")
        env.mark_recovered()
        env.sleep_share(0.6)
    env.check(replica.sql("SHOW transaction_read_only") == [("off",)], "it was not promoted")


def _start_replica(env: Environment) -> Cluster:
    """Start a streaming replica of the environment's cluster."""
    replica = _copy_cluster(env, "replica", "-R")
    replica.start()
    return replica


def _copy_cluster(env: Environment, name: str, *options: str) -> Cluster:
    """Make a base backup of the environment's cluster."""
    home, primary = env.folder / name, env.cluster
    home.mkdir(mode=0o700)
    shutil.chown(home, primary.home.owner(), primary.home.group())
    command = [binaries() / "pg_basebackup", "-D", home, "-X", "stream", "-c", "fast", *options]
    source = ["-h", primary.address, "-p", str(primary.port), "-U", "postgres"]
    subprocess.run([*supervisor.unprivileged_prefix(), *command, *source], check=True, timeout=60)
    copy = Cluster(home)
    env.on_exit(copy.end)
    return copy


def _configure(cluster: Cluster, name: str, value: str) -> None:
    """Change a setting of the running server."""
    with closing(cluster.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        cursor.execute("SELECT pg_reload_conf()")
