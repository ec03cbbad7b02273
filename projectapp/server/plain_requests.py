"""Plain requests: parsed and answered without gunicorn's parser and response, which cost more CPU.

A request is plain if it has only what nearly all requests have, and so is a response. gunicorn
handles the others: it alone decides what is refused, and how. The application gets the same environ
as from gunicorn, and the client the same response.
"""

import functools
import io
import re
import time
from typing import Any
from urllib.parse import unquote_to_bytes

import gunicorn.util
from gunicorn import SERVER, SERVER_SOFTWARE
from gunicorn.http.wsgi import FileWrapper, Response, WSGIErrorsWrapper

from config import Config

# The target is a path that begins with only one slash, and has no fragment. RFC 9112, 3.
_REQUEST_LINE = re.compile(r"((?!CONNECT )[A-Z]{3,20}) (/(?!/)[!-\"$-~]*) HTTP/1\.1")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
_HANDLED_BY_GUNICORN = {"TRANSFER_ENCODING", "EXPECT", "UPGRADE", "HTTP2_SETTINGS"}
VALID_HOST = re.compile(r"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)

_STATUS = re.compile(r"(?!204|304)[2-5][0-9]{2} [ -~]*")


class PlainRequest:
    """A plain request and what the application answers. gunicorn's Response can read it, too."""

    version = (1, 1)
    body = None

    def __init__(self, environ: dict[str, Any], body_start: int, size: int) -> None:
        """`size` is the length of the request in bytes. Its body begins at `body_start`."""
        self.environ = environ
        self.body_start = body_start
        self.size = size
        self.status: str | None = None
        self.headers: list[tuple[str, str]] = []
        self.chunks: list[bytes] = []

    method = property(lambda self: self.environ["REQUEST_METHOD"])
    uri = property(lambda self: self.environ["RAW_URI"])
    query = property(lambda self: self.environ["QUERY_STRING"])

    def should_close(self) -> bool:
        return bool(self.environ.get("HTTP_CONNECTION", "").lower() == "close")

    def run(self, application: Any, client: Any) -> None:
        """Call the application, which may raise."""
        environ = self.environ
        environ["wsgi.input"] = io.BytesIO(client.received[self.body_start : self.size])
        environ["gunicorn.socket"] = client
        del client.received[: self.size]
        chunks = application(environ, self.start_response)
        try:
            self.chunks += chunks
        finally:
            if hasattr(chunks, "close"):
                chunks.close()

    def start_response(self, status: str, headers: list[Any], exc_info: Any = None) -> Any:
        """Store status and headers (PEP 3333). Return `write`."""
        if exc_info and self.chunks:
            raise exc_info[1].with_traceback(exc_info[2])
        if self.status is not None and not exc_info:
            raise AssertionError("Response headers already set!")
        self.status, self.headers = status, headers
        return self.chunks.append


class PlainRequests:
    """Parses plain requests and builds plain responses."""

    def __init__(self, gunicorn_config: Any, settings: Config, has_access_log: bool) -> None:
        cfg = self.gunicorn_config = gunicorn_config
        self.max_body_bytes = settings.MAX_CONTENT_LENGTH
        self.max_headers = cfg.limit_request_fields
        self.prefix = settings.SCRIPT_NAME
        # No line is longer than the head. 0 means that no request is plain.
        self.max_head_bytes = min(cfg.limit_request_line, cfg.limit_request_field_size)
        hooks = [cfg.settings[name] for name in ("pre_request", "post_request")]
        if (
            has_access_log
            or any(hook.get() is not hook.default for hook in hooks)
            or (cfg.protocol, cfg.proxy_protocol) != ("http", "off")
            or cfg.secure_scheme_headers
            or cfg.env.get("SCRIPT_NAME", "") != self.prefix
        ):
            self.max_head_bytes = 0
        self.base_environ = {
            "wsgi.errors": WSGIErrorsWrapper(cfg),
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": cfg.workers > 1,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "wsgi.url_scheme": "http",
            "SERVER_SOFTWARE": SERVER_SOFTWARE,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SCRIPT_NAME": self.prefix,
        }

    def base_environ_of(self, address: Any, server_address: Any) -> dict[str, Any]:
        """Return the part of the environ that all requests of a connection share.

        It is empty for a Unix socket: gunicorn handles these requests.
        """
        if not isinstance(server_address, tuple):
            return {}
        return {
            **self.base_environ,
            "REMOTE_ADDR": address[0],
            "REMOTE_PORT": str(address[1]),
            "SERVER_NAME": server_address[0],
            "SERVER_PORT": str(server_address[1]),
        }

    def parse(self, received: bytearray, base_environ: dict[str, Any]) -> PlainRequest | None:
        """Parse the head of a request. Return None if it is incomplete or not plain."""
        end = received.find(b"\r\n\r\n", 0, self.max_head_bytes)
        if end < 0 or not base_environ:
            return None
        head = received[: end + 2].decode("latin-1")
        first_line, *lines, _ = head.split("\r\n")
        line = _REQUEST_LINE.fullmatch(first_line)
        if not line or len(lines) > self.max_headers or ":  " in head or " \r\n" in head:
            return None
        if not (head.isascii() and "".join(lines).isprintable()):
            return None
        environ = base_environ.copy()
        for text in lines:
            name, separator, value = text.partition(": ")
            if not separator or not (key := _environ_key(name)):
                return None
            environ[key] = value
        host, body_bytes = environ.get("HTTP_HOST"), environ.get("CONTENT_LENGTH", "0")
        is_repeated = len(environ) < len(base_environ) + len(lines)
        if is_repeated or host is None or not VALID_HOST.fullmatch(host):
            return None
        if not body_bytes.isdigit() or len(body_bytes) > 9 or int(body_bytes) > self.max_body_bytes:
            return None
        environ["REQUEST_METHOD"], environ["RAW_URI"] = line.groups()
        path, _, environ["QUERY_STRING"] = line[2].partition("?")
        if self.prefix and f"{path}/".startswith(f"{self.prefix}/"):
            path = path[len(self.prefix) :]
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        return PlainRequest(environ, end + 4, end + 4 + int(body_bytes))

    def respond(self, client: Any, may_keep_alive: bool) -> bool:
        """Put the response into `client.pending_output`. Return whether to keep the connection."""
        request: PlainRequest = client.request
        if not (head := self._plain_head(request, may_keep_alive)):
            response = Response(request, client, self.gunicorn_config)
            if not may_keep_alive:
                response.force_close()
            response.start_response(request.status, request.headers)
            for chunk in request.chunks:
                response.write(chunk)
            response.close()
            return not response.should_close()
        client.pending_output += b"".join([head, *request.chunks])
        return may_keep_alive and not request.should_close()

    def _plain_head(self, request: PlainRequest, may_keep_alive: bool) -> bytes | None:
        """Return the head of the response, or None if the response is not plain."""
        if request.method == "HEAD" or not _STATUS.fullmatch(request.status or ""):
            return None
        lines, lengths = [], []
        for name, value in request.headers:
            kind = _response_header_kind(name)
            if not kind or not isinstance(value, str):
                return None
            if kind != "dropped":
                lines.append(f"{name}: {value}")
            if kind == "length":
                lengths.append(value)
        text = "\r\n".join(lines) + "\r\n"
        if ":  " in text or " \r\n" in text or not "".join(lines).isprintable():
            return None
        if not text.isascii() or lengths != [str(sum(map(len, request.chunks)))]:
            return None
        connection = "keep-alive" if may_keep_alive and not request.should_close() else "close"
        return (
            f"HTTP/1.1 {request.status}\r\nServer: {SERVER}\r\n"
            f"Date: {_http_date(int(time.time()))}\r\nConnection: {connection}\r\n{text}\r\n"
        ).encode()


@functools.lru_cache(256)
def _environ_key(name: str) -> str | None:
    """Return the key of a header in the environ, or None if gunicorn must handle the request."""
    key = name.upper().replace("-", "_")
    if key in _HANDLED_BY_GUNICORN or not _HEADER_NAME.fullmatch(name):
        return None
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


@functools.lru_cache(256)
def _response_header_kind(name: str) -> str | None:
    """Return "kept", "length", or "dropped" as by gunicorn; None if the response is not plain."""
    if name == "Content-Length":
        return "length"
    if name in ("Server", "Date"):
        return "dropped"
    is_special = gunicorn.util.is_hoppish(name) or name.lower() == "content-length"
    return "kept" if _HEADER_NAME.fullmatch(name) and not is_special else None


@functools.lru_cache(1)
def _http_date(seconds: int) -> str:
    return gunicorn.util.http_date(seconds)
