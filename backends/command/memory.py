"""The forecast of a program's memory, where its settings and its model are readable."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends.command import config_file
from backends.command.placeholders import filled_arguments, filled_value
from backends.command.program import Program
from backends.contract import TrainingRequest
from backends.memory_forecast.adapters import Adapters
from backends.memory_forecast.architecture import Architecture
from backends.memory_forecast.forecast import MemoryForecast
from backends.memory_forecast.machine import machine_bytes, smallest_gpu_bytes
from backends.memory_forecast.training_memory import OptimizerKind, TrainingStep, step_memory

_USUAL_KEYS: Mapping[str, tuple[str, ...]] = {
    "base_model": ("model_name_or_path", "base_model", "model"),
    "batch_size": ("per_device_train_batch_size", "micro_batch_size"),
    "gradient_accumulation_steps": ("gradient_accumulation_steps",),
    "max_length": ("max_length", "max_seq_length", "sequence_len", "cutoff_len"),
    "lora_rank": ("lora_r", "lora_rank"),
    "lora_dropout": ("lora_dropout",),
    "lora_target": ("lora_target", "lora_target_modules"),
    "use_dora": ("use_dora", "peft_use_dora"),
    "optimizer": ("optim", "optimizer"),
    "method": ("adapter", "finetuning_type"),
    "use_peft": ("use_peft",),
    "dtype": ("dtype", "torch_dtype"),
    "half": ("bf16", "fp16"),
    "four_bit": ("load_in_4bit",),
    "bits": ("quantization_bit",),
    "gradient_checkpointing": ("gradient_checkpointing",),
}
"""The names of settings in transformers, TRL, LLaMA-Factory and Axolotl; a preset's own come first.
"""

MEMORY_DRIVERS = frozenset(
    {
        *("batch_size", "max_length", "max_seq_len", "block_size", "seq_length", "num_generations", "lora_r"),
        *("max_completion_length", "max_prompt_length", "rank", "r", "hidden_size", "n_layers", "num_layers"),
        *(name for key in ("base_model", "batch_size", "max_length", "lora_rank") for name in _USUAL_KEYS[key]),
        *(name for key in ("lora_target", "use_dora", "optimizer", "method", "four_bit") for name in _USUAL_KEYS[key]),
    }
)
"""Names of hyperparameters on which the memory of a program usually depends."""

_HALF_TYPES = frozenset({"bfloat16", "float16", "half", "bf16", "fp16"})


def forecast(program: Program, request: TrainingRequest) -> MemoryForecast | None:
    """Return the forecast of a run; None if the program does not say what it trains, or with how
    many tokens at once.

    It is that of a program of transformers: no copy of the weights, and logits for every token.
    """
    settings = _Settings(program, request)
    config = _model_config(settings.text("base_model") or request.base_model, program)
    architecture = None if config is None else Architecture.of(config)
    micro_batch, length = settings.number("batch_size"), settings.number("max_length")
    if architecture is None or config is None or micro_batch is None or length is None:
        return None
    gpu_bytes = smallest_gpu_bytes()
    four_bit = settings.flag("four_bit") or settings.number("bits") == 4 or settings.text("method") == "qlora"
    dtype = settings.text("dtype") or "float32"
    in_half = settings.flag("half") or dtype in _HALF_TYPES
    step = TrainingStep(
        micro_batch_size=micro_batch,
        sequence_length=length,
        predicted_tokens=micro_batch * length,
        adapters=settings.adapters(),
        optimizer=_optimizer(settings.text("optimizer")),
        gradient_checkpointing=settings.flag("gradient_checkpointing"),
        accumulates=(settings.number("gradient_accumulation_steps") or 1) > 1,
        value_bytes=2 if in_half else 4,
        weight_bytes=2 if dtype in _HALF_TYPES else 4,
        four_bit=four_bit,
        on_cpu=gpu_bytes is None,
    )
    memory = step_memory(architecture, step)
    return MemoryForecast(
        peak_bytes=memory.peak,
        device="this machine" if gpu_bytes is None else "the smallest GPU",
        available_bytes=machine_bytes() if gpu_bytes is None else gpu_bytes,
        micro_batch_size=micro_batch,
        sequence_length=length,
        parts={
            "weights": memory.weights,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "activations": memory.activations,
            "loss": memory.loss,
        },
        is_measured=False,
    )


class _Settings:
    """The settings of a run by their usual names: of its configuration and its command line."""

    def __init__(self, program: Program, request: TrainingRequest) -> None:
        self._keys = program.preset.keys
        values = {**program.resolved(request), "model": request.base_model}
        self._written: dict[str, Any] = {}
        if (options := program.config) is not None:
            self._written |= dict(config_file.flattened(config_file.read_template(options.template, options.name)))
            filled_in = {key: filled_value(value, values) for key, value in config_file.flattened(options.set)}
            self._written |= {key: value for key, value in filled_in.items() if value is not None}
        self._written |= _command_line(filled_arguments(program.arguments, values))

    def _value(self, name: str) -> Any:
        keys = [key for key in (self._keys.get(name), *_USUAL_KEYS.get(name, ())) if key]
        return next((self._written[key] for key in keys if self._written.get(key) is not None), None)

    def text(self, name: str) -> str | None:
        """Return a text; None if it is not set."""
        value = self._value(name)
        return value if isinstance(value, str) and value else None

    def number(self, name: str) -> int | None:
        """Return a whole number above 0; None if it is not set."""
        value = self._value(name)
        try:
            number = 0 if isinstance(value, bool) or value is None else int(value)
        except (TypeError, ValueError):
            return None
        return number if number > 0 else None

    def flag(self, name: str) -> bool:
        """Return whether a switch is on."""
        return str(self._value(name)).lower() in {"true", "1", "yes"}

    def adapters(self) -> Adapters | None:
        """Return the LoRA adapters; None where all weights are trained."""
        rank, method = self.number("lora_rank"), self.text("method")
        is_lora = method in {"lora", "qlora"} if method is not None else self.flag("use_peft") or rank is not None
        if not is_lora:
            return None
        target = self._value("lora_target")
        names = ",".join(map(str, target)) if isinstance(target, Sequence) and not isinstance(target, str) else target
        dropout = self._value("lora_dropout")
        return Adapters(
            rank=rank or 8,
            target=names if isinstance(names, str) and names else "all-linear",
            dropout=isinstance(dropout, int | float) and dropout > 0,
            dora=self.flag("use_dora"),
        )


def _command_line(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the options of a command line without dashes; one without a value is true."""
    found: dict[str, Any] = {}
    for position, argument in enumerate(arguments):
        if not argument.startswith("--"):
            continue
        name, separator, value = argument[2:].partition("=")
        following = list(itertools.takewhile(lambda word: not word.startswith("--"), arguments[position + 1 :]))
        if "target" in name:  # the only option here that takes several values
            following = [",".join(following)] if following else []
        found[name.replace("-", "_")] = value if separator else following[0] if following else True
    return found


def _optimizer(name: str | None) -> OptimizerKind:
    lowered = (name or "adamw").lower()
    if "8bit" in lowered:
        return "adamw_8bit"
    return "adafactor" if "adafactor" in lowered else "sgd" if lowered == "sgd" else "adamw"


def _model_config(model: str, program: Program) -> Mapping[str, Any] | None:
    """Return the config.json of a model in a folder or in the hub's cache. Downloads nothing."""
    if not model:
        return None
    chosen = program.options.working_folder
    folder = chosen if isinstance(chosen, Path) else Path()
    path: Path | None = folder / Path(model).expanduser() / "config.json"
    if path is not None and not path.is_file():
        path = _cached_config(model)
    try:
        config = None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def _cached_config(model: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
