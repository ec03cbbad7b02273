"""Tables for scenarios 30 and 31: numbers and names; see hostile_json."""

from faults.hostile_client import OK

_DIGITS = b"9" * 5_000
_INVALID_NUMBERS = {
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
_VALID_NUMBERS = {
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
_WRONG_TYPES = {  # a body with a field, and values that the field cannot have
    "title": (b'{"<title>": %s}', [*_VALID_NUMBERS.values(), b"true", b"null", b"[]", b"{}"]),
    "text": (
        b'{"<title>": "never-", "<text>": %s}',
        [*_VALID_NUMBERS.values(), b"false", b"[]", b"{}"],
    ),
    "boolean": (
        b'{"<title>": "never-", "<flag>": %s}',
        [*_VALID_NUMBERS.values(), b"0", b"1", b'"1"', b'"true"', b"null", b"[]"],
    ),
    "JSON field": (
        b'{"<title>": "never-", "<json>": %s}',
        [*_VALID_NUMBERS.values(), b"true", b'"1"', b'"{}"', b"null", b"[1]"],
    ),
}
NUMBERS = {
    400: {
        **{
            f"{name} in a JSON field": b'{@, "<json>": {"a": %s}}' % n
            for name, n in _INVALID_NUMBERS.items()
        },
        **{
            f"{name} in a boolean": b'{@, "<flag>": %s}' % n for name, n in _INVALID_NUMBERS.items()
        },
        **{
            f"{field} {value.decode()}": body % value
            for field, (body, values) in _WRONG_TYPES.items()
            for value in values
        },
    },
    OK: {
        **{
            f"{name} in a JSON field": b'{@, "<json>": {"a": %s}}' % n
            for name, n in _VALID_NUMBERS.items()
        },
        "true for a read-only integer": b'{@, "version": true}',
        "2^63 for a read-only integer": b'{@, "version": 9223372036854775808}',
    },
}
_INVALID_PAGES = [
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
        "%2B1",
        "1,2",
        "%D9%A1",
        "%EF%BC%91",
    ],
    *("", "2147483648", "9223372036854775808", "9" * 19, "9" * 5_000),
]
NUMBER_QUERIES = {
    400: {
        **{
            f"{n} = {v[:24]}": f"{n}={v}".encode()
            for n in ("page", "page_size")
            for v in _INVALID_PAGES
        },
        **{
            f"a boolean = {v}": f"<flag>={v}".encode() for v in ("1", "0", "TRUE", "yes", "1.0", "")
        },
        **{
            f"a JSON field = {v[:24]}": f"<json>={v}".encode()
            for v in ("1", "-1", "true", '"1"', "[1]", "null", "NaN", '{"a":NaN}', '{"a":1e999}')
        },
        "5000 digits in a JSON field": b'<json>={"a":%s}' % _DIGITS,
        "page_size 101": b"page_size=101",
        "year 0": b"created_at[gte]=0000-01-01T00:00:00Z",
        "year 10000": b"created_at[lt]=10000-01-01T00:00:00Z",
        "a timestamp as a number": b"updated_at[gt]=1700000000",
        "offset 99:99": b"updated_at[lte]=2026-01-01T00:00:00%2B99:99",
    },
    OK: {
        "the highest page": b"page=2147483647&page_size=100",
        "leading zeros": b"page=0001",
        **{f"{n} in a JSON field": b'<json>={"a":%s}' % v for n, v in _VALID_NUMBERS.items()},
    },
}

_MANY = b", ".join(b'"k%d": %d' % (n, n) for n in range(10_000))
NAMES = {
    400: {
        "a name twice": b'{@, "<title>": "never-a", "<title>": "never-b"}',
        "the same twice": b'{@, "<flag>": true, "<flag>": true}',
        "one of them escaped": rb'{"<title>": "never-", "id": 1, "\u0069d": 2}',
        "twice in a JSON field": b'{@, "<json>": {"a": 1, "a": 2}}',
        "twice in a nested object": b'{@, "<json>": {"a": [{"b": {"c": 1, "c": 1}}]}}',
        "a JSON field twice": b'{@, "<json>": {}, "<json>": {"a": 1}}',
        "a read-only name twice": b'{@, "id": 1, "id": 2}',
        "__proto__": b'{@, "__proto__": {"<flag>": false}}',
        "constructor": b'{@, "constructor": {"prototype": {}}}',
        "__class__": b'{@, "__class__": "x"}',
        "wrong case": b'{@, "ID": 1}',
        "an empty key": b'{@, "": 1}',
        "10000 unknown": b"{@, %s}" % _MANY,
        "10000 in a JSON field": b'{@, "<json>": {%s}}' % _MANY,
        "1 MB key": b'{@, "%s": 1}' % (b"k" * 1_000_000),
        "1 MB key in a JSON field": b'{@, "<json>": {"%s": 1}}' % (b"k" * 1_000_000),
        "search": b'{@, "search": "x"}',
        "bigrams": b'{@, "bigrams": [1]}',
    },
    413: {"2 MB key": b'{@, "%s": 1}' % (b"k" * 2_000_000)},
    OK: {
        "__proto__ in a JSON field": b'{@, "<json>": {"__proto__": {"a": 1}, "constructor": 1}}',
        "the same key in two objects": b'{@, "<json>": {"a": {"b": 1}, "b": {"b": 2}}}',
        "keys of another case": b'{@, "<json>": {"a": 1, "A": 2}}',
    },
}
NAME_QUERIES = {
    400: {
        "page twice": b"page=1&page=1",
        "page twice, escaped": b"page=1&p%61ge=2",
        "a JSON field twice": b"<json>={}&<json>={}",
        "twice in a JSON field": b'<json>={"a":1,"a":2}',
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
