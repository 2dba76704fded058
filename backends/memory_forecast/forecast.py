"""The forecast of a run's memory, and the optional protocol of backends that make one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from backends.contract import Failure, FailureKind, TrainingRequest

TOLERANCE = 1.25
"""A run is refused only if the forecast exceeds the memory by this factor: measured peaks lie
within 20 % of the forecasts (benchmarks/memory/RESULTS.md)."""


@dataclass(frozen=True)
class MemoryForecast:
    """The most memory that a run is expected to occupy on its device, an estimate.

    `parts` are bytes by what they hold; they do not all exist at the same time. `available_bytes`
    is the memory of the device, None if it is unknown. `device` names it. `micro_batch_size` and
    `sequence_length` are those of the largest micro-batch; `micro_batch_size` may be lower than
    that of a run with more memory. `is_measured`: such forecasts have been compared with measured
    peaks, so that a run may be refused because of one.
    """

    peak_bytes: int
    device: str
    available_bytes: int | None
    micro_batch_size: int
    sequence_length: int
    parts: Mapping[str, int] = field(default_factory=dict)
    is_measured: bool = True

    @property
    def problem(self) -> str | None:
        """Why the run will run out of memory, almost certainly; None if it may fit."""
        if self.available_bytes is None or self.peak_bytes <= TOLERANCE * self.available_bytes:
            return None
        needs, has = self.peak_bytes / 2**30, self.available_bytes / 2**30
        return f"a run needs about {needs:.1f} GiB of memory, but {self.device} has {has:.1f} GiB"

    @property
    def failure(self) -> Failure | None:
        """The failure of a run that is refused before it starts; None if it may start."""
        if not self.is_measured or self.problem is None:
            return None
        remedy = "lower the length of the examples, or use a smaller model"
        return Failure(FailureKind.OUT_OF_MEMORY, self.problem, remedy)


@runtime_checkable
class SupportsMemoryForecast(Protocol):
    """A backend that can forecast the memory of a run."""

    def memory_forecast(self, request: TrainingRequest) -> MemoryForecast | None:
        """Return the forecast of a run; None if the model is of an unknown kind.

        Loads no weights. Raises BackendError for a request that `check` rejects.
        """
        ...
