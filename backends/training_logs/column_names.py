"""The names that training programs give to their columns, and the meaning of each name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

Side: TypeAlias = Literal["train", "valid"]

WHOLE, UNSPECIFIED, BATCH = 2, 1, 0
"""The extent of a measurement: the whole set or epoch, unspecified, or one mini-batch. A larger
extent is preferred."""

SIDES: Mapping[str, tuple[Side, int]] = {
    **dict.fromkeys(("train", "training", "tr"), ("train", UNSPECIFIED)),
    **dict.fromkeys(("batch",), ("train", BATCH)),
    **dict.fromkeys(("valid", "validation", "val", "eval", "evaluation", "dev"), ("valid", UNSPECIFIED)),
    **dict.fromkeys(("full_valid", "full_validation", "classification"), ("valid", WHOLE)),
}
"""Words before or after a measure (`train_loss`, `val/acc`, `Loss/train`,
`classification/accuracy`)."""

MEASURES: Mapping[str, str] = {
    **dict.fromkeys(("loss", "losses"), "loss"),
    **dict.fromkeys(("accuracy", "acc", "accuracy_score", "top1", "acc1", "accuracies", "accs"), "accuracy"),
    **dict.fromkeys(("binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy"), "accuracy"),
    **dict.fromkeys(("macro_f1", "f1_macro", "macro_f1_score"), "macro_f1"),
    **dict.fromkeys(("f1", "f1_score", "f1_0"), "f1"),
    **dict.fromkeys(("weighted_f1", "f1_weighted", "weighted_f1_score"), "weighted_f1"),
    **dict.fromkeys(("micro_f1", "f1_micro", "micro_f1_score"), "micro_f1"),
    **dict.fromkeys(("token_accuracy", "mean_token_accuracy", "token_acc"), "token_accuracy"),
    **dict.fromkeys(("sequence_accuracy", "exact_match"), "sequence_accuracy"),
}
"""The names of measures, each with our own name for it. The order is the order of preference among
metrics."""

METRICS = tuple(dict.fromkeys(measure for measure in MEASURES.values() if measure != "loss"))

TOKEN_METRICS = frozenset({"token_accuracy", "sequence_accuracy"})
"""Metrics that are not a goal of training: if one of them is the metric, the loss decides which
epoch to keep."""

LOSS_LIKE = frozenset(
    {"perplexity", "ppl", "nll", "cross_entropy", "crossentropy", "error", "err", "error_rate", "wer", "cer"}
    | {"mse", "mae", "rmse", "brier", "bits_per_byte", "bpb", "bpc"}
)
"""Measures for which lower is better. They never count as a metric."""

EPOCH = frozenset({"epoch", "epochs"})
STEP = frozenset({"step", "steps", "global_step", "step_number", "iteration", "iterations", "iter"})
EXAMPLES = frozenset({"elapsed_examples"})

PARTS_OF_LOSS = frozenset({"box", "cls", "dfl", "obj", "seg", "mask", "pose", "kobj", "giou", "rle"})
"""Parts of the loss of a detector, as Ultralytics writes them. Their sum is the loss."""

AVERAGED = ("avg", "average", "mean", "running", "total", "epoch", "final", "smoothed")
"""Words before or after a measure that say how its values were put together: `avg_train_loss`."""

FOREIGN: Mapping[str, str] = {
    **dict.fromkeys(("verlust", "fehler", "perte", "pérdida", "perdida", "perda", "perdita"), "loss"),
    **dict.fromkeys(("损失", "损失值", "損失", "потери", "потеря", "손실", "kayıp"), "loss"),
    **dict.fromkeys(("genauigkeit", "exactitude", "exactitud", "precisión", "acurácia", "acuracia"), "accuracy"),
    **dict.fromkeys(
        ("accuratezza", "准确率", "准确度", "精度", "正解率", "точность", "정확도", "doğruluk"), "accuracy"
    ),
    **dict.fromkeys(("trainings", "entraînement", "entrainement", "entrenamiento", "treino", "treinamento"), "train"),
    **dict.fromkeys(("addestramento", "训练", "訓練", "学習", "обучение", "обучения", "학습", "훈련"), "train"),
    **dict.fromkeys(("validierung", "validierungs", "validación", "validacion", "validação", "validacao"), "valid"),
    **dict.fromkeys(("validazione", "验证", "驗證", "検証", "валидация", "валидации", "검증"), "valid"),
    **dict.fromkeys(
        ("epoche", "époque", "epoque", "época", "epoca", "轮次", "轮", "エポック", "эпоха", "에포크"), "epoch"
    ),
    **dict.fromkeys(("schritt", "étape", "etape", "paso", "passo", "步数", "步", "ステップ", "шаг"), "step"),
}
"""Words of other languages. The longest ones are looked for first, also inside a word."""

_FOREIGN = re.compile("|".join(sorted(map(re.escape, FOREIGN), key=len, reverse=True)))

LEARNING_RATE = frozenset({"learning_rate", "lr"})
GRAD_NORM = frozenset({"grad_norm", "gradient_norm"})
LOOP_LOSS = "batch_loss"
"""The column for the training loop's own loss, in logs that also have a loss of scored training
examples."""

HOSTED = frozenset(
    {"full_valid_loss", "full_validation_loss", "full_valid_mean_token_accuracy", "valid_mean_token_accuracy"}
    | {"validation_mean_token_accuracy", "train_mean_token_accuracy", "elapsed_tokens", "training_token_accuracy"}
)
"""Columns that only result files of hosted fine-tuning services have, next to a column for the
step."""


@dataclass(frozen=True)
class ColumnMeaning:
    """The meaning of a column.

    `side` is None if the name does not reveal it. An unknown `measure` is the name as written.
    `extent` is WHOLE, UNSPECIFIED or BATCH.
    """

    side: Side | None
    measure: str
    extent: int = UNSPECIFIED

    @property
    def known(self) -> bool:
        """True if MEASURES lists the measure."""
        return self.measure in MEASURES.values()


@cache
def normalized(column: str) -> str:
    """Return a name in lower case with underscores.

    `val/Acc`, `val acc` and `valAcc` become `val_acc`.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column.strip())
    if _FOREIGN.search(spaced.lower()):
        spaced = _FOREIGN.sub(lambda word: f"_{FOREIGN[word[0]]}_", spaced.lower())
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


