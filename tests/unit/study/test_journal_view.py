"""The fast reader of a journal sees what Optuna sees."""

from __future__ import annotations

import json
import random
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from sweeps.errors import SweepError
from sweeps.study.journal_file import StudyJournal
from sweeps.study.journal_view import view_study

pytestmark = pytest.mark.unit


def write_at_random(storage: StudyJournal, name: str, seed: int) -> optuna.Study:
    """Write a study with trials in every state, and attributes with awkward values."""
    chance = random.Random(seed)
    study = optuna.create_study(storage=storage, study_name=name)
    study.set_user_attr("plan", {"a": [1, None, "}}"]})
    for number in range(30):
        if chance.random() < 0.3:
            study.enqueue_trial({"x": 0.5}, user_attrs={"origin": number, "text": '"}}\\ \u2028'})
        if chance.random() < 0.8:
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            for _ in range(chance.randrange(4)):
                text = json.dumps({"loss": chance.random(), "quote": '{"op_code":8}', "end": "}}"})
                trial.set_user_attr(chance.choice(["record", "evaluation:0001"]), text)
            if chance.random() < 0.7:
                state = chance.choice([OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL])
                study.tell(trial, [0.1] if state is OptunaState.COMPLETE else None, state=state)
        study.set_user_attr("last", number)
    return study


@pytest.mark.parametrize("seed", range(6))
def test_a_view_equals_the_study_of_optuna(tmp_path: Path, seed: int) -> None:
    storage = StudyJournal(tmp_path / "j")
    studies = {name: write_at_random(storage, name, seed + index) for index, name in enumerate(["one", "two"])}
    names = {"origin", "text", "record", "evaluation:0001"}
    for name, study in studies.items():
        view = view_study(tmp_path / "j", name)
        assert view is not None
        assert view.user_attrs == study.user_attrs
        seen = [
            (trial.number, trial.state, {key: trial.user_attrs[key] for key in names if key in trial.user_attrs})
            for trial in view.trials
        ]
        assert seen == [(trial.number, trial.state, trial.user_attrs) for trial in study.trials]
    assert view_study(tmp_path / "j", "three") is None


def test_a_torn_end_is_ignored_and_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    write_at_random(StudyJournal(tmp_path / "j"), "one", 1)
    content = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(content[:-7])
    assert view_study(tmp_path / "j", "one") is not None
    (tmp_path / "j").write_bytes(content.replace(b'{"op_code":2,', b'{"op_code":2;', 1))
    with pytest.raises(SweepError, match="operation 1 is not readable"):
        view_study(tmp_path / "j", "one")
