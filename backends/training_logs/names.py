"""What a column is called, by whom: one table of sides, one of measures, and the columns of the x axis."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

Side: TypeAlias = Literal["train", "valid"]

WHOLE, PLAIN, BATCH = 2, 1, 0
"""What a value was measured on: the whole set or epoch, nobody says, or one mini-batch. The first of these wins."""

SIDES: Mapping[str, tuple[Side, int]] = {
    **dict.fromkeys(("train", "training", "tr"), ("train", PLAIN)),
    **dict.fromkeys(("batch",), ("train", BATCH)),
    **dict.fromkeys(("valid", "validation", "val", "eval", "evaluation", "dev"), ("valid", PLAIN)),
    **dict.fromkeys(("full_valid", "full_validation", "classification"), ("valid", WHOLE)),
}
"""Words before or after a measure (`train_loss`, `val/acc`, `Loss/train`, `classification/accuracy`)."""

MEASURES: Mapping[str, str] = {
    "loss": "loss",
    **dict.fromkeys(("accuracy", "acc", "accuracy_score", "top1", "acc1"), "accuracy"),
    **dict.fromkeys(("binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy"), "accuracy"),
    **dict.fromkeys(("macro_f1", "f1_macro", "macro_f1_score"), "macro_f1"),
    **dict.fromkeys(("f1", "f1_score", "f1_0"), "f1"),
    **dict.fromkeys(("weighted_f1", "f1_weighted", "weighted_f1_score"), "weighted_f1"),
    **dict.fromkeys(("micro_f1", "f1_micro", "micro_f1_score"), "micro_f1"),
    **dict.fromkeys(("token_accuracy", "mean_token_accuracy", "token_acc"), "token_accuracy"),
    **dict.fromkeys(("sequence_accuracy", "exact_match"), "sequence_accuracy"),
}
"""Names of measures, and the name that each goes by here. Metrics are preferred in this order."""

METRICS = tuple(dict.fromkeys(each for each in MEASURES.values() if each != "loss"))

TOKEN_METRICS = frozenset({"token_accuracy", "sequence_accuracy"})
"""Metrics that nobody trains for: next to them the loss decides which epoch to keep."""

LOSS_LIKE = frozenset(
    {"perplexity", "ppl", "nll", "cross_entropy", "crossentropy", "error", "err", "error_rate", "wer", "cer"}
    | {"mse", "mae", "rmse", "brier", "bits_per_byte", "bpb", "bpc"}
)
"""Measures of which less is better: never a metric."""

EPOCH = frozenset({"epoch", "epochs"})
STEP = frozenset({"step", "steps", "global_step", "step_number", "iteration", "iterations", "iter"})
EXAMPLES = frozenset({"elapsed_examples"})

RATE = frozenset({"learning_rate", "lr"})
GRADIENT = frozenset({"grad_norm", "gradient_norm"})
LOOP_LOSS = "batch_loss"
"""What training loops report beside their loss."""

HOSTED = frozenset(
    {"full_valid_loss", "full_validation_loss", "full_valid_mean_token_accuracy", "valid_mean_token_accuracy"}
    | {"validation_mean_token_accuracy", "train_mean_token_accuracy", "elapsed_tokens", "training_token_accuracy"}
)
"""With `step`, each of these shows the result file of a fine-tuning service."""


@dataclass(frozen=True)
class Meaning:
    """What a column holds. `side` is None where its name does not say; `measure` is as written where unknown."""

    side: Side | None
    measure: str
    quality: int = PLAIN

    @property
    def known(self) -> bool:
        """Whether the measure is in the table."""
        return self.measure in MEASURES.values()


@cache
def plain(column: str) -> str:
    """Write a column's name in lower case with underscores: `val/Acc`, `val acc` and `valAcc` are `val_acc`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column.strip())
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


@cache
def meaning(column: str) -> Meaning:
    """Say what a column holds, as far as its name tells."""
    name, side, quality = plain(column), None, PLAIN
    for ending, found in (("_epoch", WHOLE), ("_step", BATCH)):
        if name.endswith(ending):
            name, quality = name.removesuffix(ending), found
    for word in sorted(SIDES, key=len, reverse=True):
        rest = name.removeprefix(f"{word}_") if name.startswith(f"{word}_") else name.removesuffix(f"_{word}")
        if rest != name:
            side, own = SIDES[word]
            name, quality = rest, own if quality == PLAIN else quality
            break
    measure = MEASURES.get(name, name)
    if measure == "loss" and side is None:
        side = "train"  # whoever has one loss only means the one that is trained on
    return Meaning(side, measure, quality)


def metric(name: str) -> str:
    """Return the name under which a metric goes here: `valid_acc` and `accuracy` are `accuracy`."""
    return meaning(name).measure
