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
from sweeps.reports.formatting import advice, clock, in_words
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult
from sweeps.trials.trial import StoppedBy, Trial


def outcome(outcome: Outcome) -> RenderableType:
    """Show the leaderboard, the best configuration with its evidence, and what to do next."""
    plan, trials = outcome.plan, outcome.trials
    ended = [trial for trial in trials if trial.state.ended]
    states = Counter(trial.state for trial in ended)
    parts: list[RenderableType] = [Text(), table(trials, plan.spec.objective), Text()]
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    spent = f", ${outcome.ledger.spent.usd:,.2f} spent" if plan.spec.capabilities.priced else ""
    took = f"{len(ended)} trials ({counted}) in {clock(outcome.seconds)}{spent}"
    parts.append(Text(f"{outcome.end}: {took}; data: {plan.data.name}"))
    if outcome.ledger.reserved.usd >= LEAST_SHOWN_USD:
        parts.append(
            Text(
                "the service has not reported the cost of stopped runs yet: "
                f"up to ${outcome.ledger.reserved.usd:,.2f} more"
            )
        )
    best = outcome.best
    if best is None or best.values is None:
        parts.append(Text("no trial produced a model; the table above shows why", style="yellow"))
    else:
        values = ", ".join(
            f"{objective.objective.metric} {value:.4g}"
            for objective, value in zip(plan.spec.objectives, best.values, strict=True)
        )
        base = best.curve[0].values.get(plan.spec.objective.metric) if best.curve and best.curve[0].step == 0 else None
        before = f" (base model: {base:.4g})" if base is not None else ""
        parts.append(
            Text.assemble(("best: ", "bold"), f"trial {best.number}, {values} at epoch {best.best_epoch:g}{before}")
        )
        parts.append(Text(f"  {in_words(best.hyperparameters)}"))
        if outcome.finals is not None:
            parts += _finals(outcome.finals, best)
        if outcome.champion is not None:
            parts += [Text(f"  {line}") for line in challenge_lines(outcome.champion)]
        if best.verdict is not None:
            parts.append(
                Text.assemble(
                    "  ", (best.verdict.kind.value, VERDICT_STYLE[best.verdict.kind]), f": {best.verdict.evidence}"
                )
            )
        parts.append(Text(f"  model: {best.model}"))
    if outcome.comparison is not None:
        style = "" if outcome.comparison.kind == "above" else "yellow"
        parts.append(Text(outcome.comparison.text, style=style))
    if saved := saved_by_verdicts(trials):
        parts.append(Text(saved))
    parts += [Text(f"steering: {change.text}") for change in outcome.changes]
    parts += [Text.assemble(("advice: ", "bold"), line) for line in advice(trials)]
    parts += [Text(f"not recorded: {problem}", style="yellow") for problem in outcome.problems]
    if outcome.run_url:
        parts.append(Text(f"MLflow: {outcome.run_url}"))
    if outcome.report.exists():
        parts.append(Text(f"report: {outcome.report}", overflow="fold"))
    parts.append(Text.assemble(("next: ", "bold"), "sweep ui   compares the trials in the browser"))
    return Group(*parts)


def _finals(finals: FinalsResult, best: Trial) -> Iterable[RenderableType]:
    yield Text(f"  finals: {finals.reason}")
    for standing in finals.standings:
        yield Text(
            f"    trial {standing.number}: {finals.metric} {standing.mean:.4g} "
            f"({standing.low:.4g} .. {standing.high:.4g}) over {len(standing.values)} seeds"
            + ("" if standing.number != finals.winner else f"; {finals.searched_value:.4g} in the search")
        )
    if finals.test is not None:
        mean, low, high = finals.test
        name = finals.test_metric
        yield Text(f"  test split, scored once: {name} {mean:.4g} ({low:.4g} .. {high:.4g})")
    else:
        yield Text(f"  not scored on a test split: {finals.untested}")
    for index, (decoding, mean) in enumerate(finals.decodings):
        chosen = " (chosen)" if index == 0 else ""
        yield Text(f"    {decoding_text(decoding)}: {mean:.4g} on the validation examples{chosen}")


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
