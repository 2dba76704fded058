"""The data of a sweep as rich renderables: findings, sizes and baselines. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.cli.trial_tables import _heading
from sweeps.data.baselines import Baselines
from sweeps.data.builtin.generated import GENERATED_SOURCES
from sweeps.data.findings import Finding
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.reports.baselines import baseline_table
from sweeps.reports.baselines import to_beat as baselines_to_beat
from sweeps.verdicts.baseline_comparison import EMBEDDED_MODEL


def data_line(plan: SweepPlan) -> str:
    """Describe in one line the data that the sweep uses."""
    data, dataset = plan.data, plan.data.dataset
    if not dataset.train.examples:
        return data.source
    test = f", {data.test.examples:,} test" if data.test is not None else ""
    labels = f", {len(dataset.labels)} labels" if dataset.labels else ""
    counts = f"{dataset.train.examples:,} training, {dataset.valid.examples:,} validation{test} examples{labels}"
    conversations = f"; {data.conversations.in_words()}" if data.conversations is not None else ""
    return f"{data.source}: {counts}{conversations}"


def demonstration(plan: SweepPlan) -> str:
    """Say that the embedded model is no model for the user's own data; empty if it does not train
    them.
    """
    if plan.base_model != EMBEDDED_MODEL or plan.data.name in GENERATED_SOURCES:
        return ""
    return "this model is a demonstration: it shows how a sweep runs, not what your data can teach"


def findings(found: Sequence[Finding]) -> Iterable[RenderableType]:
    """Show one line per finding, with its remedy."""
    for finding in found:
        style = "red" if finding.severity == "error" else "yellow"
        place = f"{finding.place}: " if finding.place else ""
        hint = f" ({finding.hint})" if finding.hint else ""
        code = (f" [{finding.code}]", "dim")
        yield Text.assemble((f"{finding.severity}: ", style), f"{place}{finding.message}{hint}", code)


def baselines(measured: Baselines | None) -> Iterable[RenderableType]:
    """Show what the data gives away without a language model; nothing if it was not measured."""
    if measured is None:
        return
    known = baseline_table(measured)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("without a language model", overflow="fold")
    for column in known.columns:
        table.add_column(_heading(column), justify="right", no_wrap=True)
    for name, values in known.rows:
        table.add_row(Text(name), *("" if value is None else f"{value:.4f}" for value in values))
    yield table
    if known.note:
        yield Text(known.note, style="dim")


def to_beat(plan: SweepPlan) -> str:
    """Say in one line which baselines the sweep has to beat; empty if none was measured."""
    measured = plan.data.baselines
    return "" if measured is None else baselines_to_beat(measured, plan.spec.objective)
