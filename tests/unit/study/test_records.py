"""A trial's record: each evaluation is stored once, a kill loses nothing, and records of version
0.1 still load."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import codec
from backends.contract import Handle, Measured
from search_spaces.space import Limit, SearchSpace
from sweeps.spec.objective import Objective
from sweeps.spec.sweep_file import SearchSpec
from sweeps.study import attributes
from sweeps.study.finals import FinalsResult
from sweeps.study.steering import Change
from sweeps.study.stored_study import read_study
from sweeps.study.study import Study, StudyDefinition
from sweeps.trials.trial import CostBound, Spend, StoppedBy, Trial, TrialState
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit

LIMITS = {"n_epochs": Limit(kind="int", low=1, high=50, default=2)}
NAN, INF = math.nan, math.inf


def open_study(location: Path | str) -> Study:
    space = SearchSpace.parse({"n_epochs": {"low": 1, "high": 6}}).resolve(1000, LIMITS, "local")
    search = SearchSpec.model_validate({"sampler": "random", "trials": 8})
    return Study.open(location, StudyDefinition("s", "print", space, [Objective("acc", "maximize")], search, "base"))


def next_trial(study: Study) -> Trial:
    trial = study.ask()
    assert isinstance(trial, Trial)
    return trial


def evaluations(count: int) -> tuple[Measured, ...]:
    return tuple(
        Measured(1000 + n, 1 + n / 10_000, {"valid_loss": 1.5, "acc": 0.25}, "evaluation") for n in range(count)
    )


def stored_attributes(location: Path, number: int) -> dict[str, Any]:
    backend = optuna.storages.journal.JournalFileBackend(str(location))
    study = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    return dict(study.get_trials()[number].user_attrs)


def texts(points: Sequence[Measured]) -> list[str]:
    """Measurements as JSON texts, in which a number that is not finite equals itself."""
    return [json.dumps(codec.to_json(point)) for point in points]


def test_the_bytes_of_an_evaluation_do_not_depend_on_how_many_there_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # the size counts here, not the disk
    journal = tmp_path / "j"
    study = open_study(journal)
    trial = next_trial(study)
    points = evaluations(1001)
    sizes = []
    for count in (100, 101, 1000, 1001):
        study.record(replace(trial, curve=points[:count]))
        sizes.append(journal.stat().st_size)
    at_100, at_1000 = sizes[1] - sizes[0], sizes[3] - sizes[2]
    assert 0 < at_100 < 2000
    assert at_1000 <= at_100 + 10, "only the number of evaluations may get longer"


def test_every_evaluation_is_stored_once_and_read_by_a_reader_and_by_the_next_process(tmp_path: Path) -> None:
    study = open_study(tmp_path / "j")
    trial = next_trial(study)
    points = evaluations(12)
    for count in range(len(points) + 1):
        study.record(replace(trial, curve=points[:count]))
    journal = (tmp_path / "j").read_text()
    assert [journal.count(f'"{attributes.evaluation(index)}"') for index in range(12)] == [1] * 12
    assert read_study(tmp_path / "j", "s").trials[0].curve == points
    [restored] = open_study(tmp_path / "j").search_trials
    assert restored == replace(trial, curve=points)


def test_a_record_that_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    study = open_study(tmp_path / "j")
    trial = replace(next_trial(study), curve=evaluations(3))
    study.record(trial)
    before = (tmp_path / "j").read_bytes()
    study.record(trial)
    assert (tmp_path / "j").read_bytes() == before


def test_an_adopted_run_that_reports_its_events_again_writes_no_evaluation_twice(tmp_path: Path) -> None:
    first = open_study(tmp_path / "j")
    trial, points = next_trial(first), evaluations(6)
    first.record(replace(trial, curve=points[:4]))
    again = open_study(tmp_path / "j")
    adopted = replace(next_trial(again), curve=())
    again.record(adopted)
    for count in range(1, len(points) + 1):
        again.record(replace(adopted, curve=points[:count]))
    journal = (tmp_path / "j").read_text()
    assert [journal.count(f'"{attributes.evaluation(index)}"') for index in range(6)] == [1] * 6
    assert read_study(tmp_path / "j", "s").trials[0].curve == points


def test_different_measurements_after_an_adoption_replace_the_stored_ones(tmp_path: Path) -> None:
    first = open_study(tmp_path / "j")
    trial, points = next_trial(first), evaluations(3)
    first.record(replace(trial, curve=points))
    again = open_study(tmp_path / "j")
    adopted = next_trial(again)
    others = tuple(replace(point, values={"acc": NAN}) for point in points[:2])
    again.record(replace(adopted, curve=()))
    again.record(replace(adopted, curve=others))
    assert texts(read_study(tmp_path / "j", "s").trials[0].curve) == texts(others)


class KilledError(Exception):
    """The process dies here."""


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.sampled_from(["evaluate", "kill", "kill while writing"]), max_size=12))
def test_no_kill_loses_or_doubles_an_evaluation(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    """After a kill the run reports its events from the beginning. A reader sees a prefix of them
    at any moment."""
    location = tmp_path_factory.mktemp("study") / "j"
    study = open_study(location)
    trial, evaluated = next_trial(study), 0
    points = evaluations(len(steps))
    for step in steps:
        if step == "evaluate":
            evaluated += 1
            study.record(replace(trial, curve=points[:evaluated]))
        else:
            if step == "kill while writing":
                kill_after_the_next_attribute(study)
                evaluated += 1
                with pytest.raises(KilledError):
                    study.record(replace(trial, curve=points[:evaluated]))
            study = open_study(location)
            trial = replace(next_trial(study), curve=())
            seen = read_study(location, "s").trials[0].curve
            assert seen == points[: len(seen)]
            for count in range(evaluated + 1):
                study.record(replace(trial, curve=points[:count]))
        assert read_study(location, "s").trials[0].curve == points[:evaluated]
    study.tell(replace(trial, curve=points[:evaluated], state=TrialState.COMPLETE, values=(0.5,)))
    assert read_study(location, "s").trials[0].curve == points[:evaluated]
    journal = location.read_text()
    assert all(journal.count(f'"{attributes.evaluation(index)}"') == 1 for index in range(evaluated))


def kill_after_the_next_attribute(study: Study) -> None:
    storage = study._writer._storage
    write = storage.set_trial_user_attr

    def write_and_die(trial_id: int, key: str, value: Any) -> None:
        write(trial_id, key, value)
        raise KilledError

    storage.set_trial_user_attr = write_and_die  # type: ignore[method-assign]


def test_sqlite_stores_the_same_record(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = open_study(url)
    trial, points = next_trial(study), evaluations(5)
    study.record(replace(trial, curve=points[:3]))
    study.report(trial, 1, 0.25)
    again = open_study(url)
    again.record(replace(next_trial(again), curve=points))
    again.report(trial, 1, 0.75)  # the first value stays
    again.report(trial, 2, 0.5)
    again.tell(replace(trial, curve=points, state=TrialState.COMPLETE, values=(0.5,)))
    [stored] = read_study(url, "s").trials
    assert stored.curve == points
    [frozen] = [
        frozen
        for frozen in optuna.load_study(study_name="s", storage=url).get_trials()
        if frozen.number == trial.number
    ]
    assert frozen.intermediate_values == {1: 0.25, 2: 0.5}
    assert frozen.state is optuna.trial.TrialState.COMPLETE


# -------------------------------------------------------------------------------------- version 0.1
FULL = {
    "number": 0, "key": "s-0000", "base_model": "tiny", "hyperparameters": {"n_epochs": 3, "lr": 1e-05, "flag": False},
    "seed": 9, "state": "stopped", "reason": "stopped early", "handle": {"backend": "fake", "id": "fakejob-1"},
    "resolved": {"n_epochs": 3, "device": "cpu", "pretended": True},
    "curve": [{"step": 0, "epoch": 0.0, "values": {"valid_loss": 1.1}, "scope": "evaluation"},
              {"step": 3, "epoch": 1.5, "values": {"valid_loss": NAN, "train_loss": INF}, "scope": "evaluation"}],
    "running": [{"step": 1, "epoch": 0.5, "values": {"batch_loss": NAN, "grad_norm": INF}, "scope": "step"}],
    "values": [0.7, -INF, NAN], "best_epoch": 1.5, "model": "fake:k@1.5",
    "spend": {"seconds": 12.5, "tokens": 4321, "usd": 0.004321},
    "verdict": {"kind": "overfit", "evidence": "loss rose from 0.3 to inf", "advice": "fewer epochs",
                "onset_epoch": 1.5, "keep_epoch": 1.0, "confidence": 0.75, "improving": True, "collapsed": True},
    "started_at": 1796024231.5, "ended_at": 1796024299.25, "duplicate_of": 3, "repeat_of": 5,
    "stopped_by": "scheduler", "at_most": {"tokens": 9999, "usd": 0.0101}, "settled": True,
}  # fmt: skip
"""A record as `Trial.to_json` of version 0.1 returned it."""


def test_a_record_of_version_0_1_loads_and_keeps_every_field() -> None:
    trial = codec.from_json(Trial, FULL)
    assert (trial.state, trial.stopped_by, trial.handle) == (
        TrialState.STOPPED,
        StoppedBy.SCHEDULER,
        Handle("fake", "fakejob-1"),
    )
    assert trial.curve[1].epoch == 1.5
    assert math.isnan(trial.curve[1].values["valid_loss"])
    assert trial.loop_reports[0].values["grad_norm"] == INF
    assert trial.cost_bound == CostBound(9999, 0.0101)
    assert trial.spend == Spend(12.5, 4321, 0.004321)
    assert trial.verdict == FitVerdict(
        VerdictKind.OVERFIT, "loss rose from 0.3 to inf", "fewer epochs", 1.5, 1.0, 0.75, improving=True, collapsed=True
    )
    since_then = {"failure": None, "will_retry": False, "machine": None, "passed_evaluations": 0}
    assert json.dumps(codec.to_json(trial)) == json.dumps(FULL | since_then), "the text, as nan does not equal itself"


def test_the_types_of_hyperparameters_survive() -> None:
    loaded = codec.from_json(Trial, json.loads(json.dumps(FULL)))
    assert [type(value) for value in loaded.hyperparameters.values()] == [int, float, bool]
    assert [type(value) for value in loaded.resolved.values()] == [int, str, bool]


def test_fields_that_an_older_record_lacks_take_their_defaults() -> None:
    absent = ("running", "stopped_by", "at_most", "settled", "repeat_of", "duplicate_of")
    older = {name: value for name, value in FULL.items() if name not in absent}
    trial = codec.from_json(Trial, older)
    assert (trial.loop_reports, trial.stopped_by, trial.cost_bound) == ((), None, None)
    assert (trial.settled, trial.repeat_of, trial.duplicate_of) == (False, None, None)


def test_finals_and_changes_of_version_0_1_load_and_are_written_as_they_were() -> None:
    score = {
        "number": 4, "mean": 0.91, "low": 0.9, "high": INF, "behind": 0.0, "behind_low": NAN, "cost": 12.0,
        "values": [0.9, 0.92],
    }  # fmt: skip
    finals = {
        "metric": "valid_accuracy", "standings": [score], "winner": 4, "reason": "best", "searched_value": 0.93,
        "test": [0.9, 0.8, 0.95], "untested": "",
    }  # fmt: skip
    change = {
        "parameter": "n_epochs", "was": [1.0, 2.0], "low": 1.0, "high": 3.0, "reason": "trials 1, 5 improved",
        "trials": [1, 5], "after": 6, "probe": 3,
    }  # fmt: skip
    added = {"test_metric": "accuracy", "decodings": []}
    assert json.dumps(codec.to_json(codec.from_json(FinalsResult, finals))) == json.dumps({**finals, **added})
    loaded = codec.from_json(Change, change)
    assert (loaded.previous_range, loaded.ended_trials, loaded.trials) == ((1.0, 2.0), 6, (1, 5))
    assert json.dumps(codec.to_json(loaded)) == json.dumps(change)


def stored_by_version_0_1(location: Path, trial: Trial) -> None:
    """Overwrite the record of a running trial with one whose curve is inside, and remove the new
    attributes."""
    lines = [json.loads(line) for line in location.read_text().splitlines()]
    kept = [line for line in lines if not any("evaluation:" in name for name in line.get("user_attr", {}))]
    for line in kept:
        if attributes.RECORD in line.get("user_attr", {}):
            line["user_attr"][attributes.RECORD] = json.dumps(codec.to_json(trial))
    location.write_text("".join(json.dumps(line) + "\n" for line in kept))


def test_a_trial_that_version_0_1_left_running_is_adopted_with_its_curve(tmp_path: Path) -> None:
    location, points = tmp_path / "j", evaluations(4)
    study = open_study(location)
    trial = replace(next_trial(study), curve=points[:3])
    study.record(trial)
    stored_by_version_0_1(location, trial)
    assert "evaluation:0000" not in stored_attributes(location, trial.number)
    assert read_study(location, "s").trials[0] == trial
    again = open_study(location)
    assert again.has_interrupted
    assert next_trial(again) == trial
    again.record(replace(trial, curve=points))
    assert read_study(location, "s").trials[0].curve == points
    assert "curve" not in json.loads(stored_attributes(location, trial.number)[attributes.RECORD])
