"""The outcome of a sweep as rich renderables. Prints nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from backends.contract import Decoding
from sweeps.cli.live_screen import VERDICT_STYLE
from sweeps.cli.progress import LEAST_SHOWN_USD
from sweeps.cli.trial_tables import table
from sweeps.execution.outcome import Outcome
from sweeps.reports.formatting import advice_lines, clock, in_words
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult
from sweeps.trials.trial import StoppedBy, Trial

LEADERBOARD_ROWS = 6
"""With the answer and what to do next, the closing screen then fits into 24 lines."""


def outcome(outcome: Outcome) -> RenderableType:
    """Show the answer first, then the best trials, what else happened, and what to do next."""
    plan, trials = outcome.plan, outcome.trials
    parts: list[RenderableType] = [Text()]
    best = outcome.best
    if best is None or best.values is None:
        parts.append(Text("no trial produced a model; the table below shows why", style="yellow"))
    else:
        parts += _answer(outcome, best)
    parts += [Text(), table(trials, plan.spec.objective, LEADERBOARD_ROWS), Text()]
    parts.append(Text(_how_it_ended(outcome)))
    if outcome.ledger.reserved.usd >= LEAST_SHOWN_USD:
        most = f"up to ${outcome.ledger.reserved.usd:,.2f} more"
        parts.append(Text(f"the service has not reported the cost of stopped runs yet: {most}"))
    if outcome.finals is not None:
        parts += map(Text, _finals(outcome.finals))
    if outcome.champion is not None:
        parts += [Text(line) for line in challenge_lines(outcome.champion)]
    if outcome.comparison is not None:
        style = "" if outcome.comparison.kind == "above" else "yellow"
        parts.append(Text(outcome.comparison.text, style=style))
    if saved := saved_by_verdicts(trials):
        parts.append(Text(saved))
    parts += [Text(f"steering: {change.text}") for change in outcome.changes]
    lines = advice_lines(trials, outcome.advice, outcome.comparison)
    parts += [Text.assemble(("advice: ", "bold"), line) for line in lines]
    parts += [Text(f"not recorded: {problem}", style="yellow") for problem in outcome.problems]
    if outcome.run_url:
        parts.append(Text(f"MLflow: {outcome.run_url}"))
    if outcome.report.exists():
        parts.append(Text(f"report: {outcome.report}", overflow="fold"))
    parts.append(Text.assemble(("next: ", "bold"), "sweep ui   compares the trials in the browser"))
    return Group(*parts)


def _answer(outcome: Outcome, best: Trial) -> Iterable[RenderableType]:
    """Yield the best configuration, how good it is, what speaks against that, and its model."""
    plan, finals = outcome.plan, outcome.finals
    number = best.number if finals is None else finals.winner
    yield Text.assemble(("best: ", "bold"), (in_words(best.hyperparameters), "bold"), f" (trial {number})")
    base = best.curve[0].values.get(plan.spec.objective.metric) if best.curve and best.curve[0].step == 0 else None
    before = f"; base model {base:.4g}" if base is not None else ""
    for line in _scores(outcome, best):
        yield Text(f"  {line}{before}")
        before = ""
    if finals is not None and finals.is_far_worse_on_test(plan.spec.objective):
        yield Text(
            "  warning: the test score is clearly worse than the validation score: choosing among "
            f"{len(outcome.trials)} trials has used up the validation set, or the two sets differ",
            style="yellow",
        )
    if best.verdict is not None:
        kind = (best.verdict.kind.value, VERDICT_STYLE[best.verdict.kind])
        yield Text.assemble("  ", kind, f": {best.verdict.evidence}")
    yield Text(f"  model: {best.model}", overflow="fold")


def _scores(outcome: Outcome, best: Trial) -> Iterable[str]:
    """Yield how good the best configuration is: by the finals, or else by its only run."""
    finals, objectives = outcome.finals, outcome.plan.spec.objectives
    if finals is None:
        values = ", ".join(
            f"{objective.objective.metric} {value:.4g}"
            for objective, value in zip(objectives, best.values or (), strict=True)
        )
        tried = len(outcome.trials)
        luck = f", the best of {tried} single runs: some of it is luck, which `finals` measures" if tried > 1 else ""
        yield f"{values} at epoch {best.best_epoch:g}{luck}"
        return
    winner = finals.winning_score
    mean = f"{finals.metric} {winner.mean:.4g} ({winner.low:.4g} .. {winner.high:.4g})"
    yield f"{mean}, the mean of {len(winner.values)} seeds; {finals.searched_value:.4g} in the search"
    if finals.test is not None:
        test, low, high = finals.test
        yield f"test split, scored once: {finals.test_metric} {test:.4g} ({low:.4g} .. {high:.4g})"
    else:
        yield f"not scored on a test split: {finals.untested}"


def _how_it_ended(outcome: Outcome) -> str:
    plan = outcome.plan
    ended = [trial for trial in outcome.trials if trial.state.ended]
    states = Counter(trial.state for trial in ended)
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    spent = f", ${outcome.ledger.spent.usd:,.2f} spent" if plan.spec.capabilities.priced else ""
    took = f"{len(ended)} trials ({counted}) in {clock(outcome.seconds)}{spent}"
    return f"{outcome.end}: {took}; data: {plan.data.name}"


def _finals(finals: FinalsResult) -> Iterable[str]:
    yield f"finals: {finals.reason}"
    for standing in finals.standings:
        interval = f"({standing.low:.4g} .. {standing.high:.4g})"
        yield f"  trial {standing.number}: {finals.metric} {standing.mean:.4g} {interval}"
    for index, (decoding, mean) in enumerate(finals.decodings):
        chosen = " (chosen)" if index == 0 else ""
        yield f"  {decoding_text(decoding)}: {mean:.4g} on the validation examples{chosen}"


def decoding_text(decoding: Decoding) -> str:
    """Return the settings of a decoding in words."""
    nucleus = f", top_p {decoding.top_p:g}" if decoding.top_p < 1 else ""
    return f"temperature {decoding.temperature:g}{nucleus}, max_tokens {decoding.max_tokens}"


def challenge_lines(decision: ChampionDecision) -> Iterable[str]:
    """Say how a challenge ended, and why."""
    what = "promoted to champion" if decision.promoted else "registered but not promoted"
    yield f"champion: version {decision.version} of {decision.model} is {what}"
    yield f"  {decision.reason}"


def saved_by_verdicts(trials: Sequence[Trial]) -> str:
    """Say how many trials their verdicts stopped and how much time that saved.

    Empty if there are none.
    """
    stopped = [trial for trial in trials if trial.stopped_by is StoppedBy.VERDICT and trial.trained_epochs > 0]
    if not stopped:
        return ""
    seconds = sum(
        trial.spend.seconds * ((trial.planned_epochs or trial.trained_epochs) / trial.trained_epochs - 1)
        for trial in stopped
    )
    count = f"{len(stopped)} trial{'s' if len(stopped) > 1 else ''}"
    return f"verdicts stopped {count} early: about {clock(seconds)} of training saved"
