"""What training programs call the usual hyperparameters, and the role of a name.

Built-in backends use the names of the catalogue. A user's own program has names of its own: advice
and steering find out here that its `lr` is a learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("learning_rate", "lr", "base_lr", "init_lr", "initial_lr", "max_lr"),
    "n_epochs": ("num_train_epochs", "n_epochs", "num_epochs", "max_epochs", "epochs", "n_epoch", "num_epoch", "epoch"),
    "batch_size": ("per_device_train_batch_size", "train_batch_size", "batch_size", "micro_batch_size", "bs"),
    "lora_rank": ("lora_rank", "lora_r"),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
    "weight_decay": ("weight_decay", "wd"),
    "warmup_ratio": ("warmup_ratio",),
    "dropout": ("dropout", "dropout_rate"),
    "label_smoothing": ("label_smoothing", "label_smoothing_factor"),
}
"""What scripts call the hyperparameters, by the name in the catalogue."""

_ROLES = {name: role for role, names in USUAL_NAMES.items() for name in names}


def role_of(name: str) -> str:
    """Return the catalogue's name of a hyperparameter, or the name itself if it is not a usual one.

    The last part of a dotted name counts, without regard to case or dashes: `optimizer.lr` and
    `--Learning-Rate` are a `learning_rate`.
    """
    last = name.rpartition(".")[2].replace("-", "_").lower().strip("_")
    return _ROLES.get(last, name)
