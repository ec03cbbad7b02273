"""Row 48: callers have tokens, of which some are revoked while all around them breaks."""

import signal
import time

from faults.bouncer import Bouncer, missing
from faults.client import Caller
from faults.crashes import AWAY
from faults.pg_proxy import Harm
from faults.processes import tell, until
from faults.rows import row
from faults.stage import Stage
from faults.workload import MIXED
from projectapp.auth.tokens import hash_token, new_token

OWNERS = ("ann", "ben", "cem")
TOKENS = 6  # that an owner has, and of which each request shows another; some outlive the row
LOAD = MIXED | {"trespass": 15}
AUTH = {"AUTH": "tokens"}
_ISSUE = """
INSERT INTO api_tokens (id, name, owner, scopes, digest)
VALUES (gen_random_uuid(), 'fault', %s, '{projects:read,projects:write}', %s)
"""
_REVOKE = "UPDATE api_tokens SET revoked_at = now() WHERE digest = %s"


@row(48, "tokens are revoked while all else breaks", settings=AUTH)
def revoke(stage: Stage) -> None:
    stage.callers = [_issue(stage, owner) for owner in OWNERS]
    with stage.load(LOAD):
        stage.pass_time(0.1)
        for harm in (_kill_worker, _reset, _lose_answers, _restart):
            harm(stage)
        stage.healed()
        stage.pass_time(0.2)
    harmed, asked = stage.proxy.harmed, stage.attempts()
    stage.promise(len(harmed) == 2, f"void: the line held: {dict(harmed)}")
    ended = {one.token for one in asked if one.kind == "revoke"}
    stage.fired = len(ended & {one.token for one in asked if one.status == 401})
    strange = sum(one.kind == "trespass" and one.status == 404 for one in asked)
    refused = sum(one.status == 401 for one in asked)
    stage.remarks.append(
        f"{len(ended)} tokens revoked, {refused} requests with them refused;"
        f" {strange} for foreign rows, which were not there"
    )


@row(48, "the same behind a pooler", settings=AUTH, skip=missing)
def revoke_behind_pooler(stage: Stage) -> None:
    bouncer = Bouncer(stage.folder, stage.proxy.port)
    stage.at_end(bouncer.end)
    stage.serve(stage.url(bouncer.port))
    revoke(stage)


def _issue(stage: Stage, owner: str) -> Caller:
    tokens = [new_token() for _ in range(TOKENS)]
    for token in tokens:
        stage.cluster.sql(_ISSUE, owner, hash_token(token))
    return Caller(owner, tokens)


def _revoke(stage: Stage) -> None:
    """End a token of each caller; the clients go on showing it."""
    ledger = stage.ledger()
    for n, caller in enumerate(stage.callers):
        token, *rest = caller.tokens
        op, now = f"{caller.name}-{len(rest)}", time.monotonic()
        attempt = ledger.before(
            op=op, kind="revoke", method="SQL", path="api_tokens", token=token, sent=now
        )
        stage.cluster.sql(_REVOKE, hash_token(token))
        ledger.after(attempt, status=200, done=time.monotonic())
        stage.callers[n] = caller._replace(tokens=rest)


def _kill_worker(stage: Stage) -> None:
    tell(signal.SIGKILL, stage.random.choice(stage.service.workers()))
    _revoke(stage)
    until(stage.service.is_whole, 10, "a new worker")
    stage.pass_time(0.1)


def _reset(stage: Stage) -> None:
    _break_line(stage, Harm.RESET)


def _lose_answers(stage: Stage) -> None:
    _break_line(stage, Harm.LOSE_ANSWER)


def _break_line(stage: Stage, harm: Harm) -> None:
    stage.proxy.harm_some_queries(harm, 0.05)
    stage.pass_time(0.1)
    _revoke(stage)
    stage.pass_time(0.1)
    stage.proxy.harm_some_queries(None)


def _restart(stage: Stage) -> None:
    """What was revoked just before a crash is not forgotten."""
    _revoke(stage)
    stage.cluster.stop("immediate")
    time.sleep(AWAY)
    stage.cluster.start()
