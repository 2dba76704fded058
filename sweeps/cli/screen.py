"""Plans, leaderboards, outcomes and listings as rich renderables. Prints nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backends.contract import Capabilities, Decoding
from backends.memory_forecast.forecast import MemoryForecast
from search_spaces.catalogue import Catalogue
from search_spaces.library import LibrarySpace
from sweeps.cli.example_view import token_lengths
from sweeps.cli.progress import LEAST_SHOWN_USD, VERDICT_STYLE
from sweeps.data.baselines import Baselines
from sweeps.data.builtin.generated import GENERATED_SOURCES
from sweeps.data.findings import Finding
from sweeps.execution.outcome import Outcome
from sweeps.planning.sweep_plan import KEPT_MODELS, SweepPlan
from sweeps.reports.baselines import baseline_table
from sweeps.reports.baselines import to_beat as baselines_to_beat
from sweeps.reports.formatting import advice, clock, in_bytes, in_words, short
from sweeps.spec.objective import Objective
from sweeps.spec.sweep_file import BudgetSpec, ChampionSpec
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult
from sweeps.study.state import SweepState, describe_best
from sweeps.trials.budget import cost_bound
from sweeps.trials.trial import StoppedBy, Trial, TrialState, leaderboard
from sweeps.verdicts.baseline_comparison import EMBEDDED_MODEL

LEADERBOARD_ROWS = 10
HEADING_CHARS = 8
SHOWN_PARTS = 3
"""How many parts of a memory forecast the plan names."""


def plan(plan: SweepPlan) -> RenderableType:
    """Show the data, the search, every hyperparameter as written and as resolved, and the expected
    cost.
    """
    spec = plan.spec
    facts = _facts()
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


def demonstration(plan: SweepPlan) -> str:
    """Say that the embedded model is no model for the user's own data; empty if it does not train
    them.
    """
    if plan.base_model != EMBEDDED_MODEL or plan.data.name in GENERATED_SOURCES:
        return ""
    return "this model is a demonstration: it shows how a sweep runs, not what your data can teach"


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


def outcome(outcome: Outcome) -> RenderableType:
    """Show the leaderboard, the best configuration with its evidence, and what to do next."""
    plan, trials = outcome.plan, outcome.trials
    ended = [trial for trial in trials if trial.state.ended]
    states = Counter(trial.state for trial in ended)
    parts: list[RenderableType] = [Text(), table(trials, plan.spec.objective), Text()]
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    spent = f", ${outcome.ledger.spent.usd:,.2f} spent" if plan.spec.capabilities.priced else ""
    took = f"{len(ended)} trials ({counted}) in {clock(outcome.seconds)}{spent}"
    parts.append(Text(f"{outcome.end}: {took}; data: {plan.data.name}"))
    if outcome.ledger.reserved.usd >= LEAST_SHOWN_USD:
        parts.append(
            Text(
                "the service has not reported the cost of stopped runs yet: "
                f"up to ${outcome.ledger.reserved.usd:,.2f} more"
            )
        )
    best = outcome.best
    if best is None or best.values is None:
        parts.append(Text("no trial produced a model; the table above shows why", style="yellow"))
    else:
        values = ", ".join(
            f"{objective.objective.metric} {value:.4g}"
            for objective, value in zip(plan.spec.objectives, best.values, strict=True)
        )
        base = best.curve[0].values.get(plan.spec.objective.metric) if best.curve and best.curve[0].step == 0 else None
        before = f" (base model: {base:.4g})" if base is not None else ""
        parts.append(
            Text.assemble(("best: ", "bold"), f"trial {best.number}, {values} at epoch {best.best_epoch:g}{before}")
        )
        parts.append(Text(f"  {in_words(best.hyperparameters)}"))
        if outcome.finals is not None:
            parts += _finals(outcome.finals, best)
        if outcome.champion is not None:
            parts += [Text(f"  {line}") for line in challenge_lines(outcome.champion)]
        if best.verdict is not None:
            parts.append(
                Text.assemble(
                    "  ", (best.verdict.kind.value, VERDICT_STYLE[best.verdict.kind]), f": {best.verdict.evidence}"
                )
            )
        parts.append(Text(f"  model: {best.model}"))
    if outcome.comparison is not None:
        style = "" if outcome.comparison.kind == "above" else "yellow"
        parts.append(Text(outcome.comparison.text, style=style))
    if saved := saved_by_verdicts(trials):
        parts.append(Text(saved))
    parts += [Text(f"steering: {change.text}") for change in outcome.changes]
    parts += [Text.assemble(("advice: ", "bold"), line) for line in advice(trials)]
    parts += [Text(f"not recorded: {problem}", style="yellow") for problem in outcome.problems]
    if outcome.run_url:
        parts.append(Text(f"MLflow: {outcome.run_url}"))
    if outcome.report.exists():
        parts.append(Text(f"report: {outcome.report}", overflow="fold"))
    parts.append(Text.assemble(("next: ", "bold"), "sweep ui   compares the trials in the browser"))
    return Group(*parts)


def _finals(finals: FinalsResult, best: Trial) -> Iterable[RenderableType]:
    yield Text(f"  finals: {finals.reason}")
    for standing in finals.standings:
        yield Text(
            f"    trial {standing.number}: {finals.metric} {standing.mean:.4g} "
            f"({standing.low:.4g} .. {standing.high:.4g}) over {len(standing.values)} seeds"
            + ("" if standing.number != finals.winner else f"; {finals.searched_value:.4g} in the search")
        )
    if finals.test is not None:
        mean, low, high = finals.test
        name = finals.test_metric
        yield Text(f"  test split, scored once: {name} {mean:.4g} ({low:.4g} .. {high:.4g})")
    else:
        yield Text(f"  not scored on a test split: {finals.untested}")
    for index, (decoding, mean) in enumerate(finals.decodings):
        chosen = " (chosen)" if index == 0 else ""
        yield Text(f"    {decoding_text(decoding)}: {mean:.4g} on the validation examples{chosen}")


def decoding_text(decoding: Decoding) -> str:
    """Return the settings of a decoding in words."""
    nucleus = f", top_p {decoding.top_p:g}" if decoding.top_p < 1 else ""
    return f"temperature {decoding.temperature:g}{nucleus}, max_tokens {decoding.max_tokens}"


def challenge_lines(decision: ChampionDecision) -> Iterable[str]:
    """Say how a challenge ended, and why."""
    what = "promoted to champion" if decision.promoted else "registered but not promoted"
    yield f"champion: version {decision.version} of {decision.model} is {what}"
    yield f"  {decision.reason}"


def saved_by_verdicts(trials: Sequence[Trial]) -> str:
    """Say how many trials their verdicts stopped and how much time that saved.

    Empty if there are none.
    """
    stopped = [trial for trial in trials if trial.stopped_by is StoppedBy.VERDICT and trial.trained_epochs > 0]
    if not stopped:
        return ""
    seconds = sum(
        trial.spend.seconds * ((trial.planned_epochs or trial.trained_epochs) / trial.trained_epochs - 1)
        for trial in stopped
    )
    count = f"{len(stopped)} trial{'s' if len(stopped) > 1 else ''}"
    return f"verdicts stopped {count} early: about {clock(seconds)} of training saved"


def table(
    trials: Sequence[Trial],
    objective: Objective,
    rows: int = LEADERBOARD_ROWS,
    state_name: Callable[[Trial], str] = lambda trial: trial.state.value,
    more: str = "sweep status",
) -> RenderableType:
    """Show a leaderboard: trials with a value, best first, then the others.

    `more` is the command that shows all of them. `state_name` names a trial's state. A sweep on a
    cluster also shows where each trial trains.
    """
    ranked = leaderboard(trials, objective)
    others = [trial for trial in trials if trial.values is None and trial.duplicate_of is None]
    names = list(dict.fromkeys(name for trial in trials for name in trial.hyperparameters))
    varied = [name for name in names if len({trial.hyperparameters.get(name) for trial in trials}) > 1] or names
    shown = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    shown.add_column("trial", justify="right", no_wrap=True)
    shown.add_column(_heading(objective.metric), justify="right")
    shown.add_column("verdict", no_wrap=True)
    for name in varied:
        shown.add_column(_heading(name), justify="right")
    shown.add_column("epoch", justify="right", no_wrap=True)
    shown.add_column("time", justify="right", no_wrap=True)
    on_cluster = any(trial.machine for trial in trials)
    if on_cluster:
        shown.add_column("machine", overflow="fold")
    shown.add_column("state", overflow="fold", ratio=1, min_width=len("complete"))
    for trial in [*ranked, *others][:rows]:
        verdict = Text("" if trial.verdict is None else trial.verdict.kind.value)
        if trial.verdict is not None:
            verdict.stylize(VERDICT_STYLE[trial.verdict.kind])
        shown.add_row(
            str(trial.number),
            "" if trial.values is None else f"{trial.values[0]:.4f}",
            verdict,
            *(short(trial.hyperparameters[name]) if name in trial.hyperparameters else "" for name in varied),
            "" if trial.best_epoch is None else f"{trial.best_epoch:g}",
            clock(trial.spend.seconds) if trial.state.ended else "",
            *([trial.machine or ""] if on_cluster else ()),
            trial.reason if trial.state.ended and trial.state is not TrialState.COMPLETE else state_name(trial),
        )
    hidden = len(ranked) + len(others) - rows
    if hidden > 0:
        return Group(shown, Text(f"and {hidden} more: {more}", style="dim"))
    return shown


def spaces(libraries: Sequence[LibrarySpace]) -> RenderableType:
    """List the named search spaces."""
    shown = _facts()
    for library in libraries:
        shown.add_row(library.name, library.description)
    return shown


def space(library: LibrarySpace) -> RenderableType:
    """Show a named space and the hyperparameters that it stands for."""
    text = Text(f"{library.name}: {library.description}\n\nspace: {{use: {library.name}}}   stands for\n\n")
    for name, written in library.space.items():
        value = json.dumps(written) if isinstance(written, dict | list) else written
        text.append(f"  {name}: {value}\n")
    return text


def recommendations(catalogue: Catalogue, scope: str) -> RenderableType:
    """Show the recommendations of one scope with their sources."""
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("hyperparameter", "recommended", "default", "if underfit", "if overfit", "source"):
        shown.add_column(column, overflow="fold")
    for name, recommendation in catalogue.for_scope(scope).items():
        default = "" if recommendation.default is None else short(recommendation.default)
        shown.add_row(
            name,
            recommendation.text,
            default,
            recommendation.when_underfitting,
            recommendation.when_overfitting,
            f"{recommendation.source} ({recommendation.as_of})",
        )
    return shown


def backend(capabilities: Capabilities) -> RenderableType:
    """Show the hyperparameters, metrics and recommendations of a backend."""
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("hyperparameter", "accepts", "default", "what it is"):
        shown.add_column(column, overflow="fold")
    for hyperparameter in capabilities.hyperparameters:
        if hyperparameter.choices is not None:
            accepts = " | ".join(str(choice) for choice in hyperparameter.choices)
        elif hyperparameter.kind == "str":
            accepts = "any text"
        else:
            low = "" if hyperparameter.low is None else f"{hyperparameter.low:g}"
            high = "" if hyperparameter.high is None else f"{hyperparameter.high:g}"
            accepts = f"{hyperparameter.kind} {low} .. {high}"
        default = hyperparameter.default_rule if hyperparameter.default is None else short(hyperparameter.default)
        shown.add_row(hyperparameter.name, accepts, default, hyperparameter.description)
    metrics = ", ".join(metric for metric in capabilities.metrics if metric not in capabilities.label_metrics)
    labels = ", ".join(capabilities.label_metrics)
    return Group(
        shown, Text(), Text(f"measures: {metrics}" + (f"; with labels also {labels}" if labels else "")),
        Text(f"recommendations: scope {capabilities.recommendation_scope}"),
    )  # fmt: skip


def _heading(name: str) -> str:
    """Break a long name at its underscores, so that the heading does not widen its column."""
    lines = [""]
    for part in name.replace("_", "_ ").split():
        if lines[-1] and len(lines[-1] + part) > HEADING_CHARS:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _facts() -> Table:
    shown = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    return shown


def listing(states: Sequence[SweepState]) -> RenderableType:
    """Show one row per sweep."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("sweep", "data", "trials", "states", "best"):
        table.add_column(column, overflow="fold")
    for state in states:
        ended = sum(trial.state.ended for trial in state.trials)
        counted = ", ".join(f"{count} {word}" for word, count in sorted(state.counts.items()))
        best = state.best
        value = (
            ""
            if best is None or best.values is None
            else f"{state.objective.metric} {best.values[0]:.4g} ({describe_best(best)})"
        )
        table.add_row(state.name, state.data, f"{ended} of {state.planned_trials}", counted, value)
    return table
