"""Whether this server runs and can serve, and where to begin."""

import logging
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, render_template, request, url_for
from marshmallow import Schema, fields
from sqlalchemy import func, select

from projectapp import database
from projectapp.database import schema
from projectapp.http.endpoint import HTML, Endpoint
from projectapp.http.request_data import JSON_TYPE
from projectapp.http.security_headers import content_security_policy
from projectapp.problems import ServiceUnavailable

bp = Blueprint("health", __name__)

log = logging.getLogger(__name__)

is_draining = False  # the worker says so

_STYLE = (Path(__file__).parents[1] / "templates" / "root.css").read_text()
_STYLE_HASH = f"'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'"

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
@Endpoint(scope=None, responses={200: HealthSchema()})
def health() -> Response:
    """Tell whether the process lives.

    The database is never touched: degraded means that this worker could not use it when a request
    last needed it.
    """
    is_ok = current_app.extensions["database"].is_available
    return jsonify(
        status="ok" if is_ok else "degraded",
        timestamp=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        version=current_app.config["VERSION"],
    )


@bp.get("/ready")
@Endpoint(scope=None, responses={200: ReadySchema()}, error_statuses=[503])
def ready() -> Response:
    """Tell whether requests can be served.

    The database must be reachable, take writes, and have a schema at least at this code's revision;
    ahead is normal while a new release rolls out. Where it is not durable, a crash may lose writes
    that were acknowledged. A server may be set to say no more than yes or no.
    """
    if current_app.config["READY_DETAILS"]:
        return jsonify(status="ready", **_check_readiness())
    try:
        _check_readiness()
    except ServiceUnavailable as problem:
        log.info("not ready: %s", problem)
        raise ServiceUnavailable("This server is not ready.", 5) from None
    return jsonify(status="ready")


@bp.get("/")
@Endpoint(scope=None, responses={200: RootSchema()}, content_types=(JSON_TYPE, HTML))
def root() -> Response:
    """Show where to begin.

    A browser gets a page in English or Korean, any other client JSON.
    """
    parts, has_docs = current_app.blueprints, current_app.config["DOCS"]
    resources = {n: request.script_root + p.url_prefix for n, p in parts.items() if p.url_prefix}
    docs = {"docs": "openapi.docs", "openapi": "openapi.openapi"} if has_docs else {}
    others = {**docs, "health": "health.health", "ready": "health.ready"}
    found = {
        "name": current_app.name,
        "version": current_app.config["VERSION"],
        "links": {**resources, **{name: url_for(endpoint) for name, endpoint in others.items()}},
    }
    if request.accept_mimetypes.best_match([JSON_TYPE, HTML]) == HTML:
        accepted = (tag.partition("-")[0].lower() for tag in request.accept_languages.values())
        page = render_template(
            "root.html",
            **found,
            resources=resources,
            needs_token=bool(current_app.config["AUTH"]),
            language=next((tag for tag in accepted if tag in ("en", "ko")), "en"),
            style=_STYLE,
        )
        response = Response(page, headers=content_security_policy(style=_STYLE_HASH), mimetype=HTML)
    else:
        response = jsonify(found)
    response.headers.add("Vary", "Accept, Accept-Language")
    return response


def _check_readiness() -> dict[str, Any]:
    """What is known of the database that is ready; ServiceUnavailable says why it is not."""
    if is_draining:
        raise ServiceUnavailable("This server is stopping.", 5)
    row = database.execute(_STATE, {"tables": list(database.db.metadata.tables)})
    obstacle = schema.find_encoding_obstacle(row.server_encoding) or schema.find_obstacle(
        row.revisions, row.columns, database.db.metadata
    )
    if obstacle:
        raise ServiceUnavailable(str(obstacle), 5)
    current, needed = max(row.revisions, default="none"), schema.newest_revision()
    if not row.revisions or current < needed:
        raise ServiceUnavailable(
            f"The database's schema is at {current}, this code needs {needed}: flask db upgrade.", 5
        )
    if row.transaction_read_only == "on":
        raise ServiceUnavailable("The database takes no writes.", 5)
    return {"schema": current, "durable": "off" not in (getattr(row, s) for s in _DURABILITY)}
