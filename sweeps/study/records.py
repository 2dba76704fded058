"""A trial's record in Optuna user attributes: a header, and an attribute for each evaluation.

The header is the trial without its learning curve and without default values, plus the number of
its evaluations. An evaluation is written once, under `evaluation:0007`, and before the header that
counts it. A process that dies between the two leaves an evaluation that no header counts; the next
run counts it, or replaces it if it measures something else. Version 0.1 stored the whole curve
inside the header, and those records can still be read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from backends import codec
from backends.contract import Measured
from sweeps.study import attributes
from sweeps.trials.trial import Measurement, Spend, Trial, TrialState

_EVALUATION_COUNT = "evaluations"

_REQUIRED = {"number": -1, "key": "", "base_model": "", "hyperparameters": {}, "seed": -1}
_DEFAULTS = {
    name: value
    for name, value in codec.to_json(Trial(**_REQUIRED)).items()  # type: ignore[arg-type]
    if name not in _REQUIRED
}
"""A header leaves out what has its default value, and always the curve."""


@dataclass(frozen=True)
class _StoredEvaluation:
    """An evaluation as stored; `measured` is None where only the text is known, after a restart."""

    text: str
    measured: Measured | None = None


class RecordWriter:
    """Writes the records and the intermediate values of running trials into a storage.

    It uses the public methods of the storage, which also work for a trial that another process
    asked for. Optuna refuses to change a trial that has ended.
    """

    def __init__(self, storage: optuna.storages.BaseStorage, study_name: str) -> None:
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study_name)
        self._trial_ids: dict[int, int] = {}
        self._headers: dict[int, str] = {}
        self._evaluations: dict[int, list[_StoredEvaluation]] = {}
        self._reported: dict[int, set[int]] = {}

    def restore(self, frozen: FrozenTrial) -> None:
        """Take over a trial that an earlier process left running, so that no write is repeated."""
        stored: list[_StoredEvaluation] = []
        while (text := frozen.user_attrs.get(attributes.evaluation(len(stored)))) is not None:
            stored.append(_StoredEvaluation(text))
        self._evaluations[frozen.number] = stored
        self._headers[frozen.number] = frozen.user_attrs[attributes.RECORD]
        self._reported[frozen.number] = set(frozen.intermediate_values)

    def write(self, trial: Trial) -> None:
        """Store the trial: its new evaluations first, then the header. Idempotent.

        A curve that is built again from its beginning overwrites only the evaluations that differ.
        """
        stored = self._evaluations.setdefault(trial.number, [])
        for index, measured in enumerate(trial.curve):
            known = stored[index] if index < len(stored) else None
            if known is not None and known.measured is measured:
                continue
            text = _dump(codec.to_json(measured, Measurement))
            if known is None or known.text != text:
                self._set_attribute(trial.number, attributes.evaluation(index), text)
            stored[index : index + 1] = [_StoredEvaluation(text, measured)]
        header = {
            name: value
            for name, value in codec.to_json(replace(trial, curve=())).items()
            if name not in _DEFAULTS or value != _DEFAULTS[name]
        }
        text = _dump({**header, _EVALUATION_COUNT: len(trial.curve)})
        if self._headers.get(trial.number) != text:
            self._set_attribute(trial.number, attributes.RECORD, text)
            self._headers[trial.number] = text

    def report(self, number: int, evaluation: int, value: float) -> None:
        """Store an intermediate value of a trial. The first value of an evaluation stays."""
        reported = self._reported.setdefault(number, set())
        if evaluation not in reported:
            self._storage.set_trial_intermediate_value(self._trial_id(number), evaluation, value)
            reported.add(evaluation)

    def forget(self, number: int) -> None:
        """Free the memory for a trial that is not written any more."""
        for memory in (self._trial_ids, self._headers, self._evaluations, self._reported):
            memory.pop(number, None)

    def _set_attribute(self, number: int, name: str, value: str) -> None:
        self._storage.set_trial_user_attr(self._trial_id(number), name, value)

    def _trial_id(self, number: int) -> int:
        if number not in self._trial_ids:
            found = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            self._trial_ids[number] = found
        return self._trial_ids[number]


class Attributes(Protocol):
    """The attributes of a stored trial."""

    def __getitem__(self, name: str, /) -> Any:
        """Return the value of this attribute."""
        ...


class StoredTrial(Protocol):
    """A trial in a storage: one of Optuna, or one that `journal_view` has read."""

    @property
    def state(self) -> OptunaState:
        """Its state in Optuna."""
        ...

    @property
    def user_attrs(self) -> Attributes:
        """Its attributes."""
        ...


def read_record(
    stored: StoredTrial,
    settled_spends: Mapping[int, Spend],
    deleted_models: Collection[int],
    *,
    curve: bool = True,
) -> Trial:
    """Rebuild a trial from its stored record, in the present form or in the form of version 0.1.

    Without `curve` its learning curve stays empty.

    Optuna refuses to change an ended trial, so the study stores later facts: the final spends (see
    `settled_spends`), and the numbers of the trials with deleted models.
    """
    value = json.loads(stored.user_attrs[attributes.RECORD])
    if not curve:
        value["curve"] = []
    elif "curve" not in value:
        names = map(attributes.evaluation, range(value[_EVALUATION_COUNT]))
        value["curve"] = [json.loads(stored.user_attrs[name]) for name in names]
    trial = codec.from_json(Trial, value)
    if stored.state is OptunaState.RUNNING and trial.ended_at is None:
        # its run has reported its end, but the process died before it closed the trial
        trial = replace(trial, state=TrialState.RUNNING, stopped_by=None)
    if trial.number in deleted_models:
        trial = replace(trial, model=None)
    if (spend := settled_spends.get(trial.number)) is not None:
        trial = replace(trial, spend=spend, settled=True)
    return trial


def settled_spends(study_attrs: Mapping[str, Any]) -> dict[int, Spend]:
    """Return the final spends that the study stores, by the number of the trial.

    Each has an attribute of its own; version 0.1 kept all of them in one.
    """
    stored = {int(number): spend for number, spend in study_attrs.get(attributes.SETTLED, {}).items()}
    prefix = f"{attributes.SETTLED}:"
    stored |= {int(name.removeprefix(prefix)): spend for name, spend in study_attrs.items() if name.startswith(prefix)}
    return {number: codec.from_json(Spend, spend) for number, spend in stored.items()}


def was_set_aside(stored: StoredTrial, trial: Trial) -> bool:
    """Return whether the sweep took back this trial before it started; see `Study.set_aside`."""
    return stored.state is OptunaState.FAIL and not trial.state.ended


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
