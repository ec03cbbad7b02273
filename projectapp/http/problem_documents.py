"""Turns every error into a problem document: a Problem, Flask's own HTTP errors, and bugs."""

import logging
from http import HTTPStatus
from typing import Any

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from projectapp.problems import CONTENT_TYPE, NotFound, Problem, problem_json
from projectapp.request_state import request_state

log = logging.getLogger(__name__)


def _response(status: int, detail: str, headers: Any = (), **members: Any) -> Response:
    text = problem_json(status, detail, **members, request_id=request_state().request_id)
    return Response(text, status, headers, content_type=CONTENT_TYPE)


def _problem(problem: Problem) -> Response:
    members = {"details": problem.field_errors} if problem.field_errors else {}
    return _response(problem.status, problem.detail, problem.headers, code=problem.code, **members)


def _http_error(error: HTTPException) -> HTTPException | Response:
    if error.code is None or error.code < 400:
        return error
    if error.code == NotFound.status:
        return _problem(NotFound())
    headers = {
        k: v for k, v in error.get_headers() if k.lower() not in ("content-type", "content-length")
    }
    return _response(error.code, error.description or HTTPStatus(error.code).phrase, headers)


def _internal_error(error: Exception) -> Response:
    log.exception("unhandled %s", type(error).__name__)
    return _response(500, "Something went wrong here. The request_id finds it in the log.")


def init_app(app: Flask) -> None:
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _internal_error)
