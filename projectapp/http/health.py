"""Health checks, and links to all parts of this service."""

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

is_draining = False  # the gunicorn worker sets it before it stops

_STYLE = (Path(__file__).parents[1] / "templates" / "root.css").read_text()
_STYLE_HASH = f"'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'"

_DURABILITY_SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")
_SETTINGS = ("server_encoding", "transaction_read_only", *_DURABILITY_SETTINGS)
_READINESS_QUERY = select(
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
        metadata={"description": "The revision of the database schema.", "optional": True}
    )
    durable = fields.Boolean(
        metadata={
            "description": f"False if PostgreSQL has {' or '.join(_DURABILITY_SETTINGS)} off.",
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
    """Check that the server runs.

    This does not query the database. `degraded` means that this worker could not use the database
    when a request last needed it.
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
    """Check that the server can serve requests.

    The database must be reachable and writable. Its schema must have the revision of this release
    or a newer one, which is normal during a rollout. If `durable` is false, a crash of the database
    may lose confirmed writes. The operator can hide `schema`, `durable` and the reason of a 503.
    """
    if current_app.config["READY_DETAILS"]:
        return jsonify(status="ready", **_check_readiness())
    try:
        _check_readiness()
    except ServiceUnavailable as problem:
        log.info("not ready: %s", problem)
        raise ServiceUnavailable("This server is not ready.", 5, "not_ready") from None
    return jsonify(status="ready")


@bp.get("/")
@Endpoint(scope=None, responses={200: RootSchema()}, content_types=(JSON_TYPE, HTML))
def root() -> Response:
    """Show links to the resources, the console, the documentation, health checks and metrics.

    A browser gets a page in English or Korean. Other clients get JSON.
    """
    resources = _resource_paths()
    views = {
        "console": "console.page",
        "docs": "openapi.docs",
        "openapi": "openapi.openapi",
        "health": "health.health",
        "ready": "health.ready",
        "metrics": "metrics.metrics",
    }
    others = {k: url_for(view) for k, view in views.items() if view in current_app.view_functions}
    index = {
        "name": current_app.name,
        "version": current_app.config["VERSION"],
        "links": {**resources, **others},
    }
    if request.accept_mimetypes.best_match([JSON_TYPE, HTML]) == HTML:
        accepted = (tag.partition("-")[0].lower() for tag in request.accept_languages.values())
        page = render_template(
            "root.html",
            **index,
            resources=resources,
            needs_token=bool(current_app.config["AUTH"]),
            language=next((tag for tag in accepted if tag in ("en", "ko")), "en"),
            style=_STYLE,
        )
        response = Response(page, headers=content_security_policy(style=_STYLE_HASH), mimetype=HTML)
    else:
        response = jsonify(index)
    response.headers.add("Vary", "Accept, Accept-Language")
    return response


def _resource_paths() -> dict[str, str]:
    """Return the path of the list of each resource, by the name of the resource."""
    paths: dict[str, str] = {}
    for rule in current_app.url_map.iter_rules():
        endpoint = getattr(current_app.view_functions[rule.endpoint], "endpoint", None)
        if endpoint and endpoint.resource and "GET" in (rule.methods or ()) and not rule.arguments:
            paths.setdefault(endpoint.resource, request.script_root + rule.rule)
    return paths


def _check_readiness() -> dict[str, Any]:
    """Return the details for /ready. Raises ServiceUnavailable with the reason if it is not."""
    if is_draining:
        raise ServiceUnavailable("This server is stopping.", 5, "not_ready")
    row = database.execute(_READINESS_QUERY, {"tables": list(database.db.metadata.tables)})
    obstacle = schema.find_encoding_obstacle(row.server_encoding) or schema.find_obstacle(
        row.revisions, row.columns, database.db.metadata
    )
    if obstacle:
        raise ServiceUnavailable(str(obstacle), 5, "not_ready")
    current, needed = max(row.revisions, default=""), schema.newest_revision()
    if current < needed:
        raise ServiceUnavailable(
            f"The database schema has revision {current or 'none'}, but this release needs"
            f" {needed}. Run: flask db upgrade.",
            5,
            "not_ready",
        )
    if row.transaction_read_only == "on":
        raise ServiceUnavailable("The database is read-only.", 5, "not_ready")
    is_durable = all(getattr(row, name) != "off" for name in _DURABILITY_SETTINGS)
    return {"schema": current, "durable": is_durable}
