"""What a run trains: all weights or adapters on a shared base model, which gets its own weights back afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backends.local.failures import translated
from backends.local.hyperparameters import LoraSettings
from backends.local.model import LoadedModel, quiet
from backends.local.model_source import user_error

State = dict[str, Tensor]

_VALUE_OR_QUERY = frozenset(
    {"q_proj", "v_proj", "query", "value", "query_proj", "value_proj", "q_lin", "v_lin", "q", "v"}
)
_FUSED = frozenset({"qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv", "in_proj"})


class TrainableWeights:
    """The trainable parameters on a loaded model, ready for the first step. `release` gives the model back."""

    def __init__(
        self, model: LoadedModel, lora: LoraSettings | None, seed: int, weights_from: Path | None = None
    ) -> None:
        """Restore the base weights, draw new ones from `seed`, and attach adapters where asked for.

        `weights_from` is the directory of an adapter to go on with. Raises BackendError where it does not fit.
        """
        self.model = model
        self._peft: Any = None
        _restore(model)
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            _draw_fresh(model)
            if lora is None:
                model.module.requires_grad_(True)
                _remember(model, [name for name, _ in model.module.named_parameters()])
            else:
                self._attach(lora, weights_from)
        self.parameters: dict[str, nn.Parameter] = {
            name: each for name, each in model.module.named_parameters() if each.requires_grad
        }

    def _attach(self, lora: LoraSettings, weights_from: Path | None) -> None:
        from peft import LoraConfig, TaskType, get_peft_model

        module = self.model.module
        heads = _head_modules(self.model)
        _remember(self.model, [n for n, _ in module.named_parameters() if n.startswith(tuple(f"{h}." for h in heads))])
        causal = self.model.task == "causal-lm"
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # a float is taken, too: it is divided by the rank, nothing else
            lora_dropout=lora.dropout,
            target_modules=lora_layers(self.model, lora.target),
            modules_to_save=heads or None,
            task_type=TaskType.CAUSAL_LM if causal else TaskType.SEQ_CLS,
        )
        with quiet(), translated("attaching adapters"):
            self._peft = get_peft_model(module, config)
            if weights_from is not None:
                self._load_adapter(weights_from)

    def _load_adapter(self, directory: Path) -> None:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        loaded: Any = set_peft_model_state_dict(self._peft, load_file(directory / "adapter_model.safetensors"))
        if loaded.unexpected_keys:
            raise user_error(
                f"the adapter in {directory} does not fit this run",
                "use the lora_rank and lora_target it was made with",
            )

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return sum(each.numel() for each in self.parameters.values())

    def state(self) -> State:
        """Return a copy of the trained parameters."""
        return {name: each.detach().clone() for name, each in self.parameters.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set the trained parameters."""
        for name, each in self.parameters.items():
            each.copy_(state[name])

    def save(self, directory: Path, extra: Mapping[str, str]) -> None:
        """Write the model, or the adapter, with its tokenizer, and `extra` files of text by name.

        A reader sees the old directory or the complete new one. Raises BackendError where the disk is full.
        """
        temporary = directory.with_name(directory.name + ".tmp")
        with quiet(), translated(f"saving the model to {directory}"):
            if temporary.exists():
                shutil.rmtree(temporary)
            if self._peft is None:
                self.model.module.save_pretrained(temporary)
            else:
                self._peft.save_pretrained(temporary, save_embedding_layers=False)
            self.model.tokenizer.save_pretrained(temporary)
            for name, text in extra.items():
                (temporary / name).write_text(text, encoding="utf-8")
            _replace(temporary, directory)

    def release(self) -> None:
        """Take the adapters off; the base weights come back with the next trainee. Idempotent."""
        if self._peft is not None:
            with quiet():
                self._peft.unload()
            self._peft = None
        self.parameters = {}
        for each in self.model.module.parameters():
            each.grad = None


def _replace(temporary: Path, directory: Path) -> None:
    old = directory.with_name(directory.name + ".old.tmp")
    if old.exists():
        shutil.rmtree(old)
    if directory.exists():
        directory.rename(old)
    temporary.rename(directory)
    if old.exists():
        shutil.rmtree(old)


def _remember(model: LoadedModel, names: list[str]) -> None:
    """Keep a copy of weights that will be changed; the first copy is the pristine one."""
    weights = dict(model.module.named_parameters())
    for name in names:
        if name not in model.pristine:
            model.pristine[name] = weights[name].detach().clone()


@torch.no_grad()
def _restore(model: LoadedModel) -> None:
    weights = dict(model.module.named_parameters())
    for name, value in model.pristine.items():
        weights[name].copy_(value)


@torch.no_grad()
def _draw_fresh(model: LoadedModel) -> None:
    """Draw a new head: matrices from N(0, initializer_range), as BERT does; norms at one, biases at zero."""
    spread = float(getattr(model.module.config, "initializer_range", 0.02) or 0.02)
    weights = dict(model.module.named_parameters())
    for name in model.fresh:
        weight = weights[name]
        if weight.ndim >= 2:
            weight.copy_(torch.empty(weight.shape).normal_(0.0, spread))
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)


def _head_modules(model: LoadedModel) -> list[str]:
    """Return the modules that are trained beside adapters: the classification head and other new parts."""
    if model.task == "causal-lm":
        return []
    body = f"{model.module.base_model_prefix}."
    names = [name for name, _ in model.module.named_parameters() if name in model.fresh or not name.startswith(body)]
    tops = [
        body + name.removeprefix(body).split(".")[0] if name.startswith(body) else name.split(".")[0] for name in names
    ]
    return sorted(set(tops))


def lora_layers(model: LoadedModel, target: str) -> list[str]:
    """Return the full names of the linear layers of the body that get adapters.

    `attention` are those inside a module named after attention, `query-value` their projections of queries and values
    (a layer that computes all three counts), `all-linear` all of them. Raises BackendError (user) where there are none.
    """
    from transformers.pytorch_utils import Conv1D

    body = f"{model.module.base_model_prefix}."
    heads = tuple(f"{each}." for each in _head_modules(model))
    output = model.module.get_output_embeddings() if model.task == "causal-lm" else None
    found = []
    for name, module in model.module.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D)) or not name.startswith(body) or module is output:
            continue
        *path, last = name.removeprefix(body).split(".")
        inside = any("attn" in each.lower() or "attention" in each.lower() for each in path)
        wanted = {
            "all-linear": True,
            "attention": inside,
            "query-value": inside and (last in _VALUE_OR_QUERY or last in _FUSED),
        }[target]
        if wanted and not name.startswith(heads):
            found.append(name)
    if not found:
        raise user_error(f"lora_target {target} matches no layer of {model.source.name}", "use lora_target: all-linear")
    return found
