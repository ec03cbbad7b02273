"""A strict JSON parser for I-JSON (RFC 7493), which is a subset of JSON (RFC 8259) in UTF-8.

Integers are exact, and fractions have the precision of a double. Duplicate names, NaN and Infinity
are errors. So are U+0000 and unpaired surrogates, which PostgreSQL cannot store.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class InvalidJSON(ValueError):
    """Its text is the end of a sentence, as in f"The body {error}"."""


def parse_json(raw: bytes, decoder: json.JSONDecoder | None = None) -> Any:
    """Return the value of one JSON text; raises InvalidJSON.

    The `decoder`, of `make_decoder`, may keep more digits of fractions than a double has.
    """
    try:
        text = raw.decode("utf-8")
        value = (decoder or _DECODER).decode(text)
        # In valid JSON these characters are possible only as \u escapes.
        if "\\u" in text and not _is_storable(value):
            raise InvalidJSON("contains U+0000 or an unpaired surrogate, which cannot be stored.")
    except UnicodeDecodeError:
        raise InvalidJSON("is not UTF-8.") from None
    except RecursionError:
        raise InvalidJSON("is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"is not valid JSON: {error}.") from None
    except InvalidJSON:
        raise
    except ValueError:  # a float is infinite, or int() does not accept so many digits
        raise InvalidJSON("is not valid JSON: a number is out of range.") from None
    return value


def _reject_duplicate_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidJSON("is not valid JSON: an object has the same name twice.")
    return members


def _reject_constant(constant: str) -> None:
    raise InvalidJSON(f"is not valid JSON: {constant} is not a JSON number.")


def _parse_finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def make_decoder(parse_fraction: Callable[[str], float]) -> json.JSONDecoder:
    """Return a decoder for `parse_json`. ValueError of `parse_fraction` means out of range."""
    return json.JSONDecoder(
        object_pairs_hook=_reject_duplicate_names,
        parse_constant=_reject_constant,
        parse_float=parse_fraction,
    )


_DECODER = make_decoder(_parse_finite_float)


def _is_storable(value: Any) -> bool:
    if isinstance(value, str):
        return not _UNSTORABLE.search(value)
    if isinstance(value, dict):
        return all(map(_is_storable, value)) and all(map(_is_storable, value.values()))
    return not isinstance(value, list) or all(map(_is_storable, value))
