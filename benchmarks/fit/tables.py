"""Tables of the results of judging learning curves: RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.fit.records import CAUSES

_HEAD = """# Accuracy of the judge of learning curves

`python -m benchmarks.fit.evaluate --report --write` generates this page from `curves.jsonl.gz`; `README.md` explains
the method. All thresholds are chosen on the part `tune`; the part `report` serves only for reporting. The brackets
contain 95 % bootstrap intervals.

These runs predict labels and numbers. Runs that write free text have a page of their own: [FREE_TEXT.md](FREE_TEXT.md).
"""


def results(result: Mapping[str, Any]) -> str:
    """Return the text of RESULTS.md."""
    parts = [_HEAD, _machine(result), _curves(result)]
    for part, results_of_part in result["parts"].items():
        parts += [
            f"## On `{part}`: {results_of_part['ways']['judge']['curves']} curves\n",
            _ways(result, results_of_part["ways"]),
            f"### The judge, by class (`{part}`)\n",
            _classes(results_of_part["ways"]["judge"]),
            _confusion(results_of_part["ways"]["judge"]["confusion"]),
            f"### Advice about the learning rate where the correct advice is known (`{part}`)\n",
            _advice(results_of_part["advice"]),
            f"### By family and by length (`{part}`), macro-F1 and F1 of over-fitting\n",
            _groups(results_of_part["groups"]),
        ]
    return "\n".join(parts)


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{result['date']}, revision {machine['revision']}, {machine['cpus']} x {machine['cpu']}, "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}, {versions}.\n"
    )


def _curves(result: Mapping[str, Any]) -> str:
    counts = result["curves"]
    families = ", ".join(f"{n} {name}" for name, n in counts["families"].items())
    text = f"{counts['all']} curves ({families}), {counts['long']} of them with 50 evaluations or more.\n"
    rows = []
    collected = result.get("collected", {}).get("causes", {})
    for cause in CAUSES:
        candidates = collected.get(cause, {})
        rejected = [str(candidates.get(name, "-")) for name in ("candidates", "no effect", "between", "not visible")]
        rows.append((cause, str(counts["causes"][cause]), *rejected))
    head = ("cause", "curves", "runs made", "rejected: no effect", "between two classes", "not visible")
    return f"{text}\n{_table(head, rows)}"


def _ways(result: Mapping[str, Any], ways: Mapping[str, Any]) -> str:
    head = ("way", "thresholds", "macro-F1", "F1 of over-fitting", "against healthy only", "accuracy")
    rows = []
    for name, scores in ways.items():
        chosen = result["rules"].get(name, {}).get("thresholds", {})
        intervals = scores["intervals"]
        against = scores["overfit_against_healthy"]
        rows.append(
            (
                name,
                ", ".join(f"{key} {value:g}" for key, value in chosen.items()) or "-",
                _interval(intervals["macro_f1"]),
                _interval(intervals["f1 overfit"]),
                "-" if against is None else f"{against:.3f}",
                _interval(intervals["accuracy"]),
            )
        )
    note = (
        f"The F1 of over-fitting measures how well it is distinguished from everything else (published for training "
        f"histories: {result['published_overfit_f1']}, on other curves).\n"
    )
    return f"{_table(head, rows)}\n{note}"


def _classes(scores: Mapping[str, Any]) -> str:
    rows = []
    for name in CAUSES:
        class_scores = scores["classes"][name]
        shares = (
            f"{class_scores['precision']:.3f}",
            f"{class_scores['recall']:.3f}",
            _interval(scores["intervals"][f"f1 {name}"]),
        )
        rows.append((name, *shares, str(class_scores["support"])))
    return _table(("class", "precision", "recall", "F1", "curves"), rows)


def _confusion(matrix: Sequence[Sequence[int]]) -> str:
    rows = [(name, *map(str, row)) for name, row in zip(CAUSES, matrix, strict=True)]
    return _table(("true class, judged as", *CAUSES), rows)


def _advice(advice: Mapping[str, Mapping[str, int]]) -> str:
    rows = [(name, *map(str, counts.values())) for name, counts in advice.items()]
    return _table(("runs: correct advice", "raise it", "lower it", "try both", "nothing"), rows)


def _groups(groups: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for group, ways in groups.items():
        for name, scores in ways.items():
            intervals = scores["intervals"]
            rows.append(
                (
                    group,
                    name,
                    str(scores["curves"]),
                    _interval(intervals["macro_f1"]),
                    _interval(intervals["f1 overfit"]),
                )
            )
    return _table(("curves", "way", "number", "macro-F1", "F1 of over-fitting"), rows)


def _interval(values: Sequence[float]) -> str:
    return "{:.3f} ({:.3f}-{:.3f})".format(*values)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
