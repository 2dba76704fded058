"""Measure the judge of learning curves, and today's common rules, on curves with a known cause.

python -m benchmarks.fit.evaluate                    # on `tune`, the part for choosing thresholds
python -m benchmarks.fit.evaluate --errors           # the misjudged curves of `tune`, with evidence
python -m benchmarks.fit.evaluate --report --write   # also on `report`, the part used only to
report
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from backends.training_logs.learning_curve import LearningCurve
from benchmarks.fit import metrics, records, rules, tables
from benchmarks.fit.records import CAUSES, Record
from benchmarks.fit.rendering import render
from benchmarks.measure import machine
from search_spaces.catalogue import Catalogue
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge
from sweeps.verdicts.verdict import FitVerdict

RESULTS = Path(__file__).resolve().parent / "results.json"
PUBLISHED_OVERFIT_F1 = 0.91

RATE = "learning_rate_multiplier"
CORRECT_ADVICE = {
    "raise": ("rate far too small",),
    "lower": ("collapsed at once", "rate far too large", "blown up on the way"),
}
"""The correct change of the learning rate, by the engineered cause of the runs."""

ADVICE = Advice.from_recommendations(
    recommendation for name in ("n_epochs", RATE) if (recommendation := Catalogue.load().get(name, "local")) is not None
)

Classify = Callable[[LearningCurve], str]
MEASURES = {"macro_f1": metrics.macro_f1, "accuracy": metrics.accuracy} | {
    f"f1 {name}": metrics.class_f1(name) for name in CAUSES
}


def judge_kind(curve: LearningCurve) -> str:
    """Return the kind of the judge's verdict."""
    return judge(curve, Advice()).kind.value


def rate_advice(curve: LearningCurve) -> str:
    """Return the judge's advice about the learning rate: raise, lower, try both, or nothing."""
    advice = judge(curve, ADVICE).advice
    ways = [way for way in ("raise", "lower") if f"{way} {RATE}" in advice]
    return {0: "nothing", 1: ways[0] if ways else "", 2: "try both"}[len(ways)]


