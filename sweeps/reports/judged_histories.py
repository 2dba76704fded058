"""`sweep fit`: the verdicts on training histories as text, table, JSON and plots.

Prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backends.training_logs import ImportedCurve, RunDetails, TrainingLogError, read
from search_spaces.catalogue import Catalogue
from sweeps.errors import Problem, UserInputError
from sweeps.reports.plots import VERDICT_COLOURS, curve_png
from sweeps.tracking import run_curves
from sweeps.verdicts.advice import EPOCHS, Advice
from sweeps.verdicts.judge import judge
from sweeps.verdicts.verdict import FitVerdict

COMMON = ("n_epochs", "learning_rate", "weight_decay")
"""Hyperparameters that every training run has, as the recommendation catalogue names them."""


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
            "notes": list(history.notes),
            "ignored_columns": list(history.ignored),
        }


def judged(sources: Iterable[str], tracking_uri: str, details: RunDetails) -> list[Fitted]:
    """Read and judge files and MLflow runs (`mlflow:RUN_ID`).

    Raises UserInputError with every problem.
    """
    curves: list[ImportedCurve] = []
    problems: list[Problem] = []
    for source in sources:
        try:
            if source.startswith(run_curves.PREFIX):
                curves += run_curves.read(source.removeprefix(run_curves.PREFIX), tracking_uri, details)
            else:
                curves += read(Path(source), details)
        except TrainingLogError as error:
            problems.append(Problem(error.place, error.message, error.hint))
        except UserInputError as error:
            problems += error.problems
    if problems:
        raise UserInputError(dict.fromkeys(problems))
    return judge_curves(curves)


def judge_curves(curves: Iterable[ImportedCurve]) -> list[Fitted]:
    """Judge curves that were read already."""
    return [Fitted(curve, judge(curve.curve, _advice(curve))) for curve in curves]


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


def shown(fitted: Sequence[Fitted], *, verbose: bool) -> RenderableType:
    """Show one history in full, several as a table."""
    return _one(fitted[0], verbose) if len(fitted) == 1 else _several(fitted, verbose)


def _one(fitted: Fitted, verbose: bool) -> RenderableType:
    history, verdict = fitted.history, fitted.verdict
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("history", Text(f"{history.name} ({history.format})"))
    facts.add_row("verdict", _kind(verdict))
    facts.add_row("confidence", f"{verdict.confidence:.0%}")
    facts.add_row("evidence", Text(verdict.evidence))
    facts.add_row("keep", _keep(fitted) or "cannot tell which is best")
    if verdict.advice:
        facts.add_row("advice", Text(verdict.advice))
    for remark in _remarks(history, verbose):
        facts.add_row("note", Text(remark))
    return facts


def _several(fitted: Sequence[Fitted], verbose: bool) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("history", "verdict", "confidence", "keep", "evidence", "advice"):
        table.add_column(column, overflow="fold")
    for judged_history in fitted:
        verdict = judged_history.verdict
        cells = (_keep(judged_history), Text(verdict.evidence), Text(verdict.advice))
        table.add_row(Text(judged_history.history.name), _kind(verdict), f"{verdict.confidence:.0%}", *cells)
    notes = dict.fromkeys(
        f"{judged_history.history.name}: {note}"
        for judged_history in fitted
        for note in _remarks(judged_history.history, verbose)
    )
    return Group(table, *(Text(note, style="dim") for note in notes))


def _kind(verdict: FitVerdict) -> Text:
    return Text(verdict.kind.value, style=f"bold {VERDICT_COLOURS[verdict.kind]}")


def _keep(fitted: Fitted) -> str:
    keep = fitted.verdict.keep_epoch
    return "" if keep is None else f"{fitted.history.axis} {keep:.6g}"


def _remarks(history: ImportedCurve, verbose: bool) -> list[str]:
    ignored = [f"ignored columns: {', '.join(history.ignored)}"] if verbose and history.ignored else []
    return [*history.notes, *ignored]


def draw(fitted: Sequence[Fitted], path: Path) -> list[Path]:
    """Write each history's plot: a single one to `path`, several to `NAME-1.png`,
    `NAME-2.png`, ...
    """
    if path.suffix.lower() != ".png":
        raise UserInputError([Problem("--plot", f"`{path}` is not a PNG file name", "Give a name that ends in .png.")])
    paths = [path]
    if len(fitted) > 1:
        paths = [path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(1, len(fitted) + 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    for judged, place in zip(fitted, paths, strict=True):
        title = Path(judged.history.name).name
        place.write_bytes(curve_png(judged.history.curve, judged.verdict, title, judged.history.axis))
    return paths
