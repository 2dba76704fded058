"""`LocalBackend`: the contract over the runs of a workspace. Loads torch when something must be computed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel

from backends.contract import (
    BackendError,
    Capabilities,
    Dataset,
    Estimate,
    Event,
    Failure,
    FailureKind,
    Handle,
    Placement,
    Prediction,
    PredictOptions,
    Stopped,
    TrainingRequest,
)
from backends.hyperparameter_checks import contradictions
from backends.local import hyperparameters, model_source
from backends.local.journal import Journal, run_id
from backends.local.options import LocalOptions
from backends.local.request_resolution import Resolved, base_model_of, resolve

if TYPE_CHECKING:
    from backends.cleanup import Remnant
    from backends.local.prediction import Predictor
    from backends.local.training_run import TrainingRun
    from backends.served import Package

NAME = "local"


class LocalBackend:
    """Trains in the calling process, pulled by `events`; see the package's modules for how."""

    options_model: ClassVar[type[BaseModel]] = LocalOptions

    def __init__(self, options: LocalOptions, workspace: Path, placement: Placement) -> None:
        self.capabilities = self.describe(options)
        self._options, self._workspace, self._placement = options, workspace, placement
        self._journals: dict[str, Journal] = {}
        self._run: TrainingRun | None = None
        self._predictor: tuple[str, Predictor] | None = None
        self._entered = False

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Return the capabilities: they depend on the task, which a local model's config.json says."""
        return hyperparameters.capabilities(model_source.task_of(LocalOptions.model_validate(options)))

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> Self:
        """Open a workspace; nothing is loaded yet."""
        return cls(LocalOptions.model_validate(options), workspace, placement)

    # ----------------------------------------------------------------------------------------------- check and estimate
    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        """Return what would make the request fail. Loads the tokenizer at most, never the weights."""
        if found := self._violations(request):
            return found
        try:
            resolved = resolve(request, self._options, weights=False)
        except BackendError as error:
            return [error.failure]
        found = [*model_source.problems(resolved.base), *self._device_problems(), *self._disk_problems(resolved)]
        return found or self._data_problems(request, resolved)

    def _device_problems(self) -> list[Failure]:
        if self._options.device in {"auto", "cpu"} and self._options.dtype in {"auto", "float32"}:
            return []
        from backends.local import device

        try:
            device.resolve_dtype(self._options.dtype, device.resolve_device(self._options.device))
        except BackendError as error:
            return [error.failure]
        return []

    def _disk_problems(self, resolved: Resolved) -> list[Failure]:
        lora = resolved.settings.lora
        needed = model_source.peak_bytes(resolved.base, lora.rank if lora else None)
        place = next(each for each in [self._workspace, *self._workspace.absolute().parents] if each.exists())
        free = shutil.disk_usage(place).free
        if needed <= free:
            return []
        message = f"a run needs {needed / 2**30:.1f} GiB on disk, {place} has {free / 2**30:.1f} GiB"
        return [Failure(FailureKind.USER, message, "free some space, use another workspace, or method: lora")]

    def _data_problems(self, request: TrainingRequest, resolved: Resolved) -> list[Failure]:
        for file in (request.dataset.train, request.dataset.valid):
            if not Path(file.path).is_file():
                return [Failure(FailureKind.USER, f"the data file {file.path} is gone", "prepare the data again")]
        from backends.local.model_cache import BENCH

        self._enter()
        try:
            for part in ("train", "valid"):
                data = BENCH.data(resolved.base, resolved.task, request.dataset, part, resolved.max_length)
                if part == "train" and data.labels is not None and len(set(data.labels.tolist())) < 2:
                    message = "all training examples have the same label"
                    return [Failure(FailureKind.USER, message, "give examples of at least two labels")]
        except BackendError as error:
            return [error.failure]
        return []

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return tokens (counted), seconds (from a few timed steps, once a process and model) and disk."""
        from backends.local import estimation, run_setup
        from backends.local.model_cache import BENCH

        self._validate(request)
        resolved = resolve(request, self._options)
        self._enter()
        BENCH.suspend_active()
        plan, trainee = run_setup.assemble(request, resolved, self._options, self._placement)
        try:
            kind = (resolved.base.stamp, resolved.task, resolved.settings.lora, min(resolved.settings.batch_size, 64))
            key = (*kind, request.dataset.train.sha256, self._placement)
            if key not in BENCH.speeds:
                BENCH.speeds[key] = estimation.time_run(plan, trainee)
            return estimation.estimate(plan, BENCH.speeds[key], resolved.base)
        finally:
            trainee.release()

    # -------------------------------------------------------------------------------------------------- submit, events
    def submit(self, request: TrainingRequest) -> Handle:
        """Write the run down; it is trained by `events`. Raises BackendError (user) for wrong hyperparameters."""
        run = run_id(request.key)
        journal = self._journals.setdefault(run, Journal(self._workspace / "jobs", run))
        if not journal.exists:
            self._validate(request)
            journal.create(request)
        return Handle(NAME, run)

    def _validate(self, request: TrainingRequest) -> None:
        if found := self._violations(request):
            raise BackendError(found[0])

    def _violations(self, request: TrainingRequest) -> list[Failure]:
        declared = hyperparameters.capabilities(
            model_source.task_of(self._options, base_model_of(request, self._options))
        )
        found = contradictions(request.hyperparameters, declared)
        metric = request.evaluation.keep_metric
        if metric not in declared.metrics:
            message = f"{metric} is not measured here, so it cannot choose the kept state"
            found.append(Failure(FailureKind.USER, message, f"measured are {', '.join(declared.metrics)}"))
        return found

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events from number `after` on; train until there is one, unless the run has ended."""
        journal = self._journal(handle)
        while len(journal.events()) <= after and not journal.ended:
            self._activate(journal).advance()
        return tuple(journal.events()[after:])

    def _activate(self, journal: Journal) -> TrainingRun:
        from backends.local.model_cache import BENCH
        from backends.local.training_run import TrainingRun

        self._enter()
        if BENCH.active is None or BENCH.active is not self._run or self._run.journal is not journal:
            BENCH.suspend_active()
            BENCH.active = self._run = TrainingRun(journal, self._options, self._placement)
        return self._run

    def _journal(self, handle: Handle) -> Journal:
        journal = self._journals.setdefault(handle.id, Journal(self._workspace / "jobs", handle.id))
        if not journal.exists:
            message = f"there is no run {handle.id} in {self._workspace}"
            raise BackendError(Failure(FailureKind.LOST, message, "submit it again, or open the workspace it is in"))
        return journal

    # --------------------------------------------------------------------------------------------------- stop, discard
    def stop(self, handle: Handle) -> None:
        """End the run: at once, or, where another process trains it, at its next event."""
        journal = self._journal(handle)
        if journal.ended:
            return
        journal.request_stop()
        if self._run is not None and self._run.journal is journal:
            self._run.advance()
            return
        try:
            journal.claim()
        except BackendError:
            return  # its trainer sees the request
        try:
            if not journal.ended:
                journal.append([Stopped(journal.kept_model)])
            journal.end()
        finally:
            journal.release()

    def discard(self, handle: Handle) -> None:
        """Stop the run where it goes on, and delete its model."""
        journal = self._journal(handle)
        self.stop(handle)
        journal.delete_model()

    # --------------------------------------------------------------------------------------------------------- predict
    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Answer prompts with a kept model, or with a base model as it is."""
        from backends.local import device as devices
        from backends.local import prediction

        stamp = f"{model} {model_source.changed(Path(model))}"
        if self._predictor is None or self._predictor[0] != stamp:
            devices.set_threads(self._placement)
            device = devices.resolve_device(self._options.device)
            dtype = devices.resolve_dtype(self._options.dtype, device)
            self._predictor = (stamp, prediction.load(model, self._options, device, dtype))
        return prediction.predict(self._predictor[1], prompts, options)

    def package(self, model: str, dataset: Dataset, folder: Path) -> Package:
        """Copy a kept model into `folder` so that it answers elsewhere; see `served.Packager`."""
        from backends.local import packaging

        return packaging.package(model, self._options, folder)

    # --------------------------------------------------------------------------------------------------------- clean-up
    def remnants(self, others: Sequence[Path] = ()) -> Sequence[Remnant]:
        """Return what the runs have left on disk; see `remnants.Cleaner`."""
        from backends.local import cleanup

        return cleanup.remnants(self._workspace, others)

    def remove(self, remnant: Remnant) -> str:
        """Delete something on disk; see `remnants.Cleaner`."""
        from backends.local import cleanup

        return remnant.needed or cleanup.remove(self._workspace, remnant)

    # ----------------------------------------------------------------------------------------------------------- close
    def _enter(self) -> None:
        from backends.local.model_cache import BENCH

        if not self._entered:
            self._entered = True
            BENCH.enter()

    def close(self) -> None:
        """Write down where the run is, and free the memory, unless another backend of this process uses it."""
        if self._run is not None:
            self._run.suspend()
            self._run = None
        self._predictor = None
        if self._entered:
            from backends.local.model_cache import BENCH

            self._entered = False
            BENCH.leave()
