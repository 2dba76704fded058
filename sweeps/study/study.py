"""The Optuna study: what has been asked, tried and told. It is the record that survives; Tune's own state is not."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
import uuid
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, assert_never

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

from backends import codec
from backends.contract import Scalar
from search_spaces.space import ResolvedSpace
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.spec.objective import Objective
from sweeps.spec.sweep_file import SearchSpec
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult
from sweeps.study.steered_sampler import Proposer
from sweeps.study.steering import Change
from sweeps.trials.budget import Ledger, ledger
from sweeps.trials.trial import Spend, StoppedBy, Trial, TrialState
from sweeps.verdicts.verdict import VerdictKind

_RECORD, _RETRY_OF, _REPEAT_OF, _SEED = "trial", "retry_of", "repeat_of", "seed"
_SWEEP_ID, _FINGERPRINT, _SECONDS, _FINALS = "sweep_id", "fingerprint", "seconds_used", "finals"
_CHAMPION, _FINISHED, _MODELS_GONE = "champion", "finished", "models_gone"
_STEERING, _SETTLED, _SET_ASIDE = "steering", "settled", "set_aside"

MAX_DUPLICATES_IN_A_ROW = 50
"""A sampler that proposes so many known points one after another has nothing new to offer."""


class NoTrial(Enum):
    """Why there is no next trial."""

    WAIT = "wait"
    EXHAUSTED = "exhausted"


class Study:
    """Asks for trials and keeps their records, in an Optuna storage that other programs can read.

    Every change is stored before the method returns. A trial that ends as `failed` becomes Optuna's FAIL, one that is
    `stopped` PRUNED, one that is `complete` COMPLETE, and so is one that was stopped because it over-fitted: its best
    epoch lies behind it. A trial that the process left running is offered again, under its
    old key, before anything new is asked for.
    """

    def __init__(self, study: optuna.Study, space: ResolvedSpace, base_model: str, seed: int) -> None:
        self._study = study
        self._space = space
        self._base_model = base_model
        self._seed = seed
        self._asked: dict[int, optuna.Trial] = {}
        self._records: dict[int, Trial] = {}
        self._by_point: dict[str, int] = {}
        self._retry_of: dict[int, int] = {}
        self._retried: set[int] = set()
        self._reported: dict[int, set[int]] = {}
        self._held_duplicates: dict[int, list[int]] = {}
        self._interrupted: list[int] = []
        self._proposer: Proposer | None = None
        self.sweep_id = str(study.user_attrs[_SWEEP_ID])
        self._settled: dict[str, dict[str, Any]] = dict(study.user_attrs.get(_SETTLED, {}))
        self._models_gone: set[int] = set(study.user_attrs.get(_MODELS_GONE, ()))
        for frozen in study.get_trials(deepcopy=False):
            self._restore(frozen)

    def _restore(self, frozen: optuna.trial.FrozenTrial) -> None:
        if _RETRY_OF in frozen.user_attrs:
            self._retried.add(int(frozen.user_attrs[_RETRY_OF]))
        if _RECORD not in frozen.user_attrs:
            if frozen.state is OptunaState.RUNNING:
                # Asked for, but the process ended before the trial had a record: nothing was started under it.
                self._study.tell(frozen.number, state=OptunaState.FAIL)
            return
        trial = _stored(frozen, self._settled, self._models_gone)
        if _was_set_aside(frozen, trial):
            return
        if _RETRY_OF in frozen.user_attrs:
            self._retry_of[trial.number] = int(frozen.user_attrs[_RETRY_OF])
        self._remember(trial)
        if frozen.state is not OptunaState.RUNNING:
            return
        self._asked[trial.number] = optuna.Trial(self._study, frozen._trial_id)
        self._reported[trial.number] = set(frozen.intermediate_values)
        if trial.state.ended:  # recorded as ended, but the process died before it told the sampler
            self.tell(trial)
        elif trial.duplicate_of is not None:
            self._settle_duplicate(trial)
        else:
            self._interrupted.append(trial.number)

    @classmethod
    def open(
        cls,
        storage: str | Path,
        name: str,
        fingerprint: str,
        space: ResolvedSpace,
        objectives: Sequence[Objective],
        search: SearchSpec,
        base_model: str,
        first_points: Sequence[Mapping[str, Scalar]] = (),
    ) -> Study:
        """Open the study of this name, or create it with `first_points`, then the space's seed points, as first trials.

        `storage` is the path of a journal file or the URL of a database. Raises UserInputError when the stored sweep is
        about another space, data, backend or objective, and SweepError when the storage cannot be reached.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        opened = _storage(storage)
        try:
            existing = {each.study_name for each in optuna.get_all_study_summaries(opened, include_best_trial=False)}
            study = optuna.create_study(
                storage=opened,
                study_name=name,
                directions=[each.direction for each in objectives],
                load_if_exists=True,
                sampler=make_sampler(search, space, past_trials=0),
                pruner=optuna.pruners.NopPruner(),
            )
        except (OSError, optuna.exceptions.StorageInternalError) as error:
            raise _unreachable(storage, error) from None
        if name in existing:
            if study.user_attrs.get(_FINGERPRINT) != fingerprint:
                message = f"sweep `{name}` was started with another space, data set, model or objective"
                hint = "give it another `name:`, or `sweep run --fresh` to start anew"
                raise UserInputError([Problem(name, message, hint)])
        else:
            study.set_user_attr(_FINGERPRINT, fingerprint)
            study.set_user_attr(_SWEEP_ID, f"{name[:40]}-{uuid.uuid4().hex[:8]}")
            for point in first_points:
                study.enqueue_trial(dict(point))
            for point in _grid(space, search.seed) if search.sampler == "grid" else space.seed_points:
                study.enqueue_trial(dict(point))
        for point in study.user_attrs.get(_SET_ASIDE, []):
            study.enqueue_trial(point)
        study.set_user_attr(_SET_ASIDE, [])
        ended = (OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL)
        study.sampler = make_sampler(search, space, past_trials=len(study.get_trials(deepcopy=False, states=ended)))
        return cls(study, space, base_model, search.seed)

    @property
    def seconds_used(self) -> float:
        """Wall seconds that earlier `run`s of this sweep took."""
        return float(self._study.user_attrs.get(_SECONDS, 0.0))

    def add_seconds(self, seconds: float) -> None:
        """Add wall time to what the sweep has used."""
        self._study.set_user_attr(_SECONDS, self.seconds_used + seconds)

    @property
    def trials(self) -> list[Trial]:
        """Every trial with a record, in the order of their numbers, duplicates included."""
        return [self._records[number] for number in sorted(self._records)]

    @property
    def search_trials(self) -> list[Trial]:
        """The trials of the search that were or are trained: no duplicates, and of a retried one the last attempt."""
        return [each for each in self._attempts if each.repeat_of is None]

    @property
    def repeats(self) -> list[Trial]:
        """The trials of the finals, each a point of the search with another seed; the last attempt of each."""
        return [each for each in self._attempts if each.repeat_of is not None]

    @property
    def _attempts(self) -> list[Trial]:
        return [each for each in self.trials if each.duplicate_of is None and each.number not in self._retried]

    @property
    def has_interrupted(self) -> bool:
        """True while a trial that an earlier process left running waits to be taken up again."""
        return bool(self._interrupted)

    def ask(self) -> Trial | NoTrial:
        """Return the next trial to run, already recorded: one that was interrupted, else the sampler's next new point.

        A point that equals an ended trial's takes over that trial's result; one that equals a running trial's waits
        for it. Neither is returned.
        """
        if self._interrupted:
            return self._records[self._interrupted.pop(0)]
        size = self._space.size()
        for _ in range(MAX_DUPLICATES_IN_A_ROW):
            if size is not None and len(self._by_point) >= size and not self.has_queued:
                break
            asked = self._ask_the_sampler()
            retry_of, repeat_of = (asked.user_attrs.get(name) for name in (_RETRY_OF, _REPEAT_OF))
            point = self._space.suggest(asked)
            again = retry_of is not None or repeat_of is not None
            same = None if again else self._by_point.get(_canonical(point))
            trial = Trial(
                number=asked.number,
                key=f"{self.sweep_id}-{asked.number:04d}",
                base_model=str(point.get("base_model", self._base_model)),
                hyperparameters=point,
                seed=int(asked.user_attrs.get(_SEED, self._seed)),
                started_at=time.time(),
                duplicate_of=same,
                repeat_of=repeat_of,
            )
            self._asked[trial.number] = asked
            if retry_of is not None:
                self._retry_of[trial.number] = int(retry_of)
            self.record(trial)
            if same is None:
                return trial
            self._settle_duplicate(trial)
        running = any(not each.state.ended for each in self._records.values())
        return NoTrial.WAIT if running else NoTrial.EXHAUSTED

    def _ask_the_sampler(self) -> optuna.Trial:
        if self._proposer is not None and not self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,)):
            self._study.enqueue_trial(self._proposer.propose())
        return self._study.ask()

    @property
    def steering(self) -> list[Change]:
        """The changes of the space that were made so far, in their order."""
        return [codec.from_json(Change, each) for each in self._study.user_attrs.get(_STEERING, [])]

    def steer(self, changes: Sequence[Change], space: ResolvedSpace, search: SearchSpec) -> None:
        """Store changes of the space, and propose from `space`, which is what they make of it, from now on.

        Without changes only the second. Trials that are recorded stay as they are; a sampler learns from those that lie
        in the new space.
        """
        if changes:
            made = [*self.steering, *changes]
            self._study.set_user_attr(_STEERING, [codec.to_json(each) for each in made])
        self._space = space
        past = self._study.get_trials(deepcopy=False)
        self._study.sampler = optuna.samplers.RandomSampler(seed=search.seed)  # it only hands out what is queued
        self._proposer = Proposer(space, make_sampler(search, space, len(past)), self._study.directions, past)

    def probe(self, point: Mapping[str, Scalar]) -> None:
        """Queue a point before what the sampler proposes; one that is known is not trained again."""
        self._study.enqueue_trial(dict(point))

    def record(self, trial: Trial) -> None:
        """Store what is known of a trial that the sampler has not been told of."""
        self._remember(trial)
        self._asked[trial.number].set_user_attr(_RECORD, json.dumps(codec.to_json(trial)))

    def report(self, trial: Trial, evaluation: int, value: float) -> None:
        """Store the objective after the evaluation of this index, counted from 1; once an index is stored it stays.

        Ignored with several objectives, which Optuna cannot compare before the end.
        """
        reported = self._reported.setdefault(trial.number, set())
        if len(self._study.directions) == 1 and math.isfinite(value) and evaluation not in reported:
            self._asked[trial.number].report(value, evaluation)
            reported.add(evaluation)

    def tell(self, trial: Trial) -> None:
        """Store a trial that has ended, and tell the sampler. Raises ValueError for one that has not."""
        if not trial.state.ended:
            raise ValueError(f"trial {trial.number} has not ended")
        self.record(trial)
        had_its_best = trial.stopped_by is StoppedBy.VERDICT and not _diverged(trial)
        if trial.values is not None and (trial.state is TrialState.COMPLETE or had_its_best):
            self._study.tell(trial.number, list(trial.values))
        elif trial.state is TrialState.STOPPED:
            self._study.tell(trial.number, state=OptunaState.PRUNED)
        else:
            self._study.tell(trial.number, state=OptunaState.FAIL)
        del self._asked[trial.number]
        if self._proposer is not None:
            self._proposer.tell(self._study.get_trials(deepcopy=False)[trial.number])
        for number in self._held_duplicates.pop(trial.number, []):
            self._settle_duplicate(self._records[number])

    def set_aside(self, trial: Trial) -> None:
        """Take back a trial that was asked for and not started. When the study is opened anew, its point is offered
        first, as a new trial; until then nothing of it is left."""
        points = [*self._study.user_attrs.get(_SET_ASIDE, []), dict(trial.hyperparameters)]
        self._study.set_user_attr(_SET_ASIDE, points)
        self._study.tell(trial.number, state=OptunaState.FAIL)
        del self._asked[trial.number], self._records[trial.number]
        self._by_point.pop(_canonical(trial.hyperparameters), None)

    def settle(self, number: int, spend: Spend) -> Trial:
        """Store what an ended trial has cost for good, known only after its end. Returns the trial."""
        self._settled[str(number)] = asdict(spend)
        self._study.set_user_attr(_SETTLED, self._settled)
        self._records[number] = replace(self._records[number], spend=spend, settled=True)
        return self._records[number]

    def retry(self, trial: Trial) -> None:
        """Queue the point of a failed trial once more, as a trial of its own."""
        self._retried.add(trial.number)
        attributes = {_RETRY_OF: trial.number, _SEED: trial.seed}
        if trial.repeat_of is not None:
            attributes[_REPEAT_OF] = trial.repeat_of
        self._study.enqueue_trial(dict(trial.hyperparameters), user_attrs=attributes)

    def queue_repeats(self, trials: Sequence[Trial], seeds: int) -> None:
        """Queue the points of these trials with `seeds` other seeds each, those that are not there yet.

        The seeds are those after the sweep's own, so that each candidate meets the same ones. Idempotent.
        """
        known = {
            (each.user_attrs.get(_REPEAT_OF), each.user_attrs.get(_SEED))
            for each in self._study.get_trials(deepcopy=False)
        }
        for offset in range(1, seeds + 1):
            for trial in trials:
                if (trial.number, seed := self._seed + offset) not in known:
                    attributes = {_REPEAT_OF: trial.number, _SEED: seed}
                    self._study.enqueue_trial(dict(trial.hyperparameters), user_attrs=attributes)

    @property
    def finals(self) -> FinalsResult | None:
        """The stored result of the finals; None before they are decided."""
        stored = self._study.user_attrs.get(_FINALS)
        return None if stored is None else codec.from_json(FinalsResult, stored)

    def store_finals(self, result: FinalsResult) -> None:
        """Store the result of the finals, plain JSON values."""
        self._study.set_user_attr(_FINALS, codec.to_json(result))

    def store_champion(self, decision: ChampionDecision) -> None:
        """Store what became of the challenge, plain JSON values; a later challenge of the sweep replaces it."""
        self._study.set_user_attr(_CHAMPION, codec.to_json(decision))

    @property
    def is_finished(self) -> bool:
        """Whether all was done that follows the trials which the study has now; see `store_finished`."""
        return bool(self._study.user_attrs.get(_FINISHED) == self._ended)

    def store_finished(self) -> None:
        """Store that what follows the trials is done: finals, challenge, report, the record in MLflow."""
        self._study.set_user_attr(_FINISHED, self._ended)

    @property
    def _ended(self) -> int:
        return sum(each.state.ended for each in self.trials)

    def forget_models(self, trials: Iterable[Trial]) -> None:
        """Store that the models of these trials are deleted."""
        self._models_gone |= {each.number for each in trials}
        self._study.set_user_attr(_MODELS_GONE, sorted(self._models_gone))
        for number in self._models_gone:
            self._records[number] = replace(self._records[number], model=None)

    def attempts(self, trial: Trial) -> int:
        """Return how many times the point of this trial has been tried, this trial included."""
        attempts, number = 1, trial.number
        while number in self._retry_of:
            attempts, number = attempts + 1, self._retry_of[number]
        return attempts

    def _remember(self, trial: Trial) -> None:
        self._records[trial.number] = trial
        if trial.duplicate_of is None and trial.repeat_of is None:
            self._by_point[_canonical(trial.hyperparameters)] = trial.number

    def _settle_duplicate(self, trial: Trial) -> None:
        original = self._records[trial.duplicate_of if trial.duplicate_of is not None else trial.number]
        if not original.state.ended:
            self._held_duplicates.setdefault(original.number, []).append(trial.number)
            return
        value = original.values[0] if original.values else math.nan
        self.report(trial, max(1, len(original.curve) - 1), value)
        reason = f"the same point as trial {original.number}: not trained again"
        self.tell(replace(trial, state=original.state, values=original.values, reason=reason, ended_at=time.time()))

    @property
    def has_queued(self) -> bool:
        """True while a point waits that will be trained although it is known: a retried one, or one of the finals."""
        waiting = self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,))
        return any({_RETRY_OF, _REPEAT_OF} & set(each.user_attrs) for each in waiting)


