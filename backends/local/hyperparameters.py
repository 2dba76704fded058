"""The hyperparameters of the local backend, and their conversion into the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.contract import Capabilities, Hyperparameter, Scalar
from backends.local.lr_schedule import SCHEDULES
from backends.local.options import Task

METHODS = ("full", "lora")
DEFAULT_OPTIMIZER = "adamw"
OPTIMIZERS = (DEFAULT_OPTIMIZER, "adamw_8bit")
LORA_TARGETS = ("attention", "all-linear", "query-value")
"""The groups of layers that `lora_target` may name. Any other text is a list of module names."""

FULL_MULTIPLIER = 0.1
LORA_MULTIPLIER = 1.0
"""Default learning_rate_multiplier of each method.

Adapters start at zero, so that they tolerate and need about ten times the rate of full fine-tuning.
"""

_LORA = {"method": ("lora",)}

# The default schedule is constant. A run of n epochs then passes exactly through the states of all
# shorter runs, so that its result after each epoch is comparable with a run of that many epochs,
# and an early stop loses only the remaining epochs.
_ALL = (
    Hyperparameter("n_epochs", "int", "passes over the training set", low=1, high=200, default=3),
    Hyperparameter("batch_size", "int", "examples per optimizer step", low=1, high=4096, default=8),
    Hyperparameter(
        "learning_rate_multiplier",
        "float",
        "peak learning rate divided by that of the pre-training",
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
        "weight of a prompt token in the loss; a completion token has weight 1",
        0.0,
        1.0,
        None,
        0.0,
    ),
    Hyperparameter("method", "str", "train all weights, or only low-rank adapters", choices=METHODS, default="full"),
    Hyperparameter("lora_rank", "int", "rank of the adapters", low=1, high=1024, default=8, requires=_LORA),
    Hyperparameter(
        "lora_alpha",
        "float",
        "the adapters' output is scaled by alpha / rank",
        1e-3,
        1e5,
        default_rule="twice lora_rank",
        requires=_LORA,
    ),
    Hyperparameter("lora_dropout", "float", "dropout before the adapters", 0.0, 0.95, None, 0.0, requires=_LORA),
    Hyperparameter(
        "lora_target",
        "str",
        f"the layers that get adapters: {', '.join(LORA_TARGETS)}, or module names as in q_proj,v_proj",
        default="all-linear",
        requires=_LORA,
    ),
    Hyperparameter(
        "use_rslora",
        "bool",
        "rank-stabilized LoRA: the adapters' output is scaled by alpha / sqrt(rank)",
        default=False,
        requires=_LORA,
    ),
    Hyperparameter(
        "use_dora",
        "bool",
        "weight-decomposed LoRA: also trains the magnitude of each output",
        default=False,
        requires=_LORA,
    ),
    Hyperparameter("warmup_ratio", "float", "share of the steps while the learning rate rises", 0.0, 1.0, None, 0.0),
    Hyperparameter("schedule", "str", "learning-rate schedule", choices=SCHEDULES, default="constant"),
    Hyperparameter("weight_decay", "float", "decoupled weight decay of matrices (AdamW)", 0.0, 10.0, None, 0.0),
    Hyperparameter(
        "optimizer",
        "str",
        "adamw_8bit keeps its state in 8 bits; it needs bitsandbytes",
        choices=OPTIMIZERS,
        default=DEFAULT_OPTIMIZER,
    ),
    Hyperparameter(
        "neftune_noise_alpha",
        "float",
        "strength of the noise on the input embeddings while training (NEFTune); 0: no noise",
        0.0,
        1e3,
        None,
        0.0,
    ),
    Hyperparameter("max_grad_norm", "float", "clips gradients to this norm; 0: no clipping", 0.0, 1e6, None, 1.0),
    Hyperparameter(
        "base_model", "str", "the model to start from", default_rule="the request's base model", may_be_path=True
    ),
)

MEMORY_DRIVERS = ("base_model", "method", "lora_rank", "lora_target", "use_dora", "optimizer")
"""The hyperparameters on which memory depends. `batch_size` does not: it accumulates gradients over
micro-batches that fit.
"""

_LOSS_METRICS = ("valid_loss", "train_loss")
_TOKEN_METRICS = ("valid_token_accuracy", "train_token_accuracy")
LABEL_METRICS = ("valid_accuracy", "valid_macro_f1", "train_accuracy", "train_macro_f1")


def capabilities(task: Task) -> Capabilities:
    """Return the capabilities for `task`.

    Encoders have neither `prompt_loss_weight` nor token accuracy, and generate nothing.
    """
    causal = task == "causal-lm"
    return Capabilities(
        hyperparameters=tuple(
            hyperparameter for hyperparameter in _ALL if causal or hyperparameter.name != "prompt_loss_weight"
        ),
        metrics=(*_LOSS_METRICS, *(_TOKEN_METRICS if causal else ()), *LABEL_METRICS),
        label_metrics=LABEL_METRICS,
        recommendation_scope="local",
        in_process=True,
        can_stop=True,
        can_predict=True,
        can_resume=True,
        evaluations_within_epoch=True,
        task_metrics=causal,
        memory_drivers=MEMORY_DRIVERS,
    )


@dataclass(frozen=True)
class LoraSettings:
    """The settings of a run's LoRA adapters.

    `target` is one of LORA_TARGETS or a comma-separated list of module names.
    """

    rank: int
    alpha: float
    dropout: float
    target: str
    use_rslora: bool = False
    use_dora: bool = False


@dataclass(frozen=True)
class Settings:
    """All settings of a run: requested values and defaults.

    `lora` is None if the run trains all weights.
    """

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
    optimizer: str = DEFAULT_OPTIMIZER
    neftune_noise_alpha: float = 0.0

    def peak_learning_rate(self, pretraining_rate: float | None) -> float:
        """Return the absolute peak learning rate.

        Raises ValueError if the rate is relative and `pretraining_rate` is None.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        if self.learning_rate_multiplier is None or pretraining_rate is None:
            raise ValueError("learning_rate_multiplier needs the pre-training learning rate")
        return self.learning_rate_multiplier * pretraining_rate


def settings(values: Mapping[str, Scalar]) -> Settings:
    """Return the settings for `values`, which must agree with the capabilities, and defaults for
    the rest.
    """
    defaults = {
        hyperparameter.name: hyperparameter.default for hyperparameter in _ALL if hyperparameter.default is not None
    }
    complete = defaults | dict(values)

    def number(name: str) -> float:
        return float(complete[name])

    rank, absolute = int(complete["lora_rank"]), complete.get("learning_rate")
    is_lora = complete["method"] == "lora"
    lora = LoraSettings(
        rank,
        float(complete.get("lora_alpha", 2.0 * rank)),
        number("lora_dropout"),
        str(complete["lora_target"]),
        bool(complete["use_rslora"]),
        bool(complete["use_dora"]),
    )
    relative = float(complete.get("learning_rate_multiplier", LORA_MULTIPLIER if is_lora else FULL_MULTIPLIER))
    return Settings(
        n_epochs=int(complete["n_epochs"]),
        batch_size=int(complete["batch_size"]),
        learning_rate=None if absolute is None else float(absolute),
        learning_rate_multiplier=None if absolute is not None else relative,
        prompt_loss_weight=number("prompt_loss_weight"),
        lora=lora if is_lora else None,
        warmup_ratio=number("warmup_ratio"),
        schedule=str(complete["schedule"]),
        weight_decay=number("weight_decay"),
        max_grad_norm=number("max_grad_norm"),
        optimizer=str(complete["optimizer"]),
        neftune_noise_alpha=number("neftune_noise_alpha"),
    )
