"""What a host says of a job -> the events of a run: a pure function of what was seen and what was said before.

Events that have a number keep it: each call only adds to what was emitted. Measurements are told in the order of their
steps, whichever order they came in; one that comes after a later step was told cannot be told any more. Hosts whose
measurements straggle have a settling time in their profile, in which they are waited for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.contract import (
    Charged,
    Checkpointed,
    Evaluation,
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
from backends.hosted.failures import of_job
from backends.hosted.profile import JobStatus, Metrics, Profile
from backends.hosted.result_files import Row
from backends.hosted.service import RemoteCheckpoint, RemoteJob


@dataclass(frozen=True)
class Seen:
    """All that is known of a job at a moment.

    `heard` are the host's events, each with the time at which it was first heard. `whole`: the job has ended, and
    everything that the host will say of it is here. `lost`: why it is given up, where it is. `examined`: the trained
    model is asked the validation set after the end, so the last evaluation waits for `answers`, what came out.
    """

    job: RemoteJob
    standing: JobStatus
    heard: Sequence[tuple[float, Mapping[str, Any]]]
    checkpoints: Sequence[RemoteCheckpoint] = ()
    rows: Sequence[Row] = ()
    now: float = 0.0
    whole: bool = False
    lost: Failure | None = None
    examined: bool = False
    answers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tariff:
    """What the run costs: a price where it is known, and the tokens of an epoch: counted, or the most they may be."""

    usd_per_million_tokens: float | None
    tokens_per_epoch: float


@dataclass
class _Point:
    """What was measured after a step."""

    at: float = math.inf
    values: dict[str, float] = field(default_factory=dict)
    epoch: float | None = None


def further(
    request: TrainingRequest, host: Profile, tariff: Tariff, emitted: Sequence[Event], seen: Seen
) -> list[Event]:
    """Return the events that follow those emitted. After the last one of a run there are none."""
    return list(_Course(request, host, tariff, emitted, seen).events())


def steps_per_epoch(told: Sequence[Event]) -> float | None:
    """Return how many steps an epoch has, judged by what was told of a run; None where nothing was."""
    points = [each for each in told if isinstance(each, Measured) and each.epoch > 0]
    return points[-1].step / points[-1].epoch if points else None


def kept_values(told: Sequence[Event], wanted: Evaluation) -> dict[int, float]:
    """Return the values, by step, of the metric that decides which state is kept."""
    return {
        each.step: each.values[wanted.keep_metric]
        for each in told
        if isinstance(each, Measured) and each.scope == "evaluation" and wanted.keep_metric in each.values
    }


def best(models: Mapping[int, str], values: Mapping[int, float], wanted: Evaluation) -> str | None:
    """Return the model of the step with the best value, the earlier one on a tie; None where none has a finite one."""
    sign = -1 if wanted.keep_maximum else 1
    scored = [(sign * values[step], step) for step in models if math.isfinite(values.get(step, math.nan))]
    return models[min(scored)[1]] if scored else None


class _Course:
    def __init__(
        self, request: TrainingRequest, host: Profile, tariff: Tariff, emitted: Sequence[Event], seen: Seen
    ) -> None:
        self._request, self._host, self._tariff, self._seen = request, host, tariff, seen
        self._checkpoints = _in_time(seen)
        self._points, self._total = _points(host.metrics, seen, self._checkpoints)
        self._n_epochs = _positive(seen.job.hyperparameters.get("n_epochs", request.hyperparameters.get("n_epochs")))
        self._started = any(isinstance(each, Started) for each in emitted)
        self._told = [each for each in emitted if isinstance(each, Measured | Checkpointed)]
        self._step = max((each.step for each in self._told), default=-1)
        self._epoch = max((each.epoch for each in self._told), default=0.0)

    def events(self) -> Iterator[Event]:
        """Yield what is new, in order."""
        over = self._seen.whole or self._seen.lost is not None
        if not self._started:
            if not self._may_start():
                if over:
                    yield from self._end()
                return
            self._started = True
            yield Started(self._resolved())
        yield from self._measurements(math.inf if over else self._settled())
        if over:
            yield from self._unplaced_answers()
            yield from self._end()

    # ------------------------------------------------------------------------------------------------------------ start
    def _may_start(self) -> bool:
        if self._points or self._seen.standing is JobStatus.SUCCEEDED:
            return True
        return self._seen.standing is JobStatus.TRAINING and self._n_epochs is not None

    def _resolved(self) -> dict[str, Scalar]:
        """Return the values in use: what the host says, which replaces "auto"; else what was asked for."""
        asked, used = self._request.hyperparameters, self._seen.job.hyperparameters
        resolved: dict[str, Scalar] = dict(asked)
        for name, value in used.items():
            if asked.get(name) != value:  # equal ones keep the type that they were asked for in
                resolved[name] = value
        if (per_epoch := self._steps_per_epoch()) is not None and per_epoch == int(per_epoch):
            resolved["steps_per_epoch"] = int(per_epoch)
        return {**resolved, "job": self._seen.job.id}

    # ---------------------------------------------------------------------------------------------------- measurements
    def _settled(self) -> float:
        """Return the last step that is told now: what came before it has had its time to arrive."""
        before = self._seen.now - self._host.jobs.settle_s
        settled = max((step for step, each in self._points.items() if each.at <= before), default=-1)
        if self._seen.examined and self._total is not None:
            return min(settled, self._total - 1)
        return settled

    def _measurements(self, last: float) -> Iterator[Event]:
        models = {each.step: each for each in self._checkpoints if each.model}
        for step in sorted({*self._points, *models}):
            if step < self._step or step > last:
                continue
            point = self._points.get(step, _Point())
            yield from self._running(step, point)
            yield from self._evaluation(step, point)
            if step in models and not self._has(Checkpointed, step):
                yield self._tell(Checkpointed(step, self._epoch_of(step, point, whole=True), models[step].model))

    def _running(self, step: int, point: _Point) -> Iterator[Event]:
        values = _named(point.values, self._host.metrics.step)
        if values and step > self._step:
            yield self._tell(Measured(step, self._epoch_of(step, point, whole=False), values, "step"))

    def _evaluation(self, step: int, point: _Point) -> Iterator[Event]:
        values = _named(point.values, self._host.metrics.evaluation)
        if step == max(self._points, default=None):
            values |= self._seen.answers
        if values and not self._has(Measured, step):
            yield self._tell(Measured(step, self._epoch_of(step, point, whole=True), values, "evaluation"))

    def _unplaced_answers(self) -> Iterator[Event]:
        """Yield the answers' scores where they could not join the last evaluation: it was told, or never measured."""
        answers = self._seen.answers
        told = (each.values.items() for each in self._told if isinstance(each, Measured))
        placed = not answers or any(answers.items() <= each for each in told)
        if not placed:
            epoch = max(self._epoch, float(self._n_epochs or 1))
            yield self._tell(Measured(max(self._step, 1), epoch, answers, "evaluation"))

    def _has(self, kind: type[Measured | Checkpointed], step: int) -> bool:
        """Return whether an evaluation, or a checkpoint, of this step was told."""
        return any(
            isinstance(each, kind) and each.step == step and getattr(each, "scope", "evaluation") == "evaluation"
            for each in self._told
        )

    def _tell(self, event: Measured | Checkpointed) -> Event:
        self._told.append(event)
        self._step, self._epoch = max(self._step, event.step), max(self._epoch, event.epoch)
        return event

    def _steps_per_epoch(self) -> float | None:
        if self._total is not None and self._n_epochs is not None:
            return self._total / self._n_epochs
        batch = _positive(self._seen.job.hyperparameters.get("batch_size"))
        return None if batch is None else float(math.ceil(self._request.dataset.train.examples / batch))

    def _epoch_of(self, step: int, point: _Point, *, whole: bool) -> float:
        """Return when a step is, in epochs. Where epochs have no whole number of steps, the first step at or past the
        end of one is its end; an evaluation or checkpoint (`whole`) just before it, too.

        Where nobody says how long an epoch is, evaluations are taken to be at the ends of epochs.
        """
        if step == 0:
            return 0.0
        if point.epoch is not None:
            return max(self._epoch, point.epoch)
        per_epoch = self._steps_per_epoch()
        if per_epoch is None:
            return self._by_counting(step, whole=whole)
        epoch = step / per_epoch
        ended = math.floor(epoch + 1e-9)
        if ended >= 1 and step - ended * per_epoch < 1 - 1e-9:
            epoch = float(ended)
        elif whole and (ended + 1) * per_epoch - step < 1 - 1e-9:
            epoch = float(ended + 1)
        return max(self._epoch, epoch)

    def _by_counting(self, step: int, *, whole: bool) -> float:
        earlier = {
            e.step for e in self._told if isinstance(e, Measured) and e.scope == "evaluation" and 0 < e.step < step
        }
        return max(self._epoch, float(len(earlier) + (1 if whole else 0)))

    # -------------------------------------------------------------------------------------------------------------- end
    def _end(self) -> Iterator[Event]:
        job, standing = self._seen.job, self._seen.standing
        succeeded = standing is JobStatus.SUCCEEDED and self._seen.lost is None
        yield from self._charge(
            succeeded=succeeded, free=standing is JobStatus.FAILED and self._host.jobs.failed_is_free
        )
        if self._seen.lost is not None:
            yield Failed(self._seen.lost)
        elif standing is JobStatus.FAILED:
            yield Failed(of_job(job.error_code, job.error_message, _last_words(self._seen.heard)))
        elif not succeeded:
            yield Stopped(self._kept())
        elif (model := self._kept()) is not None:
            yield Finished(model)
        else:
            words = _last_words(self._seen.heard) or "its safety evaluation may have blocked it"
            message = f"the job succeeded, but the host gives no model: {words}"
            yield Failed(Failure(FailureKind.USER, message, "look at the job in the host's own pages"))

    def _charge(self, *, succeeded: bool, free: bool) -> Iterator[Event]:
        tokens, estimated = self._seen.job.trained_tokens, False
        if tokens is None:
            tokens, estimated = math.ceil(self._epochs_begun(succeeded) * self._tariff.tokens_per_epoch), True
        price = self._tariff.usd_per_million_tokens
        if tokens:
            yield Charged(None if price is None else 0.0 if free else tokens * price / 1e6, tokens, estimated)

    def _epochs_begun(self, succeeded: bool) -> float:
        """Return how many epochs a job that has ended has trained, as far as can be said without its own count."""
        if succeeded:
            return float(self._n_epochs or self._epoch)
        # the host went on after the last word that was heard: the epoch under way counts in full
        begun = math.floor(self._epoch) + 1.0 if self._started else 0.0
        return min(begun, float(self._n_epochs or math.inf))

    def _kept(self) -> str | None:
        """Return the kept state: the best one by the request's metric of those that the host still has."""
        final = self._seen.job.model
        if final is not None and self._host.jobs.final_model == "best":
            return final
        wanted = self._request.evaluation
        models = {each.step: each.model for each in self._checkpoints if each.model}
        values = kept_values(self._told, wanted)
        if final is not None and values:
            models[max(values)] = final
        return best(models, values, wanted) or final or (models[max(models)] if models else None)


