"""The first points of a new sweep: the champion's, the winner's, then the best, each once."""

from __future__ import annotations

import pytest

from search_spaces.space import ResolvedSpace
from sweeps.planning.plan import make_plan
from sweeps.scheduling.warm_start import first_points
from sweeps.spec.loading import from_document
from sweeps.spec.objective import Objective
from sweeps.spec.yaml_source import parse
from sweeps.trials.trial import Trial, TrialState
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small}
space:
  n_epochs: [2, 3]
  batch_size: {low: 1%, high: 10%}
  learning_rate_multiplier: {low: 0.01, high: 0.4, log: true}
search: {sampler: random, trials: 3}
objective: {maximize: valid_accuracy}
"""
OBJECTIVE = Objective("valid_accuracy", "maximize")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> ResolvedSpace:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    return make_plan(from_document(parse(FILE, "f.yaml")), workspace, estimate=False).space


def trial(number: int, value: float | None, **point: float) -> Trial:
    hyperparameters = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.1, **point}
    values = (value,) if value is not None else None
    return Trial(number, f"k{number}", "fake-small", hyperparameters, 7, TrialState.COMPLETE, values=values)


def trials() -> list[Trial]:
    """Eight trials of rising accuracy, a better one outside the space, and one without a value."""
    rising = [trial(n, 0.5 + n / 100, learning_rate_multiplier=0.02 * (n + 1)) for n in range(8)]
    return [*rising, trial(8, 0.99, batch_size=90), trial(9, None, learning_rate_multiplier=0.3)]


def test_the_champion_comes_first_then_the_winner_then_the_best_each_once(space: ResolvedSpace) -> None:
    champion = dict(trials()[2].hyperparameters)
    points = first_points(champion, trials(), 3, OBJECTIVE, space)
    assert [point["learning_rate_multiplier"] for point in points] == pytest.approx([0.06, 0.08, 0.16, 0.14, 0.12])


def test_without_champion_and_finals_the_best_trial_comes_first(space: ResolvedSpace) -> None:
    assert first_points(None, trials(), None, OBJECTIVE, space)[0] == dict(trials()[7].hyperparameters)


def test_a_point_outside_the_space_is_left_out(space: ResolvedSpace) -> None:
    assert first_points({"removed": 1.0}, [], None, OBJECTIVE, space) == ()
