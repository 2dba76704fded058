"""Repairs of labels: missing ones, several spellings of one, contradictions, and unseen ones."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from sweeps.data.checks.label_spelling import NULL_SHARE, NULLS, RARE_RATIO, is_typo
from sweeps.data.repairs.repair import Change, Facts, Repaired
from sweeps.data.repairs.rows import Parts, Row, all_rows
from sweeps.data.repairs.spaces import folded
from sweeps.data.repairs.texts import drop

CERTAINLY_NULL = frozenset({"nan", "-nan", "<na>", "nat", "#n/a", "#na", "#value!", "#ref!", "#name?", "#div/0!"})
"""What spreadsheets and pandas write for a cell without a value. No text of a person says that."""

_JOINTS = re.compile(r"(?<=\w)[-_\s]+(?=\w)")

_SIGNS = re.compile(r"[+#*/=<>&|%$€@!?]")

Label = tuple[str, ...]


def drop_nulls(parts: Parts, facts: Facts) -> Repaired:
    """Leave out the rows whose answer or whole prompt stands for an empty cell, such as `NaN`.

    Words that may be a class of their own, such as `none`, stand for one only if they are rare.
    """
    rows = [row for _, row in all_rows(parts)]
    missing = set(CERTAINLY_NULL)
    if facts.is_classification:
        counts = Counter(folded(facts.texts.answer(row)) for row in rows)
        missing |= {word for word in NULLS if counts[word] <= max(3, NULL_SHARE * len(rows))}

    def why(row: Row) -> str | None:
        for text in (facts.texts.answer(row), facts.texts.prompt(row)):
            if len(text) < 10 and folded(text) in (missing if text == facts.texts.answer(row) else CERTAINLY_NULL):
                return f"{text!r} stands for an empty cell"
        return None

    return drop(parts, facts, why)


def unify_labels(parts: Parts, facts: Facts) -> Repaired:
    """Write each label as its most frequent spelling, and correct misspelled ones."""
    if not facts.is_classification:
        return Repaired(parts, ())
    spellings = right_spellings(Counter(row.answers for _, row in all_rows(parts)))
    changes: list[Change] = []
    changed: dict[str, list[Row]] = {}
    for part, rows in parts.items():
        changed[part] = []
        for row in rows:
            right = spellings.get(row.answers, row.answers)
            if right != row.answers:
                changes.append(Change(row.place, " ".join(row.answers), " ".join(right)))
            changed[part].append(row._replace(answers=right))
    return Repaired(changed if changes else parts, changes)


def right_spellings(counts: Mapping[Label, int]) -> dict[Label, Label]:
    """Return the right spelling of each label that has another one.

    The spellings that differ in case, spaces, hyphens or a full stop are one label: the most
    frequent one is right. A misspelled label is corrected if it is near exactly one other label.
    """
    groups: dict[str, list[Label]] = {}
    for label in counts:
        groups.setdefault(label_key(" ".join(label)), []).append(label)
    best = {key: min(labels, key=lambda label: (-counts[label], label)) for key, labels in groups.items()}
    totals = {key: sum(counts[label] for label in labels) for key, labels in groups.items()}
    right: dict[Label, Label] = {}
    for key, labels in groups.items():
        meant = [other for other in groups if is_misspelled(key, totals[key], other, totals[other])]
        spelling = best[meant[0]] if len(meant) == 1 else best[key]
        right |= {label: spelling for label in labels if label != spelling}
    return right


def label_key(label: str) -> str:
    """Return what all spellings of a label have in common."""
    text = _JOINTS.sub(" ", " ".join(unicodedata.normalize("NFKC", label).casefold().split()))
    return text.strip("\"'`.,:; ") or text


def is_misspelled(label: str, count: int, other: str, other_count: int) -> bool:
    """Return whether a rare label is certainly a frequent one with a typing error.

    The check that reports such labels does not ask for the same first letter and signs; a repair
    must not take `atypical` for `typical`, or `C` for `C++`.
    """
    return (
        other_count >= RARE_RATIO * count
        and label[:1] == other[:1]
        and _SIGNS.findall(label) == _SIGNS.findall(other)
        and is_typo(label, other)
    )


def resolve_conflicts(parts: Parts, facts: Facts) -> Repaired:
    """Leave out the rows whose label contradicts the majority of those with the same prompt.

    Without a majority all of them are left out. Prompts that differ only in case and spaces are the
    same. Each part is taken by itself.
    """
    if not facts.is_classification:
        return Repaired(parts, ())
    texts = facts.texts
    reasons: dict[tuple[str, int], str] = {}
    for part, rows in parts.items():
        by_prompt: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            by_prompt.setdefault(folded(texts.prompt(row)), []).append(number)
        for members in by_prompt.values():
            labels = Counter(texts.answer(rows[number]) for number in members)
            if len(labels) == 1:
                continue
            (winner, votes), *_ = labels.most_common()
            has_majority = 2 * votes > len(members)
            for number in members:
                if has_majority and texts.answer(rows[number]) == winner:
                    continue
                reason = _contradiction(rows, members, texts.answer(rows[number]), facts)
                reasons[part, number] = reason if has_majority else f"{reason}, and no label has a majority"
    if not reasons:
        return Repaired(parts, ())
    changes = [
        Change(parts[part][number].place, texts.shown(parts[part][number]), None, reason)
        for (part, number), reason in reasons.items()
    ]
    kept = {
        part: [row for number, row in enumerate(rows) if (part, number) not in reasons] for part, rows in parts.items()
    }
    return Repaired(kept, changes)


def _contradiction(rows: Sequence[Row], members: Sequence[int], label: str, facts: Facts) -> str:
    other = next(rows[member] for member in members if facts.texts.answer(rows[member]) != label)
    return f"{other.place} has the same prompt and the label {facts.texts.answer(other)!r}"


def drop_unseen_labels(parts: Parts, facts: Facts) -> Repaired:
    """Leave out the validation and test rows whose label no training row has."""
    if not facts.is_classification:
        return Repaired(parts, ())
    known = {facts.texts.answer(row) for row in parts["train"]}
    others: Parts = {part: rows for part, rows in parts.items() if part != "train"}

    def why(row: Row) -> str | None:
        label = facts.texts.answer(row)
        return None if label in known else f"no training example has the label {label!r}"

    repaired = drop(others, facts, why)
    return Repaired({"train": parts["train"], **repaired.parts}, repaired.changes)
