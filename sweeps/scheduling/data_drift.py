"""How far new training examples differ from those that an earlier model was trained on.

With many examples every difference is significant; with few, none is. A difference is therefore
reported only if it is both larger than chance explains and large enough to matter. The tests are
scipy's. The population stability index (PSI) and its customary thresholds of 0.1 and 0.25 come from
N. Siddiqi, Credit Risk Scorecards (Wiley, 2006).
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.stats import chi2_contingency, ks_2samp

FALSE_ALARM_RATE = 0.01
"""The chance that a test reports a difference in unchanged data, divided among the tests."""

MIN_LABEL_DISTANCE = 0.02
"""The smallest share of examples with another label that matters."""

MIN_LENGTH_DISTANCE = 0.05
"""The smallest distance of two distributions of lengths that matters (Kolmogorov-Smirnov)."""

MIN_NEW_WORD_CHANGE = 0.02
"""The smallest excess share of new words that matters."""

MIN_REPETITION_CHANGE = 0.02
"""The smallest change in the share of repeated prompts that matters."""

MAX_LABELS = 200
"""If completions have more distinct values than this, they are texts, not labels."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Texts:
    """Training examples as pairs of texts."""

    prompts: tuple[str, ...]
    completions: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One property of both data sets, and whether its change matters.

    `p_value` is None if a fixed threshold decides instead of a test. Its JSON name, `chance`, is
    that of version 0.1.
    """

    name: str
    before: float
    now: float
    distance: float
    p_value: Annotated[float | None, Field(alias="chance")]
    matters: bool

    @property
    def sentence(self) -> str:
        """The difference in words."""
        return f"{self.name}: {self.before:.4g} before, {self.now:.4g} now"


@dataclass(frozen=True)
class Drift:
    """The comparison of two data sets.

    `kept_examples` is the share of the new examples that the earlier data contained. `labels` maps
    each label to its share before and now; it is empty, and `psi` None, if completions are texts.
    `sentences` describe the differences that matter. The JSON names are those of version 0.1.
    """

    examples_before: int
    examples_now: int
    kept_examples: float
    psi: float | None
    labels: Mapping[str, tuple[float, float]]
    differences: Annotated[tuple[Difference, ...], Field(alias="compared")]
    new_words: tuple[str, ...]
    sentences: Annotated[tuple[str, ...], Field(alias="words")]


def read(path: Path) -> Texts:
    """Read a prepared part of a data set; `backends.contract.Dataset` describes the format."""
    prompts, completions = [], []
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if "messages" in row:
                *conversation, answer = row["messages"]
                prompts.append("\n".join(str(message.get("content") or "") for message in conversation))
                completions.append(str(answer.get("content") or ""))
            else:
                prompts.append(row["prompt"])
                completions.append(row["completion"])
    return Texts(tuple(prompts), tuple(completions))


def compare(before: Texts, now: Texts, seed: int = 0) -> Drift:
    """Compare two data sets. The same arguments give the same result.

    Raises ValueError if one of them has no example.
    """
    if not before.prompts or not now.prompts:
        raise ValueError("one of the data sets has no example to compare")
    counts = [Counter(completion.strip() for completion in texts.completions) for texts in (before, now)]
    labels = sorted(set(counts[0]) | set(counts[1]))
    is_classification = len(labels) <= MAX_LABELS and len(labels) < len(before.completions) / 2
    # two tests: the lengths of the prompts, and labels or lengths of completions
    level = FALSE_ALARM_RATE / 2
    differences = [_length_difference("prompts", before.prompts, now.prompts, level)]
    if is_classification:
        differences.append(_label_difference(labels, counts, level))
    else:
        differences.append(_length_difference("completions", before.completions, now.completions, level))
    vocabulary, new_words = _vocabulary_difference(before, now, seed)
    differences += [vocabulary, _repetition_difference(before, now)]
    shares: dict[str, tuple[float, float]] = {}
    if is_classification:
        old_counts, new_counts = counts
        shares = {
            label: (old_counts[label] / old_counts.total(), new_counts[label] / new_counts.total()) for label in labels
        }
    earlier_examples = set(zip(before.prompts, before.completions, strict=True))
    kept = sum(example in earlier_examples for example in zip(now.prompts, now.completions, strict=True))
    return Drift(
        examples_before=len(before.prompts),
        examples_now=len(now.prompts),
        kept_examples=kept / len(now.prompts),
        psi=_psi(shares.values()) if shares else None,
        labels=shares,
        differences=tuple(differences),
        new_words=new_words,
        sentences=tuple(difference.sentence for difference in differences if difference.matters),
    )


def markdown(drift: Drift, before: str, now: str) -> str:
    """Return the report. `before` and `now` are the fingerprints of the data sets."""
    lines = [
        "# Data drift",
        "",
        f"Earlier data: `{before}` ({drift.examples_before:,} training examples). "
        f"New data: `{now}` ({drift.examples_now:,}). "
        f"The earlier data contained {drift.kept_examples:.1%} of the new examples.",
        "",
        *([f"- {sentence}" for sentence in drift.sentences] or ["No difference is both significant and large."]),
        "",
        "| | before | now | distance | p-value | matters |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for difference in drift.differences:
        p_value = "" if difference.p_value is None else f"{difference.p_value:.2g}"
        numbers = f"{difference.before:.4g} | {difference.now:.4g} | {difference.distance:.3g} | {p_value}"
        lines.append(f"| {difference.name} | {numbers} | {'yes' if difference.matters else 'no'} |")
    if drift.labels:
        lines += ["", f"Labels (PSI {drift.psi:.3g}; above 0.1 is a moderate shift, above 0.25 a large one):", ""]
        lines += ["| label | before | now |", "|---|---:|---:|"]
        lines += [f"| {_cell(label)} | {old:.1%} | {new:.1%} |" for label, (old, new) in drift.labels.items()]
    if drift.new_words:
        lines += ["", f"The most frequent new words: {', '.join(_cell(word) for word in drift.new_words)}."]
    return "\n".join(lines) + "\n"


def _length_difference(what: str, before: Sequence[str], now: Sequence[str], level: float) -> Difference:
    old_lengths, new_lengths = [len(text) for text in before], [len(text) for text in now]
    # Lengths have ties, which make this test conservative: it reports too little, not too much.
    test = ks_2samp(old_lengths, new_lengths, method="asymp")
    distance, p_value = float(test.statistic), float(test.pvalue)
    return Difference(
        f"length of the {what} in characters (medians)",
        float(np.median(old_lengths)),
        float(np.median(new_lengths)),
        distance,
        p_value,
        p_value < level and distance >= MIN_LENGTH_DISTANCE,
    )


def _label_difference(labels: Sequence[str], counts: Sequence[Counter[str]], level: float) -> Difference:
    table = np.array([[count[label] for label in labels] for count in counts])
    p_value = float(chi2_contingency(table).pvalue) if len(labels) > 1 else 1.0
    shares = table / table.sum(axis=1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    largest = int(np.abs(shares[0] - shares[1]).argmax())
    matters = p_value < level and distance >= MIN_LABEL_DISTANCE
    name = f"share of the label {_cell(labels[largest])}, which changed most"
    return Difference(name, float(shares[0][largest]), float(shares[1][largest]), distance, p_value, matters)


def _vocabulary_difference(before: Texts, now: Texts, seed: int) -> tuple[Difference, tuple[str, ...]]:
    """Compare the share of new words with the share to expect in unchanged data.

    To estimate the latter, one half of the earlier data is compared with the other. The halves show
    how many words are new in unchanged data. A half knows fewer words than the whole, so this
    comparison reports too little rather than too much.
    """
    order = list(range(len(before.prompts)))
    random.Random(seed).shuffle(order)
    halves = [_vocabulary(before.prompts[index] for index in half) for half in (order[::2], order[1::2])]
    usual = _share_of_new(halves[1], halves[0]) if halves[1] else 0.0
    known, current = halves[0] + halves[1], _vocabulary(now.prompts)
    share = _share_of_new(current, known)
    by_frequency = sorted(current.items(), key=lambda item: (-item[1], item[0]))
    new_words = [word for word, _ in by_frequency if word not in known][:10]
    matters = share - usual >= MIN_NEW_WORD_CHANGE
    return Difference("share of new words", usual, share, share - usual, None, matters), tuple(new_words)


def _repetition_difference(before: Texts, now: Texts) -> Difference:
    old, new = (1 - len(set(texts.prompts)) / len(texts.prompts) for texts in (before, now))
    matters = abs(new - old) >= MIN_REPETITION_CHANGE
    return Difference("share of repeated prompts", old, new, new - old, None, matters)


def _vocabulary(prompts: Iterable[str]) -> Counter[str]:
    return Counter(word for prompt in prompts for word in _WORD.findall(prompt.casefold()))


def _share_of_new(words: Counter[str], known: Mapping[str, int]) -> float:
    total = words.total()
    return sum(count for word, count in words.items() if word not in known) / total if total else 0.0


def _psi(shares: Iterable[tuple[float, float]]) -> float:
    """Return the population stability index. A share of zero counts as one in ten thousand."""
    floored = ((max(old, 1e-4), max(new, 1e-4)) for old, new in shares)
    return math.fsum((new - old) * math.log(new / old) for old, new in floored)


def _cell(text: str) -> str:
    """Shorten a text and escape its Markdown, for one cell of a table."""
    line = " ".join(text.split())[:60]
    return "".join(f"\\{character}" if character in "\\`*[]<>#|_" else character for character in line) or "(empty)"
