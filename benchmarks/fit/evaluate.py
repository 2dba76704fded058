"""Measure the judge of learning curves, and the rules people use today, on curves of known cause.

python -m benchmarks.fit.evaluate                    # on the part for choosing thresholds
python -m benchmarks.fit.evaluate --errors           # which curves of that part the judge gets wrong, and why
python -m benchmarks.fit.evaluate --report --write   # also on the part that is looked at only to report
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
from benchmarks.fit.rendering import rendered
from benchmarks.measure import machine
from search_spaces.catalogue import Catalogue
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge

RESULTS = Path(__file__).resolve().parent / "results.json"
PUBLISHED_OVERFIT_F1 = 0.91

RATE = "learning_rate_multiplier"
RIGHT_WAY = {
    "raise": ("rate far too small",),
    "lower": ("collapsed at once", "rate far too large", "blown up on the way"),
}
"""Which way the rate is to be moved, by how the runs were built."""

ADVICE = Advice.from_recommendations(each for name in ("n_epochs", RATE) if (each := Catalogue.load().get(name, "local")) is not None)

Classify = Callable[[LearningCurve], str]
MEASURES = {"macro_f1": metrics.macro_f1, "accuracy": metrics.accuracy} | {
    f"f1 {name}": metrics.class_f1(name) for name in CAUSES
}


def judged(curve: LearningCurve) -> str:
    """Return the kind of the judge's verdict."""
    return judge(curve, Advice()).kind.value


def told_of_rate(curve: LearningCurve) -> str:
    """Return what the judge's advice says of the learning rate: raise, lower, try both, or nothing."""
    said = judge(curve, ADVICE).advice
    ways = [way for way in ("raise", "lower") if f"{way} {RATE}" in said]
    return {0: "nothing", 1: ways[0] if ways else "", 2: "try both"}[len(ways)]


