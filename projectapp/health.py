"""What a probe or a curious person asks first: /health, /ready and /."""

import logging
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, current_app, jsonify
from marshmallow import Schema, fields
from sqlalchemy import func, select

from projectapp import database
from projectapp.database import schema
from projectapp.database.schema import code_revision as code_revision
from projectapp.errors import Unavailable
from projectapp.operation import Operation

bp = Blueprint("health", __name__)

log = logging.getLogger(__name__)

stopping = False  # the worker says so

_DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")

_SETTINGS = ("server_encoding", "transaction_read_only", *_DURABILITY)
_STATE = select(
    *schema.REVISIONS.subquery().c,
    *schema.COLUMNS.subquery().c,
    *(func.current_setting(name).label(name) for name in _SETTINGS),
)


class HealthSchema(Schema):
    status = fields.String(metadata={"enum": ["ok", "degraded"]})
    timestamp = fields.DateTime()
    version = fields.String()


class ReadySchema(Schema):
    status = fields.String(metadata={"enum": ["ready"]})
    schema = fields.String(
        metadata={"description": "The revision of the database's schema.", "optional": True}
    )
    durable = fields.Boolean(
        metadata={
            "description": f"False if one of {', '.join(_DURABILITY)} is off.",
            "optional": True,
        }
    )


class RootSchema(Schema):
    name = fields.String()
    version = fields.String()
    links = fields.Dict(keys=fields.String(), values=fields.String())


@bp.get("/health")
@Operation(scope=None, returns={200: HealthSchema()})
def health() -> Response:
    """Tell whether the process lives.

    The database is never touched: degraded means that this worker could not use it when a request
    last needed it.
    """
    is_ok = current_app.extensions["database"].ok
    return jsonify(
        status="ok" if is_ok else "degraded",
        timestamp=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        version=current_app.config["VERSION"],
    )


@bp.get("/ready")
@Operation(scope=None, returns={200: ReadySchema()}, errors=[503])
def ready() -> Response:
    """Tell whether requests can be served.

    The database must be reachable, take writes, and have a schema at least at this code's revision;
    ahead is normal while a new release rolls out. Where it is not durable, a crash may lose writes
    that were acknowledged. A server may be set to say no more than yes or no.
    """
    if current_app.config["READY_DETAIL"]:
        return jsonify(status="ready", **_readiness())
    try:
        _readiness()
    except Unavailable as problem:
        log.info("not ready: %s", problem)
        raise Unavailable("This server is not ready.", 5) from None
    return jsonify(status="ready")


@bp.get("/")
@Operation(scope=None, returns={200: RootSchema()})
def root() -> Response:
    """Find the way."""
    docs = {"docs": "/docs", "openapi": "/openapi.json"} if current_app.config["DOCS"] else {}
    return jsonify(
        name=current_app.name,
        version=current_app.config["VERSION"],
        links={**docs, "health": "/health", "ready": "/ready"},
    )


def _readiness() -> dict[str, Any]:
    """What is known of the database that is ready; Unavailable says why it is not."""
    if stopping:
        raise Unavailable("This server is stopping.", 5)
    row = database.one(_STATE, {"tables": list(database.db.metadata.tables)})
    obstacle = schema.find_encoding_obstacle(row.server_encoding) or schema.find_obstacle(
        row.revisions, row.columns, database.db.metadata
    )
    if obstacle:
        raise Unavailable(str(obstacle), 5)
    current, needed = max(row.revisions, default="none"), code_revision()
    if not row.revisions or current < needed:
        raise Unavailable(
            f"The database's schema is at {current}, this code needs {needed}: flask db upgrade.", 5
        )
    if row.transaction_read_only == "on":
        raise Unavailable("The database takes no writes.", 5)
    return {"schema": current, "durable": "off" not in (getattr(row, s) for s in _DURABILITY)}
