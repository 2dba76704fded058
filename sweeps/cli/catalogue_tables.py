"""Search spaces, recommendations and backends as rich renderables. Prints nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backends.contract import Capabilities
from search_spaces.catalogue import Catalogue
from search_spaces.library import LibrarySpace
from sweeps.cli.terminal import fact_table
from sweeps.reports.formatting import short


def spaces(libraries: Sequence[LibrarySpace]) -> RenderableType:
    """List the named search spaces."""
    shown = fact_table()
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
