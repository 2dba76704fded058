"""The command `sweep scale`: a metric by the number of training examples, one line a model."""

from __future__ import annotations

from pathlib import Path

import click

from sweeps.cli.gate import gate_options
from sweeps.cli.run import files_option, sweep_file_options
from sweeps.cli.terminal import err, json_option, print_json, relative, say, show
from sweeps.errors import Problem, UserInputError
from sweeps.workspace import Workspace


@click.command()
@sweep_file_options
@click.option("--sizes", required=True, metavar="N,N,...", help="The numbers of training examples, ascending.")
@click.option(
    "--models",
    multiple=True,
    metavar="[LABEL=]MODEL,...",
    help="The base models, one line each. LABEL names the line.  [default: the model of FILE]",
)
@click.option("--seeds", default=3, show_default=True, help="Runs of each point, with different seeds.")
@click.option(
    "--sweep", "searches", is_flag=True, help="Search the space at each size, instead of training its centre."
)
@click.option("--plan", "only_plan", is_flag=True, help="Show what it would train and cost. Starts nothing.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder for scale.json, scale.csv and scale.svg.  [default: in the workspace]",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the figure to this .png, .svg or .pdf file, too.",
)
@click.option("--fresh", is_flag=True, help="Start over. Keeps the earlier sweeps of the points under other names.")
@files_option
@gate_options
@json_option
@click.pass_obj
def scale(
    workspace: Workspace,
    file: Path,
    data_path: Path | None,
    model: str | None,
    overrides: tuple[str, ...],
    address: str | None,
    sizes: str,
    models: tuple[str, ...],
    seeds: int,
    searches: bool,
    only_plan: bool,
    out: Path | None,
    plot: Path | None,
    fresh: bool,
    files: str | None,
    strict: bool,
    accepted: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show how much data is enough.

    Trains each model on nested subsets of the training examples, and says what doubling the data
    would add. The same command continues where it was stopped, and trains nothing twice.
    """
    from sweeps.api.environment import environment
    from sweeps.cli import scale_tables
    from sweeps.cli.progress import Progress
    from sweeps.planning.gate import stop_at_warnings
    from sweeps.planning.machine_limits import this_machine
    from sweeps.scaling.figure import ENDINGS, draw
    from sweeps.scaling.plan import plan_scale, to_json
    from sweeps.scaling.request import read_request
    from sweeps.scaling.result import write_files
    from sweeps.scaling.running import require_budget, run_scale
    from sweeps.spec.yaml_source import read, with_overrides

    if model is not None:
        models = (*models, model)
    if plot is not None and plot.suffix.lower() not in ENDINGS:
        raise UserInputError([Problem("--plot", f"{plot} has no ending of an image", f"use {', '.join(ENDINGS)}")])
    request = read_request(sizes, models, seeds, searches=searches)
    where = environment(workspace, address, files)
    planned = plan_scale(
        with_overrides(read(file), overrides),
        request,
        workspace,
        data_path,
        estimate=only_plan,
        machine=this_machine() if address in (None, "", "local") else None,
        fresh=fresh,
    )
    stop_at_warnings(planned.findings, strict, accepted)
    require_budget(planned, where, fresh=fresh)
    if only_plan:
        if as_json:
            print_json(to_json(planned))
        else:
            show(scale_tables.plan(planned))
        return
    err.print(scale_tables.plan(planned), highlight=False)
    result = run_scale(planned, where, lambda: Progress(err), say, fresh=fresh)
    written = write_files(result, out or workspace.sweep_folder(planned.home))
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        draw(result, plot)
        written.append(plot)
    if as_json:
        print_json(result.to_json())
    else:
        show(scale_tables.result(result))
    for path in written:
        say(f"wrote {relative(path.absolute())}")