def _in_time(seen: Seen) -> Sequence[RemoteCheckpoint]:
    """Return the checkpoints that may be told now.

    They are read after the log. While the job goes on, one may be later than the log was: it has to wait until the log
    has come so far, else what lies between could not be told any more.
    """
    steps = [event["data"]["step"] for _, event in seen.heard if (event.get("data") or {}).get("step") is not None]
    if seen.whole or seen.lost is not None or not steps:
        return seen.checkpoints
    return [each for each in seen.checkpoints if each.step <= max(steps)]


def _points(
    metrics: Metrics, seen: Seen, checkpoints: Sequence[RemoteCheckpoint]
) -> tuple[dict[int, _Point], float | None]:
    """Return what was measured, by step, and how many steps the run has. What events say wins over what files say."""
    points: dict[int, _Point] = {}
    totals: list[float] = []
    told = [(at, event.get("data") or {}) for at, event in seen.heard]
    filed = [(seen.now, {**each.metrics, "step": each.step}) for each in checkpoints]
    for at, data in (*told, *filed, *((seen.now, row) for row in seen.rows)):
        step = data.get("step")
        values = _canonical(data, metrics)
        if not isinstance(step, int | float) or not values:
            continue
        point = points.setdefault(int(step), _Point())
        point.at = min(point.at, at)
        point.values = {**values, **point.values}
        if isinstance(epoch := data.get("epoch"), int | float) and point.epoch is None:
            point.epoch = float(epoch)
        if isinstance(total := data.get("total_steps"), int | float):
            totals.append(float(total))
    return points, max(totals, default=None)


def _canonical(data: Mapping[str, Any], metrics: Metrics) -> dict[str, float]:
    known = {*metrics.step, *metrics.evaluation}
    found = {}
    for name, value in data.items():
        canonical = name if name in known else metrics.aliases.get(name)
        if canonical not in known:
            continue
        number = _value(value, metrics)
        if number is not None:
            found[str(canonical)] = number
    return found


def _value(value: object, metrics: Metrics) -> float | None:
    if value is None:
        return math.nan if metrics.null_is_not_finite else None
    if isinstance(value, str):  # "NaN", from hosts that write JSON strictly
        try:
            return float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) else None


def _named(values: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    return {ours: values[theirs] for theirs, ours in names.items() if theirs in values}


def _positive(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and value >= 1 else None


def _last_words(heard: Sequence[tuple[float, Mapping[str, Any]]]) -> str:
    """Return the last complaint in the log: a job may fail with an empty error of its own, or its model be blocked."""
    errors = [event for _, event in heard if event.get("level") == "error" or (event.get("data") or {}).get("blocked")]
    return str(max(errors, key=lambda each: each.get("created_at", 0.0))["message"]) if errors else ""
