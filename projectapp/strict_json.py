"""A strict JSON parser: RFC 8259 in UTF-8 as I-JSON (RFC 7493) narrows it.

Integers are exact, fractions have the precision of a double. Duplicate names, NaN and Infinity are
refused, and so are U+0000 and unpaired surrogates, which PostgreSQL cannot store.
"""

import json
import math
import re
from typing import Any

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class InvalidJSON(ValueError):
    """Says what is wrong with a text, as in "The body " + str(error)."""


def parse_json(raw: bytes) -> Any:
    """Parse one JSON text; raises InvalidJSON."""
    try:
        text = raw.decode("utf-8")
        value = _DECODER.decode(text)
        # Raw, neither can stand in valid JSON in UTF-8: only an escape brings one in.
        if "\\u" in text and not _storable(value):
            raise InvalidJSON("has U+0000 or an unpaired surrogate, which cannot be stored.")
    except UnicodeDecodeError:
        raise InvalidJSON("is not UTF-8.") from None
    except RecursionError:
        raise InvalidJSON("is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"is not valid JSON: {error}.") from None
    except InvalidJSON:
        raise
    except ValueError:  # Python's limit of digits in one integer
        raise InvalidJSON("is not valid JSON: a number is out of range.") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidJSON("is not valid JSON: an object has the same name twice.")
    return found


def _refuse(constant: str) -> None:
    raise InvalidJSON(f"is not valid JSON: {constant} is no number.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)


def _storable(value: Any) -> bool:
    if isinstance(value, str):
        return not _UNSTORABLE.search(value)
    if isinstance(value, dict):
        return all(map(_storable, value)) and all(map(_storable, value.values()))
    return not isinstance(value, list) or all(map(_storable, value))
