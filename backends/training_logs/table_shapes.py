"""Tables that hold several things at once: runs, validation sets, or one row for each phase.

Each function returns the tables of which every one is a single run on a single validation set.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePath

from backends.training_logs import column_names
from backends.training_logs.errors import TrainingLogError
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
_NAMED_SET = re.compile(
    rf"^eval_(?P<name>.+?)_({'|'.join(sorted(map(re.escape, column_names.MEASURES), key=len, reverse=True))})$"
)

TRAINING_SETS = frozenset({"train", "training"})
"""Names of evaluated sets that were not held out."""


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
    has_sides = any(known.side == "valid" for known in columns.values()) or any(
        word in column_names.normalized(column) for column in losses for word in ("train", "val", "dev")
    )
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
    return _runs_by_columns(table, [name for name in columns if column_names.normalized(name) in RUN_COLUMNS])


def _runs_by_columns(table: LogTable, named: Sequence[str]) -> list[tuple[str | None, LogTable, tuple[str, ...]]]:
    """Split a table by its columns `run`, `fold` and `seed`, as far as they tell runs apart.

    Raises TrainingLogError for a table with one row for each run.
    """
    groups: dict[tuple[str, ...], list[LogRow]] = {}
    for row in table.rows:
        key = tuple(_text(row.cells.get(column)) for column in named)
        others = {name: cell for name, cell in row.cells.items() if name not in named}
        groups.setdefault(key, []).append(LogRow(row.place, others))
    is_phase = all(column_names.normalized(word) in column_names.SIDES for key in groups for word in key)
    if not named or len(groups) == 1 or len(groups) > MAX_RUNS or is_phase:
        return [(None, table, ())]
    longest = max(len(rows) for rows in groups.values())
    if longest == 1 and not _advances(table):
        message = "the table has one row for each run, which is no curve"
        raise TrainingLogError(table.name, message, "give the history of a run, with one row per evaluation")
    if longest == 1:
        return [(None, table, ())]
    varying = [place for place in range(len(named)) if len({key[place] for key in groups}) > 1]
    return [
        (", ".join(key[place] for place in varying), replace(table, rows=tuple(rows)), ())
        for key, rows in groups.items()
    ]


def _advances(table: LogTable) -> bool:
    """Return whether the epochs or steps of a table rise from row to row, as in a curve."""
    axes = [name for name in _columns(table) if column_names.normalized(name) in column_names.EPOCH | column_names.STEP]
    for axis in axes:
        try:
            at = [parse_number(row.cells.get(axis)) for row in table.rows]
        except ValueError:
            continue
        if all(one is not None and other is not None and one < other for one, other in pairwise(at)):
            return True
    return False


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


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()


# ------------------------------------------------------------------------------------------- phases
def _with_phases_as_columns(table: LogTable) -> tuple[LogTable, tuple[str, ...]]:
    """Turn rows `epoch, phase, loss` into columns: `train_loss`, `valid_loss`."""
    for column in _columns(table):
        if column_names.normalized(column) not in PHASE_COLUMNS:
            continue
        prefixes = _prefixes({_text(row.cells.get(column)) for row in table.rows})
        if prefixes is None:
            continue
        rows: list[LogRow] = []
        left_out: Counter[str] = Counter()
        for row in table.rows:
            phase = _text(row.cells.get(column))
            if (prefix := prefixes[phase]) is None:
                left_out["the test set" if column_names.normalized(phase) in TEST_PHASES else f"`{phase}`"] += 1
                continue
            cells = {
                f"{prefix}{name}" if _is_measure(name) else name: cell
                for name, cell in row.cells.items()
                if name != column
            }
            rows.append(LogRow(row.place, cells))
        notes = tuple(f"{count} rows of {phase}" for phase, count in left_out.items())
        return replace(table, rows=tuple(rows)), notes
    return table, ()


def _prefixes(phases: Set[str]) -> dict[str, str | None] | None:
    """Return what each phase puts before the names of its measures; None leaves its rows out.

    `dev-seen` and `dev-unseen` become named validation sets. Returns None if no phase is known.
    """
    words = {phase: column_names.normalized(phase) for phase in phases}
    prefixes: dict[str, str | None] = {}
    for phase, word in words.items():
        first, _, rest = word.partition("_")
        if word in column_names.SIDES:
            prefixes[phase] = f"{column_names.SIDES[word][0]}_"
        elif first in column_names.SIDES and column_names.SIDES[first][0] == "valid" and rest:
            prefixes[phase] = f"eval_{rest}_"
    if not prefixes:
        return None
    if not any(prefix != "train_" for prefix in prefixes.values()):  # a test set is all that there is
        prefixes |= {phase: "valid_" for phase, word in words.items() if word in TEST_PHASES}
    return {phase: prefixes.get(phase) for phase in phases}


def _is_measure(column: str) -> bool:
    meaning = column_names.meaning(column)
    return meaning.known and (meaning.side is None or column_names.normalized(column) == meaning.measure)


# ------------------------------------------------------------------------------- validation sets
def _evaluation_sets(table: LogTable) -> list[tuple[str | None, LogTable]]:
    """Tell the named sets of the Hugging Face Trainer apart: `eval_NAME_loss`."""
    columns = {column: column_names.normalized(column) for column in _columns(table)}
    if any(meaning.side == "valid" and meaning.known for meaning in map(column_names.meaning, columns)):
        return [(None, table)]
    names = list(dict.fromkeys(filter(None, map(_name_of_set, columns.values()))))
    if not names:
        return [(None, table)]
    names.sort(key=lambda name: name not in column_names.SIDES)  # a set that is called `validation` comes first
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


def _name_of_set(word: str) -> str | None:
    """Return the name of the validation set in a column such as `eval_NAME_loss`."""
    found = _NAMED_SET.match(word)
    if found is None or found["name"] in TRAINING_SETS:
        return None
    return found["name"]


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
