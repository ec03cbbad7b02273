"""Signing in to the console and out of it, and the caller who is signed in."""

import time
from datetime import UTC

from flask import Response, current_app, jsonify
from marshmallow import Schema, fields

from projectapp import auth
from projectapp.auth import session_cookie
from projectapp.console.views import bp
from projectapp.http.endpoint import Endpoint
from projectapp.problems import BadRequest, NotSameOrigin
from projectapp.resources.schemas import doc

_PATH = "/console/session"
_NO_STORE = {"Cache-Control": "no-store"}


class SessionSchema(Schema):
    caller = fields.String(allow_none=True, metadata=doc("The owner of new rows."))
    scopes = fields.List(
        fields.String(), metadata=doc("All scopes that the caller has, RESOURCE:all resolved.")
    )
    credential = fields.String(metadata=doc("The name of the token in the log."))
    expires_at = fields.DateTime(allow_none=True, metadata=doc("Null: it does not expire."))


@bp.post(_PATH)
@Endpoint(scope=None, responses={204: None}, error_statuses=[401, 403, 503])
def create_session() -> Response:
    """Sign in to the console.

    The request has the token in its Authorization header. The response sets the token as a cookie,
    which lasts as long as the token is valid, at most 12 hours. Only the console itself can send
    this request.
    """
    _require_same_origin()
    if not current_app.config["AUTH"]:
        raise BadRequest("AUTH=none: there is no sign-in.")
    with auth.authorize(None):
        token = auth.read_bearer_token()  # not from the cookie, which must not extend its own life
        if len(token) > session_cookie.MAX_TOKEN_LENGTH:
            raise BadRequest(
                f"The token has {len(token)} characters, but a browser keeps a cookie of at most"
                f" {session_cookie.MAX_TOKEN_LENGTH}. Let the identity provider put fewer claims"
                " into the token."
            )
        expires_at = auth.find_expiry()
    seconds_left = expires_at.timestamp() - time.time() if expires_at else float("inf")
    response = Response(status=204, headers=_NO_STORE)
    age = max(1, int(min(seconds_left, session_cookie.MAX_AGE_SECONDS)))
    session_cookie.set_token(response, token, age)
    return response


@bp.get(_PATH)
@Endpoint(scope=None, responses={200: SessionSchema()}, error_statuses=[401, 503])
def read_session() -> Response:
    """Show who is signed in."""
    with auth.authorize(None):
        caller, expires_at = auth.current_caller(), auth.find_expiry()
        response = jsonify(
            caller=caller.subject,
            scopes=sorted(filter(caller.has_scope, auth.all_scopes(current_app))),
            credential=caller.credential,
            expires_at=expires_at and f"{expires_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        )
    response.headers.extend(_NO_STORE)
    return response


@bp.delete(_PATH)
@Endpoint(scope=None, responses={204: None}, error_statuses=[403])
def delete_session() -> Response:
    """Sign out of the console.

    The browser deletes the cookie, so that every tab is signed out. The token itself stays valid:
    `flask tokens revoke` ends it.
    """
    _require_same_origin()
    response = Response(status=204, headers=_NO_STORE)
    session_cookie.set_token(response, "", 0)
    return response


def _require_same_origin() -> None:
    if not session_cookie.is_same_origin():
        raise NotSameOrigin(
            "Only the console itself can sign in and out. Open /console over HTTPS, or on"
            " localhost: on other pages, browsers do not say where a request comes from."
        )
