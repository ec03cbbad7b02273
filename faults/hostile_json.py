"""Rows 28, 29 and 32 as tables: by what must be answered, the cases that it must be answered to.

@ in a body is the field that has the marker.
"""

from faults.abuse import OK
from faults.client import PROJECTS

_WIDE = "utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-8-sig"
_BRACKETS = {"objects": (b'{"a":', b"}"), "arrays": (b"[", b"]")}


def _nested(kind: str, levels: int, inmost: bytes = b"1") -> bytes:
    opened, closed = _BRACKETS[kind]
    return opened * levels + inmost + closed * levels


def _deep() -> dict[str, bytes]:
    """Deep in each place; the last is never closed."""
    places = {
        "the body": b"%s",
        "attributes": b'{@, "attributes": {"a": %s}}',
        "a name": b'{"name": %s}',
        "an unknown field": b'{@, "other": %s}',
    }
    found = {}
    for kind in _BRACKETS:
        for levels in (1_000, 30_000, 100_000):
            for place, text in places.items():
                found[f"{levels} {kind} in {place}"] = text % _nested(kind, levels)
            found[f"{levels} {kind}, open"] = _BRACKETS[kind][0] * levels
        found[f"33 {kind} in attributes"] = b'{@, "attributes": {"a": %s}}' % _nested(kind, 32)
    return found


DEEP = {
    400: _deep(),
    OK: {
        f"32 {kind} in attributes": b'{@, "attributes": {"a": %s}}' % _nested(kind, 31)
        for kind in _BRACKETS
    },
}
DEEP_QUERIES = {
    (400, 414, 431): {
        f"{levels} {kind}": b"attributes=" + b'{"a":%s}' % _nested(kind, levels)
        for kind in _BRACKETS
        for levels in (32, 300, 1_000, 30_000)
    },
    OK: {"31 objects": b"attributes=" + _nested("objects", 32)},
}

_UNSTORABLE = {
    "NUL": rb"\u0000",
    "high surrogate": rb"\ud800",
    "low surrogate": rb"\udfff",
    "surrogates in the wrong order": rb"\udc00\ud800",
    "raw NUL": b"\0",
    "raw newline": b"\n",
    "byte ff": b"\xff",
    "overlong slash": b"\xc0\xaf",
    "overlong NUL": b"\xc0\x80",
    "cut sequence": b"\xe2\x82",
    "surrogate in UTF-8": b"\xed\xa0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
}
_PLACES = {
    "the name": b'{"name": "a%sb"}',
    "a description": b'{"name": "a", "description": "%s"}',
    "a key": b'{@, "attributes": {"a%s": 1}}',
    "a value": b'{@, "attributes": {"a": ["%s"]}}',
    "an unknown field": b'{@, "a%s": 1}',
}
_FINE = {
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
            f"{n} in {place}": p % t for n, t in _UNSTORABLE.items() for place, p in _PLACES.items()
        },
        **{f"a body in {coding}": '{"name": "never-"}'.encode(coding) for coding in _WIDE},
        "NUL behind the body": b'{"name": "never-"}\0',
        "byte ff behind the body": b'{"name": "never-"}\xff',
    },
    OK: {name: b'{@, "attributes": {"a": "%s"}}' % text for name, text in _FINE.items()},
}
TEXT_QUERIES = {
    400: {
        f"{value} in {name}": f"{name}={value}".encode()
        for name in ("q", "name", "attributes", "cursor", "sort", "other")
        for value in ("ab%00cd", "ab%ffcd", "ab%ed%a0%80", "ab%c0%af")
    }
    | {
        f"{name} in attributes": b"attributes=" + text
        for name, text in {
            "NUL": rb'{"a":"\u0000"}',
            "surrogate": rb'{"a":"\ud800"}',
            "BOM": b"%ef%bb%bf{}",
            "UTF-16": b"%00{%00}",
        }.items()
    },
    OK: {"U+FFFE in name": b"name=%ef%bf%be", "U+10FFFF in q": b"q=%f4%8f%bf%bf%f4%8f%bf%bf"},
}

_UUID = "01900000-0000-7000-8000-000000000000"
IDS = {
    404: {
        name: f"{PROJECTS}/{text}"
        for name, text in {
            "no such": _UUID,
            "parent": "../",
            "grandparents": "../../../../etc/passwd",
            "escaped parent": "%2e%2e%2f",
            "twice escaped parent": "%252e%252e%252f",
            "NUL": "%00",
            "NUL behind": f"{_UUID}%00",
            "byte ff": "%ff",
            "newline": f"{_UUID}%0a",
            "CR LF": f"{_UUID}%0d%0aX-Evil:%201",
            "10^200": f"1{'0' * 200}",
            "a minus": "-1",
            "zero": "0",
            "braces": f"{{{_UUID}}}",
            "escaped braces": f"%7B{_UUID}%7D",
            "URN": f"urn:uuid:{_UUID}",
            "no dashes": _UUID.replace("-", ""),
            "misplaced dashes": "0190-00000000-7000-8000-000000000000",
            "full-width": "%EF%BC%90" + _UUID[1:],
            "no hexadecimal": f"g{_UUID[1:]}",
            "one too many": f"{_UUID}0",
            "one too few": _UUID[:-1],
            "slash": f"{_UUID}/x",
            "escaped slash": f"{_UUID}%2Fx",
            "two slashes": f"/{_UUID}",
            "semicolon": f"{_UUID};a=1",
            "only a semicolon": ";",
            "blank": f"%20{_UUID}",
            "plus": "+",
            "quote": f"{_UUID}'",
            "SQL": f"{_UUID}'%20OR%20'1'='1",
            "star": "*",
            "null": "null",
            "undefined": "undefined",
            "7000 long": "a" * 7_000,
        }.items()
    },
    (400, 404): {"raw bytes": f"{PROJECTS}/\xc3\xa9", "a blank": f"{PROJECTS}/a b"},
}
