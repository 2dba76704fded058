"""Follows the program of a run: its logs become events, its end becomes the last event."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.command import checkpoints
from backends.command.failures import failure_of
from backends.command.measurements import SUMMARY_COLUMN, NamedRow, Timeline, named
from backends.command.program import Program
from backends.command.run_folder import ProgramEnd, RunFolder
from backends.command.supervisor import write_durably
from backends.contract import (
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
from backends.training_logs.live_sources import LiveSource

BETTER_SOURCE_WAIT_S = 5.0
"""How long a log that says more may lag behind one that says less before the latter is followed."""


@dataclass
class _Place:
    """How far a log was read: which one, its rows, and the measurements made of them so far."""

    source: int
    rows: int = 0
    measured: int = 0
    timeline: Timeline = field(default_factory=Timeline)


class Follower:
    """Reads the logs of one run and keeps its events. Several processes may take turns."""

    def __init__(self, run: RunFolder, program: Program) -> None:
        self.run = self._run = run
        self._program = program
        self._request: TrainingRequest = run.request()
        self._sources: Sequence[LiveSource] = program.sources(run)
        self._place: _Place | None = None
        self._worse_since: float | None = None
        self.last_news_at = time.monotonic()

    def advance(self) -> None:
        """Store the events that happened since the last call. Does nothing after the last event."""
        with self._run.followed():
            if self._run.ended:
                return
            self._run.watch()
            # Read before the logs, so that everything that the program wrote is in them.
            end, is_supervised = self._run.end, self._run.is_supervised
            end = end or self._run.end
            before = len(self._run.events())
            self._run.append(self._beginning(end))
            self._read_logs(has_ended=end is not None or not is_supervised)
            if end is not None:
                self._run.append([self._last_event(end)])
            elif not is_supervised and self._run.has_started:
                failure = Failure(FailureKind.LOST, "the process that watched the program has died")
                self._run.append([Failed(failure)])
            if len(self._run.events()) > before:
                self.last_news_at = time.monotonic()

    def _beginning(self, end: ProgramEnd | None) -> Iterator[Event]:
        events = self._run.events()
        if not events:
            yield Queued()
        never_started = end is not None and end.code is None
        if not any(isinstance(event, Started) for event in events) and not never_started and self._run.has_started:
            yield Started(self._program.resolved(self._request))

    # ---------------------------------------------------------------------------------------- logs
    def _read_logs(self, *, has_ended: bool) -> None:
        place = self._place or self._stored_place() or self._chosen_place(has_ended=has_ended)
        if place is None:
            return
        self._place = place
        rows = self._sources[place.source].rows()
        place.rows = min(place.rows, len(rows))
        timeline = dataclasses.replace(place.timeline)
        events = list(timeline.measured(self._named(rows[place.rows :])))
        already = sum(isinstance(event, Measured) for event in self._run.events()) - place.measured
        self._run.append(events[max(0, already) :])
        if not events and place.rows == len(rows):
            return
        self._place = _Place(place.source, len(rows), place.measured + len(events), timeline)
        write_durably(self._run.path / "followed.json", json.dumps(dataclasses.asdict(self._place)))
        self._delete_checkpoints()

    def _named(self, rows: Sequence[Any]) -> list[NamedRow]:
        return [named(row, self._program.rename) for row in rows if SUMMARY_COLUMN not in row]

    def _stored_place(self) -> _Place | None:
        """Return how far an earlier process has read."""
        try:
            stored = json.loads((self._run.path / "followed.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return _Place(stored["source"], stored["rows"], stored["measured"], Timeline(**stored["timeline"]))

    def _chosen_place(self, *, has_ended: bool) -> _Place | None:
        """Return the beginning of the log to follow: the first one that has the metric to keep.

        A later one in the list is chosen only if the better ones still lack it after a while.
        """
        metric = self._request.evaluation.keep_metric
        having = [
            number
            for number, source in enumerate(self._sources)
            if any(metric in row.scores for row in self._named(source.rows()))
        ]
        if not having:
            return None
        if having[0] == 0 or has_ended:
            return _Place(having[0])
        self._worse_since = self._worse_since or time.monotonic()
        return _Place(having[0]) if time.monotonic() - self._worse_since >= BETTER_SOURCE_WAIT_S else None

    # ----------------------------------------------------------------------------------------- end
    def _last_event(self, end: ProgramEnd) -> Event:
        if end.cause == "stopped":
            return Stopped(self._model())
        if end.code != 0:
            return Failed(failure_of(end, self._run.last_lines(200)))
        if (failure := self._missing_metric()) is not None:
            return Failed(failure)
        return Finished(self._model() or str(self._run.output))

    def _model(self) -> str | None:
        """Return the path of the best state, or None if the program has kept none."""
        pattern = self._program.checkpoint_pattern(self._run)
        if pattern is not None:
            found = checkpoints.checkpoints_of(pattern)
            best = checkpoints.best_checkpoint(found, self._evaluations(), self._request.evaluation)
            if best is not None:
                return str(best.path)
        return str(self._run.output) if any(self._run.output.iterdir()) else None

    def _evaluations(self) -> list[Measured]:
        events = self._run.events()
        return [event for event in events if isinstance(event, Measured) and event.scope == "evaluation"]

    def _delete_checkpoints(self) -> None:
        pattern = self._program.checkpoint_pattern(self._run)
        if pattern is not None:
            checkpoints.delete_others(pattern, self._run.output, self._evaluations(), self._request.evaluation)

    def _missing_metric(self) -> Failure | None:
        metric = self._request.evaluation.keep_metric
        if any(metric in evaluation.values for evaluation in self._evaluations()):
            return None
        rows = [row for source in self._sources for row in self._named(source.rows())]
        found = sorted({name for row in rows for name in (*row.scores, *row.loop)})
        lines = "\n".join(self._run.last_lines(5)) or "It printed nothing."
        if found:
            hint = f"It reported {', '.join(found)}. Name one of them in `objective`, or `rename` a column."
        else:
            kinds = ", ".join(source.type for source in self._sources)
            hint = f"No number was found in its logs ({kinds}). Its last lines:\n{lines}"
        return Failure(FailureKind.USER, f"the program ended well, but never reported {metric}", hint)
