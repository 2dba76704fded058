"""The live screen of a running sweep: how far it is, the best so far, and the latest trials.

The lines that matter most come first, and the table of trials gets the lines that are left, so that
a small terminal loses rows of the table and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.align import AlignMethod
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.cli.sparkline import sparkline
from sweeps.spec.objective import Objective
from sweeps.trials.point_name import point_name
from sweeps.trials.trial import Trial, TrialState
from sweeps.verdicts.verdict import VerdictKind

VERDICT_STYLE = {
    VerdictKind.HEALTHY: "green",
    VerdictKind.UNDERFIT: "yellow",
    VerdictKind.OVERFIT: "magenta",
    VerdictKind.DIVERGED: "red",
    VerdictKind.UNSETTLED: "dim",
}

CURVE_WIDTH = 8
MIN_BAR_WIDTH = 10
MAX_BAR_WIDTH = 40
MAX_ROWS = 12
ALIGNMENTS: Sequence[AlignMethod] = ("right", "left", "right", "right", "left")
LINES_OUTSIDE = 3
"""Lines of the terminal that stay free: the heading of the table, the cursor and one to breathe."""


@dataclass(frozen=True)
class LiveScreen:
    """What the screen shows of a sweep at one moment.

    `done` of `total` trials have ended. `progress` is the text behind the bar, `best` and `facts`
    are whole lines, shown up to the width of the terminal in the order of their importance.
    `running` are the trials that train, with what each does now in `doing`; `ended` are the latest
    ended ones, the last one first. `searched` are the hyperparameters to name.
    """

    name: str
    done: int
    total: int
    progress: str
    best: Text
    facts: Sequence[Text]
    running: Sequence[Trial]
    ended: Sequence[Trial]
    doing: Mapping[int, str]
    objective: Objective
    searched: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        lines = [self.best, *self.facts]
        yield self._head(width)
        for line in lines:
            line.truncate(width, overflow="ellipsis")
            yield line
        rows = min(MAX_ROWS, max(1, console.size.height - LINES_OUTSIDE - 1 - len(lines)))
        yield from self._table(rows, width, draws=not options.ascii_only)

    def _head(self, width: int) -> Table:
        title = Text(self.name, style="bold", overflow="ellipsis", no_wrap=True)
        title.truncate(max(8, width // 5), overflow="ellipsis")
        head = Table.grid(padding=(0, 1, 0, 0))
        cells: list[Text | ProgressBar] = [title]
        room = width - len(title) - len(self.progress) - 2
        if room >= MIN_BAR_WIDTH:
            cells.append(ProgressBar(self.total, self.done, width=min(MAX_BAR_WIDTH, room)))
        cells.append(Text(self.progress, no_wrap=True, overflow="ellipsis"))
        for _ in cells:
            head.add_column(no_wrap=True)
        head.add_row(*cells)
        return head

    def _table(self, rows: int, width: int, *, draws: bool) -> Iterator[Text]:
        """Yield the lines of the table. Only the hyperparameters are cut where the width ends."""
        shown = [*self.running[:rows], *self.ended[: max(0, rows - len(self.running))]]
        metric = self.objective.metric.removeprefix("valid_")
        heading = ("trial", "curve" if draws else "", metric, "epoch", "verdict", "")
        cells = [[Text(name, style="dim") for name in heading]]
        cells += [self._row(trial, draws=draws) for trial in shown]
        widths = [max(row[column].cell_len for row in cells) for column in range(len(ALIGNMENTS))]
        for row in cells:
            for cell, width_of_column, alignment in zip(row, widths, ALIGNMENTS, strict=False):
                cell.align(alignment, width_of_column)
            line = Text(" ").join(row)
            line.truncate(width, overflow="ellipsis")
            yield line

    def _row(self, trial: Trial, *, draws: bool) -> list[Text]:
        curve = sparkline(self._curve(trial), CURVE_WIDTH) if draws else ""
        numbers = (str(trial.number), curve, self._value(trial), _epoch(trial))
        return [*map(Text, numbers), self._verdict(trial), Text(point_name(trial.hyperparameters, self.searched))]

    def _curve(self, trial: Trial) -> list[float]:
        """Return the objective's values; those of the training loss while there are too few."""
        metric = self.objective.metric
        values = [measured.values[metric] for measured in trial.curve if metric in measured.values]
        if len(values) > 1:
            return values
        return [report.values["batch_loss"] for report in trial.loop_reports if "batch_loss" in report.values]

    def _value(self, trial: Trial) -> str:
        if trial.values is not None:
            return f"{trial.values[0]:.4g}"
        latest = trial.curve[-1].values.get(self.objective.metric) if trial.curve else None
        return "" if latest is None or trial.state.ended else f"{latest:.4g}"

    def _verdict(self, trial: Trial) -> Text:
        if not trial.state.ended:
            return Text(self.doing.get(trial.number, "starting"), style="cyan")
        if trial.verdict is None or trial.state is TrialState.FAILED:
            return Text(str(trial.state), style="red" if trial.state is TrialState.FAILED else "dim")
        stopped = ", stopped" if trial.state is TrialState.STOPPED else ""
        return Text(f"{trial.verdict.kind}{stopped}", style=VERDICT_STYLE[trial.verdict.kind])


def _epoch(trial: Trial) -> str:
    """Return the kept epoch of an ended trial, and how far a running one is."""
    if trial.state.ended:
        return "" if trial.best_epoch is None else f"{trial.best_epoch:.3g}"
    heard = max((measured.epoch for measured in (*trial.curve, *trial.loop_reports)), default=0.0)
    return f"{heard:.2g}" if trial.planned_epochs is None else f"{heard:.2g}/{trial.planned_epochs:g}"
