"""How far tonight's training examples are from those that an earlier model was trained on.

With many examples every difference is significant, with few none is: a difference is told where it is both larger
than chance explains and large enough to matter. The tests are scipy's; the population stability index (PSI) and its
customary bounds of 0.1 and 0.25 are those of N. Siddiqi, Credit Risk Scorecards (Wiley, 2006).
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency, ks_2samp

CHANCE = 0.01
"""A test speaks up where chance alone would do so in this share of cases; divided by the number of tests made."""

LABEL_MOVE, LENGTH_MOVE, NOVEL_MOVE, REPEAT_MOVE = 0.02, 0.05, 0.02, 0.02
"""What is large enough to matter: the share of examples with another label, the distance between the distributions of
lengths, the shares of new words and of repeated examples."""

MOST_LABELS = 200
"""Where completions take more values than this they are texts, not labels."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Texts:
    """Training examples as pairs of texts."""

    prompts: tuple[str, ...]
    completions: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """One look at both data sets, and whether its numbers matter. `chance` None: there is no test, but a bound."""

    name: str
    before: float
    now: float
    distance: float
    chance: float | None
    matters: bool


@dataclass(frozen=True)
class Drift:
    """What was compared. `labels` are shares before and now; `words` say what matters, a sentence each."""

    examples_before: int
    examples_now: int
    kept_examples: float
    psi: float | None
    labels: Mapping[str, tuple[float, float]]
    compared: tuple[Compared, ...]
    new_words: tuple[str, ...]
    words: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def read(path: Path) -> Texts:
    """Read a prepared part of a data set (`backends.contract.Dataset` says the form)."""
    prompts, completions = [], []
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if "messages" in row:
                *asked, answer = row["messages"]
                prompts.append("\n".join(str(each.get("content") or "") for each in asked))
                completions.append(str(answer.get("content") or ""))
            else:
                prompts.append(row["prompt"])
                completions.append(row["completion"])
    return Texts(tuple(prompts), tuple(completions))


def compare(before: Texts, now: Texts, seed: int = 0) -> Drift:
    """Compare two data sets; the same arguments give the same result. Raises ValueError where one has no example."""
    if not before.prompts or not now.prompts:
        raise ValueError("there is no example to compare")
    counts = [Counter(completion.strip() for completion in texts.completions) for texts in (before, now)]
    labels = sorted(set(counts[0]) | set(counts[1]))
    classified = len(labels) <= MOST_LABELS and len(labels) < len(before.completions) / 2
    looks = [("length of the prompts in characters", [[len(prompt) for prompt in x.prompts] for x in (before, now)])]
    if not classified:
        looks.append(
            ("length of the completions in characters", [[len(c) for c in x.completions] for x in (before, now)])
        )
    level = CHANCE / (len(looks) + classified)
    compared = [_lengths(name, before_now[0], before_now[1], level) for name, before_now in looks]
    if classified:
        compared.append(_labels(labels, counts, level))
    vocabulary, fresh = _novel(before, now, seed)
    compared += [vocabulary, _repeated(before, now)]
    shares = {name: tuple(count[name] / count.total() for count in counts) for name in labels} if classified else {}
    known = set(zip(before.prompts, before.completions, strict=True))
    kept = sum(each in known for each in zip(now.prompts, now.completions, strict=True)) / len(now.prompts)
    return Drift(
        examples_before=len(before.prompts),
        examples_now=len(now.prompts),
        kept_examples=kept,
        psi=_psi(list(shares.values())) if shares else None,
        labels={name: (old, new) for name, (old, new) in shares.items()},
        compared=tuple(compared),
        new_words=fresh,
        words=tuple(_sentence(each) for each in compared if each.matters),
    )


