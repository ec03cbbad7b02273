"""Scenario 48: tokens are revoked while the service, the network and PostgreSQL fail."""

import signal
import time

from faults import pgbouncer
from faults.bulk_writers import MIXED
from faults.client import Caller
from faults.environment import Environment
from faults.pg_proxy import Harm
from faults.postgres_crashes import OUTAGE_SECONDS
from faults.processes import send_signal, wait_until
from faults.scenarios import scenario
from projectapp.auth.tokens import hash_token, new_token

OWNERS = ("ann", "ben", "cem")
TOKENS = 6  # of each owner; the requests use them in turn, and some are never revoked
LOAD = MIXED | {"trespass": 15}
AUTH = {"AUTH": "tokens"}
_ISSUE = """
INSERT INTO api_tokens (id, name, owner, scopes, digest)
VALUES (gen_random_uuid(), 'fault', %s, %s, %s)
"""
_REVOKE = "UPDATE api_tokens SET revoked_at = now() WHERE digest = %s"


@scenario(48, "tokens are revoked during other faults", service_settings=AUTH)
def revoke_tokens(env: Environment) -> None:
    env.callers = [_issue_tokens(env, owner) for owner in OWNERS]
    with env.load(LOAD):
        env.sleep_share(0.1)
        _kill_worker(env)
        _harm_connections(env, Harm.RESET)
        _harm_connections(env, Harm.LOSE_ANSWER)
        _restart_database(env)
        env.mark_recovered()
        env.sleep_share(0.2)
    harmed, attempts = env.proxy.harmed, env.read_attempts()
    env.check(len(harmed) == 2, f"void: only these connections were harmed: {dict(harmed)}")
    revoked_tokens = {attempt.token for attempt in attempts if attempt.kind == "revoke"}
    refused_tokens = [attempt.token for attempt in attempts if attempt.status == 401]
    env.fault_count = len(revoked_tokens.intersection(refused_tokens))
    foreign = sum(attempt.kind == "trespass" and attempt.status == 404 for attempt in attempts)
    env.notes.append(
        f"{len(revoked_tokens)} tokens were revoked, {len(refused_tokens)} requests with them got"
        f" 401; {foreign} requests for other callers' rows got 404"
    )


@scenario(
    48,
    "the same behind a pooler",
    service_settings=AUTH,
    skip_reason=pgbouncer.skip_reason,
)
def revoke_tokens_behind_pooler(env: Environment) -> None:
    pooler = pgbouncer.PgBouncer(env.folder, env.proxy.port)
    env.on_exit(pooler.end)
    env.restart_service(env.database_url(pooler.port))
    revoke_tokens(env)


def _issue_tokens(env: Environment, owner: str) -> Caller:
    tokens = [new_token() for _ in range(TOKENS)]
    for token in tokens:
        env.cluster.sql(_ISSUE, owner, env.resource.scopes, hash_token(token))
    return env.new_caller(owner, tokens)


def _revoke_token_of_each_caller(env: Environment) -> None:
    """Revoke a token of each caller; the clients continue to send it."""
    ledger = env.new_ledger()
    for n, caller in enumerate(env.callers):
        token, *rest = caller.tokens
        attempt = ledger.record_request(
            operation=f"{caller.name}-{len(rest)}",
            kind="revoke",
            method="SQL",
            path="api_tokens",
            token=token,
            sent_at=time.monotonic(),
        )
        env.cluster.sql(_REVOKE, hash_token(token))
        ledger.record_response(attempt, status=200, done_at=time.monotonic())
        env.callers[n] = caller._replace(tokens=rest)


def _kill_worker(env: Environment) -> None:
    send_signal(signal.SIGKILL, env.random.choice(env.service.worker_pids()))
    _revoke_token_of_each_caller(env)
    wait_until(env.service.has_all_workers, 10, "a new worker")
    env.sleep_share(0.1)


def _harm_connections(env: Environment, harm: Harm) -> None:
    env.proxy.harm_some_queries(harm, 0.05)
    env.sleep_share(0.1)
    _revoke_token_of_each_caller(env)
    env.sleep_share(0.1)
    env.proxy.harm_some_queries(None)


def _restart_database(env: Environment) -> None:
    """Revoke tokens just before a crash; PostgreSQL must keep the revocations."""
    _revoke_token_of_each_caller(env)
    env.cluster.stop("immediate")
    time.sleep(OUTAGE_SECONDS)
    env.cluster.start()
