"""`sweep fit`: the verdicts on training histories as text, table, JSON and plots.

Prints nothing.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backends.training_logs import ImportedCurve, RunDetails, TrainingLogError, read
from search_spaces.catalogue import Catalogue
from sweeps.errors import Problem, UserInputError
from sweeps.reports.plots import VERDICT_COLOURS, PlotStyle, curve_image
from sweeps.tracking import run_curves
from sweeps.verdicts.advice import EPOCHS, Advice
from sweeps.verdicts.judge import judge
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

MIN_INCHES, MAX_INCHES = (4.0, 3.0), 40.0
"""The sizes of a plot: a smaller one has no room for the evidence."""

COMMON = ("n_epochs", "learning_rate", "weight_decay")
"""Hyperparameters that every training run has, as the recommendation catalogue names them."""


SERIOUSNESS = (
    VerdictKind.DIVERGED,
    VerdictKind.OVERFIT,
    VerdictKind.UNDERFIT,
    VerdictKind.UNSETTLED,
    VerdictKind.HEALTHY,
)
"""The order of a table: what needs attention first."""

SEARCHED = (".csv", ".tsv", ".json", ".jsonl", ".log", ".txt", ".gz")
"""The endings of the files in a folder that may be logs, beside event files of TensorBoard."""

MAX_SEARCHED = 5000
"""So many files of a folder are looked at."""


@dataclass(frozen=True)
class Fitted:
    """A history with its verdict."""

    history: ImportedCurve
    verdict: FitVerdict

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values. Every number in it is finite."""
        history, verdict = self.history, self.verdict
        return {
            "name": history.name,
            "run": history.run,
            "evaluation_set": history.evaluation_set,
            "format": history.format,
            "verdict": verdict.kind.value,
            "confidence": verdict.confidence,
            "evidence": verdict.evidence,
            "advice": verdict.advice,
            "onset": verdict.onset_epoch,
            "keep": verdict.keep_epoch,
            "axis": history.axis,
            "metric": history.curve.metric,
            "points": len(history.curve.points),
            "values_read": history.values_read,
            "left_out": list(history.left_out),
            "notes": list(history.notes),
            "ignored_columns": list(history.ignored),
        }


@dataclass(frozen=True)
class Judged:
    """What became of several sources: the verdicts, the problems, and what a folder hid.

    `skipped` counts the files in the searched folders that are no logs, and `unsearched` those that
    nobody looked at, beyond MAX_SEARCHED.
    """

    fitted: tuple[Fitted, ...]
    problems: tuple[Problem, ...] = ()
    skipped: int = 0
    unsearched: int = 0


def judged(sources: Iterable[str], tracking_uri: str, details: RunDetails) -> Judged:
    """Read and judge files, folders and MLflow runs (`mlflow:RUN_ID`).

    A source that cannot be read hides no other. Raises UserInputError with every problem if nothing
    could be read.
    """
    curves: list[ImportedCurve] = []
    problems: list[Problem] = []
    skipped = unsearched = 0
    for source in sources:
        try:
            if source.startswith(run_curves.PREFIX):
                curves += run_curves.read(source.removeprefix(run_curves.PREFIX), tracking_uri, details)
            elif Path(source).is_dir():
                found, others, beyond = _in_folder(Path(source), details)
                curves += found
                skipped += others
                unsearched += beyond
            else:
                curves += read(Path(source), details)
        except TrainingLogError as error:
            problems.append(Problem(error.place, error.message, error.hint))
        except UserInputError as error:
            problems += error.problems
    unique = tuple(dict.fromkeys(problems))
    if not curves:
        raise UserInputError(unique)
    return Judged(tuple(judge_curves(curves)), unique, skipped, unsearched)


