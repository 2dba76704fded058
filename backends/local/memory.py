"""The memory of a run of this trainer: its forecast, and the micro-batch that fits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from backends.contract import Placement
from backends.local import model_evaluation, training
from backends.local.encoded_data import CausalData, EncodedData
from backends.local.hyperparameters import Settings
from backends.local.model import tokens_in_cache
from backends.local.options import LocalOptions
from backends.local.request_resolution import ResolvedRequest
from backends.memory_forecast.adapters import Adapters
from backends.memory_forecast.architecture import Architecture
from backends.memory_forecast.forecast import MemoryForecast
from backends.memory_forecast.machine import machine_bytes
from backends.memory_forecast.training_memory import TrainingStep, evaluation_bytes, step_memory

_COMFORTABLE = 0.8
"""The share of a run's memory that its forecast may take before the micro-batch becomes smaller."""


@dataclass(frozen=True)
class RunShape:
    """What the memory of a run depends on, known before its model is loaded."""

    architecture: Architecture
    settings: Settings
    device: torch.device
    dtype: torch.dtype
    data: EncodedData
    labels: int
    gradient_checkpointing: bool

    @classmethod
    def of(
        cls,
        resolved: ResolvedRequest,
        options: LocalOptions,
        device: torch.device,
        dtype: torch.dtype,
        data: EncodedData,
    ) -> RunShape | None:
        """Return the shape of a run; None if the architecture is of an unknown kind."""
        architecture = Architecture.of(resolved.base.config, resolved.base.parameters() or None)
        if architecture is None:
            return None
        labels = 0 if isinstance(data, CausalData) else len(set(data.labels.tolist()))
        return cls(architecture, resolved.settings, device, dtype, data, labels, options.gradient_checkpointing)

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens in the vocabulary."""
        return self.architecture.vocabulary

    @property
    def max_tokens_in_cache(self) -> int:
        """The most tokens to compute at once so that a CPU's caches hold them."""
        widest = max(max(linear.inputs, linear.outputs) for linear in self.architecture.linears)
        return tokens_in_cache(self.device, widest)

    def micro_batch_size(self, options: LocalOptions, placement: Placement) -> int:
        """Return how many examples to compute at once: the requested number, or as many as are fast
        and fit.
        """
        batch_size = self.settings.batch_size
        if options.micro_batch_size:
            return min(batch_size, options.micro_batch_size)
        return self.fitting(training.initial_micro_batch_size(self.data, batch_size, self), placement)

    def fitting(self, size: int, placement: Placement) -> int:
        """Return the micro-batch size, halved until the forecast fits into the run's memory."""
        memory = memory_of_a_run(self.device, placement)
        while memory is not None and size > 1 and self.peak_bytes(size) > _COMFORTABLE * memory:
            size //= 2
        return size

    def peak_bytes(self, micro_batch_size: int) -> int:
        """Return the forecast peak, of training steps and of evaluations."""
        step = self._step(micro_batch_size)
        memory = step_memory(self.architecture, step)
        tokens = max(model_evaluation.max_tokens(self), step.sequence_length)
        predicted = 0 if self.labels else min(tokens, model_evaluation.max_predicted(self))
        evaluation = evaluation_bytes(self.architecture, step, tokens, predicted)
        return max(memory.peak, memory.weights + memory.copies + memory.optimizer + evaluation)

    def parts(self, micro_batch_size: int) -> Mapping[str, int]:
        """Return the forecast bytes by what they hold."""
        memory = step_memory(self.architecture, self._step(micro_batch_size))
        return {
            "weights": memory.weights,
            "original weights": memory.copies,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "activations": memory.activations,
            "loss": memory.loss,
        }

    def _step(self, micro_batch_size: int) -> TrainingStep:
        settings, lengths = self.settings, np.sort(self.data.lengths)
        longest = lengths[-micro_batch_size:]
        predicted = 0
        if isinstance(self.data, CausalData):
            targets = np.sort(self.data.target_counts)[-micro_batch_size:]
            all_tokens = settings.prompt_loss_weight > 0
            predicted = int((longest - 1).sum()) if all_tokens else int(targets.sum())
        lora = settings.lora
        is_half = self.dtype is not torch.float32
        return TrainingStep(
            micro_batch_size=micro_batch_size,
            sequence_length=int(lengths[-1]),
            predicted_tokens=predicted,
            adapters=None if lora is None else Adapters(lora.rank, lora.target, lora.dropout > 0, lora.use_dora),
            optimizer="adamw_8bit" if settings.optimizer == "adamw_8bit" else "adamw",
            gradient_checkpointing=self.gradient_checkpointing,
            accumulates=micro_batch_size < settings.batch_size,
            value_bytes=2 if is_half else 4,
            weight_bytes=2 if is_half and lora is not None else 4,
            copies_weights=lora is None,
            labels=self.labels,
            on_cpu=self.device.type == "cpu",
        )


def forecast(shape: RunShape, options: LocalOptions, placement: Placement) -> MemoryForecast:
    """Return the forecast of a run."""
    size = shape.micro_batch_size(options, placement)
    return MemoryForecast(
        peak_bytes=shape.peak_bytes(size),
        device="this machine" if shape.device.type == "cpu" else f"the device {shape.device}",
        available_bytes=device_bytes(shape.device),
        micro_batch_size=size,
        sequence_length=int(shape.data.lengths.max()),
        parts=shape.parts(size),
    )


def device_bytes(device: torch.device) -> int | None:
    """Return the memory of a device; None if it is unknown.

    That of the CPU is the memory of the machine, or the limit of the container.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_bytes() if device.type == "cpu" else None


def memory_of_a_run(device: torch.device, placement: Placement) -> int | None:
    """Return the share of the device's memory that belongs to a run with this placement."""
    total = device_bytes(device)
    if total is None:
        return None
    if device.type == "cuda":
        return int(total * min(1.0, placement.gpus or 1.0))
    return int(total * min(1.0, placement.cpus / (os.cpu_count() or 1)))
