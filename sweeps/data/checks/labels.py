"""Structural checks of the labels of a classification."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sweeps.data.checks.cases import Cases
from sweeps.data.examples import Example
from sweeps.data.findings import Finding, error, nearest_hint, quoted, warning


def check_labels(
    parts: Mapping[str, Sequence[Example]], labels: Sequence[str], allowed: bool, stop: str = ""
) -> Iterator[Finding]:
    """Check the labels of a classification task.

    `labels` come from the sweep file if `allowed` is true, otherwise from the training examples.
    """
    cases_by_label = {label: Cases() for label in labels}
    shown = [label.removesuffix(stop) for label in labels]
    hints: dict[str, str] = {}
    for part, examples in parts.items():
        for example in examples:
            if (cases := cases_by_label.get(example.completion)) is not None:
                cases.add(example)
                continue
            label = example.completion.removesuffix(stop)
            if label not in hints:
                hints[label] = nearest_hint(label, shown)
            if allowed:
                yield error("unknown-label", example.place, f"{quoted(label)} is not among the labels", hints[label])
            else:
                message = f"no training example has the label {quoted(label)} of this {part} example"
                yield error("label-unseen", example.place, message, hints[label])
    spellings: dict[str, list[str]] = {}
    for label in labels:
        spellings.setdefault(" ".join(label.casefold().split()), []).append(label)
    for variants in spellings.values():
        if len(variants) > 1:
            usual = max(variants, key=lambda label: (cases_by_label[label].count, label))
            affected = Cases.joined(cases_by_label[label] for label in variants if label != usual)
            names = " and ".join(quoted(label.removesuffix(stop)) for label in sorted(variants))
            message = f"{names} differ only in spaces or case, but are separate labels ({affected.in_words()})"
            yield affected.warning("label-spelling", message, "write each label in one way")
    if not allowed:
        return
    if unused := [label for label, cases in cases_by_label.items() if not cases]:
        names = ", ".join(quoted(label.removesuffix(stop)) for label in sorted(unused))
        yield warning("label-unused", "", f"no example has the label {names}", "check its spelling against the data")