def _diverged(trial: Trial) -> bool:
    return trial.verdict is not None and trial.verdict.kind is VerdictKind.DIVERGED


@dataclass(frozen=True)
class StoredStudy:
    """What a study holds of a sweep: its trained trials, those of the finals too, the changes of its space, and the
    results of its finals and of its challenge as plain JSON values. `ledger` are over all of them, retried ones too.
    `sweep_id` is the study's identity: that of a sweep begun anew is another.
    """

    sweep_id: str
    ledger: Ledger
    trials: tuple[Trial, ...]
    changes: tuple[Change, ...]
    finals: FinalsResult | None
    champion: ChampionDecision | None


def stored_fingerprint(storage: str | Path, name: str) -> str | None:
    """Return what the study of this name is about, or None where there is none. Raises SweepError."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.load_study(study_name=name, storage=_storage(storage))
    except KeyError:
        return None
    return str(study.user_attrs.get(_FINGERPRINT))


def read_study(storage: str | Path, name: str) -> StoredStudy:
    """Read a stored study, while its sweep runs or afterwards. Nothing is changed.

    Raises SweepError where there is no such study.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if isinstance(storage, Path) and not storage.exists():
        raise SweepError(f"there is no study of sweep `{name}`", "`sweep status` lists the sweeps that are here")
    try:
        study = optuna.load_study(study_name=name, storage=_storage(storage))
    except KeyError as error:
        raise SweepError(
            f"there is no study of sweep `{name}`", "`sweep status` lists the sweeps that are here"
        ) from error
    stored = study.get_trials(deepcopy=False)
    retried = {each.user_attrs[_RETRY_OF] for each in stored if _RETRY_OF in each.user_attrs}
    settled = study.user_attrs.get(_SETTLED, {})
    gone = set(study.user_attrs.get(_MODELS_GONE, ()))
    known = [(each, _stored(each, settled, gone)) for each in stored if _RECORD in each.user_attrs]
    trials = [trial for frozen, trial in known if not _was_set_aside(frozen, trial)]
    return StoredStudy(
        sweep_id=str(study.user_attrs[_SWEEP_ID]),
        ledger=ledger(trials),
        trials=tuple(each for each in trials if each.duplicate_of is None and each.number not in retried),
        changes=tuple(codec.from_json(Change, each) for each in study.user_attrs.get(_STEERING, [])),
        finals=None if (finals := study.user_attrs.get(_FINALS)) is None else codec.from_json(FinalsResult, finals),
        champion=None
        if (champion := study.user_attrs.get(_CHAMPION)) is None
        else codec.from_json(ChampionDecision, champion),
    )


