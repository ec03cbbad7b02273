"""Tables for scenarios 28, 29 and 32: by expected statuses, the cases by name.

In a body @ is a text field with a marker; <title>, <text>, <flag> and <json> are the names of the
resource's fields. In a path <list> is the path of all rows.
"""

from faults.hostile_client import OK

WRONG_ENCODINGS = "utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-8-sig"
_BRACKETS = {"objects": (b'{"a":', b"}"), "arrays": (b"[", b"]")}


def _nest(kind: str, levels: int) -> bytes:
    opening, closing = _BRACKETS[kind]
    return opening * levels + b"1" + closing * levels


def _deep_cases() -> dict[str, bytes]:
    """Return deep objects and arrays in each place, and some whose brackets are never closed."""
    places = {
        "the body": b"%s",
        "a JSON field": b'{@, "<json>": {"a": %s}}',
        "a title": b'{"<title>": %s}',
        "an unknown field": b'{@, "other": %s}',
    }
    cases = {}
    for kind in _BRACKETS:
        for levels in (1_000, 30_000, 100_000):
            for place, text in places.items():
                cases[f"{levels} {kind} in {place}"] = text % _nest(kind, levels)
            cases[f"{levels} {kind}, not closed"] = _BRACKETS[kind][0] * levels
        cases[f"33 {kind} in a JSON field"] = b'{@, "<json>": {"a": %s}}' % _nest(kind, 32)
    return cases


DEEP = {
    400: _deep_cases(),
    OK: {
        f"32 {kind} in a JSON field": b'{@, "<json>": {"a": %s}}' % _nest(kind, 31)
        for kind in _BRACKETS
    },
}
DEEP_QUERIES = {
    (400, 414, 431): {
        f"{levels} {kind}": b"<json>=" + b'{"a":%s}' % _nest(kind, levels)
        for kind in _BRACKETS
        for levels in (32, 300, 1_000, 30_000)
    },
    OK: {"31 objects": b"<json>=" + _nest("objects", 32)},
}

_INVALID_TEXTS = {
    "NUL": rb"\u0000",
    "high surrogate": rb"\ud800",
    "low surrogate": rb"\udfff",
    "surrogates in the wrong order": rb"\udc00\ud800",
    "raw NUL": b"\0",
    "raw newline": b"\n",
    "byte ff": b"\xff",
    "overlong slash": b"\xc0\xaf",
    "overlong NUL": b"\xc0\x80",
    "truncated sequence": b"\xe2\x82",
    "surrogate in UTF-8": b"\xed\xa0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
}
_PLACES = {
    "the title": b'{"<title>": "a%sb"}',
    "the text": b'{"<title>": "a", "<text>": "%s"}',
    "a key": b'{@, "<json>": {"a%s": 1}}',
    "a value": b'{@, "<json>": {"a": ["%s"]}}',
    "an unknown field": b'{@, "a%s": 1}',
}
_VALID_TEXTS = {
    "U+FFFE": "\ufffe".encode(),
    "U+FFFE, escaped": rb"\ufffe",
    "U+FEFF inside": "\ufeff".encode(),
    "a pair of surrogates": rb"\ud83d\ude00",
    "four bytes": "\U0001f600".encode(),
    "U+10FFFF": "\U0010ffff".encode(),
    "right to left": "\u202e\u0627".encode(),
}
TEXTS = {
    400: {
        **{
            f"{n} in {place}": p % t
            for n, t in _INVALID_TEXTS.items()
            for place, p in _PLACES.items()
        },
        "NUL after the body": b'{"<title>": "never-"}\0',
        "byte ff after the body": b'{"<title>": "never-"}\xff',
    },
    OK: {name: b'{@, "<json>": {"a": "%s"}}' % text for name, text in _VALID_TEXTS.items()},
}
TEXT_QUERIES = {
    400: {
        f"{value} in {name}": f"{name}={value}".encode()
        for name in ("q", "<title>", "<json>", "cursor", "sort", "other")
        for value in ("ab%00cd", "ab%ffcd", "ab%ed%a0%80", "ab%c0%af")
    }
    | {
        f"{name} in a JSON field": b"<json>=" + text
        for name, text in {
            "NUL": rb'{"a":"\u0000"}',
            "surrogate": rb'{"a":"\ud800"}',
            "BOM": b"%ef%bb%bf{}",
            "UTF-16": b"%00{%00}",
        }.items()
    },
    OK: {
        "U+FFFE in q": b"q=ab%ef%bf%be",
        "U+10FFFF in q": b"q=%f4%8f%bf%bf%f4%8f%bf%bf",
    },
}

_UUID = "01900000-0000-7000-8000-000000000000"
IDS = {
    404: {
        name: f"<list>/{text}"
        for name, text in {
            "unknown": _UUID,
            "parent": "../",
            "grandparents": "../../../../etc/passwd",
            "escaped parent": "%2e%2e%2f",
            "parent escaped twice": "%252e%252e%252f",
            "NUL": "%00",
            "NUL at the end": f"{_UUID}%00",
            "byte ff": "%ff",
            "newline": f"{_UUID}%0a",
            "CR LF": f"{_UUID}%0d%0aX-Evil:%201",
            "10^200": f"1{'0' * 200}",
            "negative": "-1",
            "zero": "0",
            "braces": f"{{{_UUID}}}",
            "escaped braces": f"%7B{_UUID}%7D",
            "URN": f"urn:uuid:{_UUID}",
            "no dashes": _UUID.replace("-", ""),
            "misplaced dashes": "0190-00000000-7000-8000-000000000000",
            "full-width": "%EF%BC%90" + _UUID[1:],
            "not hexadecimal": f"g{_UUID[1:]}",
            "one digit too many": f"{_UUID}0",
            "one digit too few": _UUID[:-1],
            "slash": f"{_UUID}/x",
            "escaped slash": f"{_UUID}%2Fx",
            "two slashes": f"/{_UUID}",
            "semicolon": f"{_UUID};a=1",
            "only a semicolon": ";",
            "space": f"%20{_UUID}",
            "plus": "+",
            "quote": f"{_UUID}'",
            "SQL": f"{_UUID}'%20OR%20'1'='1",
            "star": "*",
            "null": "null",
            "undefined": "undefined",
            "7000 characters": "a" * 7_000,
        }.items()
    },
    (400, 404): {"raw bytes": "<list>/\xc3\xa9", "a space": "<list>/a b"},
}
