"""`LocalBackend`: the backend contract for the runs of a workspace.

Loads torch only to compute something.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel

from backends.contract import (
    BackendError,
    Capabilities,
    DataFile,
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
from backends.extras import install_command, missing_libraries
from backends.hyperparameter_checks import check_hyperparameters
from backends.local import hyperparameters, metric_checks, model_source
from backends.local.journal import Journal
from backends.local.lora_targets import check_target
from backends.local.options import LocalOptions
from backends.local.request_resolution import ResolvedRequest, base_model_of, resolve
from backends.metrics.kept_metric import evaluation_names, may_be_measured
from backends.run_names import run_id

if TYPE_CHECKING:
    from backends.cleanup import Leftover
    from backends.example_report import ExampleReport
    from backends.local.prediction import Predictor
    from backends.local.training_run import TrainingRun
    from backends.memory_forecast.forecast import MemoryForecast
    from backends.model_export import ExportFormat
    from backends.model_packages import ModelPackage
    from backends.relocation import ResumePoint
    from backends.rendering import RenderedExample

NAME = "local"


class LocalBackend:
    """Trains in the calling process, inside calls of `events`.

    The package's other modules do the work.
    """

    options_model: ClassVar[type[BaseModel]] = LocalOptions

    def __init__(self, options: LocalOptions, workspace: Path, placement: Placement) -> None:
        self.capabilities = self.describe(options)
        self._options, self._workspace, self._placement = options, workspace, placement
        self._journals: dict[str, Journal] = {}
        self._run: TrainingRun | None = None
        self._predictor: tuple[str, Predictor] | None = None
        self._uses_model_cache = False

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Return the capabilities.

        They depend on the task, which comes from a local model's config.json.
        """
        return hyperparameters.capabilities(model_source.task_of(LocalOptions.model_validate(options)))

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> Self:
        """Open a workspace.

        Load nothing yet. Raises BackendError if the extra `local` is not installed.
        """
        if missing := missing_libraries("local"):
            message = f"The local backend needs {', '.join(missing)}."
            raise BackendError(Failure(FailureKind.USER, message, f"Run: {install_command('local')}"))
        return cls(LocalOptions.model_validate(options), workspace, placement)

    # --------------------------------------------------------------------------- check and estimate
    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        """Return the reasons why the request would fail.

        Loads at most the tokenizer, never the weights.
        """
        if failures := self._hyperparameter_failures(request):
            return failures
        try:
            resolved = resolve(request, self._options, weights=False)
        except BackendError as error:
            return [error.failure]
        failures = [
            *model_source.problems(resolved.base),
            *self._target_failures(request, resolved),
            *self._device_failures(),
            *self._optimizer_failures(resolved),
            *self._disk_failures(resolved),
            *metric_checks.failures(request, resolved.task, resolved.max_length),
        ]
        return failures or self._data_failures(request, resolved)

    def _device_failures(self) -> list[Failure]:
        if self._options.device in {"auto", "cpu"} and self._options.dtype in {"auto", "float32"}:
            return []
        from backends.local import device

        try:
            device.resolve_dtype(self._options.dtype, device.resolve_device(self._options.device))
        except BackendError as error:
            return [error.failure]
        return []

    def _target_failures(self, request: TrainingRequest, resolved: ResolvedRequest) -> list[Failure]:
        target = request.hyperparameters.get("lora_target")
        try:
            if target is not None:
                check_target(str(target), resolved.base)
        except BackendError as error:
            return [error.failure]
        except (OSError, ValueError, KeyError, struct.error):
            return []  # `model_source.problems` reports damaged weights
        return []

    def _optimizer_failures(self, resolved: ResolvedRequest) -> list[Failure]:
        if resolved.settings.optimizer == hyperparameters.DEFAULT_OPTIMIZER:
            return []
        from backends.local import device
        from backends.local.optimizers import optimizer_problem

        try:
            problem = optimizer_problem(resolved.settings.optimizer, device.resolve_device(self._options.device).type)
        except BackendError:
            return []  # `_device_failures` reports it
        return [] if problem is None else [Failure(FailureKind.USER, *problem)]

    def _disk_failures(self, resolved: ResolvedRequest) -> list[Failure]:
        lora = resolved.settings.lora
        needed_bytes = model_source.peak_bytes(resolved.base, lora.rank if lora else None)
        folders = [self._workspace, *self._workspace.absolute().parents]
        folder = next(folder for folder in folders if folder.exists())
        free_bytes = shutil.disk_usage(folder).free
        if needed_bytes <= free_bytes:
            return []
        message = (
            f"a run needs {needed_bytes / 2**30:.1f} GiB on disk, "
            f"but {folder} has only {free_bytes / 2**30:.1f} GiB free"
        )
        return [Failure(FailureKind.USER, message, "free some space, use another workspace, or use method: lora")]

    def _data_failures(self, request: TrainingRequest, resolved: ResolvedRequest) -> list[Failure]:
        for file in (request.dataset.train, request.dataset.valid):
            if not Path(file.path).is_file():
                return [
                    Failure(FailureKind.USER, f"the data file {file.path} does not exist", "prepare the data again")
                ]
        from backends.local.model_cache import MODEL_CACHE

        self._join_model_cache()
        try:
            for part in ("train", "valid"):
                data = MODEL_CACHE.encoded_data(
                    resolved.base, resolved.task, request.dataset, part, resolved.length_rule
                )
                if part == "train" and data.labels is not None and len(set(data.labels.tolist())) < 2:
                    message = "all training examples have the same label"
                    return [Failure(FailureKind.USER, message, "add examples of at least one more label")]
        except BackendError as error:
            return [error.failure]
        return []

    def render(self, request: TrainingRequest) -> RenderedExample:
        """Return an example as the trainer sees it; see `rendering.SupportsRendering`."""
        from backends.local import rendering

        self._join_model_cache()
        return rendering.render(request, resolve(request, self._options, weights=False))

    def report_examples(self, request: TrainingRequest, test: DataFile | None) -> ExampleReport:
        """Report on all examples; see `example_report.SupportsExampleReport`."""
        from backends.local import example_report

        self._join_model_cache()
        return example_report.report(request, resolve(request, self._options, weights=False), test)

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return tokens (counted), seconds (from a few steps, timed once per process and model) and
        disk.
        """
        from backends.local import estimation, run_setup
        from backends.local.model_cache import MODEL_CACHE
        from backends.local.task_evaluation import TaskEvaluation

        self._validate(request)
        resolved = resolve(request, self._options)
        self._join_model_cache()
        MODEL_CACHE.suspend_active_run()
        plan, trainable = run_setup.set_up_run(request, resolved, self._options, self._placement)
        try:
            generates = bool(request.evaluation.metrics)
            task = TaskEvaluation(request, trainable.model, resolved.max_length, self._workspace) if generates else None
            kind = (resolved.base.stamp, resolved.task, resolved.settings.lora, min(resolved.settings.batch_size, 64))
            key = (*kind, request.dataset.train.sha256, self._placement, task.settings if task else None)
            if key not in MODEL_CACHE.speeds:
                MODEL_CACHE.speeds[key] = estimation.measure_speed(plan, trainable, task)
            return estimation.estimate(plan, MODEL_CACHE.speeds[key], resolved.base, task)
        finally:
            trainable.release()

    def memory_forecast(self, request: TrainingRequest) -> MemoryForecast | None:
        """Return the forecast of the run's memory; see `memory_forecast.SupportsMemoryForecast`."""
        from backends.local import device as devices
        from backends.local.memory import RunShape, forecast
        from backends.local.model_cache import MODEL_CACHE

        self._validate(request)
        resolved = resolve(request, self._options, weights=False)
        self._join_model_cache()
        device = devices.resolve_device(self._options.device)
        dtype = devices.resolve_dtype(self._options.dtype, device)
        train = MODEL_CACHE.encoded_data(resolved.base, resolved.task, request.dataset, "train", resolved.length_rule)
        shape = RunShape.of(resolved, self._options, device, dtype, train)
        return None if shape is None else forecast(shape, self._options, self._placement)

    # ------------------------------------------------------------------------------- submit, events
    def submit(self, request: TrainingRequest) -> Handle:
        """Write the request to disk. Calls of `events` will train the run.

        Raises BackendError (user) for wrong hyperparameters.
        """
        run = run_id(request.key)
        journal = self._journals.setdefault(run, Journal(self._workspace / "jobs", run))
        if not journal.exists:
            self._validate(request)
            journal.create(request)
        return Handle(NAME, run)

    def _validate(self, request: TrainingRequest) -> None:
        if failures := self._hyperparameter_failures(request):
            raise BackendError(failures[0])

    def _hyperparameter_failures(self, request: TrainingRequest) -> list[Failure]:
        declared = hyperparameters.capabilities(
            model_source.task_of(self._options, base_model_of(request, self._options))
        )
        failures = check_hyperparameters(request.hyperparameters, declared)
        metric = request.evaluation.keep_metric
        if metric not in declared.metrics and not may_be_measured(metric, request.evaluation.metrics):
            measured = [*declared.metrics, *evaluation_names(request.evaluation.metrics)]
            message = f"the local backend does not measure {metric}, so it cannot choose the kept state by it"
            failures.append(Failure(FailureKind.USER, message, f"choose one of: {', '.join(measured)}"))
        return failures

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events from number `after` on.

        Train until there is one, unless the run has ended.
        """
        journal = self._journal(handle)
        while len(journal.events()) <= after and not journal.ended:
            self._activate(journal).advance()
        return tuple(journal.events()[after:])

    def _activate(self, journal: Journal) -> TrainingRun:
        from backends.local.model_cache import MODEL_CACHE
        from backends.local.training_run import TrainingRun

        self._join_model_cache()
        if (
            MODEL_CACHE.active_run is None
            or MODEL_CACHE.active_run is not self._run
            or self._run.journal is not journal
        ):
            MODEL_CACHE.suspend_active_run()
            MODEL_CACHE.active_run = self._run = TrainingRun(journal, self._options, self._placement)
        return self._run

    def _journal(self, handle: Handle) -> Journal:
        journal = self._journals.setdefault(handle.id, Journal(self._workspace / "jobs", handle.id))
        if not journal.exists:
            message = f"there is no run {handle.id} in {self._workspace}"
            raise BackendError(
                Failure(FailureKind.LOST, message, "submit it again, or open the workspace that contains it")
            )
        return journal

    # -------------------------------------------------------------------------------- stop, discard
    def stop(self, handle: Handle) -> None:
        """End the run: at once, or at its next event if another process trains it."""
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
            return  # the process that trains the run sees the stop request
        try:
            if not journal.ended:
                journal.append([Stopped(journal.kept_model)])
            journal.delete_working_files()
        finally:
            journal.release()

    def discard(self, handle: Handle) -> None:
        """Stop the run unless it has ended, and delete its model."""
        journal = self._journal(handle)
        self.stop(handle)
        journal.delete_model()

    # -------------------------------------------------------------------------------------- predict
    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Answer prompts with a kept model, or with a base model that no run has trained."""
        from backends.local import device as devices
        from backends.local import prediction

        stamp = f"{model} {model_source.modified_ns(Path(model))}"
        if self._predictor is None or self._predictor[0] != stamp:
            devices.set_threads(self._placement)
            device = devices.resolve_device(self._options.device)
            dtype = devices.resolve_dtype(self._options.dtype, device)
            self._predictor = (stamp, prediction.load(model, self._options, device, dtype))
        return prediction.predict(self._predictor[1], prompts, options)

    def package(self, model: str, dataset: Dataset, folder: Path) -> ModelPackage:
        """Copy a kept model into `folder` for use on another machine; see
        `model_packages.SupportsPackaging`.
        """
        from backends.local import packaging

        return packaging.package(model, self._options, folder)

    def export(self, model: str, file_format: ExportFormat, folder: Path) -> None:
        """Write a kept model for other programs; see `model_export.SupportsExport`."""
        from backends.local import export

        export.export(model, self._options, file_format, folder)

    # ----------------------------------------------------------------------------------- relocation
    def run_of(self, key: str) -> Handle:
        """Return the handle of the run with this key; see `relocation.SupportsRelocation`."""
        return Handle(NAME, run_id(key))

    def resume_point(self, handle: Handle) -> ResumePoint | None:
        """Return the last epoch's end; see `relocation.SupportsRelocation`."""
        return self._journal(handle).resume_point()

    def forget(self, handle: Handle) -> None:
        """Delete the folder of the run; see `relocation.SupportsRelocation`."""
        journal = self._journals.pop(handle.id, None) or Journal(self._workspace / "jobs", handle.id)
        if self._run is not None and self._run.journal is journal:
            self._run.release()
            self._run = None
        journal.release()
        journal.delete()

    # ------------------------------------------------------------------------------------- clean-up
    def leftovers(self, others: Sequence[Path] = ()) -> Sequence[Leftover]:
        """Return the files that the runs have left on disk; see `cleanup.SupportsCleanup`."""
        from backends.local import cleanup

        return cleanup.leftovers(self._workspace, others)

    def remove(self, leftover: Leftover) -> str:
        """Delete a leftover file or folder; see `cleanup.SupportsCleanup`."""
        from backends.local import cleanup

        return leftover.needed or cleanup.remove(self._workspace, leftover)

    # ---------------------------------------------------------------------------------------- close
    def _join_model_cache(self) -> None:
        from backends.local.model_cache import MODEL_CACHE

        if not self._uses_model_cache:
            self._uses_model_cache = True
            MODEL_CACHE.add_backend()

    def close(self) -> None:
        """Save the run's exact position.

        Free the memory unless another open backend of this process uses it.
        """
        if self._run is not None:
            self._run.suspend()
            self._run = None
        self._predictor = None
        if self._uses_model_cache:
            from backends.local.model_cache import MODEL_CACHE

            self._uses_model_cache = False
            MODEL_CACHE.remove_backend()
