"""Thorough check of groups: the same user, document or conversation in two parts."""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.data.checks.cases import Cases
from sweeps.data.checks.digests import digest
from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding, quoted


def check_groups(view: DataView) -> Iterator[Finding]:
    """Report examples of a part whose group has examples in an earlier part."""
    groups_by_part: dict[str, set[int]] = {}
    for part, examples in view.parts.items():
        groups: set[int] = set()
        shared: dict[str, Cases] = {}
        first_groups: dict[str, str] = {}
        for example in examples:
            if example.group is None:
                continue
            group = digest(example.group)
            groups.add(group)
            for earlier, known in groups_by_part.items():
                if group in known:
                    shared.setdefault(earlier, Cases()).add(example)
                    first_groups.setdefault(earlier, example.group)
        for earlier, cases in shared.items():
            message = (
                f"{cases.count:,} of {len(examples):,} {part} examples have a group that {earlier} has too, "
                f"first {quoted(first_groups[earlier])}"
            )
            hint = "the score would be too high; split again with group_by, or drop: [group-overlap]"
            yield cases.warning("group-overlap", message, hint)
        groups_by_part[part] = groups
