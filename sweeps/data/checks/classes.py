"""Thorough checks of the classes: rare ones, missing ones, and enough examples for their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeps.data.checks.training import FEW_EXAMPLES
from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding, quoted, warning

RARE_TRAIN, RARE_OTHERS = 10, 3
"""Fewer examples of a class than this are reported, for train and for the other parts (ours).

A class with two validation examples has an F1 of 0, 0.5, 0.67 or 1, and nothing between.
"""

EXAMPLES_PER_CLASS = 50
"""The least mean number of training examples for each class (our choice).

OpenAI's guide for classifiers (2022) advised about 100, and one word as the label.
"""


def check_classes(view: DataView) -> Iterator[Finding]:
    """Report classes that a part has not, or hardly; and too few examples for so many classes."""
    if not view.labels:
        return
    in_train = view.label_counts["train"]
    known = [label for label in view.labels if in_train[label]]
    for part, examples in view.parts.items():
        counts = view.label_counts[part]
        missing = [label for label in known if not counts[label]]
        least = RARE_TRAIN if part == "train" else RARE_OTHERS
        rare = [label for label in known if 0 < counts[label] < least]
        place = examples[0].file if examples else ""
        if missing:
            message = f"{part} has no example of {_named(missing, view)}"
            hint = "its scores say nothing about them; add examples, or split again with `sweep prepare`"
            yield warning("class-missing", place, message, hint, len(missing))
        if rare:
            message = f"{part} has fewer than {least} examples of {_named(rare, view)}"
            hint = (
                "a model learns little from so few; add examples, or join the class with another one"
                if part == "train"
                else "their scores are coarse; add examples, or hold out a larger share"
            )
            yield warning("rare-class", place, message, hint, len(rare))
    total = len(view.parts["train"])
    if FEW_EXAMPLES <= total < EXAMPLES_PER_CLASS * len(known):
        message = f"{total:,} training examples for {len(known)} classes: {total / len(known):.0f} each on average"
        hint = f"fine-tuning a classifier wants {EXAMPLES_PER_CLASS} or more each; `sweep scale` shows what more gives"
        yield warning("few-per-class", view.parts["train"][0].file, message, hint)


def _named(labels: Sequence[str], view: DataView) -> str:
    names = ", ".join(quoted(label.removesuffix(view.recipe.stop).removeprefix(" ")) for label in labels[:5])
    return names if len(labels) <= 5 else f"{names} and {len(labels) - 5} more classes"
