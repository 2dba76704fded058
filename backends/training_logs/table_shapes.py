"""Tables that hold several things at once: runs, validation sets, or one row for each phase.

Each function returns the tables of which every one is a single run on a single validation set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from backends.training_logs import column_names
from backends.training_logs.log_table import LogRow, LogTable, parse_number

PHASE_COLUMNS = frozenset({"phase", "split", "set", "subset", "mode", "stage", "partition", "data_split", "type"})
RUN_COLUMNS = frozenset(
    {"run", "run_id", "run_name", "fold", "seed", "trial", "trial_id", "experiment", "model", "name", "run_uuid"}
)

METRIC_COLUMNS = ("metric", "metric_name", "tag", "measure", "variable", "key")
"""Columns that name the measure of a row whose number stands under `value`."""

TEST_PHASES = frozenset({"test", "testing", "predict"})

MAX_RUNS = 200
"""More different values than this are no names of runs."""

_WANDB = re.compile(r"^(?P<run>.+?) - (?P<key>.+?)(?P<range>__(MIN|MAX))?$")
_NAMED_SET = re.compile(r"^eval_(?P<name>.+)_(?P<measure>loss|runtime)$")


@dataclass(frozen=True)
class OneCurve:
    """A table of one run on one validation set, with their names where there are several."""

    table: LogTable
    run: str | None = None
    evaluation_set: str | None = None
    left_out: tuple[str, ...] = ()


def separated(table: LogTable) -> list[OneCurve]:
    """Return a table for each run and each named validation set of `table`, in their order."""
    curves = []
    for run, of_run, left_out in _runs(_with_metrics_as_columns(table)):
        named = _with_test_as_validation(_with_side_of_file(_with_losses_of_sides(of_run)))
        pivoted, phases_left_out = _with_phases_as_columns(named)
        summed = _with_summed_components(pivoted)
        for evaluation_set, of_set in _evaluation_sets(summed):
            curves.append(OneCurve(of_set, run, evaluation_set, (*left_out, *phases_left_out)))
    return curves


# ------------------------------------------------------------------------------------------ columns
def _with_metrics_as_columns(table: LogTable) -> LogTable:
    """Turn rows `metric, step, value` into columns, as MLflow and others export them."""
    words = {column_names.normalized(column): column for column in _columns(table)}
    name = next((words[word] for word in METRIC_COLUMNS if word in words), None)
    value = words.get("value")
    if name is None or value is None:
        return table
    if not any(column_names.meaning(_text(row.cells.get(name))).known for row in table.rows):
        return table
    left = {value, name}
    rows = tuple(
        LogRow(
            row.place,
            {
                **{key: cell for key, cell in row.cells.items() if key not in left},
                _text(row.cells.get(name)): row.cells.get(value),
            },
        )
        for row in table.rows
    )
    return replace(table, rows=rows)


def _with_losses_of_sides(table: LogTable) -> LogTable:
    """Read columns `train` and `val` as losses, if nothing else is known."""
    columns = _columns(table)
    sides = {
        column: column_names.SIDES[word][0]
        for column in columns
        if (word := column_names.normalized(column)) in column_names.SIDES
    }
    if not sides or any(column_names.meaning(column).known for column in columns):
        return table
    note = f"the columns {', '.join(sides)} are taken as losses"
    return _renamed(table, {column: f"{side}_loss" for column, side in sides.items()}, note)


def _with_side_of_file(table: LogTable) -> LogTable:
    """Read the only loss of a file such as `val_loss.csv` as that of validation."""
    columns = {column: column_names.meaning(column) for column in _columns(table)}
    losses = [column for column, known in columns.items() if known.measure == "loss"]
    words = column_names.normalized(PurePath(table.name).name).split("_")
    is_validation = any(word in column_names.SIDES and column_names.SIDES[word][0] == "valid" for word in words)
    has_sides = any(word in column_names.normalized(column) for column in losses for word in ("train", "val", "dev"))
    if len(losses) != 1 or has_sides or not is_validation or "train" in words or table.format == "trainer_state":
        return table
    return _renamed(table, {losses[0]: "valid_loss"}, f"`{losses[0]}` is validation, as the name of the file says")


def _with_test_as_validation(table: LogTable) -> LogTable:
    """Judge the test set where no other examples were held out."""
    columns = _columns(table)
    if any(column_names.meaning(column).side == "valid" for column in columns):
        return table
    tests = {
        column: f"valid_{word.removeprefix('test_')}"
        for column in columns
        if (word := column_names.normalized(column)).startswith("test_")
        and column_names.meaning(word.removeprefix("test_")).known
    }
    if not tests:
        return table
    return _renamed(table, tests, "there are no validation values: those of the test set are judged")


def _renamed(table: LogTable, names: Mapping[str, str], note: str) -> LogTable:
    rows = tuple(
        LogRow(row.place, {names.get(column, column): cell for column, cell in row.cells.items()}) for row in table.rows
    )
    return replace(table, rows=rows, notes=(*table.notes, note))


# --------------------------------------------------------------------------------------------- runs
def _runs(table: LogTable) -> list[tuple[str | None, LogTable, tuple[str, ...]]]:
    columns = _columns(table)
    if (panel := _panel(columns)) is not None:
        return _runs_of_panel(table, panel)
    for column in columns:
        if column_names.normalized(column) in RUN_COLUMNS and (names := _run_names(table, column)):
            return [(names[value], replace(table, rows=rows), ()) for value, rows in _grouped(table, column).items()]
    return [(None, table, ())]


def _panel(columns: Sequence[str]) -> Mapping[str, re.Match[str]] | None:
    """Return the columns of a chart that W&B exported: `RUN - KEY`, and its `__MIN` and `__MAX`."""
    found = {column: match for column in columns if (match := _WANDB.match(column)) is not None}
    return found if found and len(found) >= len(columns) - 3 else None


def _runs_of_panel(
    table: LogTable, panel: Mapping[str, re.Match[str]]
) -> list[tuple[str | None, LogTable, tuple[str, ...]]]:
    runs = list(dict.fromkeys(match["run"] for match in panel.values()))
    ranges = sum(match["range"] is not None for match in panel.values())
    left_out = (f"{ranges} columns of smoothed ranges",) if ranges else ()
    found: list[tuple[str | None, LogTable, tuple[str, ...]]] = []
    for run in runs:
        keys = {
            column: match["key"]
            for column, match in panel.items()
            if match["run"] == run and match["range"] is None and match["key"] != "_step"
        }
        rows = []
        for row in table.rows:
            cells = {
                keys.get(column, column): cell
                for column, cell in row.cells.items()
                if column not in panel or column in keys
            }
            if any(str(cells.get(key) or "").strip() for key in keys.values()):
                rows.append(LogRow(row.place, cells))
        if rows:
            found.append((run if len(runs) > 1 else None, replace(table, rows=tuple(rows)), left_out))
    return found or [(None, table, ())]


def _run_names(table: LogTable, column: str) -> dict[str, str] | None:
    """Return the names of the runs in a column; None if it does not tell runs apart."""
    groups = _grouped(table, column)
    if not 1 < len(groups) <= MAX_RUNS or min(len(rows) for rows in groups.values()) < 2:
        return None
    if all(column_names.normalized(value) in column_names.SIDES for value in groups):
        return None
    return {value: value for value in groups}


def _grouped(table: LogTable, column: str) -> dict[str, tuple[LogRow, ...]]:
    groups: dict[str, list[LogRow]] = {}
    for row in table.rows:
        value = row.cells.get(column)
        others = {name: cell for name, cell in row.cells.items() if name != column}
        groups.setdefault(_text(value), []).append(LogRow(row.place, others))
    return {value: tuple(rows) for value, rows in groups.items()}


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()


# ------------------------------------------------------------------------------------------- phases
def _with_phases_as_columns(table: LogTable) -> tuple[LogTable, tuple[str, ...]]:
    """Turn rows `epoch, phase, loss` into columns: `train_loss`, `valid_loss`."""
    for column in _columns(table):
        if column_names.normalized(column) not in PHASE_COLUMNS:
            continue
        phases = {_text(row.cells.get(column)) for row in table.rows}
        words = {phase: column_names.normalized(phase) for phase in phases}
        sides = {phase: column_names.SIDES[word] for phase, word in words.items() if word in column_names.SIDES}
        tests = {phase for phase, word in words.items() if word in TEST_PHASES}
        if not sides or len(sides) + len(tests) < len(phases):
            continue
        if not any(side == "valid" for side, _ in sides.values()):  # a test set is all that there is
            sides |= dict.fromkeys(tests, ("valid", column_names.UNSPECIFIED))
            tests = set()
        rows, left_out = [], 0
        for row in table.rows:
            phase = _text(row.cells.get(column))
            if phase in tests:
                left_out += 1
                continue
            side = sides[phase][0]
            cells = {
                f"{side}_{name}" if _is_measure(name) else name: cell
                for name, cell in row.cells.items()
                if name != column
            }
            rows.append(LogRow(row.place, cells))
        note = (f"{left_out} rows of the test set",) if left_out else ()
        return replace(table, rows=tuple(rows)), note
    return table, ()


def _is_measure(column: str) -> bool:
    meaning = column_names.meaning(column)
    return meaning.known and (meaning.side is None or column_names.normalized(column) == meaning.measure)


# ------------------------------------------------------------------------------- validation sets
def _evaluation_sets(table: LogTable) -> list[tuple[str | None, LogTable]]:
    """Tell the named sets of the Hugging Face Trainer apart: `eval_NAME_loss`."""
    columns = {column: column_names.normalized(column) for column in _columns(table)}
    if any(column_names.meaning(column) == VALID_LOSS for column in columns):
        return [(None, table)]
    matches = [match for name in columns.values() if (match := _NAMED_SET.match(name)) is not None]
    names = list(dict.fromkeys(match["name"] for match in matches if match["measure"] == "loss"))
    if not names:
        return [(None, table)]
    sets: list[tuple[str | None, LogTable]] = []
    for name in names:
        others = tuple(f"eval_{other}_" for other in names if other != name)
        renamed = {}
        for column, word in columns.items():
            if word.startswith(f"eval_{name}_"):
                renamed[column] = f"eval_{word.removeprefix(f'eval_{name}_')}"
            elif not word.startswith(others):
                renamed[column] = column
        rows = tuple(
            LogRow(row.place, {renamed[column]: cell for column, cell in row.cells.items() if column in renamed})
            for row in table.rows
        )
        sets.append((name, replace(table, rows=rows)))
    return sets


VALID_LOSS = column_names.ColumnMeaning("valid", "loss")


def _with_summed_components(table: LogTable) -> LogTable:
    """Add the loss of a detector, which is the sum of its parts, where only these are logged."""
    columns = _columns(table)
    sums: dict[str, list[str]] = {"train": [], "valid": []}
    for column in columns:
        if (side := column_names.side_of_part(column)) is not None:
            sums[side].append(column)
    known = {column_names.meaning(column) for column in columns}
    wanted = {
        f"{side}_loss": parts
        for side, parts in sums.items()
        if len(parts) > 1 and not any(meaning.side == side and meaning.measure == "loss" for meaning in known)
    }
    if not wanted:
        return table
    rows = tuple(
        LogRow(row.place, {**row.cells, **{name: _sum(row.cells, parts) for name, parts in wanted.items()}})
        for row in table.rows
    )
    notes = tuple(f"{name} is the sum of {', '.join(parts)}" for name, parts in wanted.items())
    return replace(table, rows=rows, notes=(*table.notes, *notes))


def _sum(cells: Mapping[str, object], parts: Iterable[str]) -> float | None:
    total = 0.0
    for part in parts:
        try:
            number = parse_number(cells.get(part))
        except ValueError:
            return None
        if number is None:
            return None
        total += number
    return total


def _columns(table: LogTable) -> list[str]:
    return list(dict.fromkeys(column for row in table.rows for column in row.cells))