def _in_folder(folder: Path, details: RunDetails) -> tuple[list[ImportedCurve], int, int]:
    """Read the logs below a folder, at most MAX_SEARCHED files.

    Returns the curves, how many other files were looked at, and how many were not.

    Raises TrainingLogError if there is no log.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and _may_be_log(path)]
    curves: list[ImportedCurve] = []
    skipped = 0
    for path in files[:MAX_SEARCHED]:
        try:
            curves += read(path, details)
        except TrainingLogError:
            skipped += 1
    if not curves:
        looked = f"{skipped} files were looked at" if skipped else f"it has no files that end in {', '.join(SEARCHED)}"
        raise TrainingLogError(str(folder), f"the folder has no training log: {looked}", "give the log itself")
    return curves, skipped, max(0, len(files) - MAX_SEARCHED)


def _may_be_log(path: Path) -> bool:
    return path.suffix.lower() in SEARCHED or "tfevents" in path.name


def judge_curves(curves: Iterable[ImportedCurve]) -> list[Fitted]:
    """Judge curves that were read already."""
    fitted = []
    for curve in curves:
        verdict = judge(curve.curve, _advice(curve))
        if curve.axis == "step":
            verdict = replace(verdict, evidence=_EPOCH_WORD.sub(r"step\1", verdict.evidence))
        fitted.append(Fitted(curve, verdict))
    return fitted


_EPOCH_WORD = re.compile(r"\bepoch(s?)\b")


def _advice(history: ImportedCurve) -> Advice:
    """Return the advice of the history's scope.

    Only the number of epochs is known, if epochs are the axis.
    """
    catalogue = Catalogue.load()
    names = COMMON if history.scope is None else (*COMMON, "learning_rate_multiplier")
    found = (catalogue.get(name, history.scope or "local") for name in names)
    advice = Advice.from_recommendations(recommendation for recommendation in found if recommendation is not None)
    if history.axis != "epoch" or not history.curve.points:
        return advice
    return advice.for_run({EPOCHS: math.ceil(max(point.epoch for point in history.curve.points))})


def most_serious_first(fitted: Iterable[Fitted]) -> list[Fitted]:
    """Sort by the kind of the verdict, and among equals by confidence."""
    return sorted(fitted, key=lambda one: (SERIOUSNESS.index(one.verdict.kind), -one.verdict.confidence))


def shown(fitted: Sequence[Fitted], *, verbose: bool) -> RenderableType:
    """Show one history in full, several as a table."""
    return _one(fitted[0], verbose) if len(fitted) == 1 else _several(most_serious_first(fitted), verbose)


def _one(fitted: Fitted, verbose: bool) -> RenderableType:
    history, verdict = fitted.history, fitted.verdict
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("history", Text(f"{history.title} ({history.format})"))
    facts.add_row("verdict", _kind(verdict))
    facts.add_row("confidence", f"{verdict.confidence:.0%}")
    facts.add_row("evidence", Text(verdict.evidence))
    facts.add_row("keep", _keep(fitted) or "cannot tell which is best")
    if verdict.advice:
        facts.add_row("advice", Text(verdict.advice))
    facts.add_row("read", Text(_what_was_read(history)))
    for remark in _remarks(history, verbose):
        facts.add_row("note", Text(remark))
    return facts


def _several(fitted: Sequence[Fitted], verbose: bool) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("history", overflow="fold", ratio=2)
    table.add_column("verdict", no_wrap=True)
    table.add_column("keep", overflow="fold")
    table.add_column("evidence and advice", overflow="fold", ratio=5)
    for one in fitted:
        verdict = one.verdict
        kind = Text.assemble(_kind(verdict), f"\n{verdict.confidence:.0%} sure")
        advice = Text(f"\nadvice: {verdict.advice}", style="bold") if verdict.advice else Text()
        table.add_row(Text(_short_title(one.history)), kind, _keep(one), Text.assemble(verdict.evidence, advice))
    notes = dict.fromkeys(
        f"{one.history.name}: {note}"
        for one in fitted
        for note in (*_left_out(one.history), *(_remarks(one.history, verbose) if verbose else ()))
    )
    return Group(table, *(Text(note, style="dim") for note in notes))


def _short_title(history: ImportedCurve) -> str:
    """Return the title with the last two parts of the path: all paths of a folder begin alike."""
    path = Path(history.name)
    return replace(history, name=str(Path(*path.parts[-2:]))).title if len(path.parts) > 2 else history.title


def _what_was_read(history: ImportedCurve) -> str:
    evaluations = sum(point.valid_loss is not None or point.valid_metric is not None for point in history.curve.points)
    counted = f"{evaluations} evaluation{'' if evaluations == 1 else 's'}, {history.values_read} values"
    return "; left out: ".join((counted, *([", ".join(history.left_out)] if history.left_out else [])))


def _left_out(history: ImportedCurve) -> list[str]:
    return [f"left out: {', '.join(history.left_out)}"] if history.left_out else []


def _kind(verdict: FitVerdict) -> Text:
    return Text(verdict.kind.value, style=f"bold {VERDICT_COLOURS[verdict.kind]}")


def _keep(fitted: Fitted) -> str:
    keep = fitted.verdict.keep_epoch
    return "" if keep is None else f"{fitted.history.axis} {keep:.6g}"


def _remarks(history: ImportedCurve, verbose: bool) -> list[str]:
    ignored = [f"ignored columns: {', '.join(history.ignored)}"] if verbose and history.ignored else []
    return [*history.notes, *ignored]


def as_csv(fitted: Iterable[Fitted]) -> str:
    """Return one line for each history, with the fields of `to_json` that are not lists."""
    stream = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for one in fitted:
        plain = {name: value for name, value in one.to_json().items() if not isinstance(value, list)}
        if writer is None:
            writer = csv.DictWriter(stream, list(plain), lineterminator="\n")
            writer.writeheader()
        writer.writerow(plain)
    return stream.getvalue()


def style_of(path: Path, size: str | None, title: str | None, dpi: int) -> PlotStyle:
    """Return the style of the plots that are written to `path`, whose ending is the format.

    Raises UserInputError for an ending or a size that is none.
    """
    formats: Mapping[str, Literal["png", "svg", "pdf"]] = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
    chosen = formats.get(path.suffix.lower())
    if chosen is None:
        problem = Problem("--plot", f"`{path}` ends in none of {', '.join(formats)}", "Give a name such as curve.png.")
        raise UserInputError([problem])
    if size is None:
        return PlotStyle(chosen, dpi=dpi, title=title)
    numbers = re.fullmatch(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)", size)
    width, height = (float(numbers[1]), float(numbers[2])) if numbers else (0.0, 0.0)
    if not (MIN_INCHES[0] <= width <= MAX_INCHES and MIN_INCHES[1] <= height <= MAX_INCHES):
        message = f"`{size}` is no size from {MIN_INCHES[0]:g}x{MIN_INCHES[1]:g} to {MAX_INCHES:g}x{MAX_INCHES:g}"
        raise UserInputError([Problem("--plot-size", message, "Give inches, such as 6x4.")])
    return PlotStyle(chosen, (width, height), dpi, title)


def draw(fitted: Sequence[Fitted], path: Path, style: PlotStyle) -> list[Path]:
    """Write each history's plot: a single one to `path`, several to `NAME-1`, `NAME-2`, ..."""
    paths = [path]
    if len(fitted) > 1:
        paths = [path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(1, len(fitted) + 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    for one, place in zip(fitted, paths, strict=True):
        title = replace(one.history, name=Path(one.history.name).name).title
        place.write_bytes(curve_image(one.history.curve, one.verdict, title, one.history.axis, style))
    return paths
