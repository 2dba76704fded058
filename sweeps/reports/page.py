"""The report of a sweep as one self-contained HTML page, while it runs or afterwards."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Any

from backends.training_logs.learning_curve import LearningCurve
from sweeps.reports.baselines import BaselineTable, baseline_table, closing_comparison, stored_baselines
from sweeps.reports.formatting import advice_lines, clock, short
from sweeps.reports.overview import overview_svg
from sweeps.reports.plots import VERDICT_COLOURS, learning_curve_png
from sweeps.reports.small_curves import HEIGHT, WIDTH, small_curve
from sweeps.spec.objective import Objective
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.state import SweepState, describe_best
from sweeps.trials.trial import Trial, leaderboard
from sweeps.verdicts.verdict import VerdictKind

SHOWN_TEXTS = 8
"""How many of the texts of the best trial the report shows."""

BEST_CURVES = 3
"""How many of the best trials get a learning curve; one trial of every other verdict gets one too.
"""


def page(state: SweepState, now: datetime) -> str:
    """Return the report as HTML. Names, data and reasons are escaped."""
    from jinja2 import Environment

    ranked = leaderboard(state.trials, state.objective)
    others = [trial for trial in state.trials if trial not in ranked]
    names = list(dict.fromkeys(name for trial in state.trials for name in trial.hyperparameters))
    varied = [name for name in names if len({trial.hyperparameters.get(name) for trial in state.trials}) > 1]
    comparison = closing_comparison(state.plan, state.objective, state.best, state.trials, state.finals, state.advice)
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(template)
        .render(
            **_head(state, now),
            best=state.best,
            best_name=describe_best(state.best) if state.best is not None else "",
            baseline=_baseline(ranked, state.objective.metric),
            advice=advice_lines(state.trials, state.advice, comparison),
            finals=state.finals,
            is_far_worse_on_test=state.finals is not None and state.finals.is_far_worse_on_test(state.objective),
            small_curve=lambda trial: _small_curve(trial, state.objective),
            width=WIDTH,
            height=HEIGHT,
            champion=state.champion,
            difference=_difference(state.champion),
            texts=_texts(state),
            changes=state.changes,
            state_name=state.state_name,
            overview=overview_svg(state.trials, state.objective),
            trials=[*ranked, *others],
            varied=varied or names,
            priced=any(trial.spend.usd is not None for trial in state.trials),
            curves=[_curve(trial) for trial in _worth_a_curve(ranked)],
            ledger=state.ledger,
            dollars=lambda usd: f"${usd:,.2f}",
            plan=state.plan,
            baselines=_baselines(state.plan),
            comparison=comparison,
            colours={kind.value: colour for kind, colour in VERDICT_COLOURS.items()},
            short=short,
            clock=clock,
            value=lambda trial: "" if trial.values is None else short(float(trial.values[0])),
        )
    )


def _head(state: SweepState, now: datetime) -> Mapping[str, Any]:
    data = state.plan["data"]
    counts = {part: int(data[f"{part}_examples"]) for part in ("training", "validation", "test")}
    sizes = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    ended = sum(trial.state.ended for trial in state.trials)
    return {
        "name": state.name,
        "data": f"{data['name']}: {sizes} examples" if any(counts.values()) else data["name"],
        "data_name": data["name"],
        "fallback": data["fallback_from"],
        "model": state.plan["base_model"],
        "backend": state.plan["backend"]["type"],
        "objective": f"{state.objective.direction} {state.objective.metric}",
        "metric": state.objective.metric,
        "progress": f"{ended} of {state.planned_trials} trials",
        "written": f"{now:%Y-%m-%d %H:%M}",
    }


def _baselines(plan: Mapping[str, Any]) -> BaselineTable | None:
    baselines = stored_baselines(plan)
    return None if baselines is None else baseline_table(baselines)


def _texts(state: SweepState) -> Mapping[str, Any] | None:
    """Return what the best trial wrote first and at its kept epoch; None if it wrote nothing."""
    best, evaluations = state.best, state.best_texts
    if best is None or not evaluations:
        return None
    kept = next((shown for shown in evaluations if shown.epoch == best.best_epoch), evaluations[-1])
    first = {text.example: text for text in evaluations[0].texts} if evaluations[0] is not kept else {}
    return {
        "epoch": kept.epoch,
        "first_epoch": evaluations[0].epoch,
        "metrics": list(dict.fromkeys(name for text in kept.texts for name in text.scores)),
        "rows": [(text, first.get(text.example)) for text in kept.texts[:SHOWN_TEXTS]],
        "of": kept.examples,
    }


def _difference(champion: ChampionDecision | None) -> str:
    """Return the challenger's lead with its interval; empty if nothing was compared."""
    if champion is None or champion.challenger_score is None or champion.champion_score is None:
        return ""
    ahead = f"{champion.challenger_score - champion.champion_score:+.3g}"
    if champion.difference_low is None or champion.difference_high is None:
        return ahead
    return f"{ahead} ({champion.difference_low:+.3g} .. {champion.difference_high:+.3g})"


def _baseline(ranked: Sequence[Trial], metric: str) -> str:
    first = ranked[0].curve[0] if ranked and ranked[0].curve else None
    known = first is not None and first.step == 0 and metric in first.values
    return short(first.values[metric]) if first is not None and known else ""


def _worth_a_curve(ranked: Sequence[Trial]) -> list[Trial]:
    drawn = [trial for trial in ranked if len(trial.curve) > 1]
    chosen = drawn[:BEST_CURVES]
    for kind in VerdictKind:
        first = next((trial for trial in drawn if trial.verdict is not None and trial.verdict.kind is kind), None)
        if first is not None and all(trial.verdict is None or trial.verdict.kind is not kind for trial in chosen):
            chosen.append(first)
    return chosen


def _small_curve(trial: Trial, objective: Objective) -> Mapping[str, str]:
    """Return the lines of a trial's objective, or of its loss if that is not measured."""
    evaluations = [measured for measured in trial.curve if measured.scope == "evaluation"]
    name = objective.metric.removeprefix("valid_")
    curve = LearningCurve.from_measurements(evaluations, metric=name)
    return small_curve(curve, ("loss", "metric") if name == "loss" else ("metric", "loss"))


def _curve(trial: Trial) -> Mapping[str, Any]:
    image = learning_curve_png(trial, f"trial {trial.number}")
    return {"number": trial.number, "png": base64.b64encode(image).decode("ascii")}
