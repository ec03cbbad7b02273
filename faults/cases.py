"""The tables of hostile requests: what must be answered, and what it must be answered to.

@ in a body is the field that has the marker, <path> that of a project. A name says a case's form.
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

_DIGITS = b"9" * 5_000
_NO_NUMBERS = {
    "5000 digits": _DIGITS,
    "-5000 digits": b"-" + _DIGITS,
    "1e999": b"1e999",
    "-1e999": b"-1e999",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "hexadecimal": b"0x10",
    "leading zero": b"01",
    "plus": b"+1",
    "no fraction": b"1.",
    "no integer": b".5",
    "underscore": b"1_000",
}
_NUMBERS = {
    "2^31": b"2147483648",
    "2^63": b"9223372036854775808",
    "2^64": b"18446744073709551616",
    "-2^63 - 1": b"-9223372036854775809",
    "40 digits": b"9" * 40,
    "-1": b"-1",
    "-0": b"-0",
    "-0.0": b"-0.0",
    "1.0": b"1.0",
    "1e308": b"1e308",
    "1e-400": b"1e-400",
}
_TYPED = {  # what is no value of the field
    "name": [*_NUMBERS.values(), b"true", b"null", b"[]", b"{}"],
    "description": [*_NUMBERS.values(), b"false", b"[]", b"{}"],
    "is_active": [*_NUMBERS.values(), b"0", b"1", b'"1"', b'"true"', b"null", b"[]"],
    "attributes": [*_NUMBERS.values(), b"true", b'"1"', b'"{}"', b"null", b"[1]"],
}
NUMBERS = {
    400: {
        **{
            f"{name} in attributes": b'{@, "attributes": {"a": %s}}' % n
            for name, n in _NO_NUMBERS.items()
        },
        **{f"{name} in is_active": b'{@, "is_active": %s}' % n for name, n in _NO_NUMBERS.items()},
        **{
            f"{field} {value.decode()}": b'{"name": "never-", "%s": %s}' % (field.encode(), value)
            if field != "name"
            else b'{"name": %s}' % value
            for field, values in _TYPED.items()
            for value in values
        },
    },
    OK: {
        **{
            f"{name} in attributes": b'{@, "attributes": {"a": %s}}' % n
            for name, n in _NUMBERS.items()
        },
        "true for a read-only integer": b'{@, "version": true}',
        "2^63 for a read-only integer": b'{@, "version": 9223372036854775808}',
    },
}
_NO_PAGES = [
    *[
        "0",
        "-1",
        "-0",
        "1.0",
        "1e3",
        "0x10",
        "true",
        "null",
        "NaN",
        "Infinity",
        "1e999",
        "%201",
        "1_0",
    ],
    *[
        "",
        "%2B1",
        "1,2",
        "%D9%A1",
        "%EF%BC%91",
        "2147483648",
        "9223372036854775808",
        "9" * 19,
        "9" * 5_000,
    ],
]
NUMBER_QUERIES = {
    400: {
        **{
            f"{n} = {v[:24]}": f"{n}={v}".encode() for n in ("page", "page_size") for v in _NO_PAGES
        },
        **{
            f"is_active = {v}": f"is_active={v}".encode()
            for v in ("1", "0", "TRUE", "yes", "1.0", "")
        },
        **{
            f"attributes = {v[:24]}": f"attributes={v}".encode()
            for v in ("1", "-1", "true", '"1"', "[1]", "null", "NaN", '{"a":NaN}', '{"a":1e999}')
        },
        "5000 digits in attributes": b'attributes={"a":%s}' % _DIGITS,
        "page_size 101": b"page_size=101",
        "year 0": b"created_at[gte]=0000-01-01T00:00:00Z",
        "year 10000": b"created_at[lt]=10000-01-01T00:00:00Z",
        "a timestamp as a number": b"updated_at[gt]=1700000000",
        "offset 99:99": b"updated_at[lte]=2026-01-01T00:00:00%2B99:99",
    },
    OK: {
        "the last page": b"page=2147483647&page_size=100",
        "leading zeros": b"page=0001",
        **{f"{n} in attributes": b'attributes={"a":%s}' % v for n, v in _NUMBERS.items()},
    },
}

_MANY = b", ".join(b'"k%d": %d' % (n, n) for n in range(10_000))
NAMES = {
    400: {
        "a name twice": b'{@, "name": "never-a", "name": "never-b"}',
        "the same twice": b'{@, "is_active": true, "is_active": true}',
        "one of them escaped": rb'{"name": "never-a", "n\u0061me": "never-b"}',
        "twice in attributes": b'{@, "attributes": {"a": 1, "a": 2}}',
        "twice far inside": b'{@, "attributes": {"a": [{"b": {"c": 1, "c": 1}}]}}',
        "attributes twice": b'{@, "attributes": {}, "attributes": {"a": 1}}',
        "a read-only one twice": b'{@, "id": 1, "id": 2}',
        "__proto__": b'{@, "__proto__": {"is_active": false}}',
        "constructor": b'{@, "constructor": {"prototype": {}}}',
        "__class__": b'{@, "__class__": "x"}',
        "wrong case": b'{@, "Is_Active": true}',
        "an empty key": b'{@, "": 1}',
        "10000 unknown": b"{@, %s}" % _MANY,
        "10000 in attributes": b'{@, "attributes": {%s}}' % _MANY,
        "1 MB key": b'{@, "%s": 1}' % (b"k" * 1_000_000),
        "1 MB key in attributes": b'{@, "attributes": {"%s": 1}}' % (b"k" * 1_000_000),
        "search": b'{@, "search": "x"}',
        "bigrams": b'{@, "bigrams": [1]}',
    },
    413: {"2 MB key": b'{@, "%s": 1}' % (b"k" * 2_000_000)},
    OK: {
        "__proto__ in attributes": b'{@, "attributes": {"__proto__": {"a": 1}, "constructor": 1}}',
        "the same key in two objects": b'{@, "attributes": {"a": {"b": 1}, "b": {"b": 2}}}',
        "keys of another case": b'{@, "attributes": {"a": 1, "A": 2}}',
    },
}
NAME_QUERIES = {
    400: {
        "page twice": b"page=1&page=1",
        "page twice, escaped": b"page=1&p%61ge=2",
        "attributes twice": b"attributes={}&attributes={}",
        "twice in attributes": b'attributes={"a":1,"a":2}',
        "unknown": b"limit=1",
        "__proto__": b"__proto__=1",
        "brackets": b"page[]=1",
        "unknown comparison": b"created_at[ne]=2026-01-01T00:00:00Z",
        "wrong case": b"Page=1",
        "51 parameters": b"&".join(b"p%d=1" % n for n in range(51)),
        "1000 parameters": b"&".join(b"p%d" % n for n in range(1_000)),
        "a long name": b"k" * 7_000 + b"=1",
        "sort twice the same": b"sort=name,-name,name",
        "a cursor and a page": b"page=1&cursor=x",
    }
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
