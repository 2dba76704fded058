"""The recommendation catalogue: recommended ranges by hyperparameter and scope.

All numbers are in catalogue.toml, and nowhere else in this software.
"""

from __future__ import annotations

import dataclasses
import datetime
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeAlias, get_args

from search_spaces.limits import Scalar, yaml_text

Unit: TypeAlias = Literal[
    "epochs",
    "examples",
    "fraction_of_training_set",
    "ratio_to_pretraining_rate",
    "weight",
    "rank",
    "scaling",
    "probability",
    "fraction_of_steps",
    "rate",
]
Scale: TypeAlias = Literal["linear", "log"]
Weight: TypeAlias = Literal["major", "minor"]
Direction: TypeAlias = Literal["raise", "lower", ""]


@dataclass(frozen=True)
class Case:
    """A range that applies under conditions.

    `below` is a number of training examples, and `when` maps other hyperparameters to values.
    """

    low: float
    high: float
    default: float | None = None
    below: int | None = None
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Recommendation:
    """The recommended values of a hyperparameter, in `unit`. None if the source gives no number.

    `scope` is the scope that contains the entry, which may be an ancestor of the requested scope.
    `cases` narrow the range; `low` and `high` then span all cases. `when_underfitting` and
    `when_overfitting` are the directions in which to move the value.
    """

    parameter: str
    scope: str
    low: float | None
    high: float | None
    default: float | None
    unit: Unit
    scale: Scale
    weight: Weight
    source: str
    as_of: datetime.date
    when_underfitting: Direction = ""
    when_overfitting: Direction = ""
    cap: int | None = None
    note: str = ""
    cases: tuple[Case, ...] = ()

    @property
    def is_ours(self) -> bool:
        """True if all or some of the numbers are our own choice and not from a source."""
        return "ours" in self.source.replace(":", " ").split()

    @property
    def text(self) -> str:
        """The recommendation in words: "2 .. 4", "1 % .. 4 % of the training set, log", "0.1"."""
        if self.low is None or self.high is None:
            return self._in_unit(self.default if self.default is not None else 0.0)
        ends = f"{self._in_unit(self.low)} .. {self._in_unit(self.high)}"
        if self.unit == "fraction_of_training_set":
            ends += " of the training set"
        return f"{ends}, log" if self.scale == "log" else ends

    def applicable_cases(
        self, training_examples: int, possible_values: Mapping[str, Collection[Scalar]]
    ) -> tuple[Case, ...]:
        """Return the cases that may apply, in order, up to the first one that certainly applies.

        `possible_values` has the values that each other hyperparameter can take here. A
        hyperparameter that is absent can take any value.
        """
        applicable = []
        for case in self.cases:
            if case.below is not None and training_examples >= case.below:
                continue
            overlaps = [_overlap(possible_values.get(name), values) for name, values in case.when.items()]
            if "none" not in overlaps:
                applicable.append(case)
                if all(overlap == "all" for overlap in overlaps):
                    break
        return tuple(applicable)

    def narrowed(self, training_examples: int, possible_values: Mapping[str, Collection[Scalar]]) -> Recommendation:
        """Return the recommendation without cases.

        Its range spans the applicable cases, and its default is the one that all of them share.
        """
        cases = self.applicable_cases(training_examples, possible_values)
        if not cases:
            return dataclasses.replace(self, cases=())
        defaults = {case.default for case in cases}
        return dataclasses.replace(
            self,
            low=min(case.low for case in cases),
            high=max(case.high for case in cases),
            default=defaults.pop() if len(defaults) == 1 else None,
            cases=(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**dataclasses.asdict(self), "as_of": self.as_of.isoformat(), "text": self.text, "ours": self.is_ours}

    def _in_unit(self, number: float) -> str:
        if self.unit == "fraction_of_training_set":
            return f"{yaml_text(round(number * 100, 10))} %"
        return yaml_text(number)


@dataclass(frozen=True)
class Catalogue:
    """All recommendations. `load` returns the packaged catalogue."""

    titles: Mapping[str, str]
    parents: Mapping[str, str]
    entries: Mapping[tuple[str, str], Recommendation]

    @staticmethod
    @cache
    def load() -> Catalogue:
        """Return the packaged catalogue, which is read only once.

        Raises ValueError with the name of an invalid entry, which is a bug.
        """
        file = resources.files("search_spaces").joinpath("catalogue.toml")
        return Catalogue.parse(file.read_text(encoding="utf-8"))

    @classmethod
    def parse(cls, text: str) -> Catalogue:
        """Read a catalogue in TOML. Raises ValueError with the name of an invalid entry."""
        scopes = tomllib.loads(text)
        parents = {name: scope["inherits"] for name, scope in scopes.items() if "inherits" in scope}
        for name, scope in scopes.items():
            _check_scope(name, scope, scopes)
        entries = {
            (parameter, name): _entry(parameter, name, scopes)
            for name, scope in scopes.items()
            for parameter in scope.get("parameters", {})
        }
        return cls({name: scope["title"] for name, scope in scopes.items()}, parents, entries)

    def scopes(self) -> tuple[str, ...]:
        """Return the names of all scopes, in file order."""
        return tuple(self.titles)

    def get(self, parameter: str, scope: str) -> Recommendation | None:
        """Return the entry of the scope or of its nearest ancestor with one, or None."""
        ancestor: str | None = scope
        while ancestor is not None:
            if (parameter, ancestor) in self.entries:
                return self.entries[parameter, ancestor]
            ancestor = self.parents.get(ancestor)
        return None

    def for_scope(self, scope: str) -> Mapping[str, Recommendation]:
        """Return all recommendations of the scope by hyperparameter, including inherited ones."""
        names = dict.fromkeys(parameter for parameter, _ in self.entries)
        entries = {name: self.get(name, scope) for name in names}
        return {name: entry for name, entry in entries.items() if entry is not None}

    def scopes_with(self, parameter: str) -> tuple[str, ...]:
        """Return the scopes that have a recommendation for the hyperparameter."""
        return tuple(scope for scope in self.titles if self.get(parameter, scope) is not None)


def _overlap(possible: Collection[Scalar] | None, wanted: tuple[Scalar, ...]) -> Literal["none", "some", "all"]:
    if possible is None:
        return "some"
    matches = [value in wanted for value in possible]
    return "all" if all(matches) else "some" if any(matches) else "none"


# ------------------------------------------------------------------------------------------ reading
_SCOPE_KEYS = {"title", "source", "as_of", "inherits", "parameters"}
_ENTRY_KEYS = {entry_field.name for entry_field in dataclasses.fields(Recommendation)} - {"parameter", "scope"} | {
    "extends"
}
_CASE_KEYS = {case_field.name for case_field in dataclasses.fields(Case)}
_VOCABULARY: Mapping[str, tuple[str, ...]] = {
    "unit": get_args(Unit),
    "scale": get_args(Scale),
    "weight": get_args(Weight),
    "when_underfitting": get_args(Direction),
    "when_overfitting": get_args(Direction),
}


def _check_scope(name: str, scope: Mapping[str, Any], scopes: Mapping[str, Any]) -> None:
    _require(set(scope) <= _SCOPE_KEYS, name, f"unknown keys {sorted(set(scope) - _SCOPE_KEYS)}")
    _require(bool(scope.get("title")), name, "title is missing")
    lineage = [name]
    while (parent := scopes[lineage[-1]].get("inherits")) is not None:
        _require(parent in scopes and parent not in lineage, name, f"inherits {parent}, unknown or in a circle")
        lineage.append(parent)


def _entry(parameter: str, scope: str, scopes: Mapping[str, Any]) -> Recommendation:
    place = f"{scope}.{parameter}"
    own = dict(scopes[scope]["parameters"][parameter])
    _require(set(own) <= _ENTRY_KEYS, place, f"unknown keys {sorted(set(own) - _ENTRY_KEYS)}")
    base: Mapping[str, Any] = {key: scopes[scope][key] for key in ("source", "as_of") if key in scopes[scope]}
    if (extended := own.pop("extends", None)) is not None:
        _require(
            parameter in scopes.get(extended, {}).get("parameters", {}),
            place,
            f"extends {extended}, which has no such entry",
        )
        base = {**scopes[extended]["parameters"][parameter], **base}
    values = {"low": None, "high": None, "default": None, **base, **own}
    ends = {key: values[key] for key in ("low", "high") if values[key] is not None}
    values["cases"] = tuple(_case(place, {**ends, **case}) for case in values.get("cases", ()))
    if values["cases"]:
        _require(not {"low", "high"} & set(own), place, "remove low and high: the cases determine them")
        values["low"] = min(case.low for case in values["cases"])
        values["high"] = max(case.high for case in values["cases"])
    _check(place, values)
    return Recommendation(parameter=parameter, scope=scope, **values)


def _case(place: str, raw: Mapping[str, Any]) -> Case:
    _require({"low", "high"} <= set(raw) <= _CASE_KEYS, place, f"a case has the wrong keys {sorted(raw)}")
    conditions = raw.get("when", {}).items()
    when = {name: tuple(values if isinstance(values, list) else [values]) for name, values in conditions}
    _check_numbers(place, raw["low"], raw["high"], raw.get("default"))
    return Case(**{**raw, "when": when})


def _check(place: str, values: Mapping[str, Any]) -> None:
    for key, words in _VOCABULARY.items():
        _require(values.get(key, "") in words, place, f"{key} is {values.get(key)!r}, not one of {words}")
    _require(bool(values.get("source")), place, "source is missing")
    _require(isinstance(values.get("as_of"), datetime.date), place, "as_of is not a date")
    _require((values["low"] is None) == (values["high"] is None), place, "low needs high, and high needs low")
    _require(values["low"] is not None or values["default"] is not None, place, "the entry has no number")
    _check_numbers(place, values["low"], values["high"], values["default"])
    _require(
        values["scale"] == "linear" or values["low"] is None or values["low"] > 0,
        place,
        "a log scale needs low above 0",
    )


def _check_numbers(place: str, low: Any, high: Any, default: Any) -> None:
    numbers = [value for value in (low, default, high) if value is not None]
    all_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers)
    _require(all_numbers, place, f"{numbers} are not all numbers")
    _require(numbers == sorted(numbers), place, f"low, default and high {numbers} are not in order")


def _require(condition: bool, place: str, message: str) -> None:
    if not condition:
        raise ValueError(f"catalogue.toml, {place}: {message}")
