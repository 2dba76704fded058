"""The weights that a run trains: all weights of a shared base model, or adapters on it.

The next run gets the base model with its original weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backends.contract import BackendError
from backends.local.activation_checkpointing import checkpointed_layers
from backends.local.embedding_noise import embedding_noise
from backends.local.failures import library_errors_translated
from backends.local.hyperparameters import LORA_TARGETS, LoraSettings
from backends.local.lora_targets import is_named, target_names, unknown_target
from backends.local.model import LoadedModel, quiet
from backends.local.model_source import user_error

_VALUE_OR_QUERY = frozenset(
    {"q_proj", "v_proj", "query", "value", "query_proj", "value_proj", "q_lin", "v_lin", "q", "v"}
)
_FUSED = frozenset({"qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv", "in_proj"})


class TrainableWeights:
    """The trainable parameters on a loaded model, ready for the first step.

    `release` gives the model back.
    """

    def __init__(
        self,
        model: LoadedModel,
        lora: LoraSettings | None,
        seed: int,
        adapter_directory: Path | None = None,
        *,
        gradient_checkpointing: bool = False,
        noise_alpha: float = 0.0,
    ) -> None:
        """Restore the base weights, draw new parameters from `seed`, and attach adapters if `lora`
        is set.

        `adapter_directory` holds an adapter from which to continue. `noise_alpha` is the strength
        of the noise on the embeddings (see `embedding_noise`). Raises BackendError if the adapter
        does not fit the settings, or if the model does not support gradient checkpointing; the
        model is then as before.
        """
        self.model = model
        self._peft: Any = None
        self._forward_changes = ExitStack()
        try:
            self._attach(lora, seed, adapter_directory)
            self._forward_changes.enter_context(checkpointed_layers(model, gradient_checkpointing))
            self._forward_changes.enter_context(embedding_noise(model.module, noise_alpha))
        except BackendError:
            self.release()
            raise

    def _attach(self, lora: LoraSettings | None, seed: int, adapter_directory: Path | None) -> None:
        model = self.model
        _restore_original_weights(model)
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            _draw_new_parameters(model)
            if lora is None:
                model.module.requires_grad_(True)
                _store_original_weights(model, [name for name, _ in model.module.named_parameters()])
            else:
                self._attach_adapters(lora, adapter_directory)
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in model.module.named_parameters() if parameter.requires_grad
        }

    def _attach_adapters(self, lora: LoraSettings, adapter_directory: Path | None) -> None:
        from peft import LoraConfig, TaskType, get_peft_model

        module = self.model.module
        heads = _head_modules(self.model)
        prefixes = tuple(f"{head}." for head in heads)
        _store_original_weights(
            self.model, [name for name, _ in module.named_parameters() if name.startswith(prefixes)]
        )
        causal = self.model.task == "causal-lm"
        config = LoraConfig(
            r=lora.rank,
            # declared an int, but peft only divides it by the rank, so that a float works
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora_layers(self.model, lora.target),
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            modules_to_save=heads or None,
            task_type=TaskType.CAUSAL_LM if causal else TaskType.SEQ_CLS,
        )
        with quiet(), library_errors_translated("attaching adapters"):
            self._peft = get_peft_model(module, config)
            if adapter_directory is not None:
                self._load_adapter(adapter_directory)

    def _load_adapter(self, directory: Path) -> None:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        result: Any = set_peft_model_state_dict(self._peft, load_file(directory / "adapter_model.safetensors"))
        missing = [name for name in result.missing_keys if ".lora_" in name]
        if result.unexpected_keys or missing:
            raise user_error(
                f"the adapter in {directory} does not fit this run",
                "use the lora_rank, lora_target and use_dora with which it was trained",
            )

    @property
    def count(self) -> int:
        """The number of trained parameters."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the trained parameters by name."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set the trained parameters to the values in `state`."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])

    def save(self, directory: Path, text_files: Mapping[str, str]) -> None:
        """Write the model or the adapter with its tokenizer, and `text_files` (content by file
        name).

        A reader sees the complete old or the complete new directory. Raises BackendError if the
        disk is full.
        """
        temporary = directory.with_name(directory.name + ".tmp")
        with quiet(), library_errors_translated(f"saving the model to {directory}"):
            if temporary.exists():
                shutil.rmtree(temporary)
            if self._peft is None:
                self.model.module.save_pretrained(temporary)
            else:
                self._peft.save_pretrained(temporary, save_embedding_layers=False)
            self.model.tokenizer.save_pretrained(temporary)
            for name, text in text_files.items():
                (temporary / name).write_text(text, encoding="utf-8")
            _replace(temporary, directory)

    def release(self) -> None:
        """Remove the adapters, the gradients and the changes of the forward pass. Idempotent.

        The base weights keep their trained values until the next TrainableWeights restores them.
        """
        self._forward_changes.close()
        if self._peft is not None:
            with quiet():
                self._peft.unload()
            self._peft = None
        self.parameters = {}
        for parameter in self.model.module.parameters():
            parameter.grad = None


