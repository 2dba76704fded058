"""Logs in JSON: trainer_state.json, events of fine-tuning services, lists and mappings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from backends.training_logs import column_names
from backends.training_logs.column_choice import COLUMNS_HINT
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.learning_curve import RunEnd
from backends.training_logs.log_table import LogRow, LogTable, parse_number

WRAPPERS = ("history", "metrics", "log", "logs", "results")
"""Keys under which a log may be nested."""

FINE_TUNING = "fine_tuning.job"

_LINE_END = re.compile(r"\r\n|\n|\r")
"""Unlike str.splitlines, it keeps a line whole that contains a character such as U+2028."""


def parse(text: str, name: str) -> tuple[Any, bool]:
    """Return the value of a JSON text and False, or the list of its JSON lines and True."""
    try:
        return json.loads(text), False
    except RecursionError:
        raise TrainingLogError(name, "the JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        lines = [(number, line) for number, line in enumerate(_LINE_END.split(text), 1) if line.strip()]
        if len(lines) > 1 and _is_json_mapping(lines[0][1]):
            return _parsed_lines(lines, name), True
        message = f"not valid JSON: {error.msg}"
        raise TrainingLogError(f"{name}:{error.lineno}", message, "check commas and brackets") from None


def _is_json_mapping(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def _parsed_lines(lines: Sequence[tuple[int, str]], name: str) -> list[Any]:
    values = []
    for number, line in lines:
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            hint = "delete the line if it was cut off"
            raise TrainingLogError(f"{name}:{number}", f"not valid JSON: {error.msg}", hint) from None
    return values


def read(value: Any, name: str, chosen: Mapping[str, str] | None = None, *, is_lines: bool = False) -> LogTable:
    """Make a table of a JSON value. Raises TrainingLogError for a value that is not a log.

    `chosen` are the columns that the caller names. `is_lines`: the value comes from JSON lines, so
    that a message gives the line of a row.
    """
    value = of_pandas(value)
    if isinstance(value, dict):
        if isinstance(value.get("log_history"), list):
            return _trainer_state(value, name)
        if isinstance(value.get("data"), list) and value.get("object") == "list":
            return read(value["data"], name, chosen)
        nested = next((value[key] for key in WRAPPERS if isinstance(value.get(key), dict | list)), None)
        other_lists = any(isinstance(entry, list) for key, entry in value.items() if key not in WRAPPERS)
        if nested is not None and not other_lists:
            return read(nested, name, chosen)
        return _mapping_of_lists(value, name, set((chosen or {}).values()))
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        if any(str(entry.get("object", "")).startswith(FINE_TUNING) for entry in value):
            return _service_events(value, name)
        places = [f"{name}:{n}" if is_lines else f"{name}: item {n}" for n in range(1, len(value) + 1)]
        rows = [
            LogRow(place, _flattened(entry))
            for place, entry in zip(places, value, strict=True)
            if "train_runtime" not in entry
        ]
        return LogTable(name, "one mapping per epoch", tuple(rows))
    if isinstance(value, list) and not value:
        raise TrainingLogError(name, "the JSON is an empty list")
    message = "the JSON is not a training log: it is neither a mapping of lists nor a list of mappings"
    raise TrainingLogError(name, message)


def _flattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"train": {"loss": 1}}` into `{"train_loss": 1}`.

    Keys inside `metrics` keep their names.
    """
    flat: dict[str, Any] = {}
    for key, cell in row.items():
        if isinstance(cell, dict):
            flat |= {inner if key in WRAPPERS else f"{key}_{inner}": value for inner, value in cell.items()}
        else:
            flat[key] = cell
    return flat


def _trainer_state(state: Mapping[str, Any], name: str) -> LogTable:
    """Read the log of a Hugging Face Trainer, without its last entry, which is a summary.

    An entry has `loss` where the Trainer logged, and `eval_*` where it evaluated.
    """
    rows, notes, left_out = [], [], []
    has_ended, evaluated = False, set()
    for n, entry in enumerate(state["log_history"]):
        place = f"{name}: log_history[{n}]"
        if not isinstance(entry, dict):
            raise TrainingLogError(place, "the entry is not a mapping")
        if "train_runtime" in entry:
            has_ended = True
            continue
        if any(str(key).startswith("eval_") for key in entry):
            if has_ended and entry.get("step") in evaluated:  # of the best state, or of a test set
                left_out.append(place)
                continue
            evaluated.add(entry.get("step"))
        if is_hidden_nan(entry.get("loss"), entry.get("grad_norm")):
            rows.append(LogRow(place, {**entry, "loss": math.nan}))
            notes.append("a logged loss of 0 with a gradient that is not finite stands for a loss that was not finite")
        else:
            rows.append(LogRow(place, entry))
    if not rows:
        message = "its log_history is empty"
        raise TrainingLogError(name, message, "make the Trainer log and evaluate, for example every epoch")
    step, planned_steps = state.get("global_step"), state.get("max_steps")
    stopped = isinstance(step, int) and isinstance(planned_steps, int) and 0 < step < planned_steps
    if stopped:
        notes.append(f"training ended at step {step} of {planned_steps}")
    unique = tuple(dict.fromkeys(notes))
    ended: RunEnd = "stopped" if stopped else "complete"
    count = len(left_out)
    more = (f"{count} evaluation{'s' if count > 1 else ''} after training, of the best state or of another set",)
    return LogTable(name, "trainer_state", tuple(rows), ended=ended, notes=unique, left_out=more if left_out else ())


