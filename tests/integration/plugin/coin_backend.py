"""A plugin as a stranger would write it: a backend that trains in the calling process, on nothing but arithmetic.

A run is a directory below the workspace: what was asked for, and how far it has come.
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
                Hyperparameter("bend", "float", "how far the coin is bent", 0.0, 1.0, default=0.5),
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
        found = check_hyperparameters(request.hyperparameters, self.capabilities)
        wrong = {
            f"there is no model {request.base_model!r}": request.base_model != "coin",
            "the training file is gone": not Path(request.dataset.train.path).is_file(),
            "a coin has no such metric": request.evaluation.keep_metric != "valid_loss",
            "a coin is looked at once an epoch": request.evaluation.per_epoch != 1,
            "a toss cannot be resumed": request.resume_from is not None,
        }
        return found + [Failure(FailureKind.USER, message) for message, true in wrong.items() if true]

    def estimate(self, request: TrainingRequest) -> Estimate:
        return Estimate(tokens=None, seconds=0.0, usd=None, disk_bytes=None, basis="a coin is quickly tossed")

    def submit(self, request: TrainingRequest) -> Handle:
        handle = Handle("coin", hashlib.sha256(request.key.encode()).hexdigest()[:12])
        directory = self._workspace / handle.id
        if not directory.exists():
            for failure in self.check(request):
                raise BackendError(failure)
            directory.mkdir(parents=True)
            (directory / "request.json").write_text(json.dumps(codec.to_json(request)))
            (directory / "tosses").write_text("0")
        return handle

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        directory = self._directory(handle)
        course = _course(codec.from_json(TrainingRequest, json.loads((directory / "request.json").read_text())))
        come = int((directory / "tosses").read_text())
        if (directory / "stopped").exists():
            return [*course[:come], Stopped()][after:]
        come = min(max(come, after + 1), len(course))
        (directory / "tosses").write_text(str(come))
        return course[after:come]

    def stop(self, handle: Handle) -> None:
        directory = self._directory(handle)
        course = _course(codec.from_json(TrainingRequest, json.loads((directory / "request.json").read_text())))
        if int((directory / "tosses").read_text()) < len(course):
            (directory / "stopped").touch()

    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        raise BackendError(Failure(FailureKind.USER, "a coin does not answer"))

    def discard(self, handle: Handle) -> None:
        self._directory(handle)

    def _directory(self, handle: Handle) -> Path:
        directory = self._workspace / handle.id
        if not directory.exists():
            raise BackendError(Failure(FailureKind.LOST, f"there is no toss {handle.id}"))
        return directory


def _course(request: TrainingRequest) -> list[Event]:
    point = {"n_epochs": 2, "bend": 0.5, **request.hyperparameters}
    chance = random.Random(request.seed)
    course: list[Event] = [Started(point)]
    for epoch in range(1, int(point["n_epochs"]) + 1):
        loss = abs(float(point["bend"]) - 0.3) + 1 / epoch + chance.random() / 10
        course += [
            Measured(epoch, float(epoch), {"valid_loss": loss}, "evaluation"),
            Checkpointed(epoch, float(epoch), f"coin:{request.key}"),
        ]
    return [*course, Finished(f"coin:{request.key}")]
