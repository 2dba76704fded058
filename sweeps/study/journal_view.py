"""Reading the study of a journal file fast, without Optuna.

Optuna replays every operation, which takes half a minute for ten thousand trials. A reader of the
records needs only the last value of each attribute, and decodes nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import TrialState as OptunaState

from sweeps.study.journal_file import JournalFile

_OPERATION = re.compile(rb'\{"op_code":(\d+),"worker_id":"[^"]*"(?:,"(?:study|trial)_id":(\d+))?')
_STATE = re.compile(rb'"state":(\d+)')
_ATTRIBUTE = b'"user_attr":{"'

# The numbers that Optuna's journal gives to its operations.
_CREATE_STUDY, _SET_STUDY_ATTRIBUTE, _CREATE_TRIAL, _SET_STATE, _SET_TRIAL_ATTRIBUTE = 0, 2, 4, 6, 8


class LazyAttributes:
    """The attributes of a trial. A value is decoded when it is asked for."""

    def __init__(self) -> None:
        self._encoded: dict[bytes, bytes] = {}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.encode() in self._encoded

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._encoded[name.encode()])

    def set_encoded(self, name: bytes, value: bytes) -> None:
        """Set an attribute to a value in JSON."""
        self._encoded[name] = value


@dataclass
class ViewedTrial:
    """A trial as its journal shows it: number, state and attributes."""

    number: int
    state: OptunaState
    user_attrs: LazyAttributes = field(default_factory=LazyAttributes)


@dataclass
class ViewedStudy:
    """A study as its journal shows it."""

    user_attrs: dict[str, Any] = field(default_factory=dict)
    trials: list[ViewedTrial] = field(default_factory=list)


def view_study(path: Path, name: str) -> ViewedStudy | None:
    """Read the study of this name from a journal file; None if there is none.

    Raises OSError, and SweepError for a damaged file.
    """
    studies: dict[int, ViewedStudy] = {}
    names: dict[str, int] = {}
    trials: list[ViewedTrial] = []
    for operation, owner, line in _operations(JournalFile(path)):
        if operation == _SET_TRIAL_ATTRIBUTE:
            trial = trials[owner]
            if not trial.state.is_finished():
                start = line.index(_ATTRIBUTE) + len(_ATTRIBUTE)
                end = line.index(b'"', start)
                trial.user_attrs.set_encoded(line[start:end], line[end + 2 : line.rindex(b"}}")])
        elif operation == _SET_STATE:
            match = _STATE.search(line)
            if match and not trials[owner].state.is_finished():
                trials[owner].state = OptunaState(int(match[1]))
        elif operation == _CREATE_TRIAL:
            created = json.loads(line)
            study = studies[owner]
            trial = ViewedTrial(len(study.trials), OptunaState(created.get("state", OptunaState.RUNNING)))
            for attribute, value in created.get("user_attrs", {}).items():
                trial.user_attrs.set_encoded(attribute.encode(), json.dumps(value).encode())
            study.trials.append(trial)
            trials.append(trial)
        elif operation == _SET_STUDY_ATTRIBUTE:
            studies[owner].user_attrs.update(json.loads(line)["user_attr"])
        elif operation == _CREATE_STUDY and (study_name := json.loads(line)["study_name"]) not in names:
            names[study_name] = len(studies)
            studies[len(studies)] = ViewedStudy()
    return studies[names[name]] if name in names else None


def _operations(journal: JournalFile) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number, the study or trial, and the line of every operation."""
    for number, written in enumerate(journal.lines()):
        line = written if _OPERATION.match(written) and written.endswith(b"}\n") else _compact(written)
        if (match := _OPERATION.match(line)) is None:
            raise journal.damaged(number)
        yield int(match[1]), int(match[2] or 0), line


def _compact(line: bytes) -> bytes:
    """Return an operation as Optuna writes it, after another program wrote it with spaces."""
    try:
        return json.dumps(json.loads(line), separators=(",", ":")).encode() + b"\n"
    except ValueError:
        return b""
