"""One run in training: its loop, its journal, its checkpoints and its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from backends.contract import TERMINAL_EVENTS, BackendError, Event, Failed, Measured, Placement, Started, Stopped
from backends.local import generation, prediction, run_setup, training
from backends.local.example_template import ExampleTemplate
from backends.local.failures import resource_errors_translated
from backends.local.journal import Journal, write_atomically
from backends.local.model_cache import MODEL_CACHE
from backends.local.options import LocalOptions
from backends.local.request_resolution import ResolvedRequest, resolve
from backends.local.task_evaluation import TaskEvaluation
from backends.local.trainable_weights import TrainableWeights
from backends.metrics.task_measurement import TaskMeasurement


class TrainingRun:
    """A run that this process trains.

    `advance` trains it until its next events and writes them to the journal.
    """

    def __init__(self, journal: Journal, options: LocalOptions, placement: Placement) -> None:
        self.journal = journal
        self._options, self._placement = options, placement
        self._request = journal.request()
        self._trainable: TrainableWeights | None = None
        self._task: TaskEvaluation | None = None
        self._loop: training.TrainingLoop | None = None
        self._events: Iterator[list[Event]] | None = None

    # -------------------------------------------------------------------------------------- advance
    def advance(self) -> None:
        """Train until there are new events, and write them to the journal.

        Raises BackendError if another process trains the run, or if the disk is full. The run can
        then continue later. An error that makes the run itself fail becomes its last event instead.
        """
        self.journal.claim()
        if self.journal.ended:  # another process has just ended it
            self.release()
            return
        if self.journal.stop_requested:
            self._end([Stopped(model=self.journal.kept_model)])
            return
        try:
            with resource_errors_translated("training"):
                if self._events is None:
                    self._events = self._new_events()
                events = next(self._events)
        except BackendError as error:
            self._end([Failed(error.failure)])
            return
        if isinstance(events[-1], TERMINAL_EVENTS):
            self._end(events)
            return
        with resource_errors_translated("writing events"):
            self.journal.append(events)
        if self._at_epoch_end:
            self._write_checkpoint()

    @property
    def _at_epoch_end(self) -> bool:
        if self._loop is None or self._loop.progress.step == 0:
            return False
        step, plan = self._loop.progress.step, self._loop.plan
        return step % plan.steps_per_epoch == 0 and step < plan.total_steps

    def _end(self, events: list[Event]) -> None:
        """Write the last events, delete the files that only an unfinished run needs, and give the
        model back.
        """
        with resource_errors_translated("writing events"):
            self.journal.append(events)
        self.journal.delete_working_files()
        self.release()

    # ----------------------------------------------------------------------------- suspend, release
    def suspend(self) -> None:
        """Save the run's exact position and give the model back.

        Another process may then continue the run.
        """
        if self._loop is not None and not self.journal.ended:
            self._write_checkpoint()
        self.release()

    def release(self) -> None:
        """Give the model back and unlock the run. Idempotent."""
        if self._trainable is not None:
            self._trainable.release()
        if self._task is not None:
            self._task.close()
        self._trainable = self._task = self._loop = self._events = None
        self.journal.release()
        if MODEL_CACHE.active_run is self:
            MODEL_CACHE.active_run = None

    def _write_checkpoint(self) -> None:
        if self._loop is None:
            return
        content = {**self._loop.snapshot(), "events": len(self.journal.events())}
        temporary = self.journal.checkpoint_path.with_name("resume.pt.tmp")
        with resource_errors_translated("writing a checkpoint"):
            torch.save(content, temporary)
            temporary.replace(self.journal.checkpoint_path)

    # --------------------------------------------------------------------------------------- events
    def _new_events(self) -> Iterator[list[Event]]:
        """Yield the events that the journal lacks: from the last checkpoint on, or from the start
        without one.
        """
        resolved = resolve(self._request, self._options)
        plan, self._trainable = run_setup.set_up_run(self._request, resolved, self._options, self._placement)
        if self._request.evaluation.metrics:
            self._task = TaskEvaluation(self._request, self._trainable.model, resolved.max_length, self._workspace)
        loop = training.TrainingLoop(
            plan,
            self._trainable,
            str(self.journal.model_directory),
            lambda files: self._save_model(resolved, files),
            self._task,
        )
        if self.journal.checkpoint_path.exists():
            device = self._trainable.model.device
            checkpoint = torch.load(self.journal.checkpoint_path, map_location=device, weights_only=True)
            self.journal.truncate(checkpoint.pop("events"))
            loop.restore(checkpoint)
        else:
            self.journal.truncate(0)
            self.journal.delete_model()
            yield [Started(run_setup.values_in_use(self._request, resolved, plan, self._trainable))]
            yield self._baseline_events(resolved, loop)
        self._loop = loop
        yield from loop.events()

    def _save_model(self, resolved: ResolvedRequest, files: Mapping[str, str]) -> None:
        if self._trainable is not None:
            model, dataset = self._trainable.model, self._request.dataset
            settings = None
            if resolved.task == "causal-lm":
                template = ExampleTemplate(model.tokenizer, dataset.layout, dataset.stop)
                decoding = self._request.evaluation.generation_in_use.decoding
                settings = generation.generation_settings(model, template, decoding, resolved.max_length)
            card = prediction.card_text(
                resolved.base, self._options.revision, resolved.task, dataset, resolved.max_length, settings
            )
            self._trainable.save(self.journal.model_directory, {prediction.CARD_FILE: card, **files})

    # ------------------------------------------------------------------------------------- baseline
    def _baseline_events(self, resolved: ResolvedRequest, loop: training.TrainingLoop) -> list[Event]:
        """Return the base model's own score.

        It is computed once per workspace, model and data set, and once more for each way to measure
        task metrics.
        """
        identity = self._baseline_identity(resolved, loop)
        path = self._baseline_path(identity)
        if path.is_file():
            measured = Measured(0, 0.0, json.loads(path.read_text(encoding="utf-8")), "evaluation")
        else:
            measured = loop.evaluate()
            write_atomically(path, json.dumps(dict(measured.values)).encode())
        if self._task is None:
            return [measured]
        path = self._baseline_path({**identity, "task metrics": self._task.identity()})
        if path.is_file():
            measurement = TaskMeasurement.from_json(json.loads(path.read_text(encoding="utf-8")))
        else:
            measurement = self._task.measure()
            write_atomically(path, json.dumps(measurement.to_json()).encode())
        return measurement.events(measured, is_paid=self._task.is_paid)

    def _baseline_identity(self, resolved: ResolvedRequest, loop: training.TrainingLoop) -> dict[str, Any]:
        request, model = self._request, loop.trainable.model
        dataset = request.dataset
        return {
            "model": model.source.stamp,
            "task": resolved.task,
            "arithmetic": f"{model.device.type} {model.dtype} torch {torch.__version__}",
            "data": [dataset.train.sha256, dataset.valid.sha256, dataset.layout, dataset.labels, dataset.stop],
            "train_on": dataset.train_on,
            "sample": len(loop.plan.train_sample.ids),
            "max_length": resolved.max_length,
            "head": request.seed if model.new_parameters else None,
            "resumed": [request.resume_from, request.key] if request.resume_from else None,
        }

    def _baseline_path(self, identity: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        folder = self._workspace / "baselines"
        folder.mkdir(exist_ok=True)
        return folder / f"{digest}.json"

    @property
    def _workspace(self) -> Path:
        return self.journal.directory.parent.parent