@cache
def meaning(column: str) -> ColumnMeaning:
    """Return the meaning of a column, as far as its name reveals it."""
    name, side, extent = normalized(column), None, UNSPECIFIED
    for ending, ending_extent in (("_epoch", WHOLE), ("_step", BATCH)):
        if name.endswith(ending):
            name, extent = name.removesuffix(ending), ending_extent
    name = _without_averages(name)
    for word in sorted(SIDES, key=len, reverse=True):
        rest = name.removeprefix(f"{word}_") if name.startswith(f"{word}_") else name.removesuffix(f"_{word}")
        if rest != name:
            side, side_extent = SIDES[word]
            name, extent = rest, side_extent if extent == UNSPECIFIED else extent
            break
    name = _without_averages(name)
    measure = MEASURES.get(name, name)
    if measure == "loss" and side is None:
        side = "train"  # a log with a single loss means the training loss
    return ColumnMeaning(side, measure, extent)


def side_of_part(column: str) -> Side | None:
    """Return the side of a part of a loss (`val/box_loss`); None for any other column."""
    known = meaning(column)
    return known.side if known.measure.removesuffix("_loss") in PARTS_OF_LOSS else None


def _without_averages(name: str) -> str:
    for word in AVERAGED:
        rest = name.removeprefix(f"{word}_").removesuffix(f"_{word}")
        if rest != name and rest not in MEASURES and f"{word}_" + rest in MEASURES:
            return name  # `mean_token_accuracy` is a measure of its own
        name = rest
    return name


def metric(name: str) -> str:
    """Return our own name for a metric: `accuracy` for both `valid_acc` and `accuracy`."""
    return meaning(name).measure
