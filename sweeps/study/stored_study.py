"""Reading a stored study without changing it, while its sweep runs or afterwards."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial

from backends import codec
from sweeps.errors import SweepError
from sweeps.study import attributes, records
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult
from sweeps.study.journal_view import ViewedStudy, view_study
from sweeps.study.lease import Holder
from sweeps.study.steering import Change
from sweeps.study.storage import close_storage, open_storage
from sweeps.trials.budget import Ledger, ledger
from sweeps.trials.trial import Trial


class _View(NamedTuple):
    """The attributes and the trials of a study in a database."""

    user_attrs: Mapping[str, Any]
    trials: Sequence[FrozenTrial]


@dataclass(frozen=True)
class StoredStudy:
    """The stored state of a sweep.

    `sweep_id` identifies the study; a sweep that starts afresh under the same name gets another.
    `trials` are the trained trials, including those of the finals: no duplicates, and of a retried
    trial the last attempt. `attempts` are these and the retried attempts. `ledger` covers all
    `attempts`. `changes` are the changes of the space. `is_finished`: the work after the trials is
    done too. `seconds` is the time that all runs of the sweep have taken.
    """

    sweep_id: str
    ledger: Ledger
    trials: tuple[Trial, ...]
    attempts: tuple[Trial, ...]
    changes: tuple[Change, ...]
    finals: FinalsResult | None
    champion: ChampionDecision | None
    is_finished: bool
    seconds: float = 0.0

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
    with _opened(location, name) as study:
        fingerprint = None if study is None else study.user_attrs.get(attributes.FINGERPRINT)
        return None if fingerprint is None else str(fingerprint)


def read_study(location: str | Path, name: str, *, curves: bool = True) -> StoredStudy:
    """Read a stored study. Raises SweepError where there is no study of this name.

    Without `curves` the trials have no learning curves, which takes a fraction of the time.
    """
    study = _view(location, name)
    if study is None:
        raise SweepError(f"sweep `{name}` has no study", "run `sweep status` to list the sweeps in this workspace")
    retried = {
        int(stored.user_attrs[attributes.RETRY_OF])
        for stored in study.trials
        if attributes.RETRY_OF in stored.user_attrs and attributes.RECORD in stored.user_attrs
    }
    attrs = study.user_attrs
    settled, deleted_models = records.settled_spends(attrs), set(attrs.get(attributes.DELETED_MODELS, ()))
    recorded = [
        (stored, records.read_record(stored, settled, deleted_models, curve=curves))
        for stored in study.trials
        if attributes.RECORD in stored.user_attrs
    ]
    trials = [trial for stored, trial in recorded if not records.was_set_aside(stored, trial)]
    return StoredStudy(
        sweep_id=str(attrs.get(attributes.SWEEP_ID, "")),
        ledger=ledger(trials),
        trials=tuple(trial for trial in trials if trial.duplicate_of is None and trial.number not in retried),
        attempts=tuple(trial for trial in trials if trial.duplicate_of is None),
        changes=tuple(codec.from_json(Change, change) for change in attrs.get(attributes.STEERING, [])),
        finals=codec.from_json(FinalsResult | None, attrs.get(attributes.FINALS)),
        champion=codec.from_json(ChampionDecision | None, attrs.get(attributes.CHAMPION)),
        is_finished=attrs.get(attributes.FINISHED) == sum(trial.state.ended for trial in trials),
        seconds=float(attrs.get(attributes.SECONDS, 0.0)),
    )


def _view(location: str | Path, name: str) -> _View | ViewedStudy | None:
    if isinstance(location, Path):
        try:
            return view_study(location, name) if location.exists() else None
        except OSError as error:
            raise SweepError(f"{location} cannot be read: {error.strerror}", "check its permissions") from None
    with _opened(location, name) as study:
        return None if study is None else _View(study.user_attrs, study.get_trials(deepcopy=False))


def read_holder(location: str | Path, name: str) -> Holder | None:
    """Return the process that has the lease of a study; None if there is no study or no lease."""
    with _opened(location, name) as study:
        return None if study is None else codec.from_json(Holder | None, study.user_attrs.get(attributes.LEASE))


def request_stop(location: str | Path, name: str) -> None:
    """Ask the process that runs this study, on any machine, to end the sweep as Ctrl-C does.

    Raises SweepError where there is no study of this name.
    """
    with _opened(location, name) as study:
        if study is None:
            raise SweepError(f"sweep `{name}` has no study", "run `sweep status` to list the sweeps in this workspace")
        study.set_user_attr(attributes.STOP_REQUEST, uuid.uuid4().hex)


@contextlib.contextmanager
def _opened(location: str | Path, name: str) -> Iterator[optuna.Study | None]:
    """Open the study of this name for the block; None if there is none."""
    if isinstance(location, Path) and not location.exists():
        yield None
        return
    storage = open_storage(location)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        study = None
    try:
        yield study
    finally:
        close_storage(storage)
