"""Thorough check for texts that some program has decoded with a wrong encoding."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from sweeps.data.checks.cases import Cases
from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding, quoted

_MOJIBAKE = re.compile(
    "Ã[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u2013-\u203a\u20ac\u2122]"
    "|Â[\u00a0-\u00bf]|â€[\u0080-\u009f\u00a0-\u00bf\u0152\u0153\u2013-\u203a\u2122]|ï»¿|\ufffd"
)
"""UTF-8 read as Windows-1252, such as Ã© for é and â€™ for an apostrophe; and lost characters."""


def check_decoding(view: DataView) -> Iterator[Finding]:
    """Report texts with the marks of a wrong encoding."""
    cases = Cases()
    shown = ""
    for example in chain.from_iterable(view.parts.values()):
        text = f"{example.prompt}\n{example.completion}"
        if not text.isascii() and (found := _MOJIBAKE.search(text)):
            cases.add(example)
            shown = shown or found.group()
    if cases:
        message = f"text that was decoded with a wrong encoding, such as {quoted(shown)}: {cases.in_words()}"
        hint = "`sweep prepare` decodes it again where it can; else export the file again, as UTF-8"
        yield cases.warning("mojibake", message, hint)
