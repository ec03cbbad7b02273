"""Tables for scenarios 25 to 27: broken chunks, ambiguous lengths, invalid and very large heads.

See hostile_json. In a head <line> is a route's method and path. In the names CL is Content-Length,
and TE is Transfer-Encoding.
"""

from faults.hostile_client import OK, make_chunks
from faults.raw_http import CLOSED

_LIMIT_BYTES = 2**20  # of a body: MAX_CONTENT_LENGTH's default
_BODY = b'{@, "<flag>": false}'
_START = b'7\r\n{"a": 1\r\n'
CHUNKS = {
    (413,): {"over the limit, without an end": make_chunks(b" " * 2 * _LIMIT_BYTES, 2**16, b"")},
    (413, 400): {"a gigabyte announced": b"40000000\r\n" + b" " * 2**21},
    (400,): {
        "an invalid size": _START + b"zz\r\n}\r\n0\r\n\r\n",
        "a negative size": _START + b"-1\r\n}\r\n0\r\n\r\n",
        "a signed size": _START + b"+1\r\n}\r\n0\r\n\r\n",
        "a prefixed size": _START + b"0x1\r\n}\r\n0\r\n\r\n",
        "an underscore in a size": _START + b"0_1\r\n}\r\n0\r\n\r\n",
        "a space before a size": _START + b" 1\r\n}\r\n0\r\n\r\n",
        "no size": _START + b"\r\n}\r\n0\r\n\r\n",
        "a chunk longer than its size": b'3\r\n{"a": 1}\r\n0\r\n\r\n',
        "a chunk shorter than its size": b'9\r\n{"a": 1}\r\n0\r\n\r\n0\r\n\r\n',
        "bare line feeds": b'8\n{"a": 1}\n0\n\n',
        "a bare line feed behind a size": b'8\n{"a": 1}\r\n0\r\n\r\n',
        "a bare carriage return": b'8\r{"a": 1}\r0\r\r',
        "a size in other digits": b"\xd9\xa1\r\n}\r\n0\r\n\r\n",
    },
    (400, 413): {"a size beyond 64 bits": b"fffffffffffffffff1\r\n{}\r\n0\r\n\r\n"},
    (400, 408, 413, 431, CLOSED): {
        "an extension of 1 MB": b"2;" + b"x" * 2**20 + b"\r\n{}\r\n0\r\n\r\n",
        "a trailer of 1 MB": b"2\r\n{}\r\n0\r\nX: " + b"x" * 2**20 + b"\r\n\r\n",
        "1000 trailers": b"2\r\n{}\r\n0\r\n" + b"X-T: 1\r\n" * 1_000 + b"\r\n",
    },
}
# Bodies that are not finished when the client half-closes the connection.
UNFINISHED = {
    (400, 408, CLOSED): {
        "half a chunk": b'40\r\n{"<title>": "never-"}',
        "half a size": _START + b"1",
        "nothing": b"",
    }
}
# In the next two tables: a body, the size of its chunks in bytes, and what follows the last one.
UNFINISHED_CHUNKS = {
    (400, 408, CLOSED): {
        "no last chunk": (b'{"<title>": "never-"}', 5, b""),
        "no end of the trailers": (b'{"<title>": "never-"}', 5, b"0\r\n"),
    }
}
WELL_CHUNKED = {
    (OK,): {
        "one chunk": (_BODY, 10_000, b"0\r\n\r\n"),
        "chunks of a byte": (_BODY, 1, b"0\r\n\r\n"),
        "trailers": (_BODY, 7, b"0\r\nX-Checksum: 1\r\nX-Name: never-\r\n\r\n"),
        "a trailer with a length": (_BODY, 7, b"0\r\nX-Content-Length: 5\r\n\r\n"),
    },
    (OK, 413): {"70000 chunks of a byte": (_BODY + b" " * 70_000, 1, b"0\r\n\r\n")},
    (413,): {
        "over the limit": (_BODY + b" " * _LIMIT_BYTES, 2**16, b"0\r\n\r\n"),
        "over the limit, then garbage": (_BODY + b" " * _LIMIT_BYTES + b"}{", 2**13, b"0\r\n\r\n"),
        "over the limit in one chunk": (_BODY + b" " * _LIMIT_BYTES, 2**21, b"0\r\n\r\n"),
    },
    (400,): {"garbage": (_BODY + b"}{", 5, b"0\r\n\r\n")},
}

