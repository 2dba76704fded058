"""The study of a sweep: it proposes trials, queues points and records results in an Optuna storage.

The storage is the record that survives a process; Ray Tune's own experiment state is not.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from backends import codec
from backends.contract import Scalar
from search_spaces.space import ResolvedSpace
from sweeps.errors import Problem, UserInputError
from sweeps.spec.objective import Objective
from sweeps.spec.sweep_file import SearchSpec
from sweeps.study import attributes, records
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult
from sweeps.study.records import RecordWriter
from sweeps.study.samplers import grid_points, make_sampler
from sweeps.study.steered_sampler import Proposer
from sweeps.study.steering import Change
from sweeps.study.storage import open_storage, unreachable_storage
from sweeps.trials.trial import Spend, StoppedBy, Trial, TrialState
from sweeps.verdicts.verdict import VerdictKind

MAX_DUPLICATES_IN_A_ROW = 50
"""A sampler that proposes this many known points in a row has nothing new to offer."""


class NoTrial(Enum):
    """Why there is no next trial."""

    WAIT = "wait"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True)
class StudyDefinition:
    """What a study searches. `fingerprint` identifies it: a study cannot go on with another one.

    A new study tries `first_points` first, then the seed points of the space.
    """

    name: str
    fingerprint: str
    space: ResolvedSpace
    objectives: Sequence[Objective]
    search: SearchSpec
    base_model: str
    first_points: Sequence[Mapping[str, Scalar]] = ()


class Study:
    """Asks for trials and keeps their records, in an Optuna storage that other programs can read.

    Every change is stored before the method returns. In Optuna a `failed` trial is FAIL, a
    `stopped` one PRUNED and a `complete` one COMPLETE. A trial that was stopped because it
    overfitted is COMPLETE too: its best epoch is behind it. If a process dies and leaves trials
    running, `ask` offers them again under their old keys before it proposes anything new.
    """

    def __init__(self, study: optuna.Study, storage: optuna.storages.BaseStorage, definition: StudyDefinition) -> None:
        """Take over the trials of `study`, which lives in `storage`. See `open`."""
        self._study = study
        self._writer = RecordWriter(storage, study.study_name)
        self._space = definition.space
        self._base_model = definition.base_model
        self._seed = definition.search.seed
        self._trials: dict[int, Trial] = {}
        self._trial_by_point: dict[str, int] = {}
        self._retry_of: dict[int, int] = {}
        self._retried: set[int] = set()
        self._waiting_duplicates: dict[int, list[int]] = {}
        self._interrupted: list[int] = []
        self._proposer: Proposer | None = None
        self.sweep_id = str(study.user_attrs[attributes.SWEEP_ID])
        self._settled: dict[str, dict[str, Any]] = dict(study.user_attrs.get(attributes.SETTLED, {}))
        self._deleted_models: set[int] = set(study.user_attrs.get(attributes.DELETED_MODELS, ()))
        for frozen in study.get_trials(deepcopy=False):
            self._restore(frozen)

    @classmethod
    def open(cls, location: str | Path, definition: StudyDefinition) -> Study:
        """Open the defined study, or create it.

        `location` is the path of a journal file or the URL of a database. Raises UserInputError if
        the stored study has another fingerprint, and SweepError if the storage cannot be opened.
        """
        storage = open_storage(location)
        name, space, search = definition.name, definition.space, definition.search
        try:
            existing = {
                summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)
            }
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=[objective.direction for objective in definition.objectives],
                load_if_exists=True,
                sampler=make_sampler(search, space, past_trials=0),
                pruner=optuna.pruners.NopPruner(),
            )
        except (OSError, optuna.exceptions.StorageInternalError) as error:
            raise unreachable_storage(location, error) from None
        if name in existing:
            if study.user_attrs.get(attributes.FINGERPRINT) != definition.fingerprint:
                message = f"sweep `{name}` was started with another space, data set, model or objective"
                hint = "choose another `name:`, or use `sweep run --fresh` to start again from nothing"
                raise UserInputError([Problem(name, message, hint)])
        else:
            study.set_user_attr(attributes.FINGERPRINT, definition.fingerprint)
            study.set_user_attr(attributes.SWEEP_ID, f"{name[:40]}-{uuid.uuid4().hex[:8]}")
            for point in definition.first_points:
                study.enqueue_trial(dict(point))
            for point in grid_points(space, search.seed) if search.sampler == "grid" else space.seed_points:
                study.enqueue_trial(dict(point))
        for point in study.user_attrs.get(attributes.SET_ASIDE, []):
            study.enqueue_trial(point)
        study.set_user_attr(attributes.SET_ASIDE, [])
        ended = (OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL)
        past_trials = len(study.get_trials(deepcopy=False, states=ended))
        study.sampler = make_sampler(search, space, past_trials=past_trials)
        return cls(study, storage, definition)

    def _restore(self, frozen: FrozenTrial) -> None:
        if attributes.RETRY_OF in frozen.user_attrs:
            self._retried.add(int(frozen.user_attrs[attributes.RETRY_OF]))
        if attributes.RECORD not in frozen.user_attrs:
            if frozen.state is OptunaState.RUNNING:
                # The process died before it recorded the trial: nothing was submitted.
                self._study.tell(frozen.number, state=OptunaState.FAIL)
            return
        trial = records.read_record(frozen, self._settled, self._deleted_models)
        if records.was_set_aside(frozen, trial):
            return
        if attributes.RETRY_OF in frozen.user_attrs:
            self._retry_of[trial.number] = int(frozen.user_attrs[attributes.RETRY_OF])
        self._remember(trial)
        if frozen.state is not OptunaState.RUNNING:
            return
        self._writer.restore(frozen)
        if trial.state.ended:  # the process died after it recorded the end and before it told Optuna
            self.tell(trial)
        elif trial.duplicate_of is not None:
            self._resolve_duplicate(trial)
        else:
            self._interrupted.append(trial.number)

    # ----------------------------------------------------------------------------------- trials
    @property
    def trials(self) -> list[Trial]:
        """Every recorded trial in the order of the numbers, including duplicates."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def search_trials(self) -> list[Trial]:
        """The trials of the search: no duplicates, and of a retried trial the last attempt."""
        return [trial for trial in self._last_attempts if trial.repeat_of is None]

    @property
    def repeats(self) -> list[Trial]:
        """The trials of the finals, each a point of the search with another seed.

        Of a retried trial only the last attempt is included.
        """
        return [trial for trial in self._last_attempts if trial.repeat_of is not None]

    @property
    def _last_attempts(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.duplicate_of is None and trial.number not in self._retried]

    @property
    def has_interrupted(self) -> bool:
        """True while `ask` still has to offer a trial that an earlier process left running."""
        return bool(self._interrupted)

    def ask(self) -> Trial | NoTrial:
        """Return the next trial, recorded: an interrupted one, else the next new point.

        `ask` returns no duplicates. A point equal to that of an ended trial takes over its result;
        a point equal to that of a running trial waits for it.
        """
        if self._interrupted:
            return self._trials[self._interrupted.pop(0)]
        size = self._space.size()
        for _ in range(MAX_DUPLICATES_IN_A_ROW):
            if size is not None and len(self._trial_by_point) >= size and not self.has_queued:
                break
            proposed = self._ask_optuna()
            retry_of, repeat_of = (
                proposed.user_attrs.get(name) for name in (attributes.RETRY_OF, attributes.REPEAT_OF)
            )
            point = self._space.suggest(proposed)
            is_deliberate = retry_of is not None or repeat_of is not None
            duplicate_of = None if is_deliberate else self._trial_by_point.get(_point_key(point))
            trial = Trial(
                number=proposed.number,
                key=f"{self.sweep_id}-{proposed.number:04d}",
                base_model=str(point.get("base_model", self._base_model)),
                hyperparameters=point,
                seed=int(proposed.user_attrs.get(attributes.SEED, self._seed)),
                started_at=time.time(),
                duplicate_of=duplicate_of,
                repeat_of=repeat_of,
            )
            if retry_of is not None:
                self._retry_of[trial.number] = int(retry_of)
            self.record(trial)
            if duplicate_of is None:
                return trial
            self._resolve_duplicate(trial)
        running = any(not trial.state.ended for trial in self._trials.values())
        return NoTrial.WAIT if running else NoTrial.EXHAUSTED

    def record(self, trial: Trial) -> None:
        """Store the present state of a trial that has not been told.

        Writes only the evaluations that are new.
        """
        self._remember(trial)
        self._writer.write(trial)

    def report(self, trial: Trial, evaluation: int, value: float) -> None:
        """Store the objective after an evaluation, whose index counts from 1.

        The first value of an index stays. Ignored with several objectives, because Optuna cannot
        compare those before the end.
        """
        if len(self._study.directions) == 1 and math.isfinite(value):
            self._writer.report(trial.number, evaluation, value)

    def tell(self, trial: Trial) -> None:
        """Store an ended trial and tell the sampler.

        Raises ValueError for a trial that has not ended.
        """
        if not trial.state.ended:
            raise ValueError(f"trial {trial.number} has not ended")
        self.record(trial)
        best_is_behind_it = trial.stopped_by is StoppedBy.VERDICT and not _has_diverged(trial)
        if trial.values is not None and (trial.state is TrialState.COMPLETE or best_is_behind_it):
            self._study.tell(trial.number, list(trial.values))
        elif trial.state is TrialState.STOPPED:
            self._study.tell(trial.number, state=OptunaState.PRUNED)
        else:
            self._study.tell(trial.number, state=OptunaState.FAIL)
        self._writer.forget(trial.number)
        if self._proposer is not None:
            self._proposer.tell(self._study.get_trials(deepcopy=False)[trial.number])
        for number in self._waiting_duplicates.pop(trial.number, []):
            self._resolve_duplicate(self._trials[number])

    def settle(self, number: int, spend: Spend) -> Trial:
        """Store the final cost of an ended trial, which is known only after its end.

        Returns the trial.
        """
        self._settled[str(number)] = asdict(spend)
        self._study.set_user_attr(attributes.SETTLED, self._settled)
        self._trials[number] = replace(self._trials[number], spend=spend, settled=True)
        return self._trials[number]

    def mark_models_deleted(self, trials: Iterable[Trial]) -> None:
        """Store that the models of these trials are deleted."""
        self._deleted_models |= {trial.number for trial in trials}
        self._study.set_user_attr(attributes.DELETED_MODELS, sorted(self._deleted_models))
        for number in self._deleted_models:
            self._trials[number] = replace(self._trials[number], model=None)

    def attempts(self, trial: Trial) -> int:
        """Return how many times the point of this trial has been tried, this trial included."""
        attempts, number = 1, trial.number
        while number in self._retry_of:
            attempts, number = attempts + 1, self._retry_of[number]
        return attempts

    # ------------------------------------------------------------------------------------ queue
    @property
    def has_queued(self) -> bool:
        """True while the queue holds a retry or a repetition for the finals.

        These are known points that are trained again.
        """
        waiting = self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,))
        return any({attributes.RETRY_OF, attributes.REPEAT_OF} & set(frozen.user_attrs) for frozen in waiting)

    def queue_probe(self, point: Mapping[str, Scalar]) -> None:
        """Queue a point before the sampler's proposals.

        A point that is known already is not trained again.
        """
        self._study.enqueue_trial(dict(point))

    def retry(self, trial: Trial) -> None:
        """Queue the point of a failed trial again, as a new trial."""
        self._retried.add(trial.number)
        user_attrs = {attributes.RETRY_OF: trial.number, attributes.SEED: trial.seed}
        if trial.repeat_of is not None:
            user_attrs[attributes.REPEAT_OF] = trial.repeat_of
        self._study.enqueue_trial(dict(trial.hyperparameters), user_attrs=user_attrs)

    def queue_repeats(self, trials: Sequence[Trial], seeds: int) -> None:
        """Queue the points of these trials with `seeds` other seeds each. Idempotent.

        The seeds follow the sweep's own seed, so that every candidate gets the same ones.
        """
        queued = {
            (frozen.user_attrs.get(attributes.REPEAT_OF), frozen.user_attrs.get(attributes.SEED))
            for frozen in self._study.get_trials(deepcopy=False)
        }
        for offset in range(1, seeds + 1):
            for trial in trials:
                if (trial.number, seed := self._seed + offset) not in queued:
                    user_attrs = {attributes.REPEAT_OF: trial.number, attributes.SEED: seed}
                    self._study.enqueue_trial(dict(trial.hyperparameters), user_attrs=user_attrs)

    def set_aside(self, trial: Trial) -> None:
        """Take back a trial that was asked for and not started.

        The trial disappears from this study. The next `open` queues its point first, as a new
        trial.
        """
        points = [*self._study.user_attrs.get(attributes.SET_ASIDE, []), dict(trial.hyperparameters)]
        self._study.set_user_attr(attributes.SET_ASIDE, points)
        self._study.tell(trial.number, state=OptunaState.FAIL)
        self._writer.forget(trial.number)
        del self._trials[trial.number]
        self._trial_by_point.pop(_point_key(trial.hyperparameters), None)

    # --------------------------------------------------------------------------------- steering
    @property
    def steering(self) -> list[Change]:
        """The changes made to the space so far, in their order."""
        return [codec.from_json(Change, change) for change in self._study.user_attrs.get(attributes.STEERING, [])]

    def steer(self, changes: Sequence[Change], space: ResolvedSpace, search: SearchSpec) -> None:
        """Store changes of the space, and from now on propose points of `space`, the changed space.

        Without changes, only replace the space. Recorded trials stay as they are; the sampler
        learns from those that lie in the new space.
        """
        if changes:
            applied = [*self.steering, *changes]
            self._study.set_user_attr(attributes.STEERING, [codec.to_json(change) for change in applied])
        self._space = space
        past = self._study.get_trials(deepcopy=False)
        self._study.sampler = optuna.samplers.RandomSampler(seed=search.seed)  # it only passes on queued points
        self._proposer = Proposer(space, make_sampler(search, space, len(past)), self._study.directions, past)

    # ------------------------------------------------------------------------ state of the sweep
    @property
    def seconds_used(self) -> float:
        """Wall seconds that earlier runs of this sweep took."""
        return float(self._study.user_attrs.get(attributes.SECONDS, 0.0))

    def add_seconds(self, seconds: float) -> None:
        """Add wall seconds to the time that the sweep has used."""
        self._study.set_user_attr(attributes.SECONDS, self.seconds_used + seconds)

    @property
    def finals(self) -> FinalsResult | None:
        """The stored result of the finals; None before they are decided."""
        return codec.from_json(FinalsResult | None, self._study.user_attrs.get(attributes.FINALS))

    def store_finals(self, result: FinalsResult) -> None:
        """Store the result of the finals."""
        self._study.set_user_attr(attributes.FINALS, codec.to_json(result))

    def store_champion(self, decision: ChampionDecision) -> None:
        """Store the outcome of the challenge. A later challenge of the same sweep replaces it."""
        self._study.set_user_attr(attributes.CHAMPION, codec.to_json(decision))

    @property
    def is_finished(self) -> bool:
        """Whether `store_finished` was called after the last trial ended."""
        return bool(self._study.user_attrs.get(attributes.FINISHED) == self._ended_count)

    def store_finished(self) -> None:
        """Store that the work after the trials is done: finals, challenge, report, MLflow."""
        self._study.set_user_attr(attributes.FINISHED, self._ended_count)

    @property
    def _ended_count(self) -> int:
        return sum(trial.state.ended for trial in self.trials)

    # ---------------------------------------------------------------------------------- internals
    def _ask_optuna(self) -> optuna.Trial:
        if self._proposer is not None and not self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,)):
            self._study.enqueue_trial(self._proposer.propose())
        return self._study.ask()

    def _remember(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        if trial.duplicate_of is None and trial.repeat_of is None:
            self._trial_by_point[_point_key(trial.hyperparameters)] = trial.number

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


def _has_diverged(trial: Trial) -> bool:
    return trial.verdict is not None and trial.verdict.kind is VerdictKind.DIVERGED


def _point_key(point: Mapping[str, Scalar]) -> str:
    return json.dumps(dict(point), sort_keys=True)
