"""`sweep fit`: verdicts on the training histories of any program."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import IO, Any

import click

from sweeps.cli.terminal import json_option, print_json, say, show
from sweeps.errors import PartialFailureError, Problem, UserInputError
from sweeps.workspace import Workspace


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--mlflow", "runs", multiple=True, metavar="RUN_ID", help="An MLflow run; the same as mlflow:RUN_ID.")
@click.option("--metric", metavar="NAME", help="Judge by this metric: a value from 0 to 1, higher is better.")
@click.option("--valid-examples", type=click.IntRange(1), help="The size of the validation set.")
@click.option("--train-examples", type=click.IntRange(1), help="The size of the training set.")
@click.option("--classes", type=click.IntRange(2), help="The number of labels.")
@click.option("--baseline-loss", type=float, help="The validation loss before training.")
@click.option("--baseline-metric", type=float, help="The validation metric before training.")
@click.option("--columns", metavar="OURS=THEIRS,...", help="Which column is which: valid_loss=NAME,epoch=NAME.")
@click.option("--csv", "table", type=click.File("w", lazy=True), metavar="FILE", help="Write a table; - is stdout.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with all curves.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.png",
    help="Draw the curve to this file: PNG, SVG or PDF.",
)
@click.option("--plot-size", "size", metavar="WxH", help="The size of the plot in inches, such as 6x4.")
@click.option("--title", help="The title of the plot; an empty one leaves it out.")
@click.option("--dpi", type=click.IntRange(30, 1200), default=100, show_default=True, help="Dots for each inch.")
@click.option("--verbose", is_flag=True, help="List the ignored columns.")
@json_option
@click.pass_obj
def fit(
    workspace: Workspace,
    /,
    files: tuple[str, ...],
    runs: tuple[str, ...],
    columns: str | None,
    table: IO[str] | None,
    page: Path | None,
    plot: Path | None,
    size: str | None,
    title: str | None,
    dpi: int,
    verbose: bool,
    as_json: bool,
    **context: Any,
) -> None:
    """Judge training histories: log files, folders of them, or MLflow runs.

    FILE is the log of any training program, a folder, or mlflow:RUN_ID. docs/guide/fit.md lists the
    formats and the names of columns. A file that cannot be read hides no other: the command then
    ends with 1 after the verdicts.
    """
    from backends.training_logs import RunDetails, TrainingLogError, columns_option
    from sweeps.api.environment import tracking_uri
    from sweeps.reports import histories_page, judged_histories

    sources = (*files, *(f"mlflow:{run}" for run in runs))
    if not sources:
        raise click.UsageError("give a FILE, or --mlflow RUN_ID")
    try:
        chosen = columns_option(columns or "")
    except TrainingLogError as error:
        raise UserInputError([Problem(error.place, error.message, error.hint)]) from None
    style = None if plot is None else judged_histories.style_of(plot, size, title, dpi)
    found = judged_histories.judged(sources, tracking_uri(workspace), RunDetails(columns=chosen, **context))
    written = [] if plot is None or style is None else judged_histories.draw(found.fitted, plot, style)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(histories_page.page(found.fitted, datetime.now()), encoding="utf-8")
        written.append(page)
    if table is not None:
        table.write(judged_histories.as_csv(judged_histories.most_serious_first(found.fitted)))
    if as_json:
        print_json([history.to_json() for history in found.fitted])
    elif table is None or table.name != "-":
        show(judged_histories.shown(found.fitted, verbose=verbose))
    for path in written:
        say(f"wrote {path}")
    if found.skipped:
        one = found.skipped == 1
        say("1 other file is no training log" if one else f"{found.skipped} other files are no training logs")
    if found.unsearched:
        limit = judged_histories.MAX_SEARCHED
        say(f"{found.unsearched} files were not looked at: a folder is searched up to {limit} files; give its parts")
    if found.problems:
        raise PartialFailureError(found.problems)