_TE = "Transfer-Encoding: chunked"
_ZERO = "0\r\n\r\n"
# Header lines after Host, then what follows the head.
_FIELDS = {
    "CL and TE": (f"Content-Length: 6\r\n{_TE}", _ZERO),
    "TE and CL": (f"{_TE}\r\nContent-Length: 6", _ZERO),
    "CL 0 and TE": (f"Content-Length: 0\r\n{_TE}", _ZERO),
    "two different CLs": ("Content-Length: 0\r\nContent-Length: 5", "{ } "),
    "two equal CLs": ("Content-Length: 0\r\nContent-Length: 0", ""),
    "a list of CLs": ("Content-Length: 0, 0", ""),
    "CL negative": ("Content-Length: -1", ""),
    "CL with a plus": ("Content-Length: +0", ""),
    "CL 1e3": ("Content-Length: 1e3", ""),
    "CL hexadecimal": ("Content-Length: 0x10", ""),
    "CL empty": ("Content-Length:", ""),
    "CL 1.0": ("Content-Length: 1.0", ""),
    "CL of two words": ("Content-Length: 1 2", ""),
    "CL with an underscore": ("Content-Length: 1_0", ""),
    "CL in other digits": ("Content-Length: \u00b2", ""),
    "CL folded": ("Content-Length:\r\n 0", ""),
    "TE twice": (f"{_TE}\r\n{_TE}", _ZERO),
    "TE chunked, chunked": ("Transfer-Encoding: chunked, chunked", _ZERO),
    "TE chunked, identity": ("Transfer-Encoding: chunked, identity", _ZERO),
    "TE identity": ("Transfer-Encoding: identity", _ZERO),
    "TE chunked, gzip": ("Transfer-Encoding: chunked, gzip", _ZERO),
    "TE empty": ("Transfer-Encoding:", _ZERO),
    "TE with a vertical tab": ("Transfer-Encoding: \x0bchunked", _ZERO),
    "TE in quotes": ('Transfer-Encoding: "chunked"', _ZERO),
    "a space before TE's colon": ("Transfer-Encoding : chunked", _ZERO),
    "a space before CL's colon": ("Content-Length : 5", _ZERO),
    "a NUL in a value": ("X: a\0b", ""),
    "a NUL in a name": ("X\0: a", ""),
    "a carriage return in a value": ("X: a\rb", ""),
    "a bare line feed": ("X: a\nY: b", ""),
    "a bare line feed before TE": (f"X: a\n{_TE}", _ZERO),
    "an obsolete fold": ("X: a\r\n b", ""),
    "an obsolete fold with a tab": ("X: a\r\n\tTransfer-Encoding: chunked", _ZERO),
    "a line without a colon": ("X", ""),
    "a line without a name": (": a", ""),
    "a name of two words": ("X Y: a", ""),
    "a name in UTF-8": ("\xc3\xa9: a", ""),
    "a second Host": ("Host: other.test", ""),
    "a second type": ("Content-Type: text/plain\r\nContent-Type: text/html", ""),
}
# Whole heads, in one case with a body.
_HEADS = {
    "no Host": "<line> HTTP/1.1\r\n\r\n",
    "an invalid Host": "<line> HTTP/1.1\r\nHost: a b<>/\r\n\r\n",
    "an indented Host": "<line> HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare line feeds": "<line> HTTP/1.1\nHost: a\n\n",
    "a bare line feed behind the line": "<line> HTTP/1.1\nHost: a\r\n\r\n",
    "two spaces": "<line>  HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab": "<line>\tHTTP/1.1\r\nHost: a\r\n\r\n",
    "a space at the end": "<line> HTTP/1.1 \r\nHost: a\r\n\r\n",
    "a NUL in the line": "<line>\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "no version": "<line>\r\nHost: a\r\n\r\n",
    "lower case": "<line> http/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.10": "<line> HTTP/1.10\r\nHost: a\r\n\r\n",
    "HTTP/1": "<line> HTTP/1\r\nHost: a\r\n\r\n",
    "HTTP/0.9": "<line> HTTP/0.9\r\nHost: a\r\n\r\n",
    "HTTP/2.0": "<line> HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/9.9": "<line> HTTP/9.9\r\nHost: a\r\n\r\n",
    "chunked in HTTP/1.0": f"<line> HTTP/1.0\r\nHost: a\r\n{_TE}\r\n\r\n{_ZERO}",
    "another protocol": "<line> ICY/1.1\r\nHost: a\r\n\r\n",
    "an unknown method": "x<line> HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method with a NUL": "\0<line> HTTP/1.1\r\nHost: a\r\n\r\n",
    "a request in a request": "GET <line> HTTP/1.1\r\nHost: a\r\n\r\n",
}
# Other protocols, and request lines without a route.
NOT_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2 + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "the PROXY protocol": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "PostgreSQL": b"\0\0\0\x08\x04\xd2\x16\x2f\r\n\r\n",
    "zeros": b"\0" * 1_000 + b"\r\n\r\n",
    "two words": b"GET /\r\n\r\n",
    "one word": b"GET\r\n\r\n",
    "an empty target": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "spaces": b"   \r\n\r\n",
}
_INVALID = (400, 501, 505)
SMUGGLED = {
    _INVALID: {
        **{n: f"<line> HTTP/1.1\r\nHost: a\r\n{f}\r\n\r\n{b}" for n, (f, b) in _FIELDS.items()},
        **_HEADS,
    },
    (417,): {"an expectation": "<line> HTTP/1.1\r\nHost: a\r\nExpect: a-miracle\r\n\r\n"},
}

