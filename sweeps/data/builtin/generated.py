"""The sources that finesweep generates itself, by their names in a sweep file.

They need neither a file nor a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from sweeps.data.builtin import orders, rewrites, sums
from sweeps.data.builtin.nli_words import Split

NLI = "builtin:nli"
NLI_PROMPT = "{premise}\n{hypothesis}\n\n###\n\n"
NLI_COMPLETION = " {label}"
"""The templates of sentence pairs if the sweep file has none."""

DEFAULT_EXAMPLES: Mapping[Split, int] = {"train": 2000, "valid": 500, "test": 500}
"""Examples of each part to generate if the sweep file does not say."""

Generate: TypeAlias = Callable[[Split, int, int, float], list[dict[str, str]]]
"""Part, number of examples, seed and share of wrong labels -> records."""


@dataclass(frozen=True)
class GeneratedSource:
    """What generates the records, and their templates if the sweep file has none.

    Without templates the records are conversations in a layout that `conversations` recognises.
    """

    generate: Generate
    prompt: str | None = None
    completion: str | None = None


def _nli(part: Split, examples: int, seed: int, label_noise: float) -> list[dict[str, str]]:
    from sweeps.data.builtin import nli  # builds its weights at import

    return nli.generate(part, examples, seed, label_noise if part == "train" else 0.0)


def _without_labels(generate: Callable[[Split, int, int], list[dict[str, str]]]) -> Generate:
    return lambda part, examples, seed, _label_noise: generate(part, examples, seed)


GENERATED_SOURCES: Mapping[str, GeneratedSource] = {
    NLI: GeneratedSource(_nli, NLI_PROMPT, NLI_COMPLETION),
    "builtin:orders": GeneratedSource(_without_labels(orders.generate), orders.PROMPT, orders.COMPLETION),
    "builtin:sums": GeneratedSource(_without_labels(sums.generate), sums.PROMPT, sums.COMPLETION),
    "builtin:rewrites": GeneratedSource(_without_labels(rewrites.generate)),
}
