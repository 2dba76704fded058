"""Thorough checks of representativeness: do validation and test look like train?

Each comparison reports only what is both certain (a test with Bonferroni's correction) and large
(an effect size). Large sets make any difference certain; small ones make chance look large.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from sweeps.data.baselines.sampling import sample
from sweeps.data.checks.view import DataView
from sweeps.data.examples import Example
from sweeps.data.findings import Finding, quoted, warning

LEVEL = 0.01
"""The level of all comparisons of one data set together."""

MIN_EXAMPLES = 30

LENGTH_EFFECT = 0.2
"""The least Kolmogorov-Smirnov distance: the largest difference of the two distributions."""

LABEL_EFFECT = 0.1
"""The least Cramer's V, a small effect by Cohen's convention."""

UNKNOWN_WORDS_EFFECT = 0.05
"""The least additional share of words that train does not have."""

FORMAT_EFFECT = 0.5
"""The least difference of the shares of prompts that have a format."""

SAMPLE = 5_000
"""Examples of a part that are compared; of more, a sample."""

_WORD = re.compile(r"\w+")


def check_drift(view: DataView) -> Iterator[Finding]:
    """Compare each part with train: lengths, labels, words, and the format of the prompts."""
    sampled = {part: sample(examples, SAMPLE, view.seed) for part, examples in view.parts.items()}
    later = [part for part in sampled if part != "train" and len(sampled[part]) >= MIN_EXAMPLES]
    if len(sampled["train"]) < MIN_EXAMPLES or sampled["train"][0].file.startswith("builtin:"):
        return  # generated sets test words and lengths that train does not have, on purpose
    level = LEVEL / max(1, 4 * len(later))
    for part in later:
        yield from _length_drift(view, sampled["train"], sampled[part], part, level)
        if view.labels:
            yield from _label_drift(view, part, level)
        yield from _vocabulary_drift(sampled["train"], sampled[part], part, level)
        yield from _format_drift(sampled["train"], sampled[part], part)


def _length_drift(
    view: DataView, train: Sequence[Example], others: Sequence[Example], part: str, level: float
) -> Iterator[Finding]:
    import numpy as np

    texts: list[tuple[str, Callable[[Example], str]]] = [("prompts", lambda example: " ".join(example.segments))]
    if not view.labels:
        texts.append(("completions", view.answer))
    for what, text_of in texts:
        known = np.array([len(text_of(example)) for example in train])
        asked = np.array([len(text_of(example)) for example in others])
        distance, p_value = kolmogorov_smirnov(known, asked)
        if distance >= LENGTH_EFFECT and p_value < level:
            message = (
                f"the {what} of {part} have other lengths than those of train: the medians are {np.median(asked):,.0f} "
                f"and {np.median(known):,.0f} characters (Kolmogorov-Smirnov {distance:.2f}, {_p(p_value)})"
            )
            hint = f"scores on {part} say little about data like train; split one set at random with `sweep prepare`"
            yield warning("length-drift", others[0].file, message, hint)


def _label_drift(view: DataView, part: str, level: float) -> Iterator[Finding]:
    import numpy as np
    from scipy.special import chdtrc

    counts = view.label_counts
    table = np.array([[counts["train"][label], counts[part][label]] for label in view.labels], dtype=float)
    table = table[table.sum(axis=1) > 0]
    total = table.sum()
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    statistic = float(((table - expected) ** 2 / expected).sum())
    p_value = float(chdtrc(max(1, len(table) - 1), statistic))
    shares = table / table.sum(axis=0)
    means = shares.mean(axis=1, keepdims=True)
    # Cramer's V as if the parts had the same size: a small part hides no difference.
    effect = float(np.sqrt(((shares - means) ** 2 / means).sum() / 2))
    if effect >= LABEL_EFFECT and p_value < level:
        known = [label for label in view.labels if counts["train"][label] + counts[part][label]]
        worst = int(np.abs(shares[:, 0] - shares[:, 1]).argmax())
        name = quoted(known[worst].removesuffix(view.recipe.stop).strip())
        message = (
            f"{part} has other shares of the labels than train: {shares[worst, 1]:.0%} {name}, in train "
            f"{shares[worst, 0]:.0%} (Cramer's V {effect:.2f}, {_p(p_value)})"
        )
        hint = f"if {part} is like the data in use, weigh or resample train; else split again with `sweep prepare`"
        yield warning("label-drift", view.parts[part][0].file, message, hint)


def _vocabulary_drift(
    train: Sequence[Example], others: Sequence[Example], part: str, level: float
) -> Iterator[Finding]:
    """Compare the share of unknown words with that of training examples held out from train."""
    import numpy as np

    held_out = train[:: max(2, len(train) // max(MIN_EXAMPLES, min(len(others), len(train) // 5)))]
    chosen = set(map(id, held_out))
    words = {word for example in train if id(example) not in chosen for word in _words(example)}
    usual = np.array([_unknown_share(example, words) for example in held_out])
    found = np.array([_unknown_share(example, words) for example in others])
    distance, p_value = kolmogorov_smirnov(usual, found)
    more = float(found.mean() - usual.mean())
    if more >= UNKNOWN_WORDS_EFFECT and p_value < level:
        message = (
            f"{found.mean():.0%} of the words of a {part} prompt are unknown to train, of a training prompt held out "
            f"{usual.mean():.0%} (Kolmogorov-Smirnov {distance:.2f}, {_p(p_value)})"
        )
        hint = f"if {part} is like the data in use, add such examples to train"
        yield warning("vocabulary-drift", others[0].file, message, hint)


def _format_drift(train: Sequence[Example], others: Sequence[Example], part: str) -> Iterator[Finding]:
    """Compare how often prompts have a format: what train has learned to expect at inference."""
    for what, shows in _FORMATS.items():
        known = sum(shows(example) for example in train) / len(train)
        asked = sum(shows(example) for example in others) / len(others)
        if abs(known - asked) >= FORMAT_EFFECT:
            message = f"{asked:.0%} of the {part} prompts {what}, of the training prompts {known:.0%}"
            hint = "prompts must have the same format in training, in validation and in use; write them alike"
            yield warning("format-drift", others[0].file, message, hint)
    start = _usual_start(train)
    asked = sum(_start(example) == start for example in others) / len(others)
    if start and asked <= 1 - FORMAT_EFFECT - 0.4:
        message = f"{1 - asked:.0%} of the {part} prompts do not begin with {quoted(start)}, as those of train do"
        yield warning("format-drift", others[0].file, message, "write the prompts alike")


_FORMATS: Mapping[str, Callable[[Example], bool]] = {
    "begin or end with a space": lambda example: any(text != text.strip() for text in example.segments),
    "have several lines": lambda example: any("\n" in text.strip() for text in example.segments),
    "begin with a capital letter": lambda example: example.segments[0].lstrip()[:1].isupper(),
    "end with a punctuation mark": lambda example: example.segments[-1].rstrip()[-1:] in set(".!?:…。！？"),
    "are in capital letters": lambda example: example.segments[0].isupper(),
}


def _usual_start(examples: Sequence[Example]) -> str:
    """Return the first word that nine of ten prompts have, empty if there is none."""
    counts: dict[str, int] = {}
    for example in examples:
        counts[_start(example)] = counts.get(_start(example), 0) + 1
    start = max(counts, key=lambda word: counts[word])
    return start if counts[start] >= 0.9 * len(examples) else ""


def _start(example: Example) -> str:
    return next(iter(example.segments[0].split(None, 1)), "")


def kolmogorov_smirnov(first: object, second: object) -> tuple[float, float]:
    """Return the two-sample distance and its asymptotic p-value, as scipy.stats.ks_2samp does."""
    import numpy as np
    from scipy.special import kolmogorov

    one, two = np.sort(np.asarray(first)), np.sort(np.asarray(second))
    points = np.concatenate([one, two])
    below_one = np.searchsorted(one, points, side="right") / len(one)
    below_two = np.searchsorted(two, points, side="right") / len(two)
    distance = float(np.abs(below_one - below_two).max())
    size = len(one) * len(two) / (len(one) + len(two))
    return distance, float(kolmogorov(np.sqrt(size) * distance))


def _words(example: Example) -> list[str]:
    return _WORD.findall(" ".join(example.segments).casefold())


def _unknown_share(example: Example, words: set[str]) -> float:
    found = _words(example)
    return sum(word not in words for word in found) / max(1, len(found))


def _p(value: float) -> str:
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.4f}"
