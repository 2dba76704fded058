"""The commands of registered models: `sweep champion show | history | rollback` and `sweep
predict`.
"""

from __future__ import annotations

import getpass
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from backends import codec
from sweeps.cli.terminal import json_option, print_json, say, show
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.workspace import Workspace


@click.group()
def champion() -> None:
    """Show the champion of a registered model, or roll it back."""


@champion.command("show")
@click.argument("name", required=False)
@json_option
@click.pass_obj
def show_champion(workspace: Workspace, name: str | None, as_json: bool) -> None:
    """Show the champion of a registered model.

    NAME is the registered model (default: the only one).
    """
    from sweeps.champions import history
    from sweeps.cli import champion_tables

    registry, model = _registered(workspace, name)
    entries, standing = history.read(registry, model), registry.champion(model)
    if as_json:
        print_json(champion_tables.to_json(model, standing, entries))
    elif standing is None:
        say(f"{model} has no champion. sweep champion history {model} shows why.")
    else:
        show(champion_tables.shown(standing, entries))


@champion.command("history")
@click.argument("name", required=False)
@json_option
@click.pass_obj
def show_history(workspace: Workspace, name: str | None, as_json: bool) -> None:
    """Show all challenges and rollbacks of a registered model.

    NAME is the registered model (default: the only one).
    """
    from sweeps.champions import history
    from sweeps.cli import champion_tables

    registry, model = _registered(workspace, name)
    entries = history.read(registry, model)
    if as_json:
        print_json([codec.to_json(entry) for entry in entries])
    else:
        show(champion_tables.history(entries))


@champion.command("rollback")
@click.argument("name", required=False)
@click.option("--to", metavar="VERSION", help="The version to make champion.  [default: the previous champion]")
@click.option("--why", default="", metavar="TEXT", help="The reason, for the history.")
@click.option("--by", metavar="WHO", help="Your name, for the history.  [default: your user name on this machine]")
@json_option
@click.pass_obj
def roll_back(workspace: Workspace, name: str | None, to: str | None, why: str, by: str | None, as_json: bool) -> None:
    """Make another version of a registered model its champion.

    NAME is the registered model (default: the only one). The history records who did it, and why.
    """
    from sweeps.champions import history

    registry, model = _registered(workspace, name)
    entry = history.roll_back(registry, model, to, by or _user(), why, time.time())
    if as_json:
        print_json(codec.to_json(entry))
    else:
        before = f"; it was version {entry.before}" if entry.before else ""
        click.echo(f"the champion of {model} is version {entry.version}{before}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"user {os.getuid()}"


def _registered(workspace: Workspace, name: str | None) -> tuple[Any, str]:
    """Return the registry and the model's name: the given one, or the only one there is."""
    from sweeps.api.environment import tracking_uri
    from sweeps.tracking import reachability
    from sweeps.tracking.registry import Registry

    uri = tracking_uri(workspace)
    file = reachability.sqlite_path(uri)
    if file is not None and not file.exists():
        hint = "Add a `champion:` section to a sweep file: the sweep then registers its winner."
        raise SweepError("no model is registered here", hint)
    registry = Registry(uri)
    if name is not None:
        return registry, name
    models = registry.model_names()
    if not models:
        hint = "Add a `champion:` section to a sweep file: the sweep then registers its winner."
        raise SweepError("no model is registered here", hint)
    if len(models) > 1:
        raise UserInputError(
            [Problem("NAME", "several models are registered; name one", f"one of: {', '.join(models)}")]
        )
    return registry, models[0]


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="The output file: .csv, .tsv, .jsonl or .json."
)
@click.option("--version", metavar="VERSION", help="Use this version of a registered model instead of its champion.")
@click.option("--encoding", default="utf-8", show_default=True, help="The encoding of FILE.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The longest text that a sweep's model writes.")
@click.option(
    "--score",
    "written_metrics",
    metavar="METRIC",
    multiple=True,
    help="Measure the predictions, e.g. exact_match or '{regex: {pattern: ...}}'. May be repeated.",
)
@click.option("--reference", metavar="COLUMN", help="The column with the correct answers for --score.")
@json_option
@click.pass_obj
def predict(
    workspace: Workspace,
    name: str,
    file: Path,
    out: Path | None,
    version: str | None,
    encoding: str,
    max_tokens: int | None,
    written_metrics: tuple[str, ...],
    reference: str | None,
    as_json: bool,
) -> None:
    """Predict the examples of FILE with the model NAME.

    FILE is CSV, JSON lines, Parquet, Excel or another known format, with the columns of the
    training data. NAME is a registered model or a sweep. For a registered model, its champion
    predicts; for a sweep, its best model. Without --out, the command prints the predictions as CSV,
    or as JSON with --json. With --score it also prints how good they are, and each row has its own
    score.
    """
    from sweeps.api.environment import storage, tracking_uri
    from sweeps.champions import batch_prediction, prediction_scores
    from sweeps.champions.predictors import CountsCutPrompts, open_predictor

    if out is not None:
        batch_prediction.check_output(out)
    metrics = prediction_scores.requested_metrics(written_metrics, reference)
    model = open_predictor(name, version, workspace, tracking_uri(workspace), storage(), max_tokens)
    with model as (predictor, description):
        examples = batch_prediction.read_examples(file, predictor.card, encoding)
        prediction_scores.check_columns(examples.records, metrics)
        say(f"{description} predicts {len(examples.rows):,} examples")
        rows = batch_prediction.predict_examples(examples, predictor, say)
    scores: dict[str, float] = {}
    if metrics:
        texts = [str(row[batch_prediction.PREDICTION_COLUMN]) for row in rows]
        measured = prediction_scores.measure(examples.records, texts, metrics, workspace.root)
        scores = dict(measured.values)
        rows = [{**row, **measured.scores_of(number)} for number, row in enumerate(rows)]
        for metric, value in scores.items():
            say(f"{metric}: {value:.4g} over {len(rows):,} examples")
    if isinstance(predictor, CountsCutPrompts) and predictor.cut_prompts:
        prompts = f"{predictor.cut_prompts:,} of {len(rows):,} prompts"
        say(f"the model read only a part of {prompts}: they are too long for it")
    if ended := sum(bool(row.get("truncated")) for row in rows):
        say(f"{ended:,} of {len(rows):,} texts ended because they became too long; --max-tokens allows more")
    if out is not None:
        batch_prediction.write_rows(rows, out)
    counts = Counter(str(row[batch_prediction.PREDICTION_COLUMN]) for row in rows)
    if out is None:
        click.echo(batch_prediction.format_rows(rows, ".json" if as_json else ".csv"), nl=False)
    elif as_json:
        print_json(
            {
                "answered_by": description,
                "file": str(out),
                "examples": len(rows),
                "counts": dict(counts),
                "scores": scores,
            }
        )
    else:
        most = ", ".join(f"{count:,} {label}" for label, count in counts.most_common(10))
        say(
            f"{out}: {len(rows):,} predictions ({most})"
            if predictor.card.label_names
            else f"{out}: {len(rows):,} predictions"
        )
