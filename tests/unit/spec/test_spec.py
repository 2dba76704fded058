"""The sweep file: all mistakes at once, each with its line and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_files import GOOD, MISTAKES

from sweeps.errors import UserInputError
from sweeps.planning.plan import plan_file
from sweeps.spec.loading import from_document, load
from sweeps.spec.objective import Objective, better_direction
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit


def problems(text: str) -> dict[str, str]:
    """Return the problems of a file by line."""
    with pytest.raises(UserInputError) as caught:
        from_document(parse(text, "f.yaml"))
    return {
        problem.place.removeprefix("f.yaml:"): f"{problem.message} ({problem.hint})"
        for problem in caught.value.problems
    }


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


def test_replaced_sections_leave_the_rest_of_the_spec_as_it_was() -> None:
    spec = from_document(parse(GOOD, "f.yaml"))
    renamed = spec.with_sections(name="others", budget=spec.budget.model_copy(update={"usd": 3.0}))
    assert (renamed.name, renamed.budget.usd, renamed.search) == ("others", 3.0, spec.search)
    assert (spec.name, spec.budget.usd) == ("pairs", None)


@pytest.mark.parametrize("missing", ["name", "data", "backend", "objective"])
def test_a_missing_section_is_reported_with_the_other_mistakes(tmp_path: Path, missing: str) -> None:
    file = tmp_path / "f.yaml"
    lines = GOOD.replace("trials: 4", "trials: 0").splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith(f"{missing}:")))
    with pytest.raises(UserInputError) as caught:
        plan_file(file, [], Workspace(tmp_path), None)
    messages = [problem.message for problem in caught.value.problems]
    assert messages == [f"`{missing}` is missing", "`search.trials` cannot be 0"]


def test_five_mistakes_are_five_problems_with_line_and_nearest_name() -> None:
    by_line = problems(
        GOOD.replace("source:", "sorce:")
        .replace("type: fake", "type: fak")
        .replace("low: 1%", "low: 9%")
        .replace("trials: 4", "trails: 4")
        .replace("maximize", "maximise")
    )
    assert "did you mean `source`" in by_line["2"] or "`data.source` is missing" in by_line["2"]
    assert "fake" in by_line["3"]
    assert "batch_size" in by_line["6"]
    assert "did you mean `trials`" in by_line["7"]
    assert "did you mean `maximize`" in by_line["8"] or "exactly one" in by_line["8"]


@pytest.mark.parametrize(("right", "wrong", "line", "words"), MISTAKES)
def test_a_mistake_is_reported_with_its_line(right: str, wrong: str, line: str, words: str) -> None:
    by_line = problems(GOOD.replace(right, wrong))
    assert words in by_line[line], by_line


def test_several_objectives_need_a_search_that_can_handle_them() -> None:
    several = GOOD.replace("{maximize: valid_accuracy}", "[{maximize: valid_accuracy}, {minimize: valid_loss}]")
    assert "scheduler: none" in problems(several)["7"]
    without = several.replace("trials: 4", "trials: 4, scheduler: none, sampler: nsga2")
    assert len(from_document(parse(without, "f.yaml")).objectives) == 2


def test_a_mistake_in_an_override_is_placed_at_the_override() -> None:
    document = with_overrides(parse(GOOD, "f.yaml"), ["search.trials=none"])
    with pytest.raises(UserInputError) as caught:
        from_document(document)
    assert caught.value.problems[0].place == "--set search.trials"


@pytest.mark.parametrize("file", sorted(Path("spaces").glob("*.yaml")), ids=lambda file: file.name)
def test_every_file_in_spaces_is_valid(file: Path) -> None:
    assert load(file).name == file.stem


def test_steering_is_checked_with_everything_else() -> None:
    bounds = "bounds:\n  n_epoch: [1, 8]\n  batch_size: [9, 3]\n"
    messages = list(problems(GOOD + "steering: akt\n" + bounds + "finals: {seeds: 1}\n").values())
    assert len(messages) == 4
    assert "`steering` cannot be 'akt' (did you mean `act`?)" in messages
    assert "`bounds.n_epoch`: the space has no n_epoch (did you mean `n_epochs`?)" in messages
    assert "`bounds.batch_size`: 9 is above 3 (write the lower end first)" in messages
    assert any("`finals.seeds`" in message for message in messages)


def test_a_grid_cannot_be_steered() -> None:
    text = GOOD.replace("search: {trials: 4}", "search: {trials: 4, sampler: grid}") + "steering: act\n"
    assert any("a grid is fixed" in message for message in problems(text).values())


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("{maximize: valid_loss}", "minimize: valid_loss"),
        ("{minimize: valid_accuracy}", "maximize: valid_accuracy"),
        ("[{maximize: valid_accuracy}, {maximize: tokens}]", "minimize: tokens"),
        ("[{maximize: valid_accuracy}, {maximize: valid_loss}]", "minimize: valid_loss"),
    ],
)
def test_an_objective_that_searches_for_the_worst_model_is_a_mistake(written: str, right: str) -> None:
    text = GOOD.replace("{maximize: valid_accuracy}", written).replace("trials: 4", "trials: 4, scheduler: none")
    found = problems(text)
    assert list(found) == ["8"]
    assert f"write `{right}`" in found["8"]


def test_only_a_known_metric_has_a_right_direction() -> None:
    assert better_direction("valid_macro_f1") == "maximize"
    assert better_direction("perplexity") == "minimize"
    assert better_direction("usd") == "minimize"
    assert better_direction("my_score") is None
    assert better_direction("glossary") is None