def _stored(
    frozen: optuna.trial.FrozenTrial, settled: Mapping[str, Mapping[str, Any]], models_gone: Collection[int]
) -> Trial:
    trial = codec.from_json(Trial, json.loads(frozen.user_attrs[_RECORD]))
    if trial.number in models_gone:
        trial = replace(trial, model=None)
    if (spend := settled.get(str(trial.number))) is not None:
        trial = replace(trial, spend=Spend(**spend), settled=True)
    return trial


def _was_set_aside(frozen: optuna.trial.FrozenTrial, trial: Trial) -> bool:
    return frozen.state is OptunaState.FAIL and not trial.state.ended


def make_sampler(search: SearchSpec, space: ResolvedSpace, past_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that the sweep file names.

    Samplers that keep their random state in memory are seeded by the seed and by how many trials there are, so that a
    resumed sweep does not propose its first points again.
    """
    seed = search.seed + 10_007 * past_trials
    startup = search.startup_trials if search.startup_trials is not None else max(3, min(10, search.trials // 3))
    with warnings.catch_warnings():  # some of these are marked experimental; the versions we run with are tested
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _sampler(search, seed, startup)


def _sampler(search: SearchSpec, seed: int, startup: int) -> optuna.samplers.BaseSampler:
    match search.sampler:
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        case "qmc":
            return optuna.samplers.QMCSampler(seed=search.seed, scramble=True, warn_independent_sampling=False)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, search.trials // 4)))
        case "random" | "grid":  # the points of a grid are queued when the study is created
            return optuna.samplers.RandomSampler(seed=seed)
        case _ as unreachable:
            assert_never(unreachable)


def _grid(space: ResolvedSpace, seed: int) -> list[dict[str, Scalar]]:
    """Return every point of the space in an order that the seed decides, so that an early end has no pattern."""
    values = space.grid()
    points = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    random.Random(seed).shuffle(points)
    return points


def _canonical(point: Mapping[str, Scalar]) -> str:
    return json.dumps(dict(point), sort_keys=True)


def _storage(storage: str | Path) -> optuna.storages.BaseStorage:
    """Open a journal file or a database. Raises SweepError where it cannot be reached."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if isinstance(storage, str):
            return optuna.storages.RDBStorage(storage)
        storage.parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(JournalFileBackend(str(storage)))
    except (OSError, ImportError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _unreachable(storage, error) from None


def _unreachable(storage: str | Path, error: Exception) -> SweepError:
    """Say what cannot be opened, without the error's own text: it may hold the password of the database."""
    where = "the database of SWEEP_STORAGE" if isinstance(storage, str) else str(storage)
    return SweepError(f"{where} cannot be opened: {type(error).__name__}", "check that it exists and may be written")
