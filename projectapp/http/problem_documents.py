"""Turns every exception of a request into a problem document."""

import logging
from http import HTTPStatus
from typing import Any

from flask import Flask
from werkzeug.exceptions import HTTPException

from projectapp.http.application import Response
from projectapp.metrics.definitions import REQUESTS_REFUSED
from projectapp.problems import (
    CONTENT_TYPE,
    INTERNAL_ERROR_DETAIL,
    NotFound,
    Problem,
    ServiceUnavailable,
    problem_json,
)
from projectapp.request_state import request_state

log = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    app.register_error_handler(Problem, _respond_to_problem)
    app.register_error_handler(HTTPException, _respond_to_http_error)
    app.register_error_handler(Exception, _respond_to_bug)


def _respond_to_problem(problem: Problem) -> Response:
    if isinstance(problem, ServiceUnavailable):
        REQUESTS_REFUSED.increase(problem.reason)
    members = {"details": problem.field_errors} if problem.field_errors else {}
    return _response(problem.status, problem.detail, problem.headers, code=problem.code, **members)


def _respond_to_http_error(error: HTTPException) -> HTTPException | Response:
    if error.code is None or error.code < 400:  # such as a redirect
        return error
    if error.code == NotFound.status:
        return _respond_to_problem(NotFound())
    headers = [
        (name, value)
        for name, value in error.get_headers()
        if name.lower() not in ("content-type", "content-length")
    ]
    return _response(error.code, error.description or HTTPStatus(error.code).phrase, headers)


def _respond_to_bug(error: Exception) -> Response:
    log.exception("unhandled %s", type(error).__name__)
    return _response(500, INTERNAL_ERROR_DETAIL)


def _response(status: int, detail: str, headers: Any = (), **members: Any) -> Response:
    text = problem_json(status, detail, **members, request_id=request_state().request_id)
    return Response(text, status, headers, content_type=CONTENT_TYPE)
