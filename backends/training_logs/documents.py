"""Foreign histories in JSON: trainer_state.json, events of fine-tuning services, lists, one mapping an epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from backends.training_logs import names
from backends.training_logs.table import Row, Table, TrainingLogError, number

WRAPPERS = ("history", "metrics", "log", "logs", "results")
"""Keys below which a history may stand."""

FINE_TUNING = "fine_tuning.job"


def parse(text: str, name: str) -> tuple[Any, bool]:
    """Return the value of a JSON text, or the list of the values of its lines, and whether it was one by lines."""
    try:
        return json.loads(text), False
    except RecursionError:
        raise TrainingLogError(name, "is nested too deeply") from None
    except json.JSONDecodeError as error:
        lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(lines) > 1 and _is_json(lines[0][1]):
            return _lines(lines, name), True
        raise TrainingLogError(
            f"{name}:{error.lineno}", f"is not valid JSON: {error.msg}", "check commas and brackets"
        ) from None


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def _lines(lines: Sequence[tuple[int, str]], name: str) -> list[Any]:
    found = []
    for n, line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            hint = "delete the line where the writing was cut off"
            raise TrainingLogError(f"{name}:{n}", f"is not valid JSON: {error.msg}", hint) from None
    return found


def read(value: Any, name: str, *, by_lines: bool = False) -> Table:
    """Make a table of a JSON value. Raises TrainingLogError for one that is no history."""
    if isinstance(value, dict):
        if isinstance(value.get("log_history"), list):
            return _trainer_state(value, name)
        if isinstance(value.get("data"), list) and value.get("object") == "list":
            return read(value["data"], name)
        inside = next((value[key] for key in WRAPPERS if isinstance(value.get(key), dict | list)), None)
        if inside is not None and not any(isinstance(each, list) for key, each in value.items() if key not in WRAPPERS):
            return read(inside, name)
        return _lists(value, name)
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        if any(str(each.get("object", "")).startswith(FINE_TUNING) for each in value):
            return _service(value, name)
        places = [f"{name}:{n}" if by_lines else f"{name}: item {n}" for n in range(1, len(value) + 1)]
        rows = [
            Row(place, _flat(each)) for place, each in zip(places, value, strict=True) if "train_runtime" not in each
        ]
        return Table(name, "one mapping an epoch", tuple(rows))
    if isinstance(value, list) and not value:
        raise TrainingLogError(name, "is an empty list")
    raise TrainingLogError(name, "is JSON, but no history: neither a mapping of lists nor a list of mappings")


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Write `{"train": {"loss": 1}}` as `{"train_loss": 1}`; what stands in `metrics` keeps its name."""
    flat: dict[str, Any] = {}
    for key, each in row.items():
        if isinstance(each, dict):
            flat |= {inner if key in WRAPPERS else f"{key}_{inner}": value for inner, value in each.items()}
        else:
            flat[key] = each
    return flat


def _trainer_state(state: Mapping[str, Any], name: str) -> Table:
    """`loss` stands where the Trainer logged, `eval_*` where it evaluated; the last entry sums up and is no point."""
    rows, notes = [], []
    for n, entry in enumerate(state["log_history"]):
        place = f"{name}: log_history[{n}]"
        if not isinstance(entry, dict):
            raise TrainingLogError(place, "is no mapping")
        if "train_runtime" in entry:
            continue
        if entry.get("loss") == 0 and _not_finite(entry.get("grad_norm")):
            # The Trainer replaces a loss that is not finite (`logging_nan_inf_filter`), the norm gives it away.
            rows.append(Row(place, {**entry, "loss": math.nan}))
            notes.append("a logged loss of 0 with a gradient that is not finite is a loss that was not finite")
        else:
            rows.append(Row(place, entry))
    if not rows:
        raise TrainingLogError(name, "its log_history is empty", "let the Trainer log and evaluate, e.g. every epoch")
    step, planned = state.get("global_step"), state.get("max_steps")
    stopped = isinstance(step, int) and isinstance(planned, int) and 0 < step < planned
    if stopped:
        notes.append(f"training ended at step {step} of {planned}")
    unique = tuple(dict.fromkeys(notes))
    return Table(name, "trainer_state", tuple(rows), ended="stopped" if stopped else "complete", notes=unique)


def _not_finite(value: Any) -> bool:
    try:
        found = number(value)
    except ValueError:
        return False
    return found is not None and not math.isfinite(found)


def _service(items: Sequence[Mapping[str, Any]], name: str) -> Table:
    """Events and checkpoints of a fine-tuning service, as it lists them: the newest first."""
    rows = []
    for n, item in enumerate(items):
        values = item.get("metrics") or item.get("data")
        if isinstance(values, dict) and any(names.meaning(each).known for each in values):
            step = {} if "step" in values else {"step": item.get("step_number")}
            rows.append(Row(f"{name}: data[{n}]", {**step, **values}))
    if not rows:
        raise TrainingLogError(name, "has no event with metrics", "list the job's events from its beginning")
    scope = "hosted-current"
    return Table(name, "events of a fine-tuning service", tuple(rows[::-1]), scope=scope, hosted=True)


# --------------------------------------------------------------------------------------------------------------- lists
def _lists(value: Mapping[str, Any], name: str) -> Table:
    lists = {key: each for key, each in value.items() if isinstance(each, list)}
    for outer, each in value.items():
        if isinstance(each, dict):
            lists |= {f"{outer}_{key}": inner for key, inner in each.items() if isinstance(inner, list)}
    measured = {key: each for key, each in lists.items() if names.meaning(key).known}
    if not measured:
        shown = ", ".join(f"`{each}`" for each in list(value)[:12]) or "nothing"
        raise TrainingLogError(name, f"no list under a key that is known; there is {shown}")
    axes = {key: each for key, each in lists.items() if names.plain(key) in names.EPOCH | names.STEP}
    lengths = {len(each) for each in measured.values()}
    if axes and len({len(each) for each in axes.values()} | lengths) > 1:
        counts = ", ".join(f"{key} {len(each)}" for key, each in {**axes, **measured}.items())
        raise TrainingLogError(
            name, f"the lists differ in length: {counts}", "leave out the epochs and steps, or fill with null"
        )
    if len(lengths) == 1:
        length = lengths.pop()
        kept = {key: each for key, each in lists.items() if len(each) == length}
        rows = [
            Row(f"{name}: item {n + 1} of the lists", {key: each[n] for key, each in kept.items()})
            for n in range(length)
        ]
        return Table(name, "lists", tuple(rows))
    return _uneven(measured, name)


def _uneven(lists: Mapping[str, Sequence[Any]], name: str) -> Table:
    """Spread lists of different lengths over the epochs, of which there are as many as validation values."""
    validated = [len(each) for key, each in lists.items() if names.meaning(key).side == "valid"]
    epochs = max(validated, default=0) or max(len(each) for each in lists.values())
    rows, notes = [], []
    for key, each in lists.items():
        count = len(each)
        even = count > 0 and (count % epochs == 0 or epochs % count == 0)
        if count != epochs and count:
            where = f"spread evenly over {epochs} epochs" if even else "taken as one an epoch from the first on"
            notes.append(f"{key} has {count} values: they are {where}")
        pace = epochs / count if even else 1.0
        rows += [Row(f"{name}: {key}[{n}]", {"epoch": (n + 1) * pace, key: value}) for n, value in enumerate(each)]
    return Table(name, "lists", tuple(sorted(rows, key=lambda row: float(row.cells["epoch"]))), notes=tuple(notes))
