"""The baselines of a sweep's data as a table, and beside the sweep's best result.

Reads the stored plan (`plan.json`), so that a report of an old sweep shows them, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends import codec
from sweeps.data.baselines import Baselines
from sweeps.data.builtin.generated import GENERATED_SOURCES
from sweeps.spec.objective import Objective
from sweeps.study.finals import FinalsResult
from sweeps.study.sweep_advice import SweepAdvice
from sweeps.trials.trial import Trial
from sweeps.verdicts.baseline_comparison import BaselineComparison, SweepScore, compare
from sweeps.verdicts.noise import metric_noise
from sweeps.verdicts.verdict import VerdictKind

ENOUGH_TRIALS = 3
"""Fewer trials with a result cannot show that no hyperparameters would help."""

_PARTS = ("valid", "test")


@dataclass(frozen=True)
class BaselineTable:
    """The baselines by row, the metrics of validation and test by column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    note: str


def stored_baselines(plan: Mapping[str, Any]) -> Baselines | None:
    """Return the baselines of a stored plan; None if they were not measured."""
    stored = plan["data"].get("baselines")
    return None if stored is None else codec.from_json(Baselines, stored)


def baseline_table(baselines: Baselines) -> BaselineTable:
    """Return all values, and a note on what was sampled."""
    columns = [(part, metric) for part in baselines.parts for metric in baselines.metrics]
    rows = []
    for model in baselines.models:
        name = model.name if not model.answer else f"{model.name}: {_quoted(model.answer)}"
        rows.append((name, tuple(model.value(part, metric) for part, metric in columns)))
    notes = filter(None, (telling_field(baselines), baselines.sample_note))
    return BaselineTable(tuple(f"{part}_{metric}" for part, metric in columns), tuple(rows), "; ".join(notes))


def telling_field(baselines: Baselines) -> str:
    """Say which field alone tells as much as all fields, as the hypotheses of SNLI do.

    Empty if there is none. A difference inside two standard errors counts as none.
    """
    fields = [model for model in baselines.models if model.kind == "tfidf-field"]
    together, constant = baselines.model("tfidf"), baselines.model("most-frequent")
    if not fields or together is None or constant is None:
        return ""
    best = max(fields, key=lambda model: model.value("valid", "accuracy") or 0.0)
    values = [model.value("valid", "accuracy") for model in (best, together, constant)]
    alone, whole, least = (0.0 if value is None else value for value in values)
    noise = metric_noise(whole, baselines.examples.get("valid"))
    if alone < whole - noise or alone <= least + noise:
        return ""
    return f"{{{best.field}}} alone tells as much as all fields together: a model may answer without the others"


def baseline_metrics(plan: Mapping[str, Any]) -> dict[str, float]:
    """Return all values by the names of MLflow metrics, such as `baseline.tfidf.valid_accuracy`."""
    baselines = stored_baselines(plan)
    return {
        f"baseline.{model.key}.{part}_{metric}": value
        for model in (baselines.models if baselines is not None else ())
        for part, values in model.values.items()
        for metric, value in values.items()
    }


def to_beat(baselines: Baselines, objective: Objective) -> str:
    """Say in one line what a sweep with this objective has to beat; empty if that is unknown."""
    part, _, metric = objective.metric.partition("_")
    constant, strongest = baselines.model("most-frequent"), baselines.strongest(part, metric)
    rivals = [model for model in (constant, strongest if strongest != constant else None) if model is not None]
    texts = [f"{value:.3g} ({model.name})" for model in rivals if (value := model.value(part, metric)) is not None]
    if not texts:
        return ""
    return f"to beat: {objective.metric} {', '.join(texts)}"


def closing_comparison(
    plan: Mapping[str, Any],
    objective: Objective,
    best: Trial | None,
    trials: Sequence[Trial],
    finals: FinalsResult | None,
    advice: SweepAdvice | None = None,
) -> BaselineComparison | None:
    """Compare a sweep's best result with the baselines of its data; None if that is impossible.

    Where the `advice` still moves a range, the hyperparameters have not had their chance yet.

    The score on the test split counts if the finals have one, because the best of many trials on
    the validation examples owes a part of its lead to chance.
    """
    baselines = stored_baselines(plan)
    if baselines is None or best is None or best.values is None:
        return None
    data = plan["data"]
    enough = sum(trial.values is not None for trial in trials) >= ENOUGH_TRIALS
    settled = _is_settled(best) and enough and not (advice is not None and advice.moves)
    own = str(data["name"]) not in GENERATED_SOURCES
    tested = finals is not None and finals.test is not None and finals.test_metric in baselines.metrics
    if finals is not None and finals.test is not None and tested:
        score = SweepScore("test", finals.test_metric, finals.test[0], int(data["test_examples"]), settled)
    else:
        part, _, metric = objective.metric.partition("_")
        if part != "valid":
            return None
        score = SweepScore("valid", metric, best.values[0], _measured_examples(plan, metric), settled)
    return compare(score, baselines, str(plan["base_model"]), has_own_data=own)


def _measured_examples(plan: Mapping[str, Any], metric: str) -> int:
    """Return the number of validation examples behind a score: task metrics use a sample."""
    evaluation = plan.get("evaluation", {})
    task_metrics = [written["name"] for written in evaluation.get("metrics", ())]
    if metric in task_metrics:
        return int(evaluation["generate"]["examples"])
    return int(plan["data"]["validation_examples"])


def _is_settled(best: Trial) -> bool:
    verdict = best.verdict
    return verdict is None or (
        verdict.kind in (VerdictKind.HEALTHY, VerdictKind.OVERFIT, VerdictKind.UNDERFIT)
        and not (verdict.improving or verdict.collapsed)
    )


def _quoted(answer: str) -> str:
    line = " ".join(answer.split())
    return repr(line if len(line) <= 24 else f"{line[:23]}…")
