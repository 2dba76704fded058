"""Change detection: what counts as a change, what the reasons say, what a night has to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends import codec
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling.change_detection import DetectedChanges, detect_changes
from sweeps.scheduling.fingerprint import DISTRIBUTIONS, Fingerprint, fingerprint_of
from sweeps.scheduling.night import Night, NightState
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small, price_usd_per_token: 0.001}
space:
  n_epochs: [2, 3]
  batch_size: {low: 1%, high: 10%}
  learning_rate_multiplier: {low: 0.01, high: 0.4, log: true}
search: {sampler: random, trials: 3}
objective: {maximize: valid_accuracy}
"""


def planned(folder: Path, *overrides: str) -> SweepPlan:
    document = with_overrides(parse(FILE, "f.yaml"), overrides)
    return make_plan(from_document(document), Workspace(folder), estimate=False)


def night(fingerprint: Fingerprint, state: NightState = NightState.DONE) -> Night:
    return Night("s", 1_800_000_000, state=state, sweep="pairs", fingerprint=codec.to_json(fingerprint))


def test_a_night_with_the_same_content_runs_no_trial(tmp_path: Path) -> None:
    fingerprint = fingerprint_of(planned(tmp_path / "a"))
    again = fingerprint_of(planned(tmp_path / "b", "search.trials=9", "budget.hours=3", "name=another"))
    changes, earlier = detect_changes(again, [night(fingerprint)])
    assert changes == DetectedChanges("unchanged", ("unchanged since 2027-01-15 08:00Z",))
    assert earlier == night(fingerprint)


def test_a_fingerprint_survives_json_and_names_the_installed_releases(tmp_path: Path) -> None:
    fingerprint = fingerprint_of(planned(tmp_path))
    assert codec.from_json(Fingerprint, codec.to_json(fingerprint)) == fingerprint
    assert {"finesweep", "torch"} <= set(fingerprint.versions) <= set(DISTRIBUTIONS)


def test_the_first_night_has_no_night_to_compare_with(tmp_path: Path) -> None:
    fingerprint = fingerprint_of(planned(tmp_path))
    failed_early = Night("s", 1, state=NightState.FAILED, reason="the file is gone")
    for nights in ([], [failed_early], [Night("s", 1, state=NightState.MISSED)]):
        assert detect_changes(fingerprint, nights) == (DetectedChanges("first", ("the first night",)), None)


@pytest.mark.parametrize("state", [NightState.PARTIAL, NightState.STOPPED, NightState.LOST, NightState.FAILED])
def test_a_night_continues_an_incomplete_one(tmp_path: Path, state: NightState) -> None:
    fingerprint = fingerprint_of(planned(tmp_path))
    unchanged = replace(night(fingerprint), planned_at=1_800_000_100, state=NightState.UNCHANGED)
    changes, earlier = detect_changes(fingerprint, [night(fingerprint, state), unchanged])
    assert changes == DetectedChanges("go_on", (f"continues the night of 2027-01-15 08:00Z ({state.value})",))
    assert earlier is not None
    assert earlier.state is state


@pytest.mark.parametrize(
    ("override", "reason", "same_space"),
    [
        ("data.train_examples=140", "the data changed: builtin:nli, 120 -> 140 training examples", True),
        ("backend.model=fake-large", "the base model fake-large is new", False),
        ("space.n_epochs=[2, 4]", "the space of n_epochs changed: [2, 3] -> [2, 4]", False),
        ("search.seed=8", "the setting search.seed changed: 7 -> 8", False),
        ("objective={minimize: valid_loss}", "the setting objective changed", False),
        ("backend.seconds_per_epoch=0.5", "the setting backend.seconds_per_epoch changed", False),
    ],
)
def test_a_reason_says_what_changed(tmp_path: Path, override: str, reason: str, same_space: bool) -> None:
    before, now = fingerprint_of(planned(tmp_path)), fingerprint_of(planned(tmp_path, override))
    changes, _ = detect_changes(now, [night(before)])
    assert changes.kind == "changed"
    assert any(reason in sentence for sentence in changes.reasons), changes.reasons
    assert changes.same_space is same_space
    assert changes.data_changed is ("data." in override)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        (
            "evaluation.metrics=[{python: {function: 'scoring.py:score', low: 0}}]",
            "the setting metric python changed",
        ),
        ("evaluation.generate.max_tokens=9", "the setting evaluation.generate changed"),
        ("evaluation.metrics=[exact_match]", "the setting metric python was removed"),
    ],
)
def test_task_metrics_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, reason: str) -> None:
    def fingerprint(folder: str, source: str, *overrides: str) -> Fingerprint:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "scoring.py").write_text(source, encoding="utf-8")
        monkeypatch.chdir(tmp_path / folder)
        metric = "evaluation={metrics: [{python: {function: 'scoring.py:score'}}], generate: {max_tokens: 8}}"
        return fingerprint_of(planned(tmp_path, "backend={type: local}", metric, *overrides))

    source = "def score(predictions, references, rows): return 1\n"
    before = fingerprint("a", source)
    assert fingerprint("b", source) == before, "the folder is no part of the fingerprint"
    for now, expected in (
        (fingerprint("b", f"{source}#\n"), "the setting metric python changed"),
        (fingerprint("b", source, override), reason),
    ):
        changes, _ = detect_changes(now, [night(before)])
        assert any(sentence.startswith(expected) for sentence in changes.reasons), changes.reasons
        assert not changes.same_space


def test_a_new_release_is_a_change(tmp_path: Path) -> None:
    now = fingerprint_of(planned(tmp_path))
    before = replace(now, versions={**now.versions, "torch": "1.0"})
    changes, _ = detect_changes(now, [night(before)])
    assert changes.reasons == (f"the version of torch changed: 1.0 -> {now.versions['torch']}",)
    assert changes.same_space


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda space: {**space, "warmup": "0.1"}, "the space of warmup is new"),
        (lambda space: {"n_epochs": space["n_epochs"]}, "the space of batch_size was removed"),
    ],
)
def test_an_added_or_removed_parameter_is_a_change(
    tmp_path: Path, change: Callable[[dict[str, str]], dict[str, str]], reason: str
) -> None:
    before = fingerprint_of(planned(tmp_path))
    now = replace(before, space=change(dict(before.space)))
    changes, _ = detect_changes(now, [night(before)])
    assert reason in changes.reasons
    assert not changes.same_space


def test_a_new_price_is_no_change(tmp_path: Path) -> None:
    cheap, dear = (planned(tmp_path, f"backend.price_usd_per_token={price}") for price in (0.001, 0.002))
    assert cheap.fingerprint == dear.fingerprint
    assert fingerprint_of(cheap) == fingerprint_of(dear)
