"""Thorough check for likely wrong labels: confident learning with a cross-validated naive Bayes.

Northcutt, Jiang and Chuang (2021), "Confident learning: estimating uncertainty in dataset labels".
Naive Bayes on TF-IDF weights found as many as logistic regression, in a tenth of the time, and
needs no library that takes a second to import; `benchmarks/data` measures it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeps.data.baselines.sampling import sample
from sweeps.data.checks.bayes import FOLDS, cross_validated, text_features
from sweeps.data.checks.cases import Cases
from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding, quoted

SAMPLE = 10_000
"""Training examples that are examined; of more, a sample."""

SAMPLE_TIMES_LABELS = 100_000
"""With many labels fewer: the time grows with both."""

ROUNDS = 2

MIN_ACCURACY = 0.6
"""Below it, the model disagrees with labels because words alone do not decide them."""

CONFIDENT = 0.9
"""A probability that is enough even where that label has a higher mean probability.

The mean alone would miss half of the errors where words decide the labels clearly.
"""

REPORTED_SHARE = 0.015
"""The share of suspects from which they are reported; on clean sets, up to 1.1 % are suspected."""

MIN_MARGIN = 0.5
"""How much more probable another label must be than the given one (our choice)."""


def check_mislabelled(view: DataView) -> Iterator[Finding]:
    """Report training examples whose text speaks clearly for another label than the given one."""
    if len(view.labels) < 2:
        return
    limit = min(SAMPLE, SAMPLE_TIMES_LABELS // len(view.labels))
    examples = sample(view.parts["train"], limit, view.seed)
    suspects = suspected([_text(example.segments) for example in examples], [e.completion for e in examples])
    if len(suspects) < max(2, REPORTED_SHARE * len(examples)):
        return
    cases = Cases.of(examples, [index for index, _ in suspects])
    first, meant = suspects[0]
    stop = view.recipe.stop
    given, meant = (quoted(label.removesuffix(stop).strip()) for label in (examples[first].completion, meant))
    of = f" of a sample of {len(examples):,}" if len(examples) < len(view.parts["train"]) else ""
    message = f"likely wrong labels{of}: {cases.in_words()}; the first is {given}, and looks like {meant}"
    yield cases.warning("mislabelled", message, "read them and correct the wrong ones; a model learns the errors too")


def suspected(texts: Sequence[str], labels: Sequence[str]) -> list[tuple[int, str]]:
    """Return the examples with likely wrong labels, the most certain first, with the likely label.

    An example is suspected if another label is as probable as where it is given, on average, and
    much more probable than the given one. A second round learns without the suspects of the first.
    Empty if the words are not good enough to say. Deterministic.
    """
    import numpy as np

    names = sorted(set(labels))
    numbers = {name: number for number, name in enumerate(names)}
    given = np.array([numbers[label] for label in labels], dtype=np.int64)
    if len(names) < 2 or sorted(np.bincount(given))[-2] < FOLDS:
        return []
    data = text_features(texts)
    if not len(data.texts):
        return []
    rows = np.arange(len(given))
    trusted = np.ones(len(given), dtype=bool)
    likely, margins = given, np.zeros(len(given))
    for _ in range(ROUNDS):
        probabilities = cross_validated(data, given, len(names), trusted)
        if float((probabilities.argmax(axis=1) == given).mean()) < MIN_ACCURACY:
            return []
        own = probabilities[rows, given]
        totals = np.bincount(given[trusted], own[trusted], minlength=len(names))
        thresholds = totals / np.maximum(1, np.bincount(given[trusted], minlength=len(names)))
        is_likely = (probabilities >= np.minimum(thresholds, CONFIDENT)) & (thresholds > 0)
        others = np.where(is_likely, probabilities, 0.0)
        others[rows, given] = 0.0
        likely = others.argmax(axis=1)
        margins = others[rows, likely] - own
        trusted = margins < MIN_MARGIN
    chosen = np.flatnonzero(~trusted)
    order = chosen[np.argsort(-margins[chosen], kind="stable")]
    return [(int(index), names[likely[index]]) for index in order]


def _text(segments: Sequence[str]) -> str:
    return "\n".join(segments)
