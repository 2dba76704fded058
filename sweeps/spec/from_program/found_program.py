"""What a script or a configuration reveals about a training program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OUTPUT_NAMES = (
    *("output_dir", "out_dir", "output_folder", "output_path", "trainer_output_dir", "local_output_dir", "save_dir"),
    *("model_dir", "default_root_dir", "log_dir", "logdir", "run_dir", "work_dir", "exp_dir", "output", "out"),
)
OUTPUT_FILE_NAMES = ("output_file", "save_path", "save_file", "save", "model_path")
"""Options that may name a file to write: those whose default is a file."""
RESUME_NAMES = ("resume_from_checkpoint", "resume_from", "resume", "resume_path", "ckpt_path", "checkpoint_path")
SEED_NAMES = ("seed", "random_seed", "seed_everything")


@dataclass(frozen=True)
class FoundProgram:
    """What a file reveals: how the program is called, and what can be tried.

    `keys` are the program's names of the hyperparameters by ours, and `values` its values by its
    own names. `origin` says where these are from. `settings` are values to set in the `template`,
    each with the reason. `own_folder` says that the program writes where it runs.
    """

    preset: str
    run: str
    keys: Mapping[str, str]
    values: Mapping[str, Any]
    template: Path | None = None
    settings: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    own_folder: bool = False
    notes: tuple[str, ...] = ()
    method: str = "sft"
    gpus: int = 0
    origin: str = "in the file"
    resume: str = ""
    is_fine_tuning: bool = True

    @property
    def is_lora(self) -> bool:
        """Whether only adapters are trained, which bear a larger learning rate."""
        texts = (str(self.values.get(key, "")).lower() for key in ("adapter", "finetuning_type", "use_peft"))
        return "lora_rank" in self.keys or any(text in ("lora", "qlora", "true") for text in texts)


def first_named(names: Sequence[str], keys: Mapping[str, Any]) -> str | None:
    """Return the key with the first of these names; the last part of `model.lr` counts too."""
    outer_last = sorted(keys, key=lambda key: key.count("."), reverse=True)
    by_name = {key.rpartition(".")[2].replace("-", "_").lower(): key for key in outer_last}
    return next((by_name[name] for name in names if name in by_name), None)
