"""Runs as state machines: from an intent to a job to an end, pursued a little further whenever somebody asks.

Nothing here blocks for long. A host that is out of reach, a limit that is reached, a file that is being checked: each
sets the time before which the host is left alone, and the next question after that goes on. Who acts holds the run's
lock, so that processes can share a workspace.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from backends.contract import (
    TERMINAL,
    BackendError,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Queued,
    Stopped,
    TrainingRequest,
)
from backends.hosted import job_events
from backends.hosted.cost_estimation import Counting
from backends.hosted.declaration import asks_labels
from backends.hosted.failures import DAILY_WAIT_S, ServiceError, of_job
from backends.hosted.job_creation import Creation, NoJob, base_model, run_id
from backends.hosted.job_events import Seen
from backends.hosted.job_polling import Watch
from backends.hosted.journal import HostedRun, Journal
from backends.hosted.model_evaluation import Examination
from backends.hosted.options import HostedOptions
from backends.hosted.profile import JobStatus
from backends.hosted.rate_limiter import pause_s
from backends.hosted.service import Service
from backends.hosted.shared_jobs import Ladder

LOCK_WAIT_S = 30.0

TOLD_FROM_S = 30.0
"""What is waited for so long is told to people."""

_log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class Runs:
    """The runs of a workspace."""

    def __init__(
        self,
        options: HostedOptions,
        service: Service,
        journal: Journal,
        creation: Creation,
        counting: Counting,
        examination: Examination,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._options, self._host = options, options.profile
        self._service, self._journal = service, journal
        self._creation, self._counting, self._examination = creation, counting, examination
        self._ladder = Ladder(service, journal)
        self._watch = Watch(options, service, journal, clock)
        self._clock, self._sleep = clock, sleep

    def known(self, id_: str) -> HostedRun:
        """Return a run. Raises BackendError (lost) where this workspace has none of that name."""
        run = self._journal.run(id_)
        if run is None:
            message = f"there is no run {id_} in this workspace"
            raise BackendError(Failure(FailureKind.LOST, message, "submit it again: its job is found by its key"))
        return run

    def over(self, id_: str) -> bool:
        """Return whether a run has ended."""
        events = self._journal.events(id_)
        return bool(events) and isinstance(events[-1], TERMINAL)

    # ------------------------------------------------------------------------------------------------------------ begin
    def begin(self, request: TrainingRequest) -> str:
        """Write the run down and try to create its job. Returns the run's name; what has to wait is left to `advance`.

        Raises BackendError where the host refuses for good; a run that was new is then forgotten, so that it may come
        again under the same key.
        """
        id_ = run_id(request.key)
        with self._journal.acting_for(id_, LOCK_WAIT_S, self._sleep) as ours:
            new = self._journal.run(id_) is None
            self._journal.intend(id_, request, self._clock(), Queued())
            run = self.known(id_)
            if not ours or run.job is not None or self.over(id_):
                return id_
            try:
                self._pursue(run)
            except BackendError:
                if new and self.known(id_).attempted_at is None:
                    self._journal.forget(id_)
                raise
        return id_

    def _pursue(self, run: HostedRun) -> str | NoJob | None:
        if self._clock() < run.not_before:
            return None
        return self._bearing(run.id, lambda: None if self._is_part(run) else self._creation.pursue(run))

    def _is_part(self, run: HostedRun) -> bool:
        """Return whether a longer run has served this one, which then is over and needs no job."""
        if not self._options.epoch_ladder or run.stop or run.attempted_at is not None:
            return False
        rung = self._ladder.rung_for(run)
        if rung is None or self._creation.look_up(run.id) is not None:
            return False
        self._journal.keep_models(run.id, {rung.model: 0})
        self._tell(run.id, rung.events)
        return True

    # ---------------------------------------------------------------------------------------------------------- advance
    def advance(self, id_: str) -> None:
        """Bring a run as far as it can be brought now, unless another process does, or the host is left alone."""
        run = self.known(id_)
        if self.over(id_) or self._clock() < run.not_before:
            return
        with self._journal.acting_for(id_) as ours:
            if ours and not self.over(id_):
                self._advance(self.known(id_))

    def _advance(self, run: HostedRun) -> None:
        job: str | NoJob | None = run.job
        if job is None:
            try:
                job = self._pursue(run)
            except BackendError as error:
                if error.failure.kind.retryable or self.known(run.id).attempted_at is not None:
                    raise  # nobody knows whether there is a job: whoever asks again will find it, or create it
                self._tell(run.id, [Failed(error.failure)])  # refused for good, so there is none
                return
        if isinstance(job, NoJob):
            self._tell(run.id, [Stopped(None)])
        elif job is not None:
            self._follow(self.known(run.id), job)

    def _follow(self, run: HostedRun, job: str) -> None:
        if run.stop == 1:
            self._bearing(run.id, lambda: self._end_remotely(run.id, job))
            run = self.known(run.id)
        try:
            seen = self._bearing(run.id, lambda: self._watch.look(run, job))
        except BackendError as error:
            if error.failure.kind is not FailureKind.LOST:
                raise  # the job goes on, and can be followed again with a better key, say
            self._tell(run.id, [Failed(error.failure)])
            return
        if seen is None or self._waits_for_quota(run, job, seen):
            return
        request = run.training_request()
        if asks_labels(self._options) and request.dataset.labels:
            asked = self._examined(run, request, seen)
            if asked is None:
                return
            seen = asked
        price = self._options.usd_per_million_tokens(base_model(request))
        # a limit of money is to hold for what nobody has counted, too
        tariff = job_events.Tariff(price, self._counting.tokens_per_epoch(request).at_most)
        told = self._journal.events(run.id)
        new = job_events.further(request, self._host, tariff, told, seen)
        self._journal.append(run.id, len(told), new)
        if seen.job.trained_tokens and any(isinstance(each, Finished) for each in new):
            n_epochs = seen.job.hyperparameters.get("n_epochs", request.hyperparameters.get("n_epochs"))
            self._counting.learn(request, seen.job.trained_tokens, int(n_epochs or 0))
        if any(isinstance(each, Failed) and each.failure.kind is FailureKind.QUOTA for each in new):
            # who tries this run again waits, and the others too
            self._creation.leave_alone(DAILY_WAIT_S, "a limit of the account is reached")

    def _waits_for_quota(self, run: HostedRun, job: str, seen: Seen) -> bool:
        """Return whether a job failed for a limit of the account before it trained, as some do after being accepted.

        That is no failure of the run: it gets another job, when the account has been left alone for a while. What has
        begun to train, and may have cost something, is told as failed instead.
        """
        if seen.standing is not JobStatus.FAILED or seen.job.trained_tokens or len(self._journal.events(run.id)) > 1:
            return False
        failure = of_job(seen.job.error_code, seen.job.error_message, "")
        if failure.kind is not FailureKind.QUOTA or any("step" in (event.get("data") or {}) for _, event in seen.heard):
            return False
        _log.warning("job %s waits for a limit of the account, and is created again later: %s", job, failure.message)
        self._creation.leave_alone(DAILY_WAIT_S, failure.message)
        self._journal.note_wait(run.id, failure.message, self._clock() + DAILY_WAIT_S)
        self._journal.give_up(run.id, job)
        return True

    def _examined(self, run: HostedRun, request: TrainingRequest, seen: Seen) -> Seen | None:
        """Return what was seen with the answers of the trained model; None while there are questions left.

        A model that cannot be asked has been paid for all the same: it is the result, without these scores.
        """
        model = seen.job.model
        if not seen.whole or seen.standing is not JobStatus.SUCCEEDED or model is None:
            return dataclasses.replace(seen, examined=True)
        try:
            answers = self._bearing(run.id, lambda: self._examination.scores(request, model))
        except BackendError as error:
            _log.warning("the model %s was not asked the validation set: %s", model, error)
            return seen
        return None if answers is None else dataclasses.replace(seen, examined=True, answers=answers)

    def _tell(self, run: str, events: Sequence[Event]) -> None:
        self._journal.append(run, len(self._journal.events(run)), events)

    # ------------------------------------------------------------------------------------------------------------- stop
    def stop(self, id_: str) -> None:
        """Ask for a run's end; the host is asked at once, and again later where it cannot be reached. Idempotent."""
        run = self.known(id_)
        if self.over(id_) or run.stop:
            return
        self._journal.note(id_, stop=1, not_before=0.0)
        self.advance(id_)  # where another process acts for the run, it sees the wish

    def _end_remotely(self, run: str, job: str) -> None:
        if (self._options.stop or self._host.jobs.stop) == "pause":
            try:
                self._service.pause(job)
            except ServiceError as error:
                if error.failure.kind.retryable:
                    raise
                self._cancel(job)  # too early to pause
        else:
            self._cancel(job)
        self._journal.note(run, stop=2)

    def _cancel(self, job: str) -> None:
        try:
            self._service.cancel(job)
        except ServiceError as error:
            if error.failure.kind.retryable:
                raise
            # it has ended meanwhile, as its status will tell

    # --------------------------------------------------------------------------------------------------------- patience
    def _bearing(self, run: str, call: Callable[[], _Answer]) -> _Answer | None:
        """Return the call's answer; None where it failed in passing, which is noted, so that it is tried again later.

        Raises BackendError where trying again cannot help, or did not for longer than the patience. Without end, a
        limit that is reached is waited for, and a host that has, or may have, a job of the run: given up, the job would
        go on unwatched, and whoever tries the run anew would pay for another. A job that is not found is waited for as
        long as a new one may stay unlisted.
        """
        try:
            answer = call()
        except BackendError as error:
            kind = error.failure.kind
            if not kind.retryable:
                raise
            now, state = self._clock(), self.known(run)
            since = now if state.failing_since is None else state.failing_since
            longest = {FailureKind.TRANSIENT: self._options.patience_s, FailureKind.LOST: self._creation.grace_s}
            if kind in longest and now - since >= longest[kind]:
                if kind is FailureKind.LOST or (state.job is None and state.attempted_at is None):
                    self._journal.note(run, failures=0, failing_since=None)
                    raise
                _log.warning("the host of job %s is still out of reach: %s", state.job or "that may be", error)
                since = now
            asked_s = error.wait_s if isinstance(error, ServiceError) else None
            until = now + pause_s(state.failures + 1, asked_s)
            self._journal.note(run, failures=state.failures + 1, failing_since=since, not_before=until)
            if max(until - now, now - since) >= TOLD_FROM_S:
                self._journal.note_wait(run, error.failure.message, until)
            return None
        if self.known(run).failures:
            self._journal.note(run, failures=0, failing_since=None)
        return answer
