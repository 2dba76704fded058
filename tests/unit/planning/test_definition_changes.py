"""A changed sweep file: each change by its key, and whether the sweep can go on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from plans_by_hand import FOLDER, plan, prepared_data, spec

from sweeps.planning.decisions import resolve_plan
from sweeps.planning.definition_changes import DefinitionChange, definition_changes, problems_of
from sweeps.planning.sweep_plan import SweepPlan

pytestmark = pytest.mark.unit


def stored(made: SweepPlan) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(made.to_json(), default=str))
    return value


def changes(old: SweepPlan, new: SweepPlan) -> tuple[DefinitionChange, ...]:
    options = new.spec.written_options.model_dump(mode="json")
    return definition_changes(stored(old), stored(new), options, new.spec.price_options)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("search.trials=40", "search.trials: 4 -> 40"),
        ("search.concurrency=2", "search.concurrency: not given -> 2"),
        ("search.scheduler=median", "search.scheduler: "),
        ("search.sampler=random", "search.sampler: tpe -> random"),
        ("budget.hours=2", "budget.hours: not given -> 2.0"),
        ("steering=off", "steering: advise -> off"),
        ("bounds={n_epochs: [1, 8]}", 'bounds: {} -> {"n_epochs": [1.0, 8.0]}'),
        ("finals={seeds: 2}", 'finals: not given -> {"candidates": 3, "seeds": 2}'),
        ("backend.price_usd_per_token=1e-6", "backend.price_usd_per_token: "),
        ("objective={maximize: valid_accuracy, target: 0.9}", "target: not given -> [0.9]"),
    ],
)
def test_a_limit_may_change_and_the_sweep_goes_on(override: str, text: str) -> None:
    (change,) = changes(plan(), plan(override))
    assert str(change).startswith(text)
    assert not change.needs_new_sweep


@pytest.mark.parametrize(
    ("override", "text", "place"),
    [
        ("space.n_epochs=2", "space.n_epochs: ", "--set space.n_epochs"),
        ("space.prompt_loss_weight={low: 0, high: 1}", "space.prompt_loss_weight: not given -> ", "--set space.prompt"),
        ("backend.model=fake-large", "backend.model: fake-small -> fake-large", "--set backend.model"),
        ("objective={minimize: valid_loss}", "objective: ", "--set objective"),
        ("evaluation.per_epoch=2", "evaluation.per_epoch: 1 -> 2", "--set evaluation.per_epoch"),
        ("search.seed=8", "search.seed: 7 -> 8", "--set search.seed"),
        ("search.sampler=grid", "search.sampler: tpe -> grid", "--set search.sampler"),
    ],
)
def test_a_change_of_what_is_searched_needs_a_new_sweep(override: str, text: str, place: str) -> None:
    extra = ("space.batch_size=[8, 16]", "space.n_epochs=1")
    new = plan(*extra, override)
    (change,) = changes(plan(*extra), new)
    assert str(change).startswith(text)
    (problem,) = problems_of((change,), "pairs", new.spec.document)
    assert problem.place.startswith(place)
    assert str(change) in problem.message
    assert "--fresh" in problem.hint


def test_each_change_is_reported_with_what_may_go_on() -> None:
    new = plan("space.n_epochs=2", "search.trials=40", "search.seed=9")
    found = changes(plan(), new)
    assert [(change.key, change.needs_new_sweep) for change in found] == [
        ("space.n_epochs", True),
        ("search.trials", False),
        ("search.seed", True),
    ]
    assert len(problems_of(found, "pairs", new.spec.document)) == 2


def test_changed_data_need_a_new_sweep_although_the_file_is_the_same() -> None:
    new = resolve_plan(spec(), replace(prepared_data(), fingerprint="4567"), 4, FOLDER)
    (change,) = changes(plan(), new)
    assert (change.key, change.new, change.needs_new_sweep) == ("data.content", "digest 4567", True)
    (problem,) = problems_of((change,), "pairs", new.spec.document)
    assert problem.place == "f.yaml:2"


def test_the_same_file_and_a_default_written_out_are_no_change() -> None:
    assert changes(plan(), plan()) == ()
    assert changes(plan(), plan("search.scheduler=asha", "steering=advise", "evaluation.per_epoch=1")) == ()


def test_another_backend_is_one_change_and_not_one_for_each_option() -> None:
    local = plan("backend={type: local}")
    found = changes(plan(), local)
    assert {change.key for change in found if change.key.startswith("backend")} == {"backend.type", "backend.model"}


def test_a_key_that_an_older_version_did_not_store_is_no_change() -> None:
    new = plan()
    old = stored(new)
    del old["search"]["stop_by_verdict"], old["steering"], old["backend"]["model"], old["champion"]
    assert definition_changes(old, stored(new), {}) == ()


def test_a_path_that_leads_elsewhere_now_is_shown_and_no_obstacle() -> None:
    new = stored(plan())
    old = {**new, "backend": {**new["backend"], "model": "/old/fake-small"}}
    (change,) = definition_changes(old, new, {"model": "fake-small"})
    assert (str(change), change.needs_new_sweep) == ("backend.model: /old/fake-small -> fake-small", False)
    written = {**new, "backend": {**new["backend"], "model": "./models/mine"}}
    assert definition_changes(written, new, {"model": "./models/mine"}) == ()


def test_another_fingerprint_without_a_visible_change_still_needs_a_new_sweep() -> None:
    new = stored(plan())
    (change,) = definition_changes({**new, "fingerprint": "other"}, new, {})
    assert change.needs_new_sweep