def markdown(drift: Drift, before: str, now: str) -> str:
    """Return the report; `before` and `now` are the fingerprints of the data sets."""
    lines = [
        "# Data drift",
        "",
        f"Trained on `{before}` ({drift.examples_before:,} training examples); now `{now}` ({drift.examples_now:,}). "
        f"{drift.kept_examples:.1%} of the examples of now were there before.",
        "",
        *([f"- {word}" for word in drift.words] or ["No difference is both beyond chance and large enough to matter."]),
        "",
        "| | before | now | distance | by chance | matters |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for each in drift.compared:
        chance = "" if each.chance is None else f"{each.chance:.2g}"
        row = f"| {each.name} | {each.before:.4g} | {each.now:.4g} | {each.distance:.3g} | {chance} "
        lines.append(row + f"| {'yes' if each.matters else 'no'} |")
    if drift.labels:
        lines += ["", f"Labels (PSI {drift.psi:.3g}; above 0.1 some shift, above 0.25 a large one):", ""]
        lines += ["| label | before | now |", "|---|---:|---:|"]
        lines += [f"| {_cell(name)} | {old:.1%} | {new:.1%} |" for name, (old, new) in drift.labels.items()]
    if drift.new_words:
        lines += ["", f"The most frequent new words: {', '.join(_cell(new_word) for new_word in drift.new_words)}."]
    return "\n".join(lines) + "\n"


def _lengths(name: str, before: Sequence[int], now: Sequence[int], level: float) -> Compared:
    # Lengths have ties, for which the test errs on the side of silence.
    found = ks_2samp(before, now, method="asymp")
    distance, chance = float(found.statistic), float(found.pvalue)
    matters = chance < level and distance >= LENGTH_MOVE
    return Compared(f"{name} (medians)", float(np.median(before)), float(np.median(now)), distance, chance, matters)


def _labels(labels: Sequence[str], counts: Sequence[Counter[str]], level: float) -> Compared:
    table = np.array([[count[name] for name in labels] for count in counts])
    chance = float(chi2_contingency(table).pvalue) if len(labels) > 1 else 1.0
    shares = table / table.sum(axis=1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    largest = int(np.abs(shares[0] - shares[1]).argmax())
    matters = chance < level and distance >= LABEL_MOVE
    name = f"share of the label {_cell(labels[largest])}, which moved most"
    return Compared(name, float(shares[0][largest]), float(shares[1][largest]), distance, chance, matters)


def _novel(before: Texts, now: Texts, seed: int) -> tuple[Compared, tuple[str, ...]]:
    """Compare the share of words that are new with what is new in one half of the earlier data against the other.

    The half stands for how much is new in data that have not changed. It knows fewer words than the whole did, so the
    comparison errs on the side of silence.
    """
    order = list(range(len(before.prompts)))
    random.Random(seed).shuffle(order)
    halves = [_vocabulary(before.prompts[each] for each in part) for part in (order[::2], order[1::2])]
    usual = _share_of_new(halves[1], halves[0]) if halves[1] else 0.0
    known, current = halves[0] + halves[1], _vocabulary(now.prompts)
    share = _share_of_new(current, known)
    fresh = [word for word, _ in sorted(current.items(), key=lambda each: (-each[1], each[0])) if word not in known][
        :10
    ]
    return Compared(
        "share of words not seen before", usual, share, share - usual, None, share - usual >= NOVEL_MOVE
    ), tuple(fresh)


def _repeated(before: Texts, now: Texts) -> Compared:
    old, new = (1 - len(set(each.prompts)) / len(each.prompts) for each in (before, now))
    return Compared("share of repeated prompts", old, new, new - old, None, abs(new - old) >= REPEAT_MOVE)


def _vocabulary(prompts: Any) -> Counter[str]:
    return Counter(word for prompt in prompts for word in _WORD.findall(prompt.casefold()))


def _share_of_new(words: Counter[str], known: Mapping[str, int]) -> float:
    total = words.total()
    return sum(count for word, count in words.items() if word not in known) / total if total else 0.0


def _psi(shares: Sequence[tuple[float, ...]]) -> float:
    """Return the population stability index; a share of zero is taken as one in ten thousand."""
    floored = ((max(old, 1e-4), max(new, 1e-4)) for old, new in shares)
    return math.fsum((new - old) * math.log(new / old) for old, new in floored)


def _sentence(each: Compared) -> str:
    return f"{each.name}: {each.before:.4g} before, {each.now:.4g} now"


def _cell(text: str) -> str:
    kept = " ".join(text.split())[:60]
    return "".join(f"\\{each}" if each in "\\`*[]<>#|_" else each for each in kept) or "(empty)"
