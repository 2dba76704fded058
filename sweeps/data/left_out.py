"""Leave out the examples with the findings that the sweep file names: `drop: [CODE]`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from sweeps.data.checks.dropping import faulty_places
from sweeps.data.example_store import Selection
from sweeps.data.examples import Example
from sweeps.data.findings import MAX_PLACES, Finding


def without_faulty(
    parts: Mapping[str, Sequence[Example]], checks: Iterable[Iterable[Finding]], codes: Collection[str]
) -> tuple[dict[str, Sequence[Example]], list[Finding]]:
    """Return the parts without the examples that `checks` find, and a warning for each code.

    See `faulty_places`. An example with several of the faults counts for the first one.
    """
    faulty = faulty_places(checks, codes) if codes else {}
    code_of = {place: code for code in reversed(list(faulty)) for place in faulty[code]}
    if not code_of:
        return dict(parts), []
    kept: dict[str, Sequence[Example]] = {}
    left_out: dict[tuple[str, str], list[str]] = {}
    for part, examples in parts.items():
        indices = []
        for index, example in enumerate(examples):
            code = code_of.get(example.place)
            if code is None:
                indices.append(index)
            else:
                left_out.setdefault((code, part), []).append(example.place)
        kept[part] = Selection(examples, indices)
    return kept, [left_out_finding(code, part, places) for (code, part), places in left_out.items()]


def left_out_finding(code: str, part: str, places: Sequence[str]) -> Finding:
    """Return the warning about the examples of a part that were left out for a finding."""
    count = f"{len(places):,} {part} example{'s' if len(places) != 1 else ''}"
    message = f"left out {count} with the finding {code}"
    return Finding("warning", "left-out", message, places[0], "", len(places), tuple(places[:MAX_PLACES]))


def without_unreadable(
    findings: Iterable[Finding], part: str, codes: Collection[str]
) -> tuple[list[Finding], list[Finding]]:
    """Take the faults of single records with these codes out of the findings of a part.

    Such a record makes no example, so nothing else is left to drop. Returns the other findings, and
    a warning for each code.
    """
    others: list[Finding] = []
    places: dict[str, list[str]] = {}
    for finding in findings:
        if finding.code in codes and finding.count == 1 and finding.place.rpartition(":")[2].isdigit():
            places.setdefault(finding.code, []).append(finding.place)
        else:
            others.append(finding)
    return others, [left_out_finding(code, part, found) for code, found in places.items()]
