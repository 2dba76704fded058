"""A plan as rich renderables. Prints nothing."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backends.memory_forecast.forecast import MemoryForecast
from sweeps.cli.data_view import baselines, data_line, demonstration, findings
from sweeps.cli.example_view import token_lengths
from sweeps.cli.terminal import fact_table
from sweeps.planning.sweep_plan import KEPT_MODELS, SweepPlan
from sweeps.reports.formatting import clock, in_bytes
from sweeps.spec.sweep_file import BudgetSpec, ChampionSpec
from sweeps.trials.budget import cost_bound

SHOWN_PARTS = 3
"""How many parts of a memory forecast the plan names."""


def plan(plan: SweepPlan) -> RenderableType:
    """Show the data, the search, every hyperparameter as written and as resolved, and the expected
    cost.
    """
    spec = plan.spec
    facts = fact_table()
    facts.add_row("sweep", spec.name)
    facts.add_row("data", data_line(plan))
    if lengths := token_lengths(plan.token_lengths, plan.max_length):
        facts.add_row("lengths", lengths)
    remark = f"; {text}" if (text := demonstration(plan)) else ""
    facts.add_row("backend", f"{spec.backend_type}, model {plan.base_model}{remark}")
    facts.add_row(
        "objective",
        ", ".join(f"{objective.objective.direction} {objective.objective.metric}" for objective in spec.objectives),
    )
    size = plan.space.size()
    points = "" if size is None else f" (the space has {size:,} points)"
    facts.add_row(
        "search",
        f"{spec.search.sampler}, scheduler {spec.search.scheduler.type}, {spec.search.trials} trials{points}, "
        f"{plan.concurrency} at a time, seed {spec.search.seed}",
    )
    if spec.finals is not None:
        facts.add_row("finals", f"the best {spec.finals.candidates} trained again with {spec.finals.seeds} seeds each")
    if spec.champion is not None:
        facts.add_row(
            "champion", f"the winner challenges the champion of `{spec.registered_model}`{_guards(spec.champion)}"
        )
    facts.add_row(
        "resources",
        f"{plan.placement.cpus:g} CPU and {plan.placement.gpus:g} GPU per trial; up to {plan.max_epochs:g} epochs",
    )
    facts.add_row("limits", limits(spec.budget))
    if plan.estimate is not None:
        estimate = plan.estimate
        if estimate.tokens is not None:
            facts.add_row("tokens", f"about {estimate.tokens:,} per trial at the centre of the space")
        if estimate.usd is not None:
            facts.add_row("money", _money(plan, estimate.usd))
        if estimate.seconds is not None and plan.seconds_without_early_stopping is not None:
            facts.add_row(
                "time",
                f"about {clock(estimate.seconds)} per trial, {clock(plan.seconds_without_early_stopping)} in all "
                "without early stopping",
            )
        if plan.memory is not None:
            facts.add_row("memory", _memory(plan.memory, plan.most_memory))
        if plan.max_disk_bytes is not None and estimate.disk_bytes is not None:
            facts.add_row(
                "disk",
                f"about {in_bytes(estimate.disk_bytes)} per kept model; at most {in_bytes(plan.max_disk_bytes)} "
                f"(the {KEPT_MODELS} best models and the running trials)",
            )
        facts.add_row("basis", estimate.basis)
    measured = [*baselines(plan.data.baselines)]
    return Group(facts, Text(), *([*measured, Text()] if measured else ()), parameters(plan), *findings(plan.findings))


def limits(budget: BudgetSpec) -> str:
    """Return the limits of a sweep in words."""
    parts = [f"${budget.usd:,.2f}"] if budget.usd is not None else []
    parts += [f"{budget.tokens:,} tokens"] if budget.tokens is not None else []
    parts += [f"{budget.hours:g} hour{'' if budget.hours == 1 else 's'}"] if budget.hours is not None else []
    if budget.monthly_usd is not None:
        parts.append(f"${budget.monthly_usd:,.2f} per month for the nights of a schedule")
    return ", ".join(parts) or "none"


def _guards(champion: ChampionSpec) -> str:
    written = champion.model_dump(exclude={"model"}, exclude_none=True)
    return "; " + ", ".join(f"{name} {value:g}" for name, value in written.items()) if written else ""


def _money(plan: SweepPlan, usd: float) -> str:
    trials = plan.spec.search.trials + plan.final_trials
    text = f"about ${usd:,.2f} per trial at the centre of the space, ${usd * trials:,.2f} in all without early stopping"
    most_expensive = None if plan.most_expensive is None else cost_bound(plan.most_expensive).usd
    if most_expensive is not None and plan.max_usd is not None:
        text += f"; at most ${most_expensive:,.2f} per trial, ${plan.max_usd:,.2f} in all"
    return text


def _memory(memory: MemoryForecast, most: MemoryForecast | None) -> str:
    parts = sorted(memory.parts.items(), key=lambda part: -part[1])
    largest = ", ".join(f"{name} {in_bytes(count)}" for name, count in parts[:SHOWN_PARTS] if count)
    text = f"about {in_bytes(memory.peak_bytes)} per trial at the centre of the space ({largest})"
    if most is not None and most.peak_bytes > memory.peak_bytes:
        text += f", up to {in_bytes(most.peak_bytes)}"
    text += f"; micro-batches of {memory.micro_batch_size}, up to {memory.sequence_length:,} tokens each"
    return text if memory.available_bytes is None else f"{text}; {memory.device} has {in_bytes(memory.available_bytes)}"


def parameters(plan: SweepPlan) -> RenderableType:
    """Show each hyperparameter as written, as resolved, and with the source of its
    recommendation.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("hyperparameter", "written", "resolved", "recommended", "notes"):
        table.add_column(column, overflow="fold")
    sources: dict[str, int] = {}
    for parameter in plan.space.parameters:
        notes = list(parameter.notes)
        if parameter.condition_text:
            notes.append(f"where {parameter.condition_text}")
        recommended = ""
        if parameter.recommendation is not None:
            source = f"{parameter.recommendation.source} ({parameter.recommendation.as_of})"
            recommended = f"{parameter.recommendation.text} [{sources.setdefault(source, len(sources) + 1)}]"
        table.add_row(*map(Text, (parameter.name, parameter.written, parameter.text, recommended, "; ".join(notes))))
    return Group(table, Text(), *(Text(f"[{number}] {source}", style="dim") for source, number in sources.items()))
