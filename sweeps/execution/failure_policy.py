"""When failing trials end a sweep: at once where no trial could do better, else when several in a row fail alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

from backends.contract import Failure

ALIKE_FAILURES = 3
"""So many trials that fail alike, with no success between them, end the sweep: the next would fail, too."""

_PARTICULAR = re.compile(r"\S*\d\S*")
"""A word with a digit: the name of a job or a file, a number of steps or hours. It tells like failures apart."""


def trips(failures: Sequence[Failure]) -> bool:
    """Return whether the last failures are alike and many enough."""
    last = failures[-ALIKE_FAILURES:]
    return len(last) == ALIKE_FAILURES and len({likeness(each) for each in last}) == 1


def likeness(failure: Failure) -> tuple[str, str]:
    """Return what like failures have in common: the kind, and the message but for what is particular to a trial."""
    return failure.kind.value, _PARTICULAR.sub("#", failure.message)
