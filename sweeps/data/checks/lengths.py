"""Thorough checks of lengths in characters: outliers, and prompts far longer than completions."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sweeps.data.checks.cases import Cases
from sweeps.data.checks.view import DataView
from sweeps.data.examples import Example
from sweeps.data.findings import Finding, warning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OUTLIER_SCORE = 3.5
"""Robust standard deviations of the logarithm of the length, by the median absolute deviation."""

OUTLIER_RATIO = 4
"""An outlier must also be so many times as long as 95 % of the texts (our choice).

Lengths have long tails: the longest of 5,571 short messages is 5.7 times as long as 95 % of them.
"""

MIN_EXAMPLES = 50

PROMPT_RATIO = 30
"""Characters of prompt for each one of completion from which prompt_loss_weight deserves a thought.

With the weight 0.1, three quarters of the loss are then about the prompts.
"""


def check_lengths(view: DataView) -> Iterator[Finding]:
    """Report texts of train that are far longer than the others, and long prompts."""
    train = view.parts["train"]
    prompts, completions = array("Q"), array("Q")
    for example in train:
        prompts.append(sum(map(len, example.segments)))
        completions.append(len(view.answer(example)))
    yield from _outliers(train, prompts, "prompt")
    if not view.labels:
        yield from _outliers(train, completions, "completion")
    ratio = sum(prompts) / max(1, sum(completions))
    if ratio > PROMPT_RATIO and len(train) >= MIN_EXAMPLES:
        weight = float(f"{1 / ratio:.1g}")
        share = 0.1 * ratio / (0.1 * ratio + 1)
        message = (
            f"prompts are {ratio:.0f} times as long as completions: with prompt_loss_weight 0.1, "
            f"{share:.0%} of the loss is about the prompts"
        )
        hint = (
            f"where the space has prompt_loss_weight, try {weight:g} and below; the model learns answers, not prompts"
        )
        yield warning("prompt-heavy", train[0].file, message, hint)


def _outliers(examples: Sequence[Example], lengths: array[int], what: str) -> Iterator[Finding]:
    import numpy as np

    if len(examples) < MIN_EXAMPLES:
        return
    values: NDArray[np.float64] = np.array(lengths, dtype=np.float64)
    logs = np.log1p(values)
    median = np.median(logs)
    deviation = max(1.4826 * float(np.median(np.abs(logs - median))), 0.1)
    usual = float(np.quantile(values, 0.95))
    is_outlier: Any = (logs - median > OUTLIER_SCORE * deviation) & (values > OUTLIER_RATIO * usual)
    indices = np.flatnonzero(is_outlier).tolist()
    if indices:
        cases = Cases.of(examples, indices)
        message = (
            f"the {what} is far longer than the others: {cases.in_words()}, up to {int(values.max()):,} characters; "
            f"95 % have at most {usual:,.0f}"
        )
        yield cases.warning("length-outlier", message, "cut or remove them: one long example makes a batch slow")
