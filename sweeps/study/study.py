"""The study of a sweep: it proposes trials, queues points and records results in an Optuna storage.

The storage is the record that survives a process; Ray Tune's own experiment state is not.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from backends import codec
from backends.contract import FailureKind, Scalar
from search_spaces.space import ResolvedSpace
from sweeps.errors import Problem, UserInputError
from sweeps.spec.objective import Objective
from sweeps.spec.sweep_file import SearchSpec
from sweeps.study import attributes, records
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult
from sweeps.study.memory_limit import MemoryLimit
from sweeps.study.point_queue import PointQueue, owed_retries, repetition_of, retry_of, waiting_points
from sweeps.study.records import RecordWriter
from sweeps.study.samplers import grid_points, make_sampler, random_point
from sweeps.study.steered_sampler import Proposer
from sweeps.study.steering import Change
from sweeps.study.storage import open_storage, write_batch
from sweeps.trials.running_ledger import RunningLedger
from sweeps.trials.tally import SearchTally
from sweeps.trials.trial import Spend, StoppedBy, Trial, TrialState
from sweeps.verdicts.verdict import VerdictKind

MAX_DUPLICATES_IN_A_ROW = 50
"""A sampler that proposes this many known points in a row has nothing new to offer."""


MAX_LEFT_OUT_IN_A_ROW = 3
"""After this many points in a row that would run out of memory, the next ones are drawn at random:
some samplers learn nothing from such a point and propose it again and again."""


class NoTrial(Enum):
    """Why there is no next trial."""

    WAIT = "wait"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True)
class StudyDefinition:
    """What a study searches. `fingerprint` identifies it: a study cannot go on with another one.

    A new study tries `first_points` first, then the seed points of the space. `memory_drivers` are
    the hyperparameters on which the memory of a run depends.
    """

    name: str
    fingerprint: str
    space: ResolvedSpace
    objectives: Sequence[Objective]
    search: SearchSpec
    base_model: str
    first_points: Sequence[Mapping[str, Scalar]] = ()
    memory_drivers: Collection[str] = ()


class Study:
    """Asks for trials and keeps their records, in an Optuna storage that other programs can read.

    Every change is stored before the method returns. In Optuna a `failed` trial is FAIL, a
    `stopped` one PRUNED and a `complete` one COMPLETE. A trial that was stopped because it
    overfitted is COMPLETE too: its best epoch is behind it. A trial that ran out of memory is
    PRUNED, because samplers learn nothing from FAIL, and the sampler's points that need at least as
    much memory are then left out (see `memory_limit`). If a process dies and leaves trials
    running, `ask` offers them again under their old keys before it proposes anything new, and
    queues the retries that the process owed. `tally` holds figures over the ended trials of the
    search, and `ledger` what all trials cost.
    """

    def __init__(self, study: optuna.Study, storage: optuna.storages.BaseStorage, definition: StudyDefinition) -> None:
        """Take over the trials of `study`, which lives in `storage`. See `open`."""
        self._study = study
        self._storage = storage
        self._writer = RecordWriter(storage, study.study_name)
        self._space = definition.space
        self._base_model = definition.base_model
        self._seed = definition.search.seed
        self._has_one_objective = len(definition.objectives) == 1
        self._memory_limit = MemoryLimit(definition.memory_drivers)
        self._trials: dict[int, Trial] = {}
        self._search_trials: dict[int, Trial] = {}
        self._repeats: dict[int, Trial] = {}
        self._trial_by_point: dict[str, int] = {}
        self._retry_of: dict[int, int] = {}
        self._retried: set[int] = set()
        self._waiting_duplicates: dict[int, list[int]] = {}
        self._interrupted: deque[int] = deque()
        self._were_interrupted: set[int] = set()
        self._running: set[int] = set()
        self._ended_count = 0
        self.tally = SearchTally(definition.objectives[0])
        self.ledger = RunningLedger()
        self._proposer: Proposer | None = None
        self._queue = PointQueue()
        self._stored_point_of: dict[int, int] = {}
        attrs = study.user_attrs
        self.sweep_id = str(attrs[attributes.SWEEP_ID])
        self._steering = [codec.from_json(Change, change) for change in attrs.get(attributes.STEERING, [])]
        self._finals = codec.from_json(FinalsResult | None, attrs.get(attributes.FINALS))
        self._finished = attrs.get(attributes.FINISHED)
        self._earlier_stop_request = attrs.get(attributes.STOP_REQUEST)
        self._seconds_used = float(attrs.get(attributes.SECONDS, 0.0))
        self._settled = records.settled_spends(attrs)
        self._deleted_models: set[int] = set(attrs.get(attributes.DELETED_MODELS, ()))
        self._stored_points: list[dict[str, Scalar]] = list(attrs.get(attributes.QUEUED_POINTS, ()))
        frozen_trials = study.get_trials(deepcopy=False)
        with write_batch(storage):
            for frozen in frozen_trials:
                self._restore(frozen)
        self.tally.sort_by_end()
        self._waiting = deque(waiting_points(frozen_trials))
        if attributes.QUEUED_POINTS in attrs:
            self._take_back_waiting()
        for frozen in self._waiting:
            self._queue.mark_taken(frozen.user_attrs)
        self._queue.add_stored(self._stored_points)
        for owed in owed_retries(self._trials.values()):
            self._queue.add(owed)
            self._set_retried(owed.origin[attributes.RETRY_OF])

    @classmethod
    def open(cls, location: str | Path, definition: StudyDefinition) -> Study:
        """Open the defined study, or create it.

        `location` is the path of a journal file or the URL of a database. Raises UserInputError if
        the stored study has another fingerprint, and SweepError if the storage cannot be opened.
        """
        storage = open_storage(location)
        search = definition.search
        with write_batch(storage):
            study = _load_or_create(storage, definition)
            if set_aside := study.user_attrs.get(attributes.SET_ASIDE):  # written by version 0.1
                stored = study.user_attrs.get(attributes.QUEUED_POINTS, [])
                study.set_user_attr(attributes.QUEUED_POINTS, [*stored, *set_aside])
                study.set_user_attr(attributes.SET_ASIDE, [])
        ended = (OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL)
        past_trials = len(study.get_trials(deepcopy=False, states=ended))
        study.sampler = make_sampler(search, definition.space, past_trials=past_trials)
        return cls(study, storage, definition)

    def _restore(self, frozen: FrozenTrial) -> None:
        if attributes.RECORD not in frozen.user_attrs:
            if frozen.state is OptunaState.RUNNING:
                # The process died before it recorded the trial. Nothing was submitted, and a queued
                # point is still in the queue, because no recorded trial has its origin.
                self._study.tell(frozen.number, state=OptunaState.FAIL)
            return
        trial = records.read_record(frozen, self._settled, self._deleted_models)
        if records.was_set_aside(frozen, trial):
            return
        if attributes.RETRY_OF in frozen.user_attrs:
            retried = int(frozen.user_attrs[attributes.RETRY_OF])
            self._retry_of[trial.number] = retried
            self._set_retried(retried)
        self._queue.mark_taken(frozen.user_attrs)
        self._remember(trial)
        if frozen.state is not OptunaState.RUNNING:
            return
        self._writer.restore(frozen)
        if trial.state.ended and trial.ended_at is not None:
            self.tell(trial)  # the process died after it closed the trial and before it told Optuna
        elif trial.duplicate_of is not None:
            self._resolve_duplicate(trial)
        else:
            self._interrupted.append(trial.number)
            if attributes.QUEUED_POINT in frozen.user_attrs:
                self._stored_point_of[trial.number] = int(frozen.user_attrs[attributes.QUEUED_POINT])

    def _take_back_waiting(self) -> None:
        """Empty Optuna's own queue: the process died after it put a point there.

        The point is in the queue again, because no recorded trial has its origin.
        """
        while self._waiting:
            self._waiting.popleft()
            self._study.tell(self._study.ask(), state=OptunaState.FAIL)

    # ----------------------------------------------------------------------------------- trials
    @property
    def trials(self) -> list[Trial]:
        """Every recorded trial in the order of the numbers, including duplicates."""
        return list(self._trials.values())

    def trial(self, number: int) -> Trial:
        """Return the recorded trial of this number. Raises KeyError."""
        return self._trials[number]

    @property
    def search_trials(self) -> list[Trial]:
        """The trials of the search: no duplicates, and of a retried trial the last attempt."""
        return list(self._search_trials.values())

    @property
    def search_trial_count(self) -> int:
        """How many `search_trials` there are, with the retries that are still queued."""
        return len(self._search_trials) + self._queue.owed_search_trials

    @property
    def repeats(self) -> list[Trial]:
        """The trials of the finals, each a point of the search with another seed.

        Of a retried trial only the last attempt is included.
        """
        return list(self._repeats.values())

    @property
    def has_interrupted(self) -> bool:
        """True while `ask` still has to offer a trial that an earlier process left running."""
        return bool(self._interrupted)

    def ask(self, *, only_repetitions: bool = False) -> Trial | NoTrial:
        """Return the next trial, recorded: an interrupted one, else the next new point.

        With `only_repetitions` a new point is a retry or a repetition for the finals; there must be
        one, see `has_queued`. `ask` returns no duplicates. A point equal to that of an ended trial
        takes over its result; a point equal to that of a running trial waits for it.
        """
        if self._interrupted:
            number = self._interrupted.popleft()
            self._were_interrupted.add(number)
            return self._trials[number]
        size, left_out = self._space.size(), 0
        for _ in range(MAX_DUPLICATES_IN_A_ROW):
            if size is not None and len(self._trial_by_point) >= size and not self.has_queued:
                break
            with write_batch(self._storage):
                trial = self._ask_optuna(only_repetitions, at_random=left_out >= MAX_LEFT_OUT_IN_A_ROW)
                if trial is None:
                    left_out += 1
                    continue
                if trial.duplicate_of is None:
                    return trial
                self._resolve_duplicate(trial)
        return NoTrial.WAIT if self._running else NoTrial.EXHAUSTED

    def _ask_optuna(self, only_repetitions: bool, *, at_random: bool) -> Trial | None:
        """Return the next point as a recorded trial; None if it would run out of memory.

        Only new points are left out, never a queued one. With `at_random` a new point comes from
        the whole space instead of the sampler.
        """
        is_sampled = False
        if self._waiting:
            self._waiting.popleft()  # `ask` of Optuna takes the waiting trials in their order
        elif (queued := self._queue.take(only_repetitions=only_repetitions)) is not None:
            self._study.enqueue_trial(dict(queued.point), user_attrs=dict(queued.origin))
        else:
            is_sampled = True
            if at_random:
                self._study.enqueue_trial(
                    random_point(self._space, self._seed + len(self._study.get_trials(deepcopy=False)))
                )
            elif self._proposer is not None:
                self._study.enqueue_trial(self._proposer.propose())
        proposed = self._study.ask()
        attrs = proposed.user_attrs
        retry_of, repeat_of = attrs.get(attributes.RETRY_OF), attrs.get(attributes.REPEAT_OF)
        point = self._space.suggest(proposed)
        if is_sampled and self._memory_limit.excluded_by(point, self._space) is not None:
            # Without a record, the proposal is no trial of the sweep.
            self._tell_sampler(proposed.number, state=OptunaState.PRUNED)
            return None
        is_deliberate = retry_of is not None or repeat_of is not None
        trial = Trial(
            number=proposed.number,
            key=f"{self.sweep_id}-{proposed.number:04d}",
            base_model=str(point.get("base_model", self._base_model)),
            hyperparameters=point,
            seed=int(attrs.get(attributes.SEED, self._seed)),
            started_at=time.time(),
            duplicate_of=None if is_deliberate else self._trial_by_point.get(_point_key(point)),
            repeat_of=repeat_of,
        )
        if retry_of is not None:
            self._retry_of[trial.number] = int(retry_of)
        if attributes.QUEUED_POINT in attrs:
            self._stored_point_of[trial.number] = int(attrs[attributes.QUEUED_POINT])
        self.record(trial)
        return trial

    def was_interrupted(self, number: int) -> bool:
        """Return whether `ask` has offered this trial again, so that its run may exist already."""
        return number in self._were_interrupted

    def take_interrupted(self) -> list[Trial]:
        """Return the trials that `ask` would offer again, and offer them no more."""
        interrupted = [self._trials[number] for number in self._interrupted]
        self._interrupted.clear()
        return interrupted

    def offer_again(self, trial: Trial) -> None:
        """Let `ask` return a running trial again, whose worker was lost with its machine."""
        self._interrupted.append(trial.number)

    def record(self, trial: Trial, new_values: Mapping[int, float] = MappingProxyType({})) -> None:
        """Store the present state of a trial that has not been told.

        Writes only the evaluations that are new. `new_values` are reported to Optuna, see `report`.
        """
        self._remember(trial)
        with write_batch(self._storage):
            self._writer.write(trial)
            for evaluation, value in new_values.items():
                self.report(trial, evaluation, value)

    def report(self, trial: Trial, evaluation: int, value: float) -> None:
        """Store the objective after an evaluation, whose index counts from 1.

        The first value of an index stays. Ignored with several objectives, because Optuna cannot
        compare those before the end.
        """
        if self._has_one_objective and math.isfinite(value):
            self._writer.report(trial.number, evaluation, value)

    def tell(self, trial: Trial) -> None:
        """Store an ended trial and tell the sampler.

        If the trial says that it will be retried, its point is queued again as a new trial. Raises
        ValueError for a trial that has not ended.
        """
        if not trial.state.ended:
            raise ValueError(f"trial {trial.number} has not ended")
        with write_batch(self._storage):
            self.record(trial)
            best_is_behind_it = trial.stopped_by is StoppedBy.VERDICT and not _has_diverged(trial)
            if trial.values is not None and (trial.state is TrialState.COMPLETE or best_is_behind_it):
                self._tell_sampler(trial.number, list(trial.values))
            elif trial.state is TrialState.STOPPED or trial.failure is FailureKind.OUT_OF_MEMORY:
                self._tell_sampler(trial.number, state=OptunaState.PRUNED)
            else:
                self._tell_sampler(trial.number, state=OptunaState.FAIL)
            self._writer.forget(trial.number)
            self._stored_point_of.pop(trial.number, None)
            for number in self._waiting_duplicates.pop(trial.number, []):
                self._resolve_duplicate(self._trials[number])
        if trial.will_retry:
            self._queue.add(retry_of(trial))
            self._set_retried(trial.number)

    def _tell_sampler(
        self, number: int, values: Sequence[float] | None = None, state: OptunaState | None = None
    ) -> None:
        frozen = self._study.tell(number, values, state)
        if self._proposer is not None:
            self._proposer.tell(frozen)

    @property
    def settled_later(self) -> Set[int]:
        """The numbers of the trials whose final cost an earlier process stored after their end."""
        return self._settled.keys()

    def settle(self, number: int, spend: Spend) -> Trial:
        """Store the final cost of an ended trial, which is known only after its end.

        Returns the trial.
        """
        self._study.set_user_attr(attributes.settled(number), codec.to_json(spend))
        self._remember(replace(self._trials[number], spend=spend, settled=True))
        return self._trials[number]

    def mark_models_deleted(self, trials: Iterable[Trial]) -> None:
        """Store that the models of these trials are deleted."""
        self._deleted_models |= {trial.number for trial in trials}
        self._study.set_user_attr(attributes.DELETED_MODELS, sorted(self._deleted_models))
        for number in self._deleted_models:
            self._remember(replace(self._trials[number], model=None))

    def attempts(self, trial: Trial) -> int:
        """Return how many times the point of this trial has been tried, this trial included.

        Attempts that failed for a cause that the user mended since then do not count.
        """
        attempts, number = 1, trial.number
        while number in self._retry_of:
            number = self._retry_of[number]
            attempts += self._trials[number].failure is not FailureKind.USER
        return attempts

    # ------------------------------------------------------------------------------------ queue
    @property
    def has_queued(self) -> bool:
        """True while the queue holds a retry or a repetition for the finals.

        These are known points that are trained again.
        """
        deliberate = {attributes.RETRY_OF, attributes.REPEAT_OF}
        return self._queue.has_repetitions or any(deliberate & set(frozen.user_attrs) for frozen in self._waiting)

    def queue_probe(self, point: Mapping[str, Scalar]) -> None:
        """Queue a point before the sampler's proposals.

        A point that is known already is not trained again.
        """
        self._store_points([*self._stored_points, dict(point)])
        self._queue.add_stored(self._stored_points)

    def queue_repeats(self, trials: Sequence[Trial], seeds: int) -> None:
        """Queue the points of these trials with `seeds` other seeds each. Idempotent.

        The seeds follow the sweep's own seed, so that every candidate gets the same ones.
        """
        for offset in range(1, seeds + 1):
            for trial in trials:
                self._queue.add(repetition_of(trial, self._seed + offset))

    def set_aside(self, trial: Trial) -> None:
        """Take back a trial that was asked for and not started.

        The trial disappears from this study. The next `open` queues its point, as a new trial; that
        of a retry or a repetition for the finals follows from the records.
        """
        with write_batch(self._storage):
            is_derived = trial.repeat_of is not None or trial.number in self._retry_of
            if trial.number not in self._stored_point_of and not is_derived:
                self._stored_point_of[trial.number] = len(self._stored_points)
                self._store_points([*self._stored_points, dict(trial.hyperparameters)])
            self._study.tell(trial.number, state=OptunaState.FAIL)
        if trial.number in self._stored_point_of:
            self._queue.forget_stored(self._stored_point_of.pop(trial.number))
        self._writer.forget(trial.number)
        for trials in (self._trials, self._search_trials, self._repeats):
            trials.pop(trial.number, None)
        self.ledger.remove(trial.number)
        self._running.discard(trial.number)
        self._trial_by_point.pop(_point_key(trial.hyperparameters), None)

    def _store_points(self, points: list[dict[str, Scalar]]) -> None:
        self._study.set_user_attr(attributes.QUEUED_POINTS, points)
        self._stored_points = points

    # --------------------------------------------------------------------------------- steering
    @property
    def steering(self) -> list[Change]:
        """The changes made to the space so far, in their order."""
        return list(self._steering)

    def steer(
        self,
        changes: Sequence[Change],
        space: ResolvedSpace,
        search: SearchSpec,
        probes: Sequence[Mapping[str, Scalar]] = (),
    ) -> None:
        """Store changes of the space, and from now on propose points of `space`, the changed space.

        Queues the points `probes` before the sampler's proposals. Without changes, only replaces
        the space. Recorded trials stay as they are; the sampler learns from those that lie in the
        new space.
        """
        with write_batch(self._storage):
            for probe in probes:
                self.queue_probe(probe)
            if changes:
                self._steering = [*self._steering, *changes]
                self._study.set_user_attr(attributes.STEERING, [codec.to_json(change) for change in self._steering])
        self._space = space
        past = self._study.get_trials(deepcopy=False)
        self._study.sampler = optuna.samplers.RandomSampler(seed=search.seed)  # it only passes on queued points
        self._proposer = Proposer(space, make_sampler(search, space, len(past)), self._study.directions, past)

    # ------------------------------------------------------------------------ state of the sweep
    @property
    def seconds_used(self) -> float:
        """Seconds that the runs of this sweep have taken, as stored by `add_seconds`."""
        return self._seconds_used

    def add_seconds(self, seconds: float) -> None:
        """Add to the time that the sweep has used."""
        self._seconds_used += seconds
        self._study.set_user_attr(attributes.SECONDS, self._seconds_used)

    @property
    def finals(self) -> FinalsResult | None:
        """The stored result of the finals; None before they are decided."""
        return self._finals

    def store_finals(self, result: FinalsResult) -> None:
        """Store the result of the finals."""
        self._study.set_user_attr(attributes.FINALS, codec.to_json(result))
        self._finals = result

    def store_champion(self, decision: ChampionDecision) -> None:
        """Store the outcome of the challenge. A later challenge of the same sweep replaces it."""
        self._study.set_user_attr(attributes.CHAMPION, codec.to_json(decision))

    def stop_is_requested(self) -> bool:
        """Return whether another process has called `request_stop` since this one began."""
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        request = self._storage.get_study_user_attrs(study_id).get(attributes.STOP_REQUEST)
        return request not in (None, self._earlier_stop_request)

    @property
    def is_finished(self) -> bool:
        """Whether `store_finished` was called after the last trial ended."""
        return bool(self._finished == self._ended_count)

    def store_finished(self) -> None:
        """Store that the work after the trials is done: finals, challenge, report, MLflow."""
        self._finished = self._ended_count
        self._study.set_user_attr(attributes.FINISHED, self._finished)

    # ---------------------------------------------------------------------------------- internals
    def _remember(self, trial: Trial) -> None:
        """Keep the record of a trial, and every index over the trials."""
        earlier = self._trials.get(trial.number)
        self._trials[trial.number] = trial
        self._memory_limit.learn(trial)
        self._ended_count += trial.state.ended - (earlier is not None and earlier.state.ended)
        if trial.state.ended:
            self._running.discard(trial.number)
        else:
            self._running.add(trial.number)
        is_original, counts = trial.duplicate_of is None, trial.number not in self._retried
        self.ledger.update(trial, may_become_finalist=is_original and counts and trial.repeat_of is None)
        if not is_original:
            return
        if counts:
            (self._search_trials if trial.repeat_of is None else self._repeats)[trial.number] = trial
            if trial.repeat_of is None and (trial.state.ended or (earlier is not None and earlier.state.ended)):
                self.tally.update(trial)
        if trial.repeat_of is None:
            self._trial_by_point[_point_key(trial.hyperparameters)] = trial.number

    def _set_retried(self, number: int) -> None:
        """Count another attempt instead of this trial."""
        self._retried.add(number)
        self.tally.remove(number)
        if number in self._trials:
            self.ledger.update(self._trials[number], may_become_finalist=False)
        for trials in (self._search_trials, self._repeats):
            trials.pop(number, None)

    def _resolve_duplicate(self, trial: Trial) -> None:
        """Give a duplicate the result of its original, now or when the original ends."""
        original = self._trials[trial.duplicate_of if trial.duplicate_of is not None else trial.number]
        if not original.state.ended:
            self._waiting_duplicates.setdefault(original.number, []).append(trial.number)
            return
        value = original.values[0] if original.values else math.nan
        self.report(trial, max(1, len(original.curve) - 1), value)
        reason = f"the same point as trial {original.number}: not trained again"
        self.tell(replace(trial, state=original.state, values=original.values, reason=reason, ended_at=time.time()))


def _load_or_create(storage: optuna.storages.BaseStorage, definition: StudyDefinition) -> optuna.Study:
    """Return the study, complete even if an earlier process died while it created the study.

    The fingerprint is written last: a study without one has trained nothing.
    """
    name, space, search = definition.name, definition.space, definition.search
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=[objective.direction for objective in definition.objectives],
        load_if_exists=True,
        sampler=make_sampler(search, space, past_trials=0),
        pruner=optuna.pruners.NopPruner(),
    )
    attrs = study.user_attrs
    if attributes.FINGERPRINT not in attrs or attributes.SWEEP_ID not in attrs:
        first_points = grid_points(space, search.seed) if search.sampler == "grid" else space.seed_points
        study.set_user_attr(attributes.SWEEP_ID, f"{name[:40]}-{uuid.uuid4().hex[:8]}")
        study.set_user_attr(attributes.QUEUED_POINTS, [dict(p) for p in (*definition.first_points, *first_points)])
        study.set_user_attr(attributes.FINGERPRINT, definition.fingerprint)
    elif attrs[attributes.FINGERPRINT] != definition.fingerprint:
        message = f"sweep `{name}` was started with another space, data set, model or objective"
        hint = "choose another `name:`, or use `sweep run --fresh` to start again from nothing"
        raise UserInputError([Problem(name, message, hint)])
    return study


def _has_diverged(trial: Trial) -> bool:
    return trial.verdict is not None and trial.verdict.kind is VerdictKind.DIVERGED


def _point_key(point: Mapping[str, Scalar]) -> str:
    return json.dumps(dict(point), sort_keys=True)
