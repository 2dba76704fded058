"""One run at the bench: its training loop, its journal, its checkpoints, its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import torch

from backends.contract import TERMINAL, BackendError, Event, Failed, Measured, Placement, Started, Stopped
from backends.local import prediction, run_setup, training
from backends.local.failures import room
from backends.local.journal import Journal, write_atomically
from backends.local.model_cache import BENCH
from backends.local.options import LocalOptions
from backends.local.request_resolution import Resolved, resolve
from backends.local.trainable_weights import TrainableWeights


class TrainingRun:
    """A run that is being trained. `advance` brings it to its next events, which are in the journal then."""

    def __init__(self, journal: Journal, options: LocalOptions, placement: Placement) -> None:
        self.journal = journal
        self._options, self._placement = options, placement
        self._request = journal.request()
        self._trainee: TrainableWeights | None = None
        self._training: training.Training | None = None
        self._events: Iterator[list[Event]] | None = None

    # ---------------------------------------------------------------------------------------------------------- advance
    def advance(self) -> None:
        """Train until there are new events, and write them down.

        Raises BackendError where another process trains the run, or the disk is full: then the run can go on later.
        What makes the run itself fail becomes its last event.
        """
        self.journal.claim()
        if self.journal.ended:  # by another process, a moment ago
            self.release()
            return
        if self.journal.stop_requested:
            self.end([Stopped(self.journal.kept_model)])
            return
        try:
            with room("training"):
                if self._events is None:
                    self._events = self._course()
                events = next(self._events)
        except BackendError as error:
            self.end([Failed(error.failure)])
            return
        if isinstance(events[-1], TERMINAL):
            self.end(events)
            return
        with room("writing events"):
            self.journal.append(events)
        if self._at_epoch_end:
            self._write_checkpoint()

    @property
    def _at_epoch_end(self) -> bool:
        if self._training is None or self._training.progress.step == 0:
            return False
        step, plan = self._training.progress.step, self._training.plan
        return step % plan.steps_per_epoch == 0 and step < plan.total_steps

    def end(self, events: list[Event]) -> None:
        """Write the last events, delete what only an unfinished run needs, give the model back."""
        with room("writing events"):
            self.journal.append(events)
        self.journal.end()
        self.release()

    # ------------------------------------------------------------------------------------------------- suspend, release
    def suspend(self) -> None:
        """Write down exactly where the run is, and give the model back. Another process may go on."""
        if self._training is not None and not self.journal.ended:
            self._write_checkpoint()
        self.release()

    def release(self) -> None:
        """Give the model back. Idempotent."""
        if self._trainee is not None:
            self._trainee.release()
        self._trainee = self._training = self._events = None
        self.journal.release()
        if BENCH.active is self:
            BENCH.active = None

    def _write_checkpoint(self) -> None:
        if self._training is None:
            return
        content = {**self._training.snapshot(), "events": len(self.journal.events())}
        temporary = self.journal.checkpoint_path.with_name("resume.pt.tmp")
        with room("writing a checkpoint"):
            torch.save(content, temporary)
            temporary.replace(self.journal.checkpoint_path)

    # ----------------------------------------------------------------------------------------------------------- course
    def _course(self) -> Iterator[list[Event]]:
        """Yield the events that are not in the journal yet: from the last checkpoint on, else from the start."""
        resolved = resolve(self._request, self._options)
        plan, self._trainee = run_setup.assemble(self._request, resolved, self._options, self._placement)
        loop = training.Training(plan, self._trainee, str(self.journal.model_directory), lambda: self._keep(resolved))
        if self.journal.checkpoint_path.exists():
            device = self._trainee.model.device
            checkpoint = torch.load(self.journal.checkpoint_path, map_location=device, weights_only=True)
            self.journal.truncate(checkpoint.pop("events"))
            loop.restore(checkpoint)
        else:
            self.journal.truncate(0)
            self.journal.delete_model()
            yield [Started(run_setup.values_in_use(self._request, resolved, plan, self._trainee))]
            yield [self._baseline(resolved, loop)]
        self._training = loop
        yield from loop.events()

    def _keep(self, resolved: Resolved) -> None:
        if self._trainee is not None:
            card = prediction.write_card(resolved.base, resolved.task, self._request.dataset, resolved.max_length)
            self._trainee.save(self.journal.model_directory, {prediction.CARD: card})

    def _baseline(self, resolved: Resolved, loop: training.Training) -> Measured:
        """Return the base model's own score; computed once a workspace, model and data set."""
        request, model = self._request, loop.trainee.model
        dataset = request.dataset
        identity = {
            "model": model.source.stamp,
            "task": resolved.task,
            "arithmetic": f"{model.device.type} {model.dtype} torch {torch.__version__}",
            "data": [dataset.train.sha256, dataset.valid.sha256, dataset.layout, dataset.labels, dataset.stop],
            "sample": len(loop.plan.sample.ids),
            "max_length": resolved.max_length,
            "head": request.seed if model.fresh else None,
            "resumed": [request.resume_from, request.key] if request.resume_from else None,
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        path = self.journal.directory.parent.parent / "baselines" / f"{digest}.json"
        if path.is_file():
            return Measured(0, 0.0, json.loads(path.read_text(encoding="utf-8")), "evaluation")
        measured = loop.evaluate()
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps(dict(measured.values)).encode())
        return measured
