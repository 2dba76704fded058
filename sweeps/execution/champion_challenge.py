"""Lets the winner of a sweep challenge the champion, if the sweep file asks for it."""

from __future__ import annotations

from collections.abc import Callable

from backends.contract import Backend
from sweeps.errors import SweepError
from sweeps.execution.environment import Environment
from sweeps.execution.outcome import RESUMABLE_ENDS, SweepEnd, selected_trial
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.study import Study


def challenge_champion(
    plan: SweepPlan,
    study: Study,
    backend: Backend,
    end: SweepEnd,
    environment: Environment,
    say: Callable[[str], None],
) -> ChampionDecision | None:
    """Run the challenge and store the decision in the study.

    Returns None if there is no challenge or no winner. The winner is the winner of the finals if
    the sweep has finals. `say` receives progress messages. Raises SweepError if the challenge
    fails; running the same command again repeats it.
    """
    if plan.spec.champion is None or end in RESUMABLE_ENDS:
        return None
    winner = selected_trial(study, plan.spec.objective)
    if winner is None or (plan.spec.finals is not None and study.finals is None):
        reason = "the sweep has no winner" if winner is None else "the finals are not decided"
        say(f"no challenge to the champion: {reason}")
        return None
    from sweeps.champions.challenge import run_challenge
    from sweeps.champions.winner import SweepWinner

    try:
        tried = study.finals.decodings if study.finals is not None else ()
        decoding = tried[0][0] if tried else None
        sweep_winner = SweepWinner(plan, study.sweep_id, winner, decoding)
        decision = run_challenge(sweep_winner, backend, environment.registry(), say)
        study.store_champion(decision)
        return decision
    except SweepError as error:
        hint = f"{error.hint.rstrip('.')}; " if error.hint else ""
        retry = "run the same command again to repeat the challenge; every trial is recorded"
        raise SweepError(f"the challenge to the champion failed: {error.message}", hint + retry) from error
