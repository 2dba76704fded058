"""Follows the program of a run: its logs become events, its end becomes the last event.

A run may have several attempts: the program of the first one was lost, and another goes on from a
checkpoint or begins from scratch. The events continue. What an attempt measures at steps that the
events already have is left out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from backends.command import supervisor
from backends.command.checkpoints import Checkpoint, Checkpoints, checkpoints_of, files_of
from backends.command.failures import READ_LINES, failure_of
from backends.command.measurements import SUMMARY_COLUMN, NamedRow, Timeline, named
from backends.command.program import Program
from backends.command.run_folder import Attempt, ProgramEnd, RunFolder
from backends.contract import (
    Checkpointed,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Measured,
    Queued,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.training_logs.live_sources import LiveSource, Row

CHECKPOINTS_EVERY_S = 2.0
"""How soon a checkpoint without a new evaluation is noticed: a look costs more than the log."""


class Follower:
    """Reads the logs of one run and keeps its events. Several processes may take turns.

    The caller holds `run.followed()` during every method.
    """

    def __init__(self, run: RunFolder, program: Program, *, reports: bool = True) -> None:
        """Unless the run `reports`, it is a part of a trial whose first part measures for all."""
        self.run = run
        self._program, self._reports = program, reports
        self._request: TrainingRequest = run.request()
        self._worse_since: float | None = None
        self._looked_at_checkpoints = -CHECKPOINTS_EVERY_S
        self.last_news_at = time.monotonic()
        self._read_from_the_beginning(run.attempt)

    def _read_from_the_beginning(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._sources: Sequence[LiveSource] = self._program.sources(self.run)
        self._source: int | None = None
        self._looked_at = [0] * len(self._sources)
        self._with_metric = [False] * len(self._sources)
        self._rows: list[Row] = []
        self._timeline = Timeline()
        self._is_open = False
        self._events_seen = -1

    def advance(self) -> ProgramEnd | None:
        """Store the events that happened since the last call.

        Returns how the program ended if the run has not ended with it: another attempt may
        continue it, or `fail` ends it. Returns None otherwise.
        """
        if self.run.ended:
            return None
        self.run.watch()
        if (attempt := self.run.attempt) != self._attempt:  # another process has begun it
            self._read_from_the_beginning(attempt)
        # Read before the logs, so that everything that the program wrote is in them.
        end, is_supervised = self.run.end, self.run.is_supervised
        end = end or self.run.end or (None if is_supervised else self._end_without_supervisor())
        before = len(self.run.events())
        self.run.append(self._beginning())
        may_continue = end is not None and self._may_continue(end)
        self._read_log(has_ended=end is not None, is_complete=end is not None and not may_continue)
        if end is not None and not may_continue:
            self._end_run(self._last_event(end))
        if len(self.run.events()) > before:
            self.last_news_at = time.monotonic()
        return end if may_continue else None

    def fail(self, end: ProgramEnd) -> None:
        """End a run that nothing continues."""
        self._read_log(has_ended=True, is_complete=True)
        self._end_run(Failed(failure_of(end, self.run.last_lines(READ_LINES))))

    def fail_to_start(self) -> None:
        """End a run whose supervisor never started."""
        reason = self.run.last_error_of_supervisor() or "it printed nothing"
        self._end_run(Failed(Failure(FailureKind.LOST, f"the program's supervisor did not start: {reason}")))

    def _end_run(self, last: Event) -> None:
        if (found := self._checkpoints()) is not None:
            if found.best is not None and self._is_announced:
                self.run.link_best(found.best.path)
            found.delete_others(self.run.path, protected=(), has_ended=True)
        self.run.remove_draft_of_best()
        self.run.append([last])

    def _announce(self, found: Checkpoints) -> None:
        """Report that there is a model: a link to the best state so far.

        It is the model of a trial that is stopped early. Whoever stops it may not have read the
        latest events, so that the path must stay the same when a better state comes.
        """
        best = found.best
        if best is None or found.evaluation_of(best) is None or not self._is_proven(found, best):
            return
        link = self.run.link_best(best.path)
        if not self._is_announced:
            last = max(self._measured(), key=lambda event: event.step)
            self.run.append([Checkpointed(last.step, last.epoch, str(link))])

    @property
    def _is_announced(self) -> bool:
        return any(isinstance(event, Checkpointed) for event in self.run.events())

    def _end_without_supervisor(self) -> ProgramEnd | None:
        """Write how the program ended where no supervisor could.

        Ends what a killed supervisor left. None if nothing has started, or a supervisor runs again.
        """
        is_requested = self.run.stop_requested or self.run.pause_requested
        if not self.run.has_started and not is_requested:
            return None
        with self.run.unsupervised() as is_free:
            if is_free and self.run.end is None:
                supervisor.end_processes(self.run.path, 0.0)
                asked = supervisor.requested_end(self.run.path)
                self.run.write_end(ProgramEnd(None, asked or "lost"))
        return self.run.end

    def _may_continue(self, end: ProgramEnd) -> bool:
        if self.run.stop_requested or end.cause in ("stopped", "not started"):
            return False
        if end.may_continue:
            return True
        if end.cause != "ended" or end.code == 0:
            return False
        is_lost = self._failure(end).kind is FailureKind.LOST
        return is_lost and self.checkpoint_to_continue() is not None

    def _beginning(self) -> Iterator[Event]:
        if not self.run.events():
            yield Queued()
        if self.run.has_started and not self._has_begun:
            yield Started(self._program.resolved(self._request))

    @property
    def _has_begun(self) -> bool:
        return any(isinstance(event, Started) for event in self.run.events())

    # -------------------------------------------------------------------------------------- the log
    def _read_log(self, *, has_ended: bool, is_complete: bool) -> None:
        """Store the measurements of further rows; the last ones too if the log `is_complete`."""
        if not self._has_begun or not self._is_chosen(has_ended=has_ended):
            return
        rows = self._sources[self._source or 0].rows(has_ended=has_ended)
        if not self._is_open or not _begins_with(rows, self._rows):
            self._begin_log(rows)
        new = rows[len(self._rows) :]
        if not new and not is_complete:
            return
        timeline, measured = self._timeline.after(self._named(new))
        if is_complete:
            timeline, last = timeline.ended()
            measured += last
        events = list(self._not_stored(measured))
        self.run.append(events)
        self._rows, self._timeline = rows, timeline
        self._events_seen = len(self.run.events())
        if events and not is_complete:
            self._look_at_checkpoints(events)

    def _look_at_checkpoints(self, new: Sequence[Measured]) -> None:
        """Announce the best state and delete the others.

        Once a state is announced and there is no new evaluation, at most every few seconds.
        """
        now = time.monotonic()
        is_urgent = not self._is_announced or any(event.scope == "evaluation" for event in new)
        if not is_urgent and now - self._looked_at_checkpoints < CHECKPOINTS_EVERY_S:
            return
        self._looked_at_checkpoints = now
        if (found := self._checkpoints()) is not None:
            if earlier := [checkpoint for checkpoint in found.complete if checkpoint != found.found[-1]]:
                self.run.remember_checkpoint_files(files_of(earlier[-1].path))
            self._announce(found)
            found.delete_others(self.run.path, protected=(self._attempt.checkpoint,), has_ended=False)

    def _begin_log(self, rows: list[Row]) -> None:
        """Begin with the rows of this attempt: those of earlier ones may still be in the log."""
        attempt = self._attempt
        has_earlier = len(rows) >= attempt.rows and _digest(rows[: attempt.rows]) == attempt.digest
        self._rows = rows[: attempt.rows] if has_earlier else []
        self._timeline = attempt.timeline or Timeline(
            metric=self._request.evaluation.keep_metric,
            by_column=self._sources[self._source or 0].by_column,
            first_step=self._program.preset.first_step,
        )
        self._is_open, self._events_seen = True, -1

    def _not_stored(self, measured: Sequence[Measured]) -> Iterator[Measured]:
        """Yield the measurements that the events lack. Steps never decrease.

        Only a follower that has read everything itself knows that a further report of the training
        loop at the last step is a new one.
        """
        stored = self.run.events()
        knows_all = self._events_seen == len(stored)
        last = max((event.step for event in stored if isinstance(event, Measured)), default=-1)
        last_evaluation = max((event.step for event in self._evaluations()), default=-1)
        for event in measured:
            if event.scope == "evaluation":
                is_new = event.step > last_evaluation and event.step >= last
            else:
                is_new = event.step > last or (knows_all and event.step == last)
            if is_new:
                yield event
                knows_all, last = True, event.step
                last_evaluation = event.step if event.scope == "evaluation" else last_evaluation

    def _named(self, rows: Sequence[Row]) -> list[NamedRow]:
        return [named(row, self._program.rename) for row in rows if SUMMARY_COLUMN not in row]

    def _is_chosen(self, *, has_ended: bool) -> bool:
        """Choose the log to follow: the first one that has the metric to keep.

        A later one in the list is chosen only if the better ones still lack it after a while.
        """
        if self._source is None:
            self._source = self.run.followed_source
        if self._source is not None:
            return True
        having = (number for number in range(len(self._sources)) if self._has_metric(number, has_ended=has_ended))
        first = next(having, None)
        if first is None:
            return False
        self._worse_since = self._worse_since or time.monotonic()
        if first > 0 and not has_ended and time.monotonic() - self._worse_since < self._program.preset.log_delay_s:
            return False
        self.run.choose_source(first)
        self._source = first
        return True

    def _has_metric(self, number: int, *, has_ended: bool) -> bool:
        """Return whether a log has the metric to keep. Looks at each of its rows once."""
        rows = self._sources[number].rows(has_ended=has_ended)
        seen, self._looked_at[number] = self._looked_at[number], len(rows)
        metric = self._request.evaluation.keep_metric
        self._with_metric[number] |= any(metric in row.scores for row in self._named(rows[seen:]))
        return self._with_metric[number]

    # ----------------------------------------------------------------------------- another attempt
    def checkpoint_to_continue(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, if the program can continue from it.

        It must be newer than the one from which the current attempt began. The first checkpoint of
        a run can be compared with none: it counts once the program has reported a later step.
        """
        found = self._checkpoints()
        if self._program.resume is None or found is None or not found.complete:
            return None
        newest, begun = found.complete[-1], self._attempt.checkpoint
        if not self._is_proven(found, newest):
            return None
        begun_from = next((checkpoint.number for checkpoint in found.found if str(checkpoint.path) == begun), -1)
        return newest if newest.number > begun_from else None

    def _is_proven(self, found: Checkpoints, checkpoint: Checkpoint) -> bool:
        if len(found.complete) > 1 or checkpoint != found.found[-1] or found.expected:
            return True
        evaluation = found.evaluation_of(checkpoint)
        step = checkpoint.number if evaluation is None else evaluation.step
        return any(event.step > step for event in self._measured())

    def begin_attempt(self, *, only_from_checkpoint: bool) -> bool:
        """Prepare another attempt: from a checkpoint, or else from scratch.

        Returns False if there is no checkpoint and nothing else is allowed.
        """
        checkpoint = self.checkpoint_to_continue()
        if checkpoint is None and only_from_checkpoint:
            return False
        if checkpoint is None and self._program.resume is not None and self._attempt.checkpoint is not None:
            begun = Path(self._attempt.checkpoint)  # it got no further, through no fault of its own
            found = self._checkpoints()
            checkpoint = next((other for other in found.complete if other.path == begun), None) if found else None
        source = self.run.followed_source
        rows = [] if source is None else self._sources[source].rows(has_ended=True)
        timeline = None if checkpoint is None else self._timeline_at(checkpoint)
        path = None if checkpoint is None else str(checkpoint.path)
        attempt = Attempt(self._attempt.number + 1, path, len(rows), _digest(rows), timeline)
        self.run.begin_attempt(attempt)
        self._read_from_the_beginning(attempt)
        return True

    def _timeline_at(self, checkpoint: Checkpoint) -> Timeline:
        """Return the timeline on which a program goes on that continues from a checkpoint."""
        found, evaluations = self._checkpoints(), self._evaluations()
        evaluation = None if found is None else found.evaluation_of(checkpoint)
        last = -1 if evaluation is None else evaluation.step
        before = [event for event in evaluations if event.step <= last]
        return replace(
            self._timeline,
            step=max(0, last),
            epoch=0.0 if evaluation is None else evaluation.epoch,
            evaluations=sum(event.step > 0 for event in before),
            evaluated_step=last,
            has_steps=False,
            steps_before=0,
            log_step=None,
            log_epoch=None,
            known=(),
            is_evaluated=False,
            scores={},
            loop={},
            losses=(),
        )

    # ----------------------------------------------------------------------------------------- end
    def _last_event(self, end: ProgramEnd) -> Event:
        if end.cause == "stopped" or (self.run.stop_requested and end.may_continue):
            return Stopped(self._model())
        if end.code != 0:
            return Failed(self._failure(end))
        if (failure := self._missing_metric(end)) is not None:
            return Failed(failure)
        return Finished(self._model() or str(self.run.output))

    def _failure(self, end: ProgramEnd) -> Failure:
        begun = self._attempt.timeline
        is_no_further = begun is not None and all(event.step <= begun.evaluated_step for event in self._evaluations())
        return failure_of(end, self.run.last_lines(READ_LINES), continued=is_no_further)

    def _model(self) -> str | None:
        """Return the path of the best state, or None if the program has kept none."""
        found = self._checkpoints()
        if found is not None and (best := found.best) is not None:
            return str(best.path)
        output = self.run.output
        return str(output) if output.is_dir() and any(output.iterdir()) else None

    def _measured(self) -> list[Measured]:
        return [event for event in self.run.events() if isinstance(event, Measured)]

    def _evaluations(self) -> list[Measured]:
        return [event for event in self._measured() if event.scope == "evaluation"]

    def _checkpoints(self) -> Checkpoints | None:
        """Return the checkpoints that are on disk now; None if the program names none."""
        pattern = self._program.checkpoint_pattern(self.run)
        if pattern is None:
            return None
        from_zero = bool(self._timeline.epochs_from_zero)
        return Checkpoints(
            checkpoints_of(pattern),
            self._evaluations(),
            self._request.evaluation,
            from_zero,
            self.run.checkpoint_files,
        )

    def _missing_metric(self, end: ProgramEnd) -> Failure | None:
        metric = self._request.evaluation.keep_metric
        if not self._reports or any(metric in evaluation.values for evaluation in self._evaluations()):
            return None
        rows = [row for source in self._sources for row in self._named(source.rows(has_ended=True))]
        found = sorted({name for row in rows for name in (*row.scores, *row.loop)})
        lines = "\n".join(self.run.last_lines(5)) or "It printed nothing."
        if end.left_behind:
            hint = f"It ended while {end.left_behind} of its processes still ran. Let `run` wait for their end."
        elif found:
            hint = f"It reported {', '.join(found)}. Name one of them in `objective`, or `rename` a column."
        else:
            kinds = ", ".join(source.type for source in self._sources)
            hint = f"No number was found in its logs ({kinds}). Its last lines:\n{lines}"
        return Failure(FailureKind.USER, f"the program ended well, but never reported {metric}", hint)


def _begins_with(rows: Sequence[Row], known: Sequence[Row]) -> bool:
    first = rows[: len(known)]
    return first == known or repr(first) == repr(known)  # NaN is not equal to itself


def _digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256(repr(list(rows)).encode()).hexdigest()
