"""Search (the parameter `q`): every word must occur in a row's title or text.

A search compares folded texts (migration 0006), so case and Unicode normal form do not matter. An
index of bigrams, the pairs of neighbouring letters, finds candidates in every language.
"""

import re
from typing import Any
from unicodedata import normalize

import sqlalchemy as sa
from marshmallow import ValidationError
from sqlalchemy.dialects.postgresql import ARRAY

from projectapp.resources.subqueries import Filter, constant

# Stands before the title and before the text in the column `search`, and in no word.
_FIELD_SEPARATOR: sa.ColumnElement[str] = sa.literal_column(r"E'\x1f'")

_phrase = sa.func.search_fold(sa.bindparam("phrase"), type_=sa.Text)
_word_patterns = sa.func.string_to_array(
    sa.func.search_fold(sa.bindparam("patterns")), sa.literal_column("' '"), type_=ARRAY(sa.Text)
)
_TITLE_PREFIX = _FIELD_SEPARATOR.concat(_phrase)
_WHOLE_TITLE = _TITLE_PREFIX.concat(_FIELD_SEPARATOR)

_ANYWHERE, _IN_TITLE = 1, -1  # bigrams of the title are stored a second time, as negative numbers


def search_parameters(q: str) -> dict[str, str]:
    """Return the values of the parameters that the conditions of this module have."""
    words = q.split()
    escaped = (re.sub(r"([\\%_])", r"\\\1", word) for word in words)
    return {"phrase": " ".join(words), "patterns": " ".join(f"%{word}%" for word in escaped)}


def search_filter(table: sa.Table) -> Filter:
    """Return the filter for rows that contain all words."""
    return Filter(
        lambda c: c.search.like(sa.all_(_word_patterns)),
        index_condition=_has_bigrams(table, _phrase, _ANYWHERE),
    )


def search_segments(table: sa.Table) -> list[Filter]:
    """Return the ranks of a search as segments of the list, the best first."""
    index_conditions = (
        _has_bigrams(table, _WHOLE_TITLE, _IN_TITLE),
        _has_bigrams(table, _TITLE_PREFIX, _IN_TITLE),
        _has_bigrams(table, _phrase, _IN_TITLE),
        _has_bigrams(table, _phrase, _ANYWHERE),
    )
    return [_rank_filter(rank, condition) for rank, condition in enumerate(index_conditions)]


def search_rank(c: Any) -> sa.ColumnElement[int]:
    """Rank a match: 0 whole title, 1 beginning of the title, 2 words in the title, 3 the rest."""
    title = sa.func.split_part(c.search, _FIELD_SEPARATOR, constant(2))
    conditions = (
        sa.func.starts_with(c.search, _WHOLE_TITLE),
        sa.func.starts_with(c.search, _TITLE_PREFIX),
        title.like(sa.all_(_word_patterns)),
    )
    cases = ((condition, constant(rank)) for rank, condition in enumerate(conditions))
    return sa.case(*cases, else_=constant(3))


def _rank_filter(rank: int, index_condition: sa.ColumnElement[bool]) -> Filter:
    return Filter(lambda c: search_rank(c) == constant(rank), index_condition=index_condition)


def _has_bigrams(table: sa.Table, text: Any, sign: int) -> sa.ColumnElement[bool]:
    bigrams = sa.func.search_keys(text, sa.literal_column(str(sign)), type_=ARRAY(sa.Integer))
    return table.c.bigrams.contains(bigrams)


def validate_search(text: str) -> None:
    """Raise ValidationError if no word has two letters: the index finds only pairs of letters."""
    folded = "".join(map(_fold_case, normalize("NFC", text))).replace("i\u0307", "i")
    if not any(len(word) > 1 for word in normalize("NFC", folded).split()):
        raise ValidationError("A search needs at least one word of two or more characters.")


def _fold_case(letter: str) -> str:
    """Return a letter after Unicode's simple case folding; i for both Turkish letters."""
    if letter in "İı":
        return "i"
    folded = letter.casefold()
    return folded if len(folded) == 1 else letter.lower()
