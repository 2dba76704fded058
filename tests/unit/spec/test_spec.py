"""The sweep file: every mistake at once with its line and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.errors import UserInputError
from sweeps.planning.plan import plan_file
from sweeps.spec.loading import from_document, load
from sweeps.spec.objective import Objective
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

GOOD = """\
name: pairs
data: {source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}"}
backend: {type: fake, model: fake-small}
space:
  n_epochs: recommended
  batch_size: {low: 1%, high: 4%, log: true}
search: {trials: 4}
objective: {maximize: valid_accuracy}
"""


def problems(text: str) -> dict[str, str]:
    """Return what is wrong with a file, by line."""
    with pytest.raises(UserInputError) as caught:
        from_document(parse(text, "f.yaml"))
    return {each.place.removeprefix("f.yaml:"): f"{each.message} ({each.hint})" for each in caught.value.problems}


def test_a_key_of_several_types_has_one_problem_that_names_them() -> None:
    text = GOOD.replace('{label}"}', '{label}", validation: [3]}')
    with pytest.raises(UserInputError) as caught:
        from_document(parse(text, "f.yaml"))
    (only,) = caught.value.problems
    assert (only.place, only.message) == ("f.yaml:2", "`data.validation` cannot be [3]")
    assert only.hint == "write a number or text"


def test_a_share_that_is_too_small_for_few_examples_only_is_left_to_the_plan() -> None:
    assert from_document(parse(GOOD.replace("low: 1%", "low: 0.0001%"), "f.yaml")).name == "pairs"


def test_a_good_file_gets_its_defaults() -> None:
    spec = from_document(parse(GOOD, "f.yaml"))
    assert spec.objective == Objective("valid_accuracy", "maximize")
    assert (spec.search.sampler, spec.search.scheduler.type, spec.search.trials) == ("tpe", "asha", 4)
    assert spec.evaluation.per_epoch == 1
    assert spec.budget.hours is None


@pytest.mark.parametrize("missing", ["name", "data", "backend", "objective"])
def test_a_section_that_is_missing_is_told_with_the_other_mistakes(tmp_path: Path, missing: str) -> None:
    file = tmp_path / "f.yaml"
    lines = GOOD.replace("trials: 4", "trials: 0").splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith(f"{missing}:")))
    with pytest.raises(UserInputError) as caught:
        plan_file(file, [], Workspace(tmp_path), None)
    told = [each.message for each in caught.value.problems]
    assert told == [f"`{missing}` is missing", "`search.trials` cannot be 0"]


def test_five_mistakes_are_five_problems_with_line_and_nearest_name() -> None:
    found = problems(
        GOOD.replace("source:", "sorce:")
        .replace("type: fake", "type: fak")
        .replace("low: 1%", "low: 9%")
        .replace("trials: 4", "trails: 4")
        .replace("maximize", "maximise")
    )
    assert "did you mean `source`" in found["2"] or "`data.source` is missing" in found["2"]
    assert "fake" in found["3"]
    assert "batch_size" in found["6"]
    assert "did you mean `trials`" in found["7"]
    assert "did you mean `maximize`" in found["8"] or "exactly one" in found["8"]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("trials: 4", "trials: 0", "7", "a number of at least 1"),
        ("trials: 4", "sampler: tp", "7", "did you mean `tpe`"),
        ("trials: 4", "scheduler: ashs", "7", "did you mean `asha`"),
        ("trials: 4", "scheduler: {type: asha, grace: 2}", "7", "did you mean `grace_epochs`"),
        ("maximize: valid_accuracy", "maximize: valid_acuracy", "8", "did you mean `valid_accuracy`"),
        ("{maximize: valid_accuracy}", "[{maximize: valid_accuracy}, {minimize: valid_los}]", "8", "valid_loss"),
        ("{maximize: valid_accuracy}", "{maximize: valid_accuracy, minimize: valid_loss}", "8", "exactly one"),
        ("{maximize: valid_accuracy}", "[]", "8", "at least one"),
        ("name: pairs", "name: 'a/b'", "1", "cannot be used"),
        ("model: fake-small", "model: fake-small, sped: 3", "3", "unknown key `backend.sped`"),
        ("n_epochs: recommended", "n_epochs: {low: 2}", "5", "high"),
        ("n_epochs: recommended", "n_epoch: 3", "5", "did you mean n_epochs"),
        ("search:", "finals: true\nsearch:", "7", "keys with values"),
    ],
)
def test_a_mistake_is_named_with_its_line(old: str, new: str, line: str, says: str) -> None:
    found = problems(GOOD.replace(old, new))
    assert says in found[line], found


def test_several_objectives_need_a_search_that_can_handle_them() -> None:
    several = GOOD.replace("{maximize: valid_accuracy}", "[{maximize: valid_accuracy}, {minimize: valid_loss}]")
    assert "scheduler: none" in problems(several)["7"]
    without = several.replace("trials: 4", "trials: 4, scheduler: none, sampler: nsga2")
    assert len(from_document(parse(without, "f.yaml")).objectives) == 2


def test_an_override_is_named_as_the_place_of_its_mistake() -> None:
    document = with_overrides(parse(GOOD, "f.yaml"), ["search.trials=none"])
    with pytest.raises(UserInputError) as caught:
        from_document(document)
    assert caught.value.problems[0].place == "--set search.trials"


@pytest.mark.parametrize("file", sorted(Path("spaces").glob("*.yaml")), ids=lambda each: each.name)
def test_every_file_in_spaces_is_a_good_one(file: Path) -> None:
    assert load(file).name == file.stem


def test_steering_is_checked_with_everything_else() -> None:
    bounds = "bounds:\n  n_epoch: [1, 8]\n  batch_size: [9, 3]\n"
    said = list(problems(GOOD + "steering: akt\n" + bounds + "finals: {seeds: 1}\n").values())
    assert len(said) == 4
    assert "`steering` cannot be 'akt' (did you mean `act`?)" in said
    assert "`bounds.n_epoch`: the space has no n_epoch (did you mean `n_epochs`?)" in said
    assert "`bounds.batch_size`: 9 is above 3 (write the lower end first)" in said
    assert any("`finals.seeds`" in each for each in said)


def test_a_grid_cannot_be_steered() -> None:
    text = GOOD.replace("search: {trials: 4}", "search: {trials: 4, sampler: grid}") + "steering: act\n"
    assert any("a grid is fixed" in each for each in problems(text).values())
