"""What changed in a sweep file since its sweep last ran, and whether the sweep can go on. Pure.

The facts are those of two plans: the stored `plan.json`, and the new one as the same JSON values.
So a default that is now written out is no change, and changed data are one although the file is the
same. A fact that the stored plan of an older version lacks is taken as unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.errors import Problem
from sweeps.spec.yaml_source import Document

PlanJson = Mapping[str, Any]

_IDENTITY = ("data", "backend", "space", "objective", "evaluation", "search.seed")
"""The keys that make a sweep another one, because the trials could not be compared."""

_DATA_FACTS = ("source", "task", "labels", "prompt", "separator", "stop", "training_examples", "validation_examples")
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class DefinitionChange:
    """A key of the sweep file whose meaning changed. `needs_new_sweep`: the sweep cannot go on."""

    key: str
    old: str
    new: str
    needs_new_sweep: bool

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def definition_changes(
    stored: PlanJson, new: PlanJson, unchanged_options: Mapping[str, Any], prices: Iterable[str] = ()
) -> tuple[DefinitionChange, ...]:
    """Return every change from the stored plan to the new one, in the order of the sweep file.

    `unchanged_options` are the backend's options as the file has them, where paths may be relative;
    `prices` names those options that only set a price. If the fingerprints of the plans are equal,
    no change needs a new sweep: a path may lead elsewhere now, for example.
    """
    is_same_sweep = stored.get("fingerprint") == new["fingerprint"]
    old_facts, new_facts = _facts(stored), _facts(new)
    is_other_backend = old_facts.get("backend.type") != new_facts.get("backend.type")
    changes = []
    for key in dict.fromkeys((*new_facts, *old_facts)):
        old, now = old_facts.get(key), new_facts.get(key)
        section, _, option = key.partition(".")
        # Apart from the space, a stored plan has every key that its version of the software knew.
        if old == now or (key not in old_facts and section != "space"):
            continue
        if section == "backend" and option in unchanged_options and unchanged_options[option] == old:
            continue
        if section == "backend" and is_other_backend and option not in ("type", "model"):
            continue
        is_identity = key.startswith(_IDENTITY) and not (section == "backend" and option in prices)
        # A sweep lays out its grid when it begins.
        needs_new_sweep = (is_identity and not is_same_sweep) or (key == "search.sampler" and now == "grid")
        changes.append(DefinitionChange(key, _shown(old), _shown(now), needs_new_sweep))
    if not is_same_sweep and not any(change.needs_new_sweep for change in changes):
        changes.append(DefinitionChange("the sweep", "another space, data set, model or objective", "this one", True))
    return tuple(changes)


def problems_of(changes: Sequence[DefinitionChange], name: str, document: Document) -> list[Problem]:
    """Return a problem for each change that needs a new sweep, at its line."""
    found = []
    for change in changes:
        if change.needs_new_sweep:
            place = document.place(tuple(change.key.split(".")))
            message = f"{change} since sweep `{name}` started, so its trials could not be compared"
            found.append(Problem(place, message, "undo it, choose another `name:`, or start again with --fresh"))
    return found


def _facts(plan: PlanJson) -> dict[str, Any]:
    """Return what the sweep file decided, by the key that decides it."""
    facts: dict[str, Any] = {}
    data = plan.get("data") or {}
    facts |= {f"data.{name}": data[name] for name in _DATA_FACTS if name in data}
    if data:  # older versions trained the last answer only
        facts["data.train_on"] = data.get("train_on", "last")
    if "fingerprint" in data:
        facts["data.content"] = f"digest {data['fingerprint']}"
    facts |= {f"backend.{name}": value for name, value in (plan.get("backend") or {}).items()}
    for parameter in (plan.get("space") or {}).get("parameters", ()):
        facts[f"space.{parameter['name']}"] = _Range(parameter)
    objectives = plan.get("objectives") or ()
    facts["objective"] = [{name: value for name, value in entry.items() if name != "target"} for entry in objectives]
    targets = [entry.get("target") for entry in objectives]
    facts["target"] = targets if any(target is not None for target in targets) else None
    for section in ("evaluation", "search", "budget"):
        facts |= {f"{section}.{name}": value for name, value in (plan.get(section) or {}).items()}
    facts |= {name: plan[name] for name in ("steering", "bounds", "finals", "champion") if name in plan}
    return facts


class _Range:
    """A hyperparameter of a space, equal to another one if both have the same values."""

    def __init__(self, parameter: Mapping[str, Any]) -> None:
        names = ("distribution", "fixed", "condition")
        self._values = json.dumps([parameter.get(name) for name in names], sort_keys=True)
        self._text = str(parameter.get("text", parameter.get("fixed")))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Range) and self._values == other._values

    def __hash__(self) -> int:
        return hash(self._values)

    def __str__(self) -> str:
        return self._text


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    text = str(value) if isinstance(value, str | _Range) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split()) if text.strip() else repr(text)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
