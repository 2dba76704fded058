"""Spaces that nobody wrote on purpose, and how texts are compared without them."""

from __future__ import annotations

_INVISIBLE = "\ufeff\u200b\u2060"
_BLANKS = "".join(character for character in map(chr, range(0x3001)) if character.isspace()) + _INVISIBLE


def trimmed(text: str) -> str:
    r"""Return a text without spaces and blank lines at its ends, and with `\n` as its line breaks.

    The indentation of the first line stays if the text has several lines, because code has one.
    Invisible characters such as the byte order mark count as spaces.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    bare = text.strip(_BLANKS)
    if "\n" not in bare or bare is text:
        return bare
    indentation = text[: text.index(bare)].rpartition("\n")[2]
    return "".join(character for character in indentation if character in " \t") + bare


def folded(text: str) -> str:
    """Return the text for comparisons that ignore case and spaces."""
    return " ".join(text.casefold().split())