def count_rate_advice(run_records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Count the advice about the learning rate for runs whose construction determines the correct
    advice.
    """
    counts_by_case = {}
    for correct, details in CORRECT_ADVICE.items():
        for detail in details:
            advice = Counter(rate_advice(record.curve) for record in run_records if record.detail == detail)
            counts_by_case[f"{detail}: {correct}"] = {
                way: advice[way] for way in ("raise", "lower", "try both", "nothing")
            }
    return counts_by_case


def overfit_then_macro(matrix: metrics.Matrix) -> float:
    """Return the F1 of over-fitting plus a trace of macro-F1, which decides between equals."""
    return metrics.class_f1("overfit")(matrix) + 1e-6 * metrics.macro_f1(matrix)


def tune_rules(tune: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Return all rules with their best thresholds on `tune`: plain and expert, for macro-F1 and
    over-fitting F1.
    """
    tuned = {}
    best_expert = partial(rules.best_expert, read=rules.readings(tune))
    for rule in rules.RULES:
        for form, search, classify in (
            ("plain", rules.best_plain, rules.plain),
            ("expert", best_expert, rules.expert),
        ):
            for aim, measure in (("macro-F1", metrics.macro_f1), ("overfit F1", overfit_then_macro)):
                thresholds, _ = search(rule, tune, measure)
                tuned[f"{rule.name}, {form}, best {aim}"] = {
                    "rule": rule.name, "form": form, "aim": aim, "thresholds": thresholds,
                    "classify": partial(classify, rule, at=thresholds),
                }  # fmt: skip
    return tuned


def score_classifier(run_records: Sequence[Record], classify: Classify) -> dict[str, Any]:
    """Return all reported scores of a classifier on some records."""
    truth, predicted = [record.cause for record in run_records], [classify(record.curve) for record in run_records]
    matrix = metrics.confusion(truth, predicted)
    intervals = metrics.intervals(truth, predicted, MEASURES)
    # The question of the published work on training histories: is a finished run over-fitted or
    # not?
    healthy_or_overfit = [(a, b) for a, b in zip(truth, predicted, strict=True) if a in {"healthy", "overfit"}]
    return {
        "curves": len(run_records),
        "intervals": {name: [interval.value, interval.low, interval.high] for name, interval in intervals.items()},
        "classes": {
            name: {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1, "support": scores.support}
            for name, scores in zip(CAUSES, metrics.per_class(matrix), strict=True)
        },
        "confusion": matrix.tolist(),
        "overfit_against_healthy": metrics.class_f1("overfit")(
            metrics.confusion(*zip(*healthy_or_overfit, strict=True))
        )
        if healthy_or_overfit
        else None,
    }


def group_records(run_records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the non-empty groups of records by family and by length."""
    groups = {family: [record for record in run_records if record.family == family] for family in records.FAMILIES}
    groups["short"] = [record for record in run_records if not record.is_long]
    groups["long"] = [record for record in run_records if record.is_long]
    return {name: group for name, group in groups.items() if group}


def measure_all(run_records: Sequence[Record], with_report: bool) -> dict[str, Any]:
    """Choose thresholds on `tune` and score all classifiers on it, and on `report` if
    `with_report`.
    """
    parts = {"tune": [record for record in run_records if record.split == "tune"]}
    tuned = tune_rules(parts["tune"])
    if with_report:
        parts["report"] = [record for record in run_records if record.split == "report"]
    ways: dict[str, Classify] = {"judge": judge_kind} | {name: rule["classify"] for name, rule in tuned.items()}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "published_overfit_f1": PUBLISHED_OVERFIT_F1,
        "rules": {name: {k: v for k, v in rule.items() if k != "classify"} for name, rule in tuned.items()},
        "curves": counts(run_records),
        "parts": {
            part: {
                "advice": count_rate_advice(part_records),
                "ways": {name: score_classifier(part_records, classify) for name, classify in ways.items()},
                "groups": {
                    name: {
                        way: score_classifier(group, ways[way]) for way in ("judge", best_rule(tuned, parts["tune"]))
                    }
                    for name, group in group_records(part_records).items()
                },
            }
            for part, part_records in parts.items()
        },
    }


def best_rule(tuned: Mapping[str, Mapping[str, Any]], tune: Sequence[Record]) -> str:
    """Return the rule with the highest macro-F1 on `tune`.

    The report compares it with the judge in detail.
    """
    truth = [record.cause for record in tune]
    return max(
        tuned,
        key=lambda name: metrics.macro_f1(
            metrics.confusion(truth, [tuned[name]["classify"](record.curve) for record in tune])
        ),
    )


def counts(run_records: Sequence[Record]) -> dict[str, Any]:
    """Return the numbers of curves by split, cause, family, length and detail."""
    return {
        "all": len(run_records),
        "splits": dict(sorted(Counter(record.split for record in run_records).items())),
        "causes": {name: sum(record.cause == name for record in run_records) for name in CAUSES},
        "families": {name: sum(record.family == name for record in run_records) for name in records.FAMILIES},
        "long": sum(record.is_long for record in run_records),
        "details": {
            f"{cause}: {detail}": n
            for (cause, detail), n in sorted(Counter((record.cause, record.detail) for record in run_records).items())
        },
    }


def errors_text(run_records: Sequence[Record]) -> str:
    """Return the misjudged curves of `tune` as text, grouped by kind of error."""
    tune = [record for record in run_records if record.split == "tune"]
    misjudged = []
    for record in tune:
        verdict = judge(record.curve, Advice())
        if verdict.kind.value != record.cause:
            misjudged.append((record, verdict))
    parts = [f"The judge misjudges {len(misjudged)} of {len(tune)} curves of tune.\n"]
    parts += [
        f"{n:4} {cause} judged {kind}: {detail}"
        for (cause, kind, detail), n in sorted(
            Counter((record.cause, verdict.kind.value, record.detail) for record, verdict in misjudged).items()
        )
    ]
    for record, verdict in sorted(misjudged, key=_error_order):
        head = f"\n{record.id} ({record.dataset}) is {record.cause} ({record.detail}), judged {verdict.kind.value}"
        parts += [f"{head}, confidence {verdict.confidence:.2f}:", f"  {verdict.evidence}", render(record)]
    return "\n".join(parts)


def _error_order(misjudged: tuple[Record, FitVerdict]) -> tuple[str, str, str, str]:
    record, verdict = misjudged
    return record.cause, verdict.kind.value, record.detail, record.id


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--report", action="store_true", help="also score the part used only to report")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md and results.json")
    parser.add_argument("--errors", action="store_true", help="list the misjudged curves of tune")
    parser.add_argument("--curves", type=Path, default=records.CURVES)
    options = parser.parse_args(arguments)
    curves = records.read(options.curves)
    if options.errors:
        print(errors_text(curves))
        return
    result = measure_all(curves, options.report)
    collected = records.CURVES.with_name("collected.json")
    if collected.is_file():
        result["collected"] = json.loads(collected.read_text(encoding="utf-8"))
    text = tables.results(result)
    print(text)
    if options.write:
        RESULTS.write_text(json.dumps(_plain(result), indent=1) + "\n", encoding="utf-8")
        RESULTS.with_name("RESULTS.md").write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """Round floats to four digits, which exceeds the precision of the curves.

    Non-finite floats become None.
    """
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    main()
