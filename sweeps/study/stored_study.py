"""Reading a stored study without changing it, while its sweep runs or afterwards."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import optuna

from backends import codec
from sweeps.errors import SweepError
from sweeps.study import attributes, records
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult
from sweeps.study.lease import Holder
from sweeps.study.steering import Change
from sweeps.study.storage import open_storage
from sweeps.trials.budget import Ledger, ledger
from sweeps.trials.trial import Trial


@dataclass(frozen=True)
class StoredStudy:
    """The stored state of a sweep.

    `sweep_id` identifies the study; a sweep that starts afresh under the same name gets another.
    `trials` are the trained trials, including those of the finals: no duplicates, and of a retried
    trial the last attempt. `attempts` are these and the retried attempts. `ledger` covers all
    `attempts`. `changes` are the changes of the space. `is_finished`: the work after the trials is
    done too.
    """

    sweep_id: str
    ledger: Ledger
    trials: tuple[Trial, ...]
    attempts: tuple[Trial, ...]
    changes: tuple[Change, ...]
    finals: FinalsResult | None
    champion: ChampionDecision | None
    is_finished: bool

    @property
    def search_trials(self) -> tuple[Trial, ...]:
        """The trials of the search."""
        return tuple(trial for trial in self.trials if trial.repeat_of is None)

    @property
    def repeats(self) -> tuple[Trial, ...]:
        """The trials of the finals."""
        return tuple(trial for trial in self.trials if trial.repeat_of is not None)


def stored_fingerprint(location: str | Path, name: str) -> str | None:
    """Return the fingerprint of the study of this name, or None if there is none.

    A study whose process died while it created it has none either. Raises SweepError.
    """
    study = _load(location, name)
    fingerprint = None if study is None else study.user_attrs.get(attributes.FINGERPRINT)
    return None if fingerprint is None else str(fingerprint)


def read_study(location: str | Path, name: str) -> StoredStudy:
    """Read a stored study. Raises SweepError where there is no study of this name."""
    study = None if isinstance(location, Path) and not location.exists() else _load(location, name)
    if study is None:
        raise SweepError(f"sweep `{name}` has no study", "run `sweep status` to list the sweeps in this workspace")
    frozen_trials = study.get_trials(deepcopy=False)
    retried = {
        frozen.user_attrs[attributes.RETRY_OF] for frozen in frozen_trials if attributes.RETRY_OF in frozen.user_attrs
    }
    attrs = study.user_attrs
    settled, deleted_models = records.settled_spends(attrs), set(attrs.get(attributes.DELETED_MODELS, ()))
    recorded = [
        (frozen, records.read_record(frozen, settled, deleted_models))
        for frozen in frozen_trials
        if attributes.RECORD in frozen.user_attrs
    ]
    trials = [trial for frozen, trial in recorded if not records.was_set_aside(frozen, trial)]
    return StoredStudy(
        sweep_id=str(attrs.get(attributes.SWEEP_ID, "")),
        ledger=ledger(trials),
        trials=tuple(trial for trial in trials if trial.duplicate_of is None and trial.number not in retried),
        attempts=tuple(trial for trial in trials if trial.duplicate_of is None),
        changes=tuple(codec.from_json(Change, change) for change in attrs.get(attributes.STEERING, [])),
        finals=codec.from_json(FinalsResult | None, attrs.get(attributes.FINALS)),
        champion=codec.from_json(ChampionDecision | None, attrs.get(attributes.CHAMPION)),
        is_finished=attrs.get(attributes.FINISHED) == sum(trial.state.ended for trial in trials),
    )


def read_holder(location: str | Path, name: str) -> Holder | None:
    """Return the process that has the lease of a study; None if there is no study or no lease."""
    study = _load(location, name)
    return None if study is None else codec.from_json(Holder | None, study.user_attrs.get(attributes.LEASE))


def request_stop(location: str | Path, name: str) -> None:
    """Ask the process that runs this study, on any machine, to end the sweep as Ctrl-C does.

    Raises SweepError where there is no study of this name.
    """
    study = None if isinstance(location, Path) and not location.exists() else _load(location, name)
    if study is None:
        raise SweepError(f"sweep `{name}` has no study", "run `sweep status` to list the sweeps in this workspace")
    study.set_user_attr(attributes.STOP_REQUEST, uuid.uuid4().hex)


def _load(location: str | Path, name: str) -> optuna.Study | None:
    storage = open_storage(location)
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None
