"""The console for people who work with the data: its page, its files and its sign-in."""

import functools
import gzip
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from flask import Blueprint, Response, current_app, render_template, request, url_for

from projectapp.console.resources import describe_resources
from projectapp.console.script import join_modules
from projectapp.http.endpoint import HTML, Endpoint
from projectapp.http.security_headers import content_security_policy
from projectapp.problems import NotFound

bp = Blueprint("console", __name__)

FOLDER = Path(__file__).parents[1] / "static" / "console"
_MAX_AGE_SECONDS = 365 * 24 * 3600


@bp.get("/console")
@Endpoint(scope=None, responses={200: None}, content_types=(HTML,))
def page() -> Response:
    """Show the console.

    The page itself has no data, so it needs no token.
    """
    version, files = _read_files()
    urls = {name: url_for("console.static", version=version, name=name) for name in files}
    response = Response(
        render_template("console.html", urls=urls, config=_page_config()),
        headers=content_security_policy(script="'self'", style="'self'", connect="'self'"),
        mimetype=HTML,
    )
    # No text ever becomes HTML or a script in this page.
    response.headers["Content-Security-Policy"] += (
        "; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/console/files/<version>/<name>")
def static(version: str, name: str) -> Response:
    """Send a file of the page.

    The version is in the path. A server of another release may get this request during a rollout;
    its file is not cached. With gzip a file has a third of its size. An attacker who sees the size
    of a compressed response may find out what is in it (BREACH), but this is nothing secret.
    """
    current_version, files = _read_files()
    if name not in files:
        raise NotFound
    file = files[name]
    is_compressed = request.accept_encodings["gzip"] > 0
    response = Response(file.compressed if is_compressed else file.content, mimetype=file.mimetype)
    response.vary.add("Accept-Encoding")
    response.set_etag(f"{current_version}-gzip" if is_compressed else current_version)
    if is_compressed:
        response.content_encoding = "gzip"
    if version == current_version:
        response.headers["Cache-Control"] = f"public, max-age={_MAX_AGE_SECONDS}, immutable"
    else:
        response.headers["Cache-Control"] = "no-cache"
    response.make_conditional(request)
    return response


def _page_config() -> dict[str, Any]:
    """Return the content of the page's element `config`: the resources and some settings."""
    config = current_app.config
    return {
        "version": config["VERSION"],
        "prefix": request.script_root,
        "auth": config["AUTH"],
        "resources": describe_resources(current_app),
        "max_content_length": config["MAX_CONTENT_LENGTH"],
        "docs": config["DOCS"],
        "metrics": config["METRICS"] != "off",
    }


class _File(NamedTuple):
    mimetype: str
    content: bytes
    compressed: bytes


def _read_files() -> tuple[str, dict[str, _File]]:
    """Return the files of the page by name, and their version.

    An edited file has another version, so that a browser loads it without a restart.
    """
    return _make_files(FOLDER, sum(path.stat().st_mtime_ns for path in FOLDER.iterdir()))


@functools.lru_cache(maxsize=1)
def _make_files(folder: Path, _times: int) -> tuple[str, dict[str, _File]]:
    contents = {
        "console.js": ("text/javascript", join_modules(folder).encode()),
        "console.css": ("text/css", (folder / "console.css").read_bytes()),
        "LICENSES": ("text/plain", (folder / "LICENSES").read_bytes()),
    }
    version = hashlib.sha256(repr(contents).encode()).hexdigest()[:16]
    return version, {
        name: _File(mimetype, content, gzip.compress(content, mtime=0))
        for name, (mimetype, content) in contents.items()
    }
