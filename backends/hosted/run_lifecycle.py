"""`RunLifecycle`: each run as a state machine, from the submitted request to a job to an end.

Each call advances a run as far as possible and returns soon. An unreachable host, a limit, a file
check: each sets the time before which the backend sends nothing, and a later call continues. The
caller that acts for a run holds its lock, so that several processes can share a workspace.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from backends.contract import (
    TERMINAL_EVENTS,
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
from backends.hosted.cost_estimation import CostEstimator
from backends.hosted.example_format import base_model_of
from backends.hosted.failures import DAILY_LIMIT_RETRY_S, HostError, job_failure
from backends.hosted.host_connection import HostConnection
from backends.hosted.job_creation import JobCreator, NoJob
from backends.hosted.job_events import JobSnapshot
from backends.hosted.job_polling import JobPoller
from backends.hosted.journal import HostedRun, run_id
from backends.hosted.model_evaluation import ModelEvaluator
from backends.hosted.profile import JobStatus
from backends.hosted.rate_limiter import backoff_s
from backends.hosted.shared_jobs import SharedJobs

LOCK_WAIT_S = 30.0

REPORTED_WAIT_S = 5.0
"""A wait, or an outage, of at least this length is reported to the user."""

STOP_REQUESTED, STOP_ACCEPTED = 1, 2
"""Values of `HostedRun.stop`."""

_log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class RunLifecycle:
    """The runs of a workspace."""

    def __init__(
        self, host: HostConnection, creator: JobCreator, estimator: CostEstimator, evaluator: ModelEvaluator
    ) -> None:
        self._host, self._options, self._client = host, host.options, host.client
        self._journal, self._runs, self._clock = host.journal, host.journal.runs, host.clock
        self._creator, self._estimator, self._evaluator = creator, estimator, evaluator
        self._shared_jobs = SharedJobs(host)
        self._poller = JobPoller(host)

    def get(self, id_: str) -> HostedRun:
        """Return a run. Raises BackendError (lost) if this workspace has no such run."""
        run = self._runs.get(id_)
        if run is None:
            message = f"this workspace has no run {id_}"
            raise BackendError(Failure(FailureKind.LOST, message, "Submit it again: its key leads to its job."))
        return run

    def has_ended(self, id_: str) -> bool:
        """Return whether a run has ended."""
        events = self._runs.events(id_)
        return bool(events) and isinstance(events[-1], TERMINAL_EVENTS)

    # ---------------------------------------------------------------------------------------- begin
    def begin(self, request: TrainingRequest) -> str:
        """Record the run and try to create its job.

        Returns the run's id; `advance` does what has to wait.

        Raises BackendError if the host rejects the request for good. A new run is then deleted, so
        that the same key can be submitted again.
        """
        id_ = run_id(request.key)
        with self._journal.lock(id_, LOCK_WAIT_S, self._host.sleep) as locked:
            is_new = self._runs.get(id_) is None
            self._runs.add(id_, request, self._clock(), Queued())
            run = self.get(id_)
            if not locked or run.job is not None or self.has_ended(id_):
                return id_
            try:
                self._find_or_create_job(run)
            except BackendError:
                if is_new and self.get(id_).attempted_at is None:
                    self._runs.delete(id_)
                raise
        return id_

    def _find_or_create_job(self, run: HostedRun) -> str | NoJob | None:
        """Return the run's job, or None if it has none yet or needs none."""
        if self._clock() < run.not_before:
            return None
        return self._tolerating_failures(
            run.id, lambda: None if self._end_by_shared_job(run) else self._creator.find_or_create(run)
        )

    def _end_by_shared_job(self, run: HostedRun) -> bool:
        """End the run with the first epochs of a longer run.

        Returns False if that is impossible or not allowed.
        """
        if not self._options.epoch_ladder or run.stop or run.attempted_at is not None:
            return False
        result = self._shared_jobs.result_for(run)
        if result is None or self._creator.find(run.id) is not None:
            return False
        self._journal.models.add(run.id, {result.model: 0})
        self._append(run.id, result.events)
        return True

    # -------------------------------------------------------------------------------------- advance
    def advance(self, id_: str) -> None:
        """Advance a run as far as possible now.

        Does nothing if another process acts for it, or it has to wait.
        """
        run = self.get(id_)
        if self.has_ended(id_) or self._clock() < run.not_before:
            return
        with self._journal.lock(id_) as locked:
            if locked and not self.has_ended(id_):
                self._advance(self.get(id_))

    def _advance(self, run: HostedRun) -> None:
        job: str | NoJob | None = run.job
        if job is None:
            try:
                job = self._find_or_create_job(run)
            except BackendError as error:
                if error.failure.kind.retryable or self.get(run.id).attempted_at is not None:
                    raise  # The job may exist: a later call finds it, or creates it.
                self._append(run.id, [Failed(error.failure)])  # rejected for good, so there is no job
                return
        if isinstance(job, NoJob):
            self._append(run.id, [Stopped(None)])
        elif job is not None:
            self._follow_job(self.get(run.id), job)

    def _follow_job(self, run: HostedRun, job: str) -> None:
        if run.stop == STOP_REQUESTED:
            self._tolerating_failures(run.id, lambda: self._stop_job(run.id, job))
            run = self.get(run.id)
        request = run.training_request()
        # A run that is to stop ends soon: it waits for no answers.
        has_questions = not run.stop and self._evaluator.has_questions(request)
        try:
            snapshot = self._tolerating_failures(
                run.id,
                lambda: self._poller.poll(run, job),
                # A host that reports jobs but answers no prompts would never count as failing.
                is_end=lambda snapshot: not (has_questions and _can_be_asked(snapshot)),
            )
        except BackendError as error:
            if error.failure.kind is not FailureKind.LOST:
                raise  # The job goes on. A later call can follow it again, with a valid key for example.
            self._append(run.id, [Failed(error.failure)])
            return
        if snapshot is None or self._abandon_for_quota(run, job, snapshot):
            return
        if has_questions:
            with_answers = self._with_answers(run, request, snapshot)
            if with_answers is None:
                return
            snapshot = with_answers
        self._record_progress(run, request, snapshot)

    def _record_progress(self, run: HostedRun, request: TrainingRequest, snapshot: JobSnapshot) -> None:
        """Append the new events, and learn what they say about tokens and limits."""
        # A spending limit must also hold while nobody has counted the tokens: charge the upper
        # bound.
        cost = job_events.TrainingCost(
            self._options.usd_per_million_tokens(base_model_of(request)),
            self._estimator.tokens_per_epoch(request).at_most,
        )
        previous = self._runs.events(run.id)
        new = job_events.new_events(request, self._host.profile, cost, previous, snapshot)
        self._runs.append_events(run.id, len(previous), new)
        job = snapshot.job
        if job.trained_tokens and any(isinstance(event, Finished) for event in new):
            n_epochs = job.hyperparameters.get("n_epochs", request.hyperparameters.get("n_epochs"))
            self._estimator.record_host_count(request, job.trained_tokens, int(n_epochs or 0))
        if any(isinstance(event, Failed) and event.failure.kind is FailureKind.QUOTA for event in new):
            # The next attempt of this trial waits, and so do the other trials.
            self._creator.block_creations(DAILY_LIMIT_RETRY_S, "the account has reached a limit")

    def _abandon_for_quota(self, run: HostedRun, job: str, snapshot: JobSnapshot) -> bool:
        """Abandon a job that failed for a limit of the account before it trained.

        Returns whether it did.

        Some hosts accept a job and then let it fail this way. That is not a failure of the run: it
        gets another job after a wait. A job that began to train may have cost something, so its run
        fails.
        """
        if snapshot.status is not JobStatus.FAILED or snapshot.job.trained_tokens:
            return False
        failure = job_failure(snapshot.job.error_code, snapshot.job.error_message, "")
        measured = any("step" in entry.event.data for entry in snapshot.log)
        if failure.kind is not FailureKind.QUOTA or measured or len(self._runs.events(run.id)) > 1:
            return False
        _log.warning("job %s reached a limit of the account; it will be created again later: %s", job, failure.message)
        self._creator.block_creations(DAILY_LIMIT_RETRY_S, failure.message)
        self._journal.accounts.set_wait(run.id, failure.message, self._clock() + DAILY_LIMIT_RETRY_S)
        self._runs.abandon_job(run.id, job)
        return True

    def _with_answers(self, run: HostedRun, request: TrainingRequest, snapshot: JobSnapshot) -> JobSnapshot | None:
        """Return the snapshot with the evaluation of the model, or None while that goes on.

        Raises BackendError if the model cannot be queried and the run has no value without it. The
        run goes on; a later call continues.
        """
        model = snapshot.job.model
        if not _can_be_asked(snapshot) or model is None:
            return dataclasses.replace(snapshot, scores_expected=True)
        evaluation = self._tolerating_failures(run.id, lambda: self._evaluator.evaluate(request, model))
        if evaluation is None:
            return None
        return dataclasses.replace(snapshot, scores_expected=True, model_evaluation=evaluation)

    def _append(self, id_: str, events: Sequence[Event]) -> None:
        self._runs.append_events(id_, len(self._runs.events(id_)), events)

    # ----------------------------------------------------------------------------------------- stop
    def stop(self, id_: str) -> None:
        """Request the end of a run.

        The host hears of it at once, or later if it is unreachable. Idempotent.
        """
        run = self.get(id_)
        if self.has_ended(id_) or run.stop:
            return
        self._runs.update(id_, stop=STOP_REQUESTED, not_before=0.0)
        self.advance(id_)  # If another process acts for the run, that process sees the request.

    def _stop_job(self, id_: str, job: str) -> None:
        if (self._options.stop or self._host.profile.jobs.stop) == "pause":
            try:
                self._client.pause(job)
            except HostError as error:
                if error.failure.kind.retryable:
                    raise
                self._cancel(job)  # too early to pause
        else:
            self._cancel(job)
        self._runs.update(id_, stop=STOP_ACCEPTED)

    def _cancel(self, job: str) -> None:
        try:
            self._client.cancel(job)
        except HostError as error:
            if error.failure.kind.retryable:
                raise
            # It has ended in the meantime; its status will show how.

    # ------------------------------------------------------------------------------------- failures
    def _tolerating_failures(
        self, id_: str, call: Callable[[], _Answer], is_end: Callable[[_Answer], bool] = lambda answer: True
    ) -> _Answer | None:
        """Return the result of the call, or None if it failed temporarily and the run has to wait.

        A result ends a series of failures, unless `is_end` denies that.

        Raises the call's BackendError if a retry cannot help, or has not helped for too long. How
        long depends:

        - An unreachable host: for `patience_s`. But a run that has a job, or may have one, never
          gives up: the job would go on unobserved, and the next attempt would pay for another.
        - A missing job: for as long as a new job may stay unlisted.
        - A limit of the account: without end.

        A call that the host has answered in part is no sign of an outage, so the pause stays short.
        Otherwise a host that fails now and then would be left alone ever longer.
        """
        answered = self._client.answered
        try:
            answer = call()
        except BackendError as error:
            if not error.failure.kind.retryable:
                raise
            if self._client.answered > answered:
                self._runs.update(id_, failures=min(self.get(id_).failures, 1))
            self._schedule_retry(id_, error)
            return None
        if self.get(id_).failures and is_end(answer):
            self._runs.update(id_, failures=0, failing_since=None)
        return answer

    def _schedule_retry(self, id_: str, error: BackendError) -> None:
        """Let the run wait after a temporary failure. Raises `error` if it has lasted too long."""
        kind, now, run = error.failure.kind, self._clock(), self.get(id_)
        failing_since = now if run.failing_since is None else run.failing_since
        tolerance_s = {FailureKind.TRANSIENT: self._options.patience_s, FailureKind.LOST: self._creator.grace_s}
        if kind in tolerance_s and now - failing_since >= tolerance_s[kind]:
            if kind is FailureKind.LOST or (run.job is None and run.attempted_at is None):
                self._runs.update(id_, failures=0, failing_since=None)
                raise error
            _log.warning("the host of job %s is still unreachable: %s", run.job or "(unknown)", error)
            failing_since = now
        requested_s = error.wait_s if isinstance(error, HostError) else None
        retry_at = now + backoff_s(run.failures + 1, requested_s)
        self._runs.update(id_, failures=run.failures + 1, failing_since=failing_since, not_before=retry_at)
        if max(retry_at - now, now - failing_since) >= REPORTED_WAIT_S:
            self._journal.accounts.set_wait(id_, error.failure.message, retry_at)


def _can_be_asked(snapshot: JobSnapshot) -> bool:
    """Return whether the job has a model that can answer."""
    return snapshot.complete and snapshot.status is JobStatus.SUCCEEDED and snapshot.job.model is not None