def advised(curves: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Return how often each thing was said of the rate, where it is known by construction which way is right."""
    found = {}
    for right, details in RIGHT_WAY.items():
        for detail in details:
            told = Counter(told_of_rate(each.curve) for each in curves if each.detail == detail)
            found[f"{detail}: {right}"] = {way: told[way] for way in ("raise", "lower", "try both", "nothing")}
    return found


def overfit_then_macro(matrix: metrics.Matrix) -> float:
    """Return the F1 of over-fitting; among equals, a trace of macro-F1 decides."""
    return metrics.class_f1("overfit")(matrix) + 1e-6 * metrics.macro_f1(matrix)


def chosen_rules(tune: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Return every rule with the thresholds that are best on `tune`: plain and expert, for macro-F1 and over-fit F1."""
    found = {}
    with_rest = partial(rules.best_expert, read=rules.readings(tune))
    for rule in rules.RULES:
        for form, search, classify in (
            ("plain", rules.best_plain, rules.plain),
            ("expert", with_rest, rules.expert),
        ):
            for aim, measure in (("macro-F1", metrics.macro_f1), ("overfit F1", overfit_then_macro)):
                at, _ = search(rule, tune, measure)
                found[f"{rule.name}, {form}, best {aim}"] = {
                    "rule": rule.name, "form": form, "aim": aim, "thresholds": at,
                    "classify": partial(classify, rule, at=at),
                }  # fmt: skip
    return found


def scored(curves: Sequence[Record], classify: Classify) -> dict[str, Any]:
    """Return all that is reported of a classifier on some curves."""
    truth, said = [each.cause for each in curves], [classify(each.curve) for each in curves]
    matrix = metrics.confusion(truth, said)
    found = metrics.intervals(truth, said, MEASURES)
    # As the published work on training histories has it: is a finished run over-fitted or not.
    two = [(a, b) for a, b in zip(truth, said, strict=True) if a in {"healthy", "overfit"}]
    return {
        "curves": len(curves),
        "intervals": {name: [each.value, each.low, each.high] for name, each in found.items()},
        "classes": {
            name: {"precision": each.precision, "recall": each.recall, "f1": each.f1, "support": each.support}
            for name, each in zip(CAUSES, metrics.per_class(matrix), strict=True)
        },
        "confusion": matrix.tolist(),
        "overfit_against_healthy": metrics.class_f1("overfit")(metrics.confusion(*zip(*two, strict=True)))
        if two
        else None,
    }


def groups(curves: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the curves by family, and by length."""
    found = {family: [each for each in curves if each.family == family] for family in records.FAMILIES}
    found |= {"short": [each for each in curves if not each.long], "long": [each for each in curves if each.long]}
    return {name: some for name, some in found.items() if some}


def measured(curves: Sequence[Record], with_report: bool) -> dict[str, Any]:
    """Return the results: thresholds chosen on `tune`, everything scored on it, and on `report` where asked for."""
    parts = {"tune": [each for each in curves if each.split == "tune"]}
    chosen = chosen_rules(parts["tune"])
    if with_report:
        parts["report"] = [each for each in curves if each.split == "report"]
    ways: dict[str, Classify] = {"judge": judged} | {name: each["classify"] for name, each in chosen.items()}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "published_overfit_f1": PUBLISHED_OVERFIT_F1,
        "rules": {name: {k: v for k, v in each.items() if k != "classify"} for name, each in chosen.items()},
        "curves": counts(curves),
        "parts": {
            part: {
                "advice": advised(some),
                "ways": {name: scored(some, classify) for name, classify in ways.items()},
                "groups": {
                    group: {name: scored(these, ways[name]) for name in ("judge", best_rule(chosen, parts["tune"]))}
                    for group, these in groups(some).items()
                },
            }
            for part, some in parts.items()
        },
    }


def best_rule(chosen: Mapping[str, Mapping[str, Any]], tune: Sequence[Record]) -> str:
    """Return the rule with the highest macro-F1 on `tune`: the one to be compared with in detail."""
    truth = [each.cause for each in tune]
    return max(
        chosen,
        key=lambda name: metrics.macro_f1(
            metrics.confusion(truth, [chosen[name]["classify"](each.curve) for each in tune])
        ),
    )


def counts(curves: Sequence[Record]) -> dict[str, Any]:
    """Return how many curves there are, by what they are."""
    return {
        "all": len(curves),
        "splits": dict(sorted(Counter(each.split for each in curves).items())),
        "causes": {name: sum(each.cause == name for each in curves) for name in CAUSES},
        "families": {name: sum(each.family == name for each in curves) for name in records.FAMILIES},
        "long": sum(each.long for each in curves),
        "details": {
            f"{cause}: {detail}": n
            for (cause, detail), n in sorted(Counter((each.cause, each.detail) for each in curves).items())
        },
    }


def errors(curves: Sequence[Record]) -> str:
    """Return the curves of `tune` that the judge gets wrong, as text, those of one kind together."""
    wrong = []
    for each in (each for each in curves if each.split == "tune"):
        verdict = judge(each.curve, Advice())
        if verdict.kind.value != each.cause:
            wrong.append((each, verdict))
    parts = [f"{len(wrong)} of {sum(each.split == 'tune' for each in curves)} curves of tune are judged wrongly\n"]
    parts += [
        f"{n:4} {cause} judged {said}: {detail}"
        for (cause, said, detail), n in sorted(
            Counter((each.cause, verdict.kind.value, each.detail) for each, verdict in wrong).items()
        )
    ]
    for each, verdict in sorted(wrong, key=lambda one: (one[0].cause, one[1].kind.value, one[0].detail, one[0].id)):
        head = f"\n{each.id} ({each.dataset}) is {each.cause} ({each.detail}), judged {verdict.kind.value}"
        parts += [f"{head}, confidence {verdict.confidence:.2f}:", f"  {verdict.evidence}", rendered(each)]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--report", action="store_true", help="also score the part that is looked at only to report")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md and results.json")
    parser.add_argument("--errors", action="store_true", help="list the curves of tune that the judge gets wrong")
    parser.add_argument("--curves", type=Path, default=records.CURVES)
    options = parser.parse_args(arguments)
    curves = records.read(options.curves)
    if options.errors:
        print(errors(curves))
        return
    result = measured(curves, options.report)
    collected = records.CURVES.with_name("collected.json")
    if collected.is_file():
        result["collected"] = json.loads(collected.read_text(encoding="utf-8"))
    text = tables.results(result)
    print(text)
    if options.write:
        RESULTS.write_text(json.dumps(_plain(result), indent=1) + "\n", encoding="utf-8")
        RESULTS.with_name("RESULTS.md").write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """Round floats to four digits, which is more than the curves tell."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    main()
