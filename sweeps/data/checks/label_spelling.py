"""Thorough checks of how labels are written: typing errors, and labels that stand for no value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sweeps.data.checks.cases import Cases
from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding, quoted

RARE_RATIO = 20
"""A label that is at least so much rarer than a similar one is probably a typing error of it."""

NULLS = frozenset({"nan", "null", "none", "n/a", "na", "#n/a", "<na>", "nil", "undefined", "nat", "missing"})
"""What spreadsheets and programs write for an empty cell, in lower case."""

NULL_SHARE = 0.1
"""A larger share of one label means that it is a class: "none" of several intents."""

_DIGITS = re.compile(r"\d+")
_UNIMPORTANT = re.compile(r"[\W_]+")


def check_label_typos(view: DataView) -> Iterator[Finding]:
    """Report rare labels that look like a frequent one with a typing error: `neutrl`, `DESC.`."""
    counts = {label: sum(part[label] for part in view.label_counts.values()) for label in view.labels}
    stop = view.recipe.stop
    suspects: dict[str, str] = {}
    for label, count in counts.items():
        frequent = [other for other in counts if count and counts[other] >= RARE_RATIO * count]
        written = label.removesuffix(stop).strip()
        meant = [other for other in frequent if is_typo(written, other.removesuffix(stop).strip())]
        if meant:
            suspects[label] = max(meant, key=lambda other: counts[other])
    for label, cases in _examples_of(suspects, view).items():
        written, meant_label = quoted(label.removesuffix(stop).strip()), suspects[label].removesuffix(stop).strip()
        message = f"the label {written} looks like a typing error of {quoted(meant_label)}: {cases.in_words()}"
        yield cases.warning("label-typo", message, f"write {quoted(meant_label)}, or drop: [label-typo]")


def is_typo(rare: str, frequent: str) -> bool:
    """Return whether a label differs from another as a typing error does.

    Labels of one or two characters, and labels with different numbers, are different labels.
    """
    first, second = rare.casefold(), frequent.casefold()
    if _DIGITS.findall(first) != _DIGITS.findall(second):
        return False
    if first != second and _UNIMPORTANT.sub("", first) == _UNIMPORTANT.sub("", second) != "":
        return True
    if first == second or min(len(first), len(second)) < 3:
        return False
    from rapidfuzz.distance import OSA

    if len(second) == 3:  # `HUM` and `NUM` are two labels, `HUMM` is none
        return len(first) == 4 and OSA.distance(first, second) == 1
    return bool(OSA.distance(first, second) <= (1 if len(second) < 8 else 2))


def check_null_values(view: DataView) -> Iterator[Finding]:
    """Report completions, and fields of prompts, that read NaN, None or null."""
    for part, examples in view.parts.items():
        answers, fields = Cases(), Cases()
        for example in examples:
            if len(example.completion) < 40 and view.answer(example).strip().casefold() in NULLS:
                answers.add(example)
            if any(len(text) < 10 and text.strip().casefold() in NULLS for text in example.segments):
                fields.add(example)
        for cases, what in ((answers, "completion"), (fields, "prompt")):
            if cases and cases.count <= max(3, NULL_SHARE * len(examples)):
                message = f"the {what} stands for an empty cell (NaN, None, null) in {cases.in_words()} of {part}"
                yield cases.warning("null-value", message, "fill in the value, or drop: [null-value]")


def _examples_of(labels: Mapping[str, str], view: DataView) -> dict[str, Cases]:
    found = {label: Cases() for label in labels}
    for examples in view.parts.values() if labels else ():
        for example in examples:
            if (cases := found.get(example.completion)) is not None:
                cases.add(example)
    return found
