"""What is worth running again: fingerprints by content, changes in words, the first points on new data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling.change_detection import (
    DISTRIBUTIONS,
    Fingerprint,
    Worth,
    fingerprint,
    first_points,
    taken,
    worth,
)
from sweeps.scheduling.model_revisions import UNKNOWN, revision
from sweeps.scheduling.schedule import Night, NightState
from sweeps.spec.loading import from_document
from sweeps.spec.objective import Objective
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.trials.trial import Trial, TrialState
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

FILE = """\
name: pairs
data: {source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small}
space:
  n_epochs: [2, 3]
  batch_size: {low: 1%, high: 10%}
  learning_rate_multiplier: {low: 0.01, high: 0.4, log: true}
search: {sampler: random, trials: 3}
objective: {maximize: valid_accuracy}
"""


def planned(tmp_path: Path, *overrides: str) -> SweepPlan:
    return make_plan(
        from_document(with_overrides(parse(FILE, "f.yaml"), overrides)), Workspace(tmp_path), estimate=False
    )


def night(found: Fingerprint, state: NightState = NightState.DONE) -> Night:
    return Night("s", 1_800_000_000, state=state, sweep="pairs", fingerprint=found.to_json())


def test_the_same_content_is_not_worth_a_trial(tmp_path: Path) -> None:
    found = fingerprint(planned(tmp_path / "a"))
    assert Fingerprint.from_json(found.to_json()) == found
    again = fingerprint(planned(tmp_path / "b", "search.trials=9", "budget.hours=3", "name=another"))
    judged, earlier = worth(again, [night(found)])
    assert judged == Worth("unchanged", ("unchanged since 2027-01-15 08:00Z",))
    assert earlier == night(found)
    assert {"finesweep", "torch"} <= set(found.versions) <= set(DISTRIBUTIONS)


def test_the_first_night_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    found = fingerprint(planned(tmp_path))
    failed_early = Night("s", 1, state=NightState.FAILED, reason="the file is gone")
    for nights in ([], [failed_early], [Night("s", 1, state=NightState.MISSED)]):
        assert worth(found, nights) == (Worth("first", ("the first night",)), None)


@pytest.mark.parametrize("state", [NightState.PARTIAL, NightState.STOPPED, NightState.LOST, NightState.FAILED])
def test_what_was_not_finished_goes_on(tmp_path: Path, state: NightState) -> None:
    found = fingerprint(planned(tmp_path))
    unchanged = replace(night(found), planned_at=1_800_000_100, state=NightState.UNCHANGED)
    judged, earlier = worth(found, [night(found, state), unchanged])
    assert judged.kind == "go_on"
    assert earlier is not None
    assert earlier.state is state


@pytest.mark.parametrize(
    ("override", "words", "same_space"),
    [
        ("data.train_examples=140", "the data changed: builtin:nli, 120 -> 140 training examples", True),
        ("backend.model=fake-large", "the base model fake-large is new", False),
        ("space.n_epochs=[2, 4]", "the space n_epochs changed: [2, 3] -> [2, 4]", False),
        ("search.seed=8", "the setting search.seed changed: 7 -> 8", False),
        ("objective={minimize: valid_loss}", "the setting objective changed", False),
        ("backend.seconds_per_epoch=0.5", "the setting backend.seconds_per_epoch changed", False),
    ],
)
def test_what_changed_is_said_in_words(tmp_path: Path, override: str, words: str, same_space: bool) -> None:
    before, now = fingerprint(planned(tmp_path)), fingerprint(planned(tmp_path, override))
    judged, _ = worth(now, [night(before)])
    assert judged.kind == "changed"
    assert any(words in word for word in judged.words), judged.words
    assert judged.same_space is same_space
    assert judged.data_changed is ("data." in override)


def test_a_new_release_is_a_change(tmp_path: Path) -> None:
    now = fingerprint(planned(tmp_path))
    before = replace(now, versions={**now.versions, "torch": "1.0"})
    judged, _ = worth(now, [night(before)])
    assert judged.words == (f"the version of torch changed: 1.0 -> {now.versions['torch']}",)
    assert judged.same_space


def test_a_local_model_is_known_by_its_content_and_not_by_its_times(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "weights").write_bytes(b"abc")
    first = revision(str(folder), None, True)
    (folder / "config.json").touch()
    assert revision(str(folder), None, True) == first
    (folder / "sub" / "weights").write_bytes(b"abd")
    assert revision(str(folder), None, True) != first
    assert revision("builtin:tiny-lm", None, True) == revision("gpt-4.1-mini", None, False) == "by its name"


def test_a_hub_model_that_nobody_can_ask_for_is_told_as_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert revision("some-owner/not-a-model-that-exists", None, True) == UNKNOWN


def trial(number: int, value: float | None, **point: float) -> Trial:
    known = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.1, **point}
    values = (value,) if value is not None else None
    return Trial(number, f"k{number}", "fake-small", known, 7, TrialState.COMPLETE, values=values)


def test_new_data_begin_with_the_champion_then_the_winner_then_the_best(tmp_path: Path) -> None:
    space = planned(tmp_path).space
    objective = Objective("valid_accuracy", "maximize")
    trials = [trial(each, 0.5 + each / 100, learning_rate_multiplier=0.02 * (each + 1)) for each in range(8)]
    trials += [trial(8, 0.99, batch_size=90), trial(9, None, learning_rate_multiplier=0.3)]
    champion = dict(trials[2].hyperparameters)
    points = first_points(champion, trials, 3, objective, space)
    rates = [point["learning_rate_multiplier"] for point in points]
    assert rates == pytest.approx([0.06, 0.08, 0.16, 0.14, 0.12]), "the champion, the winner, then the best, each once"
    assert first_points(None, trials, None, objective, space)[0] == dict(trials[7].hyperparameters)
    assert first_points({"gone": 1.0}, [], None, objective, space) == ()


def test_a_name_is_free_where_its_sweep_is_the_same_one(tmp_path: Path) -> None:
    assert not taken(tmp_path / "none", "f")
    (tmp_path / "plan.json").write_text('{"fingerprint": "f"}')
    assert not taken(tmp_path, "f")
    assert taken(tmp_path, "g")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "study.journal").write_text("")
    assert taken(tmp_path / "begun", "f"), "a study without a plan is not taken for ours"
