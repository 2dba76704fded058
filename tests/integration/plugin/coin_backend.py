"""A plugin as a third party would write it: a backend that "trains" a coin in the calling process.

A run is a directory below the workspace with its request and the number of events so far.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from backends import codec
from backends.contract import (
    BackendError,
    Capabilities,
    Checkpointed,
    Estimate,
    Event,
    Failure,
    FailureKind,
    Finished,
    Handle,
    Hyperparameter,
    Measured,
    Placement,
    Prediction,
    PredictOptions,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.hyperparameter_checks import check_hyperparameters


class CoinOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "coin"
    weight: float = 0.5


class CoinBackend:
    options_model: ClassVar[type[BaseModel]] = CoinOptions

    def __init__(self, options: BaseModel, workspace: Path) -> None:
        self.capabilities = self.describe(options)
        self._workspace = workspace

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        return Capabilities(
            hyperparameters=(
                Hyperparameter("n_epochs", "int", "tosses", 1, 100, default=2),
                Hyperparameter("bend", "float", "the bend of the coin", 0.0, 1.0, default=0.5),
            ),
            metrics=("valid_loss",),
            label_metrics=(),
            recommendation_scope="gpt3-classification",
            in_process=True,
            max_concurrent=1,
        )

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> CoinBackend:
        return cls(options, workspace)

    def close(self) -> None:
        pass

    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        problems = {
            f"there is no model {request.base_model!r}": request.base_model != "coin",
            "the training file does not exist": not Path(request.dataset.train.path).is_file(),
            "a coin has only the metric valid_loss": request.evaluation.keep_metric != "valid_loss",
            "a coin is evaluated once per epoch": request.evaluation.per_epoch != 1,
            "a coin cannot be resumed": request.resume_from is not None,
        }
        return [
            *check_hyperparameters(request.hyperparameters, self.capabilities),
            *(Failure(FailureKind.USER, message) for message, applies in problems.items() if applies),
        ]

    def estimate(self, request: TrainingRequest) -> Estimate:
        return Estimate(tokens=None, seconds=0.0, usd=None, disk_bytes=None, basis="tossing a coin takes no time")

    def submit(self, request: TrainingRequest) -> Handle:
        handle = Handle("coin", hashlib.sha256(request.key.encode()).hexdigest()[:12])
        directory = self._workspace / handle.id
        if not directory.exists():
            for failure in self.check(request):
                raise BackendError(failure)
            directory.mkdir(parents=True)
            (directory / "request.json").write_text(json.dumps(codec.to_json(request)))
            (directory / "event_count").write_text("0")
        return handle

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        directory = self._directory(handle)
        all_events = _all_events(directory)
        count = int((directory / "event_count").read_text())
        if (directory / "stopped").exists():
            return [*all_events[:count], Stopped()][after:]
        count = min(max(count, after + 1), len(all_events))
        (directory / "event_count").write_text(str(count))
        return all_events[after:count]

    def stop(self, handle: Handle) -> None:
        directory = self._directory(handle)
        if int((directory / "event_count").read_text()) < len(_all_events(directory)):
            (directory / "stopped").touch()

    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        raise BackendError(Failure(FailureKind.USER, "a coin cannot predict"))

    def discard(self, handle: Handle) -> None:
        self._directory(handle)

    def _directory(self, handle: Handle) -> Path:
        directory = self._workspace / handle.id
        if not directory.exists():
            raise BackendError(Failure(FailureKind.LOST, f"there is no run {handle.id}"))
        return directory


def _all_events(directory: Path) -> list[Event]:
    request = codec.from_json(TrainingRequest, json.loads((directory / "request.json").read_text()))
    point = {"n_epochs": 2, "bend": 0.5, **request.hyperparameters}
    rng = random.Random(request.seed)
    events: list[Event] = [Started(point)]
    for epoch in range(1, int(point["n_epochs"]) + 1):
        loss = abs(float(point["bend"]) - 0.3) + 1 / epoch + rng.random() / 10
        events += [
            Measured(epoch, float(epoch), {"valid_loss": loss}, "evaluation"),
            Checkpointed(epoch, float(epoch), f"coin:{request.key}"),
        ]
    return [*events, Finished(f"coin:{request.key}")]
