"""Translate the state of a host's job into the events of a run.

`new_events` is a pure function of the job's snapshot and the events so far. An event never changes
once it has a number: each call only appends. Measurements come in the order of their steps, in
whichever order they arrived; one that arrives after an event of a later step is dropped. For hosts
whose measurements arrive late, the profile has a settling time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from backends.contract import (
    Charged,
    Checkpointed,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Measured,
    Scalar,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.hosted.checkpoint_selection import best_model, keep_metric_by_step
from backends.hosted.failures import job_failure
from backends.hosted.job_measurements import StepMeasurements, merged, renamed
from backends.hosted.journal import LogEntry
from backends.hosted.model_answers import ModelEvaluation
from backends.hosted.profile import JobStatus, Profile
from backends.hosted.remote_objects import RemoteCheckpoint, RemoteJob
from backends.hosted.result_files import Row

_ROUNDING = 1e-9
"""Tolerance for the rounding of a step divided by the steps per epoch."""


@dataclass(frozen=True)
class JobSnapshot:
    """Everything that is known of a job at the time `now`.

    - `complete`: the job has ended, and the host will report nothing more.
    - `lost`: why the backend gives the job up, if it does.
    - `scores_expected`: the trained model is evaluated on the validation set after the end, so the
      last evaluation waits for `model_evaluation`.
    """

    job: RemoteJob
    status: JobStatus
    log: Sequence[LogEntry]
    checkpoints: Sequence[RemoteCheckpoint] = ()
    rows: Sequence[Row] = ()
    now: float = 0.0
    complete: bool = False
    lost: Failure | None = None
    scores_expected: bool = False
    model_evaluation: ModelEvaluation = field(default_factory=ModelEvaluation)

    @property
    def ended(self) -> bool:
        """Whether the run gets no further measurements."""
        return self.complete or self.lost is not None


@dataclass(frozen=True)
class TrainingCost:
    """The price of training (None: unknown), and the tokens of an epoch: counted, or a bound."""

    usd_per_million_tokens: float | None
    tokens_per_epoch: float


def new_events(
    request: TrainingRequest, host: Profile, cost: TrainingCost, previous: Sequence[Event], snapshot: JobSnapshot
) -> list[Event]:
    """Return the events that follow `previous`. A run that has ended gets no more."""
    return list(_Translation(request, host, cost, previous, snapshot).events())


def last_log_error(log: Sequence[LogEntry]) -> str:
    """Return the last error in the log.

    It explains a job that fails without a message, or a blocked model.
    """
    errors = [entry.event for entry in log if entry.event.level == "error" or entry.event.data.get("blocked")]
    return max(errors, key=lambda event: event.created_at).message if errors else ""


class _Translation:
    """One call of `new_events`."""

    def __init__(
        self, request: TrainingRequest, host: Profile, cost: TrainingCost, previous: Sequence[Event], job: JobSnapshot
    ) -> None:
        self._request, self._host, self._cost, self._snapshot = request, host, cost, job
        self._checkpoints = _emittable_checkpoints(job)
        self._measurements, self._total_steps = merged(host.metrics, job.log, self._checkpoints, job.rows, job.now)
        used = job.job.hyperparameters
        self._n_epochs = _positive_int(used.get("n_epochs", request.hyperparameters.get("n_epochs")))
        self._started = any(isinstance(event, Started) for event in previous)
        self._emitted = [event for event in previous if isinstance(event, Measured | Checkpointed)]
        self._step = max((event.step for event in self._emitted), default=-1)
        self._epoch = max((event.epoch for event in self._emitted), default=0.0)

    def events(self) -> Iterator[Event]:
        """Yield the new events in order."""
        ended = self._snapshot.ended
        if not self._started:
            if not self._has_started():
                if ended:
                    yield from self._end()
                return
            self._started = True
            yield Started(self._resolved_values())
        yield from self._progress(math.inf if ended else self._last_settled_step())
        if ended:
            yield from self._unplaced_scores()
            yield from self._end()

    # ---------------------------------------------------------------------------------------- start
    def _has_started(self) -> bool:
        if self._measurements or self._snapshot.status is JobStatus.SUCCEEDED:
            return True
        return self._snapshot.status is JobStatus.TRAINING and self._n_epochs is not None

    def _resolved_values(self) -> dict[str, Scalar]:
        """Return the values in use: the host's, which replace "auto", or the requested ones."""
        requested, used = self._request.hyperparameters, self._snapshot.job.hyperparameters
        resolved: dict[str, Scalar] = dict(requested)
        for name, value in used.items():
            if requested.get(name) != value:  # an equal value keeps the type of the request
                resolved[name] = value
        if (per_epoch := self._steps_per_epoch()) is not None and per_epoch == int(per_epoch):
            resolved["steps_per_epoch"] = int(per_epoch)
        return {**resolved, "job": self._snapshot.job.id}

    # --------------------------------------------------------------------------------- measurements
    def _last_settled_step(self) -> float:
        """Return the last step to emit now: all earlier measurements have had time to arrive."""
        settled_at = self._snapshot.now - self._host.jobs.settle_s
        settled_steps = (step for step, found in self._measurements.items() if found.received_at <= settled_at)
        settled = max(settled_steps, default=-1)
        if self._snapshot.scores_expected and self._total_steps is not None:
            return min(settled, self._total_steps - 1)
        return settled

    def _progress(self, last_step: float) -> Iterator[Event]:
        """Yield measurements and checkpoints up to `last_step`, by step."""
        models = {checkpoint.step: checkpoint.model for checkpoint in self._checkpoints if checkpoint.model}
        for step in sorted({*self._measurements, *models}):
            if step < self._step or step > last_step:
                continue
            measurements = self._measurements.get(step, StepMeasurements())
            yield from self._running_values(step, measurements)
            yield from self._evaluation(step, measurements)
            if step in models and not self._was_emitted(Checkpointed, step):
                epoch = self._epoch_of(step, measurements, at_epoch_end=True)
                yield self._emit(Checkpointed(step, epoch, models[step]))

    def _running_values(self, step: int, measurements: StepMeasurements) -> Iterator[Event]:
        values = renamed(measurements.values, self._host.metrics.step)
        if values and step > self._step:
            yield self._emit(Measured(step, self._epoch_of(step, measurements, at_epoch_end=False), values, "step"))

    def _evaluation(self, step: int, measurements: StepMeasurements) -> Iterator[Event]:
        values = renamed(measurements.values, self._host.metrics.evaluation)
        is_last = step == max(self._measurements, default=None)
        if (values or (is_last and self._snapshot.model_evaluation.values)) and not self._was_emitted(Measured, step):
            evaluated = Measured(step, self._epoch_of(step, measurements, at_epoch_end=True), values, "evaluation")
            yield from self._with_answers(evaluated) if is_last else [self._emit(evaluated)]

    def _with_answers(self, evaluated: Measured) -> Iterator[Event]:
        """Yield an evaluation with the values of the model's answers, behind their texts."""
        answers = self._snapshot.model_evaluation
        evaluated = replace(evaluated, values={**evaluated.values, **answers.label_scores})
        if answers.texts is not None:
            yield from answers.texts.events(evaluated, is_paid=answers.is_paid)[:-1]
            evaluated = answers.texts.added_to(evaluated)
        yield self._emit(evaluated)

    def _unplaced_scores(self) -> Iterator[Event]:
        """Yield the model's scores on their own if no evaluation could take them.

        The last evaluation may have been emitted earlier, or the host never measured one.
        """
        scores = self._snapshot.model_evaluation.values
        emitted_values = (event.values.items() for event in self._emitted if isinstance(event, Measured))
        is_placed = not scores or any(scores.items() <= values for values in emitted_values)
        if not is_placed:
            epoch = max(self._epoch, float(self._n_epochs or 1))
            yield from self._with_answers(Measured(max(self._step, 1), epoch, {}, "evaluation"))

    def _was_emitted(self, event_type: type[Measured | Checkpointed], step: int) -> bool:
        """Return whether there is an evaluation, or a checkpoint, of this step already."""
        return any(
            isinstance(event, event_type)
            and event.step == step
            and getattr(event, "scope", "evaluation") == "evaluation"
            for event in self._emitted
        )

    def _emit(self, event: Measured | Checkpointed) -> Event:
        self._emitted.append(event)
        self._step, self._epoch = max(self._step, event.step), max(self._epoch, event.epoch)
        return event

    # --------------------------------------------------------------------------------------- epochs
    def _steps_per_epoch(self) -> float | None:
        if self._total_steps is not None and self._n_epochs is not None:
            return self._total_steps / self._n_epochs
        batch_size = _positive_int(self._snapshot.job.hyperparameters.get("batch_size"))
        return None if batch_size is None else float(math.ceil(self._request.dataset.train.examples / batch_size))

    def _epoch_of(self, step: int, measurements: StepMeasurements, *, at_epoch_end: bool) -> float:
        """Return the time of a step in epochs.

        Where an epoch has no whole number of steps, the first step at or past its end counts as its
        end. So does the step just before for an evaluation or a checkpoint (`at_epoch_end`). Where
        the length of an epoch is unknown, each evaluation counts as the end of an epoch.
        """
        if step == 0:
            return 0.0
        if measurements.epoch is not None:
            return max(self._epoch, measurements.epoch)
        per_epoch = self._steps_per_epoch()
        if per_epoch is None:
            return self._epoch_by_evaluations(step, at_epoch_end=at_epoch_end)
        epoch = step / per_epoch
        complete_epochs = math.floor(epoch + _ROUNDING)
        if complete_epochs >= 1 and step - complete_epochs * per_epoch < 1 - _ROUNDING:
            epoch = float(complete_epochs)
        elif at_epoch_end and (complete_epochs + 1) * per_epoch - step < 1 - _ROUNDING:
            epoch = float(complete_epochs + 1)
        return max(self._epoch, epoch)

    def _epoch_by_evaluations(self, step: int, *, at_epoch_end: bool) -> float:
        """Return the number of earlier evaluations, plus one for an evaluation or a checkpoint."""
        earlier_steps = {
            event.step
            for event in self._emitted
            if isinstance(event, Measured) and event.scope == "evaluation" and 0 < event.step < step
        }
        return max(self._epoch, float(len(earlier_steps) + (1 if at_epoch_end else 0)))

    # ------------------------------------------------------------------------------------------ end
    def _end(self) -> Iterator[Event]:
        job, status = self._snapshot.job, self._snapshot.status
        succeeded = status is JobStatus.SUCCEEDED and self._snapshot.lost is None
        yield from self._charge(succeeded=succeeded, free=status is JobStatus.FAILED and self._host.jobs.failed_is_free)
        if self._snapshot.lost is not None:
            yield Failed(self._snapshot.lost)
        elif status is JobStatus.FAILED:
            yield Failed(job_failure(job.error_code, job.error_message, last_log_error(self._snapshot.log)))
        elif not succeeded:
            yield Stopped(self._kept_model())
        elif (unmeasured := self._snapshot.model_evaluation.unmeasured) is not None:
            yield Failed(unmeasured)
        elif (model := self._kept_model()) is not None:
            yield Finished(model)
        else:
            reason = last_log_error(self._snapshot.log) or "its safety evaluation may have blocked the model"
            message = f"the job succeeded, but the host returned no model: {reason}"
            yield Failed(Failure(FailureKind.USER, message, "Look at the job in the host's web console."))

    def _charge(self, *, succeeded: bool, free: bool) -> Iterator[Event]:
        tokens, estimated = self._snapshot.job.trained_tokens, False
        if tokens is None:
            tokens, estimated = math.ceil(self._trained_epochs(succeeded) * self._cost.tokens_per_epoch), True
        price = self._cost.usd_per_million_tokens
        if tokens:
            yield Charged(None if price is None else 0.0 if free else tokens * price / 1e6, tokens, estimated)

    def _trained_epochs(self, succeeded: bool) -> float:
        """Return an upper bound of the epochs that an ended job has trained."""
        if succeeded:
            return float(self._n_epochs or self._epoch)
        # The host trained on after its last report: the epoch in progress counts in full.
        begun = math.floor(self._epoch) + 1.0 if self._started else 0.0
        return min(begun, float(self._n_epochs or math.inf))

    def _kept_model(self) -> str | None:
        """Return the best model, by the request's metric, that the host still has."""
        final = self._snapshot.job.model
        if final is not None and self._host.jobs.final_model == "best":
            return final
        evaluation = self._request.evaluation
        models = {checkpoint.step: checkpoint.model for checkpoint in self._checkpoints if checkpoint.model}
        values = keep_metric_by_step(self._emitted, evaluation)
        if final is not None and values:
            models[max(values)] = final
        return best_model(models, values, evaluation) or final or (models[max(models)] if models else None)


def _emittable_checkpoints(snapshot: JobSnapshot) -> Sequence[RemoteCheckpoint]:
    """Return the checkpoints that may become events now.

    The poller reads checkpoints after the log. While the job runs, a checkpoint may be newer than
    the log. It waits until the log has caught up; otherwise the measurements in between would be
    dropped.
    """
    steps = [entry.event.data["step"] for entry in snapshot.log if entry.event.data.get("step") is not None]
    if snapshot.ended or not steps:
        return snapshot.checkpoints
    return [checkpoint for checkpoint in snapshot.checkpoints if checkpoint.step <= max(steps)]


def _positive_int(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and value >= 1 else None
