"""Judge public training histories of strangers, beside today's common rules.

python -m benchmarks.fit.public FOLDER...           # the half to work on
python -m benchmarks.fit.public FOLDER... --held    # the half that is looked at once

A folder holds the files of histories and an `index.csv` with the columns file, repository, path,
label, arguable (yes or no). The files are not in this repository, because most of them have no
licence; `public_histories.csv` says where they lie, and how they were labelled by eye, before they
were judged.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.training_logs import TrainingLogError, read
from backends.training_logs.learning_curve import LearningCurve
from benchmarks.fit import rules
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge
from sweeps.verdicts.verdict import FitVerdict

ALARMS = ("overfit", "diverged")

RULES: dict[str, Callable[[LearningCurve], bool]] = {
    "mean of the last five 5 % above the minimum": lambda curve: rules.mean_of_last(curve, {"count": 5, "share": 0.05}),
    "last value 5 % above the minimum": lambda curve: rules.above_minimum(curve, {"share": 0.05}),
    "patience 3": lambda curve: rules.patience(curve, {"patience": 3, "share": 0.0, "delta": 0.0}),
    "patience 10": lambda curve: rules.patience(curve, {"patience": 10, "share": 0.0, "delta": 0.0}),
    "validation 1.3 times training": lambda curve: rules.ratio(curve, {"ratio": 1.3}),
}
"""Rules for over-fitting with the thresholds that people use; nothing here was fitted."""


@dataclass(frozen=True)
class History:
    """A public history: its label by eye, and what the product says of it.

    `verdict` and `curve` are None if it cannot be read; `problem` then says why. Of a file with
    several runs the first one counts.
    """

    file: str
    repository: str
    label: str
    arguable: bool
    verdict: FitVerdict | None
    curve: LearningCurve | None
    problem: str = ""

    @property
    def is_held(self) -> bool:
        """Whether it belongs to the half that is looked at once; decided by its repository."""
        return int(hashlib.sha256(self.repository.lower().encode()).hexdigest(), 16) % 2 == 1

    @property
    def agrees(self) -> bool:
        """Whether the verdict is the label."""
        return self.verdict is not None and self.verdict.kind.value == self.label


def histories(folders: Sequence[Path]) -> Iterator[History]:
    """Read and judge the files of the folders."""
    for folder in folders:
        with (folder / "index.csv").open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                verdict, curve, problem = _judged(folder / row["file"])
                is_arguable = row["arguable"].strip().lower() == "yes"
                yield History(row["file"], row["repository"], row["label"], is_arguable, verdict, curve, problem)


def _judged(path: Path) -> tuple[FitVerdict | None, LearningCurve | None, str]:
    try:
        curve = read(path)[0].curve
    except TrainingLogError as error:
        return None, None, error.message
    return judge(curve, Advice()), curve, ""


def report(found: Sequence[History]) -> Iterator[str]:
    """Yield the lines of the report."""
    clear = [history for history in found if not history.arguable]
    agreed = sum(history.agrees for history in clear)
    yield f"{len(found)} histories, {len(clear)} of them clear: {agreed} agree ({agreed / max(1, len(clear)):.2f})"
    for history in found:
        if not history.agrees:
            said = history.verdict.kind.value if history.verdict else f"not read: {history.problem}"
            sure = f" ({100 * history.verdict.confidence:.0f} %)" if history.verdict else ""
            yield f"  {'arguable' if history.arguable else 'WRONG'} {history.file}: {history.label}, said {said}{sure}"
    alarms = [history.file for history in clear if _is_false_alarm(history)]
    yield f"clearly wrong alarms: {len(alarms)} {' '.join(alarms)}"
    yield "over-fitting among the clear ones:"
    for name, says in {"the judge": _judge_says, **{name: _by(rule) for name, rule in RULES.items()}}.items():
        hits = sum(says(history) and history.label == "overfit" for history in clear)
        alarmed, true = sum(map(says, clear)), sum(history.label == "overfit" for history in clear)
        f1 = 2 * hits / (alarmed + true) if alarmed + true else 0.0
        yield f"  {name}: recall {hits} of {true}, precision {hits} of {alarmed}, F1 {f1:.2f}"
    bins: dict[float, list[bool]] = defaultdict(list)
    for history in clear:
        if history.verdict is not None:
            bins[min(0.9, int(history.verdict.confidence * 10) / 10)].append(history.agrees)
    for low, right in sorted(bins.items()):
        yield f"  confidence from {low:.1f}: {sum(right)} of {len(right)} right"


def _is_false_alarm(history: History) -> bool:
    return history.label == "healthy" and history.verdict is not None and history.verdict.kind.value in ALARMS


def _judge_says(history: History) -> bool:
    return history.verdict is not None and history.verdict.kind.value == "overfit"


def _by(rule: Callable[[LearningCurve], bool]) -> Callable[[History], bool]:
    return lambda history: history.curve is not None and rule(history.curve)


def main() -> None:
    """Print the report of one half."""
    parser = argparse.ArgumentParser(description="Judge public training histories, beside common rules.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--held", action="store_true", help="the half that is looked at once")
    arguments = parser.parse_args()
    chosen = [history for history in histories(arguments.folders) if history.is_held is arguments.held]
    print("\n".join(report(chosen)))


if __name__ == "__main__":
    main()
