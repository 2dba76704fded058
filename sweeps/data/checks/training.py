"""Structural checks of the training examples together: variety, repetitions, contradictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from sweeps.data.checks.cases import Cases
from sweeps.data.checks.digests import text_digests
from sweeps.data.examples import Example
from sweeps.data.findings import Finding, error, quoted, warning

MAX_LABELS = 50
"""The most different completions that count as labels.

These must also occur three times each on average (the rule of OpenAI's retired preparation tool,
openai 0.28), be on one line, and have at most `MAX_LABEL_CHARACTERS` characters.
"""

MAX_LABEL_CHARACTERS = 50

IMBALANCE_RATIO = 4
"""The most frequent label over the rarest one; a higher ratio is reported (our choice: 80/20)."""

FEW_EXAMPLES = 100
"""Below this number the same tool advised to collect more: "a few hundred"."""

HOSTED_MIN_EXAMPLES = 10
"""Hosted services refuse training files with fewer examples."""


def is_classification(completions: Iterable[str]) -> bool:
    """Return whether the completions look like labels: the rule of `task: auto`.

    See `MAX_LABELS`.
    """
    counts: Counter[str] = Counter()
    for completion in completions:
        counts[completion] += 1
        if len(counts) > MAX_LABELS:
            return False
    return 3 * len(counts) <= counts.total() and all(
        len(text) <= MAX_LABEL_CHARACTERS and "\n" not in text.strip() for text in counts
    )


def check_training(examples: Sequence[Example], classification: bool) -> Iterator[Finding]:
    """Check the training examples together: variety, repetitions, contradictions, balance."""
    if not examples:
        return
    yield from _repetitions(examples, classification)
    first = examples[0]
    counts = Counter(example.completion for example in examples) if classification else Counter[str]()
    is_same_answer = is_same_prompt = has_one_answer = True
    for example in examples:
        is_same_answer = is_same_answer and example.completion == first.completion
        is_same_prompt = is_same_prompt and example.prompt == first.prompt
        has_one_answer = has_one_answer and example.answers == 1
        if not (is_same_answer or is_same_prompt):
            break
    if len(examples) > 1 and is_same_answer and has_one_answer:
        message = f"all {len(examples)} completions are {quoted(first.completion)}: there is nothing to learn"
        yield error("one-class", first.file, message, "check the completion template")
    if len(examples) > 1 and is_same_prompt:
        message = f"all {len(examples)} prompts are identical: {quoted(first.prompt)}"
        yield error("one-prompt", first.file, message, "check the prompt template")
    if len(counts) > 1:
        (commonest, highest), *_, (rarest, lowest) = counts.most_common()
        if highest > IMBALANCE_RATIO * lowest:
            message = f"{quoted(commonest.strip())} occurs {highest} times, {quoted(rarest.strip())} {lowest} times"
            share = f"{highest / len(examples):.0%}"
            hint = f"always answering {quoted(commonest.strip())} has an accuracy of {share}; watch macro-F1 too"
            yield warning("imbalance", first.file, message, hint)


def _repetitions(examples: Sequence[Example], classification: bool) -> Iterator[Finding]:
    import numpy as np

    digests = text_digests(examples)
    indices = np.arange(len(examples))
    _, firsts, groups = np.unique(digests.examples, return_index=True, return_inverse=True)
    same_example = firsts[groups]
    _, firsts, groups = np.unique(digests.prompts, return_index=True, return_inverse=True)
    same_prompt = firsts[groups]
    repeated = np.flatnonzero(same_example != indices).tolist()
    if repeated:
        cases = Cases.of(examples, repeated)
        origin = examples[int(same_example[repeated[0]])].place
        message = f"repeated: {cases.in_words()}; the first is the same as {origin}"
        hint = "repeated examples weigh more in training; remove them unless you mean it"
        yield cases.warning("duplicate", message, hint)
    contradicted = np.flatnonzero((same_example == indices) & (same_prompt != indices)).tolist()
    if contradicted and classification:
        cases = Cases.of(examples, contradicted)
        origin = examples[int(same_prompt[contradicted[0]])].place
        message = f"identical prompts with different labels: {cases.in_words()}; the first contradicts {origin}"
        yield cases.warning("conflicting-labels", message, "no model can learn both; correct the wrong labels")


def check_size(examples: Sequence[Example]) -> Iterator[Finding]:
    """Check whether there are enough training examples. Other checks report an empty part."""
    if 0 < len(examples) < FEW_EXAMPLES:
        hint = "fine-tuning becomes useful with a few hundred"
        if len(examples) < HOSTED_MIN_EXAMPLES:
            hint += f"; hosted services refuse fewer than {HOSTED_MIN_EXAMPLES}"
        yield warning("few-examples", examples[0].file, f"only {len(examples)} training examples", hint)
