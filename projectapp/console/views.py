"""The console for people who work with the data: its page, its files and its sign-in."""

import functools
import gzip
import hashlib
import re
from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Response,
    current_app,
    render_template,
    request,
    send_from_directory,
    url_for,
)

from projectapp.console.resources import describe_resources
from projectapp.http.endpoint import HTML, Endpoint
from projectapp.http.security_headers import content_security_policy

bp = Blueprint("console", __name__)

FOLDER = Path(__file__).parents[1] / "static" / "console"
_MAX_AGE_SECONDS = 365 * 24 * 3600
# The system's table may have another type for .js, and a browser would refuse to run such a file.
_CONTENT_TYPES = {".js": "text/javascript", ".css": "text/css"}
_IMPORT = re.compile(r'^(?:import|export) (?:[^;"]*? from )?"\./([\w-]+\.js)";$', re.M)


@bp.get("/console")
@Endpoint(scope=None, responses={200: None}, content_types=(HTML,))
def page() -> Response:
    """Show the console.

    The page itself has no data, so it needs no token.
    """
    version = _files_version()
    scripts = _first_scripts(version)
    urls = {
        name: url_for("console.static", version=version, name=name)
        for name in (*scripts, "console.css")
    }
    response = Response(
        render_template("console.html", urls=urls, scripts=scripts, config=_page_config()),
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

    The version is in the path, so the modules that a module imports by `./NAME` have it, too. A
    server of another release may get this request during a rollout. Its file is not cached.
    With gzip a file has a third of its size. An attacker who sees the size of a compressed response
    may find out what is in it (BREACH). These files have nothing secret.
    """
    is_current = version == _files_version()
    response = send_from_directory(
        FOLDER,
        name,
        mimetype=_CONTENT_TYPES.get(Path(name).suffix, "text/plain"),
        max_age=_MAX_AGE_SECONDS if is_current else None,
    )
    if is_current:
        response.cache_control.immutable = True
    response.vary.add("Accept-Encoding")
    if response.status_code == 200 and request.accept_encodings["gzip"]:
        response.direct_passthrough = False
        response.set_data(_compress(response.get_data()))
        response.content_encoding = "gzip"
        response.set_etag(f"{response.get_etag()[0]}-gzip")
    return response


@functools.lru_cache(maxsize=128)
def _compress(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


@functools.lru_cache(maxsize=1)
def _first_scripts(version: str) -> list[str]:
    """Return main.js and the modules that it imports, directly or through another one.

    The page loads all others when it needs them.
    """
    names: set[str] = set()
    pending = ["main.js"]
    while pending:
        if (name := pending.pop()) not in names:
            names.add(name)
            pending += _IMPORT.findall((FOLDER / name).read_text())
    return sorted(names)


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
        "metrics": any(rule.rule == "/metrics" for rule in current_app.url_map.iter_rules()),
    }


def _files_version() -> str:
    """Return a hash of the files, so that an edited file has another URL without a restart."""
    paths = sorted(path for path in FOLDER.iterdir() if path.is_file())
    return _hash_files(tuple((path, path.stat().st_mtime_ns) for path in paths))


@functools.lru_cache(maxsize=1)
def _hash_files(files: tuple[tuple[Path, int], ...]) -> str:
    contents = b"".join(
        path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest() for path, _ in files
    )
    return hashlib.sha256(contents).hexdigest()[:16]
