"""Repairs of repeated rows: within one part, and between the parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeps.data.repairs.repair import Facts, Repaired
from sweeps.data.repairs.rows import Parts, Row, all_rows
from sweeps.data.repairs.spaces import folded
from sweeps.data.repairs.texts import drop


def drop_duplicates(parts: Parts, facts: Facts) -> Repaired:
    """Leave out the rows that are the same as an earlier one of their part."""
    first: dict[tuple[str, str], Row] = {}
    repeated: dict[int, str] = {}
    for part, row in all_rows(parts):
        original = first.setdefault((part, facts.texts.whole(row)), row)
        if original is not row:
            repeated[id(row)] = f"the same as {original.place}"
    return drop(parts, facts, lambda row: repeated.get(id(row)))


def drop_near_duplicates(parts: Parts, facts: Facts) -> Repaired:
    """Leave out the rows that are nearly the same as an earlier one of their part."""
    rows = list(all_rows(parts))
    repeated: dict[int, str] = {}
    for cluster in facts.near_clusters([row for _, row in rows]):
        first: dict[str, Row] = {}
        for index in cluster:
            part, row = rows[index]
            original = first.setdefault(part, row)
            if original is not row:
                repeated[id(row)] = f"nearly the same as {original.place}: {facts.texts.shown(original)}"
    return drop(parts, facts, lambda row: repeated.get(id(row)))


def drop_leaks(parts: Parts, facts: Facts) -> Repaired:
    """Leave out the training rows that are also in validation or test, nearly or exactly.

    The same holds for validation rows in test. The test part stays as it is, so that scores stay
    comparable with earlier ones, and training has the most rows to lose. Rows of one group belong
    together, too.
    """
    if len(parts) == 1:
        return Repaired(parts, ())
    rows = list(all_rows(parts))
    keys: list[list[tuple[str, str]]] = [list(_keys(row, facts)) for _, row in rows]
    for number, cluster in enumerate(facts.near_clusters([row for _, row in rows])):
        for index in cluster:
            keys[index].append(("is nearly the same", str(number)))
    held: dict[tuple[str, str], tuple[str, Row]] = {}
    leaked: dict[int, str] = {}
    for part in reversed(list(parts)):
        kept: list[int] = []
        for index, (part_of_row, row) in enumerate(rows):
            if part_of_row != part:
                continue
            key = next((key for key in keys[index] if key in held), None)
            if key is None:
                kept.append(index)
            else:
                leaked[id(row)] = f"{held[key][1].place} in {held[key][0]} {key[0]}"
        for index in kept:
            for key in keys[index]:
                held.setdefault(key, rows[index])
    return drop(parts, facts, lambda row: leaked.get(id(row)))


def belonging_together(rows: Sequence[Row], facts: Facts) -> list[list[int]]:
    """Return the clusters of rows that a split must not tear apart, by their indices."""
    same_prompt: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        same_prompt.setdefault(folded(facts.texts.prompt(row)), []).append(index)
    return [members for members in same_prompt.values() if len(members) > 1] + facts.near_clusters(rows)


def _keys(row: Row, facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield what a row must not share with a row of another part, each with its name."""
    yield "has the same prompt", folded(facts.texts.prompt(row))
    if row.group is not None:
        yield f"is of the same group {row.group!r}", row.group
