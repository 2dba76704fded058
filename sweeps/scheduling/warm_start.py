"""The first points of a new sweep: the champion's, and the best of the earlier night's sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backends.contract import Scalar
from search_spaces.space import ResolvedSpace
from sweeps.errors import SweepError
from sweeps.execution.environment import Environment
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.objective import Objective
from sweeps.study import state
from sweeps.trials.trial import Trial, leaderboard

MAX_EARLIER_POINTS = 4
"""The most points of the earlier night to try first, besides the champion's."""


@dataclass(frozen=True)
class RegisteredChampion:
    """The champion's hyperparameters, and the fingerprint of its training data, if known."""

    hyperparameters: Mapping[str, Scalar]
    data: str | None


def registered_champion(plan: SweepPlan, environment: Environment) -> RegisteredChampion | None:
    """Ask the registry for the champion.

    Returns None if there is none, or if the sweep file asks for no challenge. Raises SweepError if
    the registry cannot be reached.
    """
    if plan.spec.champion is None:
        return None
    version = environment.registry().champion(plan.spec.champion.model or plan.spec.name)
    if version is None:
        return None
    hyperparameters = json.loads(version.tags.get("finesweep.hyperparameters", "{}"))
    return RegisteredChampion(hyperparameters, version.tags.get("finesweep.data"))


def warm_start(
    plan: SweepPlan,
    earlier_sweep: str,
    champion: RegisteredChampion | None,
    environment: Environment,
    say: Callable[[str], None],
) -> tuple[dict[str, Scalar], ...]:
    """Return the first points of a new sweep, and announce them.

    Returns nothing if the earlier sweep cannot be read here.
    """
    try:
        earlier = state.read_state(environment.workspace, earlier_sweep, environment.storage)
    except SweepError as error:
        say(f"cannot take over points from sweep `{earlier_sweep}`: {error.message}")
        return ()
    winner = earlier.finals.winner if earlier.finals is not None else None
    champion_point = champion.hyperparameters if champion is not None else None
    points = first_points(champion_point, earlier.trials, winner, plan.spec.objective, plan.space)
    if points:
        source = "the champion's point, then the best of" if champion_point in points else "the best of"
        say(f"{len(points)} points come first: {source} sweep `{earlier_sweep}`")
    return points


def first_points(
    champion: Mapping[str, Scalar] | None,
    trials: Sequence[Trial],
    winner: int | None,
    objective: Objective,
    space: ResolvedSpace,
) -> tuple[dict[str, Scalar], ...]:
    """Return the champion's point, then the winner's of the earlier sweep, then its best. Pure.

    Each point occurs once, and only points of `space` are included. `winner` is the number of the
    trial that won the finals.
    """
    winners = [trial for trial in trials if winner is not None and trial.number == winner]
    ranked = (*winners, *leaderboard(trials, objective))
    points = [champion or {}, *(trial.hyperparameters for trial in ranked)]
    distinct: dict[str, dict[str, Scalar]] = {}
    for point in points:
        if point and not space.violations(dict(point)):
            distinct.setdefault(json.dumps(dict(point), sort_keys=True), dict(point))
    return tuple(distinct.values())[: MAX_EARLIER_POINTS + (champion is not None)]
