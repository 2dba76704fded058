"""The optimizer of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import nn

from backends.local.hyperparameters import Settings

FIRST_ON_CPU = (0, 50)
"""The first version of bitsandbytes with which the 8-bit optimizer was tried on a CPU."""


def make_optimizer(
    settings: Settings, parameters: Iterable[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """Return an AdamW over `parameters` with learning rate 0.

    Weight decay pulls matrices towards zero. Biases and norm weights have no reason to be small.
    """
    parameters = list(parameters)
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(groups, lr=0.0)
        return optimizer
    return torch.optim.AdamW(groups, lr=0.0, fused=device.type in {"cpu", "cuda"})


def optimizer_problem(name: str, device_type: str) -> tuple[str, str] | None:
    """Return why the optimizer cannot run on this kind of device, and the remedy; None if it can.

    Imports nothing.
    """
    if name != "adamw_8bit":
        return None
    if find_spec("bitsandbytes") is None:
        return "optimizer adamw_8bit needs bitsandbytes", "run: pip install bitsandbytes, or use optimizer: adamw"
    if device_type == "cuda":
        return None
    if device_type != "cpu":
        return f"optimizer adamw_8bit does not run on the device {device_type}", "use optimizer: adamw"
    installed = version("bitsandbytes")
    if tuple(map(int, re.findall(r"\d+", installed)[:2])) >= FIRST_ON_CPU:
        return None
    message = f"optimizer adamw_8bit on a CPU needs bitsandbytes {'.'.join(map(str, FIRST_ON_CPU))}, not {installed}"
    return message, "run: pip install --upgrade bitsandbytes, or use optimizer: adamw"
