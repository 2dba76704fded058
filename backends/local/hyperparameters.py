"""The hyperparameters that the local backend accepts, and how a request's values become settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.contract import Capabilities, Hyperparameter, Scalar
from backends.local.lr_schedule import SCHEDULES
from backends.local.options import Task

METHODS = ("full", "lora")
LORA_TARGETS = ("attention", "all-linear", "query-value")

FULL_MULTIPLIER = 0.1
LORA_MULTIPLIER = 1.0
"""Default multiples of the pre-training rate. Adapters start at zero and bear, and need, about ten times the rate."""

_LORA = {"method": ("lora",)}

# Constant is the default schedule: a run of n epochs has then exactly passed the states of all shorter runs, so that
# results after each epoch can be compared with runs of fewer epochs, and stopping early loses nothing but the rest.
_ALL = (
    Hyperparameter("n_epochs", "int", "passes over the training set", low=1, high=200, default=3),
    Hyperparameter("batch_size", "int", "examples of one optimizer step", low=1, high=4096, default=8),
    Hyperparameter(
        "learning_rate_multiplier",
        "float",
        "peak learning rate relative to that of pre-training",
        low=1e-6,
        high=1e3,
        default_rule=f"{FULL_MULTIPLIER:g} for method full, {LORA_MULTIPLIER:g} for lora",
        excludes=("learning_rate",),
    ),
    Hyperparameter(
        "learning_rate",
        "float",
        "peak learning rate",
        low=1e-9,
        high=1.0,
        default_rule="learning_rate_multiplier times the pre-training rate",
        excludes=("learning_rate_multiplier",),
    ),
    Hyperparameter(
        "prompt_loss_weight",
        "float",
        "weight of a prompt token in the loss; a completion token has 1",
        0.0,
        1.0,
        None,
        0.0,
    ),
    Hyperparameter("method", "str", "train all weights, or low-rank adapters", choices=METHODS, default="full"),
    Hyperparameter("lora_rank", "int", "rank of the adapters", low=1, high=1024, default=8, requires=_LORA),
    Hyperparameter(
        "lora_alpha", "float", "adapters count alpha / rank", 1e-3, 1e5, default_rule="twice lora_rank", requires=_LORA
    ),
    Hyperparameter("lora_dropout", "float", "dropout before the adapters", 0.0, 0.95, None, 0.0, requires=_LORA),
    Hyperparameter(
        "lora_target", "str", "which layers get adapters", choices=LORA_TARGETS, default="all-linear", requires=_LORA
    ),
    Hyperparameter("warmup_ratio", "float", "share of the steps in which the rate rises", 0.0, 1.0, None, 0.0),
    Hyperparameter("schedule", "str", "course of the learning rate", choices=SCHEDULES, default="constant"),
    Hyperparameter("weight_decay", "float", "decoupled decay of weight matrices (AdamW)", 0.0, 10.0, None, 0.0),
    Hyperparameter("max_grad_norm", "float", "gradients are scaled down to this norm; 0: never", 0.0, 1e6, None, 1.0),
    Hyperparameter("base_model", "str", "the model to start from", default_rule="the request's base model"),
)

_LOSS_METRICS = ("valid_loss", "train_loss")
_TOKEN_METRICS = ("valid_token_accuracy", "train_token_accuracy")
LABEL_METRICS = ("valid_accuracy", "valid_macro_f1", "train_accuracy", "train_macro_f1")


def capabilities(task: Task) -> Capabilities:
    """Return what can be done for a task: encoders have no prompt tokens to weigh and no token accuracy."""
    causal = task == "causal-lm"
    return Capabilities(
        hyperparameters=tuple(each for each in _ALL if causal or each.name != "prompt_loss_weight"),
        metrics=(*_LOSS_METRICS, *(_TOKEN_METRICS if causal else ()), *LABEL_METRICS),
        label_metrics=LABEL_METRICS,
        recommendation_scope="local",
        in_process=True,
        can_stop=True,
        can_predict=True,
        can_resume=True,
        evaluations_within_epoch=True,
    )


@dataclass(frozen=True)
class LoraSettings:
    """The adapters of a run."""

    rank: int
    alpha: float
    dropout: float
    target: str


@dataclass(frozen=True)
class Settings:
    """A run's values, complete: what was asked for, defaults for the rest. `lora` is None where all is trained."""

    n_epochs: int
    batch_size: int
    learning_rate: float | None
    learning_rate_multiplier: float | None
    prompt_loss_weight: float
    lora: LoraSettings | None
    warmup_ratio: float
    schedule: str
    weight_decay: float
    max_grad_norm: float

    def peak_rate(self, pretraining: float | None) -> float:
        """Return the absolute peak rate; `pretraining` must be known where the rate is relative."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.learning_rate_multiplier is None or pretraining is None:
            raise ValueError("a relative rate without the rate it is relative to")
        return self.learning_rate_multiplier * pretraining


def settings(values: Mapping[str, Scalar]) -> Settings:
    """Complete values that contradict nothing that is declared."""
    full = {each.name: each.default for each in _ALL if each.default is not None} | dict(values)

    def number(name: str) -> float:
        return float(full[name])

    rank, absolute = int(full["lora_rank"]), full.get("learning_rate")
    is_lora = full["method"] == "lora"
    lora = LoraSettings(
        rank, float(full.get("lora_alpha", 2.0 * rank)), number("lora_dropout"), str(full["lora_target"])
    )
    relative = float(full.get("learning_rate_multiplier", LORA_MULTIPLIER if is_lora else FULL_MULTIPLIER))
    return Settings(
        n_epochs=int(full["n_epochs"]),
        batch_size=int(full["batch_size"]),
        learning_rate=None if absolute is None else float(absolute),
        learning_rate_multiplier=None if absolute is not None else relative,
        prompt_loss_weight=number("prompt_loss_weight"),
        lora=lora if is_lora else None,
        warmup_ratio=number("warmup_ratio"),
        schedule=str(full["schedule"]),
        weight_decay=number("weight_decay"),
        max_grad_norm=number("max_grad_norm"),
    )