def _replace(temporary: Path, directory: Path) -> None:
    old = directory.with_name(directory.name + ".old.tmp")
    if old.exists():
        shutil.rmtree(old)
    if directory.exists():
        directory.rename(old)
    temporary.rename(directory)
    if old.exists():
        shutil.rmtree(old)


def _store_original_weights(model: LoadedModel, names: list[str]) -> None:
    """Copy weights that a run will change.

    Only the first copy counts: it holds the loaded values.
    """
    weights = dict(model.module.named_parameters())
    for name in names:
        if name not in model.original_weights:
            model.original_weights[name] = weights[name].detach().clone()


@torch.no_grad()
def _restore_original_weights(model: LoadedModel) -> None:
    weights = dict(model.module.named_parameters())
    for name, value in model.original_weights.items():
        weights[name].copy_(value)


@torch.no_grad()
def _draw_new_parameters(model: LoadedModel) -> None:
    """Draw a new head: matrices from N(0, initializer_range), as BERT does; norm weights are 1,
    biases 0.
    """
    standard_deviation = float(getattr(model.module.config, "initializer_range", 0.02) or 0.02)
    weights = dict(model.module.named_parameters())
    for name in model.new_parameters:
        weight = weights[name]
        if weight.ndim >= 2:
            weight.copy_(torch.empty(weight.shape).normal_(0.0, standard_deviation))
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)


def _head_modules(model: LoadedModel) -> list[str]:
    """Return the modules to train in addition to the adapters: the classification head and other
    new parts.
    """
    if model.task == "causal-lm":
        return []
    body = f"{model.module.base_model_prefix}."
    names = [
        name for name, _ in model.module.named_parameters() if name in model.new_parameters or not name.startswith(body)
    ]
    top_modules = [
        body + name.removeprefix(body).split(".")[0] if name.startswith(body) else name.split(".")[0] for name in names
    ]
    return sorted(set(top_modules))


def lora_layers(model: LoadedModel, target: str) -> list[str]:
    """Return the full names of the body's linear layers that get adapters.

    `attention` selects the layers inside a module named after attention. `query-value` selects
    their query and value projections, including layers that compute query, key and value together.
    `all-linear` selects all layers. Any other text is a comma-separated list of module names, each
    of which selects the layers whose full name ends with it. Raises BackendError (user) if no layer
    matches, or if one of the names matches none.
    """
    linear = _linear_layers(model)
    if target not in LORA_TARGETS:
        return _named_layers(linear, target, model.source.name)
    body = f"{model.module.base_model_prefix}."
    layers = []
    for name in linear:
        *path, last = name.removeprefix(body).split(".")
        in_attention = any("attn" in part.lower() or "attention" in part.lower() for part in path)
        is_selected = {
            "all-linear": True,
            "attention": in_attention,
            "query-value": in_attention and (last in _VALUE_OR_QUERY or last in _FUSED),
        }[target]
        if is_selected:
            layers.append(name)
    if not layers:
        raise user_error(f"lora_target {target} matches no layer of {model.source.name}", "use lora_target: all-linear")
    return layers


def _named_layers(linear: list[str], target: str, model_name: str) -> list[str]:
    names = target_names(target)
    unknown = [name for name in names if not any(is_named(layer, name) for layer in linear)]
    if unknown or not names:
        raise unknown_target(unknown, linear, model_name)
    return [layer for layer in linear if any(is_named(layer, name) for name in names)]


def _linear_layers(model: LoadedModel) -> list[str]:
    """Return the full names of the body's linear layers, without those of the heads."""
    from transformers.pytorch_utils import Conv1D

    body = f"{model.module.base_model_prefix}."
    head_prefixes = tuple(f"{head}." for head in _head_modules(model))
    output = model.module.get_output_embeddings() if model.task == "causal-lm" else None
    return [
        name
        for name, module in model.module.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and name.startswith(body)
        and module is not output
        and not name.startswith(head_prefixes)
    ]