def is_hidden_nan(loss: Any, grad_norm: Any) -> bool:
    """Return whether a logged loss stands for one that was not finite.

    The Hugging Face Trainer writes 0 for such a loss (`logging_nan_inf_filter`), and the norm of
    the gradient reveals it.
    """
    return bool(loss == 0) and _is_not_finite(grad_norm)


def _is_not_finite(cell: Any) -> bool:
    try:
        number = parse_number(cell)
    except ValueError:
        return False
    return number is not None and not math.isfinite(number)


def _service_events(items: Sequence[Mapping[str, Any]], name: str) -> LogTable:
    """Read the events and checkpoints of a fine-tuning service, which lists the newest first."""
    rows = []
    for n, item in enumerate(items):
        values = item.get("metrics") or item.get("data")
        if isinstance(values, dict) and any(column_names.meaning(column).known for column in values):
            step = {} if "step" in values else {"step": item.get("step_number")}
            rows.append(LogRow(f"{name}: data[{n}]", {**step, **values}))
    if not rows:
        raise TrainingLogError(name, "no event has metrics", "list the job's events from its beginning")
    rows.reverse()
    return LogTable(name, "events of a fine-tuning service", tuple(rows), scope="hosted-current", hosted=True)


# -------------------------------------------------------------------------------------------- lists
def of_pandas(value: Any) -> Any:
    """Return what `DataFrame.to_json` wrote, in any orientation, as a list of rows.

    Any other value is returned as it is.
    """
    if not isinstance(value, dict) or not value:
        return value
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):  # split
        columns = [str(column) for column in value["columns"]]
        if all(isinstance(row, list) and len(row) == len(columns) for row in value["data"]):
            return [dict(zip(columns, row, strict=True)) for row in value["data"]]
    if "schema" in value and isinstance(value.get("data"), list):  # table
        return value["data"]
    if not all(isinstance(entry, dict) and entry for entry in value.values()):
        return value
    inner = {key for entry in value.values() for key in entry}
    if all(key.isdigit() for key in inner):  # columns
        places = sorted(inner, key=int)
        return [{column: entry.get(place) for column, entry in value.items()} for place in places]
    if all(key.isdigit() for key in value):  # index
        return [value[place] for place in sorted(value, key=int)]
    return value


def _mapping_of_lists(value: Mapping[str, Any], name: str, chosen: Set[str]) -> LogTable:
    lists = {key: entry for key, entry in value.items() if isinstance(entry, list)}
    for outer, entry in value.items():
        if isinstance(entry, dict):
            lists |= {f"{outer}_{key}": inner for key, inner in entry.items() if isinstance(inner, list)}
    measured = {key: values for key, values in lists.items() if column_names.meaning(key).known or key in chosen}
    if not measured:  # `{"train": [...], "val": [...]}`
        measured = {key: values for key, values in lists.items() if column_names.normalized(key) in column_names.SIDES}
    if not measured:
        listed = ", ".join(f"`{key}`" for key in list(value)[:12]) or "none"
        raise TrainingLogError(name, f"no known key has a list; the keys are {listed}", COLUMNS_HINT)
    axis_keys = column_names.EPOCH | column_names.STEP
    axes = {key: values for key, values in lists.items() if column_names.normalized(key) in axis_keys}
    lengths = {len(values) for values in measured.values()}
    if axes and len({len(values) for values in axes.values()} | lengths) > 1:
        counts = ", ".join(f"{key} {len(values)}" for key, values in {**axes, **measured}.items())
        hint = "fill the shorter lists with null, or leave out the epochs and steps"
        raise TrainingLogError(name, f"the lists differ in length: {counts}", hint)
    if len(lengths) == 1:
        length = lengths.pop()
        same_length = {key: values for key, values in lists.items() if len(values) == length}
        rows = [
            LogRow(f"{name}: item {n + 1} of the lists", {key: values[n] for key, values in same_length.items()})
            for n in range(length)
        ]
        return LogTable(name, "lists", tuple(rows))
    return _lists_of_different_lengths(measured, name)


def _lists_of_different_lengths(lists: Mapping[str, Sequence[Any]], name: str) -> LogTable:
    """Spread the lists over the epochs.

    The longest list of validation values has one value per epoch.
    """
    validation_counts = [len(values) for key, values in lists.items() if column_names.meaning(key).side == "valid"]
    epochs = max(validation_counts, default=0) or max(len(values) for values in lists.values())
    rows, notes = [], []
    for key, values in lists.items():
        count = len(values)
        is_even = count > 0 and (count % epochs == 0 or epochs % count == 0)
        if count != epochs and count:
            where = f"spread evenly over {epochs} epochs" if is_even else "taken as one per epoch, from the first epoch"
            notes.append(f"the {count} values of {key} are {where}")
        epochs_per_value = epochs / count if is_even else 1.0
        rows += [
            LogRow(f"{name}: {key}[{n}]", {"epoch": (n + 1) * epochs_per_value, key: value})
            for n, value in enumerate(values)
        ]
    rows.sort(key=lambda row: float(row.cells["epoch"]))
    return LogTable(name, "lists", tuple(rows), notes=tuple(notes))
