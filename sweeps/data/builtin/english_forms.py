"""Forms of the English words of generated texts: plurals and articles."""

from __future__ import annotations

from collections.abc import Mapping

_IRREGULAR_PLURALS: Mapping[str, str] = {"scarf": "scarves", "mango": "mangoes"}


def plural(noun: str) -> str:
    """Return the plural of a noun of `nli_words`."""
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def with_article(noun: str) -> str:
    """Return a noun with `a` or `an`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
