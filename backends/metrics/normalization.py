"""Differences between two texts that a comparison ignores."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Collection
from functools import cache
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from backends.metrics.built_in import MetricOptions

Difference: TypeAlias = Literal["case", "punctuation", "articles", "white_space"]

SQUAD: tuple[Difference, ...] = ("case", "punctuation", "articles", "white_space")
"""What the evaluation of SQuAD ignores (`normalize_answer`; Rajpurkar et al. 2016,
arXiv:1606.05250)."""

_ARTICLE = re.compile(r"\b(?:a|an|the)\b(\s*)", re.IGNORECASE)


class ComparisonOptions(MetricOptions):
    """Options of a metric that compares texts."""

    ignore: Annotated[
        tuple[Difference, ...],
        Field(
            description="Differences to ignore: `case`, `punctuation`, `articles` (a, an, the), `white_space` "
            "(several spaces or line breaks count as one). All four are those of SQuAD. White space around a text "
            "never counts."
        ),
    ] = ()


def normalized(text: str, ignore: Collection[Difference]) -> str:
    """Return the text without the ignored differences, and without white space around it.

    With all of them, the result is that of SQuAD's `normalize_answer`, except that `punctuation`
    also means the punctuation of other scripts, as in MLQA (Lewis et al. 2020, arXiv:1910.07475).
    """
    if "case" in ignore:
        text = text.lower()
    if "punctuation" in ignore:
        text = "".join(character for character in text if not _is_punctuation(character))
    if "articles" in ignore:
        text = _ARTICLE.sub(lambda match: "" if match[1] else " ", text)
    return " ".join(text.split()) if "white_space" in ignore else text.strip()


@cache
def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