_HEAD = "<line> HTTP/1.1\r\nHost: a\r\n"
TOO_LARGE = {
    (431,): {
        "101 headers": _HEAD + "".join(f"X-{n}: 1\r\n" for n in range(101)) + "\r\n",
        "10000 headers": _HEAD + "X: 1\r\n" * 10_000 + "\r\n",
        "a header of 9 KB": _HEAD + f"X: {'a' * 9_216}\r\n\r\n",
        "a name of 9 KB": _HEAD + f"{'X' * 9_216}: a\r\n\r\n",
        "a header of 1 MB": _HEAD + f"X: {'a' * 2**20}\r\n\r\n",
        "cookies of 9 KB": _HEAD + f"Cookie: {'a=1; ' * 1_900}\r\n\r\n",
        "1 MB without a line end": _HEAD + "X" * 2**20,
    },
    (414,): {
        "a line of 9 KB": f"<line>?{'a' * 9_216} HTTP/1.1\r\nHost: a\r\n\r\n",
    },
    (414, 431): {
        "a line of 1 MB": f"<line>?{'a' * 2**20} HTTP/1.1\r\nHost: a\r\n\r\n",
    },
}
_COOKIES = "; ".join(f"c{n}=v" for n in range(50))
ALLOWED_HEADERS = {
    "50 cookies": f"Cookie: {_COOKIES}",
    "40 headers": "\r\n".join(f"X-{n}: 1" for n in range(40)),
    "a header of 8 KB": f"X: {'a' * 8_000}",
    "an unknown Connection": "Connection: nonsense",
    "an upgrade": "Connection: Upgrade\r\nUpgrade: h2c",
    "other names, with underscores": "Transfer_Encoding: chunked\r\nContent_Length: 5",
    "spaces around a value": "X: \t a \t ",
    "an expectation": "Expect: 100-continue",
}
