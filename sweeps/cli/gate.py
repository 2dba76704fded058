"""What `sweep check`, `plan` and `run` share: the options of the gate, and the JSON of a check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from backends import codec
from sweeps.errors import Problem, UserInputError, suggestion

if TYPE_CHECKING:
    from sweeps.planning.sweep_plan import SweepPlan

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _known_codes(context: click.Context, option: click.Parameter, codes: tuple[str, ...]) -> tuple[str, ...]:
    from sweeps.data.checks.catalogue import CHECKS

    unknown = [code for code in codes if code not in CHECKS]
    if unknown:
        known = [code for code, check in CHECKS.items() if check.severity != "error"]
        hint = suggestion(unknown[0], known)
        raise UserInputError([Problem("--accept", f"no check has the code `{code}`", hint) for code in unknown])
    return codes


def gate_options(command: _Command) -> _Command:
    """Add the options that let warnings stop a command."""
    for option in (
        click.option(
            "--accept",
            "accepted",
            multiple=True,
            metavar="CODE",
            callback=_known_codes,
            help="With --strict: let warnings of this code pass.",
        ),
        click.option("--strict", is_flag=True, help="Stop at warnings, with exit code 2, before anything is spent."),
    ):
        command = option(command)
    return command


def check_json(plan: SweepPlan, strict: bool, accepted: Sequence[str]) -> dict[str, Any]:
    """Return what `sweep check --json` prints for input without errors; the guide documents it."""
    from sweeps.planning.gate import refused_warnings

    written, baselines = plan.to_json(), plan.data.baselines
    scores = {
        model.key: {f"{part}_{name}": value for part, values in model.values.items() for name, value in values.items()}
        for model in (baselines.models if baselines is not None else ())
    }
    return {
        "ok": not (strict and refused_warnings(plan.findings, accepted)),
        "data": written["data"],
        "findings": written["findings"],
        "baselines": None if baselines is None else scores,
        "example": None if plan.example is None else codec.to_json(plan.example),
        "problems": [],
    }


def failed_check_json(error: UserInputError) -> dict[str, Any]:
    """Return what `sweep check --json` prints for wrong input.

    `findings` are those of faulty data; other mistakes are in `problems` only.
    """
    from sweeps.data.findings import FaultyDataError

    found = error.findings if isinstance(error, FaultyDataError) else ()
    return {
        "ok": False,
        "data": None,
        "findings": [codec.to_json(finding) for finding in found],
        "baselines": None,
        "example": None,
        "problems": [codec.to_json(problem) for problem in error.problems],
    }


def write_data_report(plan: SweepPlan, file: Path) -> None:
    """Write the HTML report on the data of a plan. Raises UserInputError if it has none."""
    from sweeps.reports.data_report import data_report
    from sweeps.workspace import write_text

    if not plan.data.lengths:
        hint = "its backend brings its own data"
        raise UserInputError([Problem("--html", "there is no data to report on", hint)])
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, data_report(plan.data, plan.findings, plan.spec.name))
