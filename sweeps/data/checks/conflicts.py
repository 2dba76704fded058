"""Thorough check of prompts with two labels that differ only in case, punctuation or spaces."""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.data.checks.cases import Cases, beside
from sweeps.data.checks.digests import digest
from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding
from sweeps.data.near_duplicates import normalized


def check_conflicting_variants(view: DataView) -> Iterator[Finding]:
    """Report training examples whose prompt occurs before, written otherwise, with another label.

    Identical prompts with two labels have a finding of their own.
    """
    if not view.labels:
        return
    numbers = {label: number for number, label in enumerate(view.labels)}
    first: dict[int, tuple[int, int, int]] = {}
    conflicts = Cases()
    contradicted = ""
    for index, example in enumerate(view.parts["train"]):
        key = digest("\0".join(map(normalized, example.segments)))
        label, prompt = numbers.get(example.completion, -1), digest(example.prompt)
        known_label, known_prompt, known_index = first.setdefault(key, (label, prompt, index))
        if label != known_label and prompt != known_prompt:
            conflicts.add(example)
            contradicted = contradicted or beside(example, view.parts["train"][known_index])
    if conflicts:
        message = (
            f"prompts that differ only in case, punctuation or spaces have different labels: {conflicts.in_words()}; "
            f"the first contradicts {contradicted}"
        )
        yield conflicts.warning("conflicting-variants", message, "correct the wrong labels, or drop these examples")
