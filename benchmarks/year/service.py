"""The fake backend, with models of known quality: what it measures and answers is drawn from their truth."""

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

BASE_MODEL = 0.36
"""What the base model gets right before any training."""


class YearOptions(FakeOptions):
    """The options of the fake backend."""


class YearBackend(FakeBackend):
    """A client of the pretended service in the pretended world."""

    options_model: ClassVar[type[BaseModel]] = YearOptions
    world: ClassVar[World]
    _sweep = ""

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> YearBackend:
        """Connect; the service goes by the world's clock."""
        assert isinstance(options, YearOptions)
        opened = cls(options, FakeService(workspace / "fake-service.sqlite"), cls.world.clock)
        opened._sweep = workspace.name
        return opened

    def submit(self, request: TrainingRequest) -> Handle:
        """Take the run, unless the service is away."""
        self._reach()
        self.world.trained.setdefault(request.dataset.train.sha256, self._team(request.dataset))
        return super().submit(request)

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events, with the accuracies of the models' own answers."""
        self._reach()
        agreed = simulated_run(self._run(handle).terms).terms.request
        return [self._measured(agreed, event) for event in super().events(handle, after)]

    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Answer as often right as the model is good."""
        texts = [str(prompt["segments"][0]) for prompt in prompts]
        return [Prediction(f" {answer}") for answer in answers(self.world, self.quality(model, texts[0]), texts)]

    def package(self, model: str, dataset: Dataset, folder: Path) -> ModelPackage:
        """Hand over what the model's answers follow from."""
        return ModelPackage(Path(__file__), {"quality": asdict(self.quality(model, ""))}, ())

    def quality(self, model: str, example: str) -> Quality:
        """Return what a model is; `example` says whose it is, for the base model."""
        if not model.startswith("fake:"):
            team = example.split(maxsplit=1)[0]
            return Quality(team, BASE_MODEL, self.world.teams[team].shifts, f"base {team}")
        key, _, epoch = model.removeprefix("fake:").partition("@")
        run = self._service.run_by_key(key)
        assert run is not None
        request = simulated_run(run.terms).terms.request
        return self._at(request, float(epoch)) if epoch else self._kept(request)

    def _reach(self) -> None:
        if self.world.is_away():
            raise BackendError(Failure(FailureKind.TRANSIENT, "the service is away"))

    def _team(self, dataset: Dataset) -> tuple[str, int, int]:
        owner = texts_of(dataset.valid.path)[0].split()[0]
        team = self.world.teams[owner]
        return owner, team.examples, team.shifts

    def _at(self, request: TrainingRequest, epoch: float) -> Quality:
        # not the key itself: a study's identity is drawn anew each time, and the year would not repeat itself
        key = f"{self.world.seed} {self._sweep} {request.key.rpartition('-')[2]}"
        return quality(request.hyperparameters, epoch, key, self.world.trained[request.dataset.train.sha256])

    def _accuracy(self, request: TrainingRequest, epoch: float) -> float:
        texts = texts_of(request.dataset.valid.path)
        return float(self.world.right(self._at(request, epoch), texts).mean())

    def _kept(self, request: TrainingRequest) -> Quality:
        """Return the model of the epoch that was best on the validation set."""
        epochs = range(1, int(request.hyperparameters["n_epochs"]) + 1)
        return self._at(request, max(epochs, key=lambda epoch: self._accuracy(request, epoch)))

    def _measured(self, request: TrainingRequest, event: Event) -> Event:
        if isinstance(event, Measured) and event.scope == "evaluation" and event.epoch > 0:
            values = {**event.values, "valid_accuracy": self._accuracy(request, event.epoch)}
            return replace(event, values=values)
        return event


def answers(world: World, model: Quality, texts: Sequence[str]) -> list[str]:
    """Return a model's labels for texts: where it is wrong, the next label."""
    right = world.right(model, texts)
    truth = [label_of(text) for text in texts]
    return [label if good else LABELS[(LABELS.index(label) + 1) % 3] for label, good in zip(truth, right, strict=True)]


@lru_cache(maxsize=8)
def texts_of(path: str) -> list[str]:
    """Return the texts of a prepared data file, whose name follows from its content."""
    import json

    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["segments"][0]) for line in lines]


def charges(file: Path, until: float) -> Iterator[tuple[float, float]]:
    """Yield what the service has charged and when, from its own memory and not from the product's books."""
    with sqlite3.connect(file) as memory:
        rows = memory.execute("SELECT terms, submitted_at, stopped_after FROM runs").fetchall()
    for terms, submitted_at, stopped_after in rows:
        run = simulated_run(terms)
        for timed in run.timeline[:stopped_after]:
            moment = submitted_at + timed.epoch * run.terms.seconds_per_epoch
            if isinstance(timed.event, Charged) and moment <= until:
                yield moment, timed.event.usd or 0.0
