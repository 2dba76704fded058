"""The fake backend with models of known quality, which determines all measurements."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from backends.contract import (
    BackendError,
    Charged,
    Dataset,
    Event,
    Failure,
    FailureKind,
    Handle,
    Measured,
    Placement,
    Prediction,
    PredictOptions,
    TrainingRequest,
)
from backends.fake import FakeBackend, FakeOptions, simulated_run
from backends.fake_service import FakeService
from backends.model_packages import ModelPackage
from benchmarks.year.world import LABELS, Quality, World, label_of, quality

BASE_MODEL_ACCURACY = 0.36
"""The accuracy of the base model before any training."""


class YearOptions(FakeOptions):
    """The options of the fake backend."""


class YearBackend(FakeBackend):
    """A client of the simulated service in the simulated world."""

    options_model: ClassVar[type[BaseModel]] = YearOptions
    world: ClassVar[World]
    _sweep = ""

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> YearBackend:
        """Connect. The service uses the world's clock."""
        assert isinstance(options, YearOptions)
        opened = cls(options, FakeService(workspace / "fake-service.sqlite"), cls.world.clock)
        opened._sweep = workspace.name
        return opened

    def submit(self, request: TrainingRequest) -> Handle:
        """Submit the run. Raises BackendError (transient) while the service is unreachable."""
        self._require_reachable()
        self.world.trained.setdefault(request.dataset.train.sha256, self._team(request.dataset))
        return super().submit(request)

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events with the accuracies of the models' own predictions."""
        self._require_reachable()
        agreed = simulated_run(self._run(handle).terms).terms.request
        return [self._measured(agreed, event) for event in super().events(handle, after)]

    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Predict correctly as often as the model's quality says."""
        texts = [str(prompt["segments"][0]) for prompt in prompts]
        return [Prediction(f" {answer}") for answer in answers(self.world, self.quality(model, texts[0]), texts)]

    def package(self, model: str, dataset: Dataset, folder: Path) -> ModelPackage:
        """Package the quality from which the model's predictions follow."""
        return ModelPackage(Path(__file__), {"quality": asdict(self.quality(model, ""))}, ())

    def quality(self, model: str, example: str) -> Quality:
        """Return the quality of a model.

        `example` identifies the team if the model is the base model.
        """
        if not model.startswith("fake:"):
            team = example.split(maxsplit=1)[0]
            return Quality(team, BASE_MODEL_ACCURACY, self.world.teams[team].shifts, f"base {team}")
        key, _, epoch = model.removeprefix("fake:").partition("@")
        run = self._service.run_by_key(key)
        assert run is not None
        request = simulated_run(run.terms).terms.request
        return self._at(request, float(epoch)) if epoch else self._kept(request)

    def _require_reachable(self) -> None:
        if self.world.is_service_down():
            raise BackendError(Failure(FailureKind.TRANSIENT, "the service is unreachable"))

    def _team(self, dataset: Dataset) -> tuple[str, int, int]:
        owner = texts_of(dataset.valid.path)[0].split()[0]
        team = self.world.teams[owner]
        return owner, team.examples, team.shifts

    def _at(self, request: TrainingRequest, epoch: float) -> Quality:
        # Not the key itself: it contains a random study id, and the year would not be reproducible.
        key = f"{self.world.seed} {self._sweep} {request.key.rpartition('-')[2]}"
        return quality(request.hyperparameters, epoch, key, self.world.trained[request.dataset.train.sha256])

    def _accuracy(self, request: TrainingRequest, epoch: float) -> float:
        texts = texts_of(request.dataset.valid.path)
        return float(self.world.correct(self._at(request, epoch), texts).mean())

    def _kept(self, request: TrainingRequest) -> Quality:
        """Return the quality of the model of the epoch with the best validation accuracy."""
        epochs = range(1, int(request.hyperparameters["n_epochs"]) + 1)
        return self._at(request, max(epochs, key=lambda epoch: self._accuracy(request, epoch)))

    def _measured(self, request: TrainingRequest, event: Event) -> Event:
        if isinstance(event, Measured) and event.scope == "evaluation" and event.epoch > 0:
            values = {**event.values, "valid_accuracy": self._accuracy(request, event.epoch)}
            return replace(event, values=values)
        return event


def answers(world: World, model: Quality, texts: Sequence[str]) -> list[str]:
    """Return a model's labels for texts. A wrong answer is the label after the correct one."""
    correct = world.correct(model, texts)
    truth = [label_of(text) for text in texts]
    return [
        label if is_correct else LABELS[(LABELS.index(label) + 1) % 3]
        for label, is_correct in zip(truth, correct, strict=True)
    ]


@lru_cache(maxsize=8)
def texts_of(path: str) -> list[str]:
    """Return the texts of a prepared data file.

    Its name depends on its content, so that they can be cached.
    """
    import json

    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["segments"][0]) for line in lines]


def charges(file: Path, until: float) -> Iterator[tuple[float, float]]:
    """Yield (time, USD) of each charge from the service's own records, not from the product's
    ledger.
    """
    with sqlite3.connect(file) as memory:
        rows = memory.execute("SELECT terms, submitted_at, stopped_after FROM runs").fetchall()
    for terms, submitted_at, stopped_after in rows:
        run = simulated_run(terms)
        for timed in run.timeline[:stopped_after]:
            moment = submitted_at + timed.epoch * run.terms.seconds_per_epoch
            if isinstance(timed.event, Charged) and moment <= until:
                yield moment, timed.event.usd or 0.0
