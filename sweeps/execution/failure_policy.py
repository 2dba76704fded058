"""The failure policy: several similar failures in a row end a sweep."""

from __future__ import annotations

import re
from collections.abc import Sequence

from backends.contract import Failure

MAX_SIMILAR_FAILURES = 3
"""This many similar failures with no success between them end the sweep, because the next trial
would fail too."""

_SPECIFIC_WORD = re.compile(r"\S*\d\S*")
"""A word with a digit: the name of a job or file, a count of steps or hours. Similar failures
differ only in these."""


def ends_sweep(failures: Sequence[Failure]) -> bool:
    """Return whether the last `MAX_SIMILAR_FAILURES` failures are similar.

    `failures` are in order, oldest first.
    """
    last = failures[-MAX_SIMILAR_FAILURES:]
    return len(last) == MAX_SIMILAR_FAILURES and len({signature(failure) for failure in last}) == 1


def signature(failure: Failure) -> tuple[str, str]:
    """Return what similar failures share: the kind, and the message without specific words."""
    return failure.kind.value, _SPECIFIC_WORD.sub("#", failure.message)
