"""Which examples have a fault: what `drop: [CODE]` leaves out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import chain

from sweeps.data.checks.cases import recording
from sweeps.data.findings import Finding


def faulty_places(checks: Iterable[Iterable[Finding]], codes: Collection[str]) -> dict[str, set[str]]:
    """Run checks, and return the places of all examples with a finding of each of these codes.

    `checks` are calls that have not begun: a check is a generator, and begins when it is read. A
    finding lists only the first few places; these are all. For codes about two parts they are the
    examples of the later part: those of validation or test, never those of train.
    """
    found: dict[str, set[str]] = {code: set() for code in codes}
    with recording() as recorded:
        for finding in chain.from_iterable(checks):
            if finding.code in found and finding.count == 1 and finding.place:
                found[finding.code].add(finding.place)
    return {code: places | recorded.get(code, set()) for code, places in found.items()}
