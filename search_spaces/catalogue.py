"""Look-up of a recommendation by hyperparameter and scope. The numbers stand in catalogue.toml and nowhere else."""

from __future__ import annotations

import dataclasses
import datetime
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeAlias, get_args

from search_spaces.limits import Scalar, plain

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
    """A range that holds below a number of training examples, or where other hyperparameters have given values."""

    low: float
    high: float
    default: float | None = None
    below: int | None = None
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Recommendation:
    """What somebody recommends for a hyperparameter, in `unit`; None is what the source leaves open.

    `scope` is where the entry stands, which for an inherited one is not the scope that was asked for. `cases` narrow
    the range, `low`/`high` then span all of them. `when_underfitting`/`when_overfitting` are directions.
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
    def ours(self) -> bool:
        """True where the numbers, or a part of them, are our own choice and not a source's."""
        return "ours" in self.source.replace(":", " ").split()

    @property
    def text(self) -> str:
        """The recommendation in words: "2 .. 4", "0.01 % .. 4 % of the training set, log", "0.1"."""
        if self.low is None or self.high is None:
            return self._in_unit(self.default if self.default is not None else 0.0)
        ends = f"{self._in_unit(self.low)} .. {self._in_unit(self.high)}"
        if self.unit == "fraction_of_training_set":
            ends += " of the training set"
        return f"{ends}, log" if self.scale == "log" else ends

    def applicable(self, training_examples: int, possible: Mapping[str, Collection[Scalar]]) -> tuple[Case, ...]:
        """Return the cases that may hold, in their order, up to the first that certainly does.

        `possible` has the values that each other hyperparameter can take here; one that is absent can take any.
        """
        found = []
        for case in self.cases:
            if case.below is not None and training_examples >= case.below:
                continue
            overlaps = [_overlap(possible.get(name), values) for name, values in case.when.items()]
            if "none" not in overlaps:
                found.append(case)
                if all(each == "all" for each in overlaps):
                    break
        return tuple(found)

    def at(self, training_examples: int, possible: Mapping[str, Collection[Scalar]]) -> Recommendation:
        """Return the recommendation without cases: the range spans the applicable ones, a shared default stays."""
        cases = self.applicable(training_examples, possible)
        if not cases:
            return dataclasses.replace(self, cases=())
        defaults = {each.default for each in cases}
        return dataclasses.replace(
            self,
            low=min(each.low for each in cases),
            high=max(each.high for each in cases),
            default=defaults.pop() if len(defaults) == 1 else None,
            cases=(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**dataclasses.asdict(self), "as_of": self.as_of.isoformat(), "text": self.text, "ours": self.ours}

    def _in_unit(self, number: float) -> str:
        return f"{plain(round(number * 100, 10))} %" if self.unit == "fraction_of_training_set" else plain(number)


@dataclass(frozen=True)
class Catalogue:
    """All recommendations. `load()` gives the packaged one."""

    titles: Mapping[str, str]
    parents: Mapping[str, str]
    entries: Mapping[tuple[str, str], Recommendation]

    @staticmethod
    @cache
    def load() -> Catalogue:
        """Return the packaged catalogue; read once. Raises ValueError naming the entry that is broken (a bug)."""
        return Catalogue.parse(resources.files("search_spaces").joinpath("catalogue.toml").read_text(encoding="utf-8"))

    @classmethod
    def parse(cls, text: str) -> Catalogue:
        """Read a catalogue in TOML. Raises ValueError naming the entry that is broken."""
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
        """Return the names of all scopes, in the file's order."""
        return tuple(self.titles)

    def get(self, parameter: str, scope: str) -> Recommendation | None:
        """Return the entry of the scope or of the nearest scope that it inherits; None where there is none."""
        seat: str | None = scope
        while seat is not None:
            if (parameter, seat) in self.entries:
                return self.entries[parameter, seat]
            seat = self.parents.get(seat)
        return None

    def for_scope(self, scope: str) -> Mapping[str, Recommendation]:
        """Return every recommendation that holds in the scope by hyperparameter, inherited ones included."""
        names = dict.fromkeys(parameter for parameter, _ in self.entries)
        found = {name: self.get(name, scope) for name in names}
        return {name: each for name, each in found.items() if each is not None}

    def scopes_with(self, parameter: str) -> tuple[str, ...]:
        """Return the scopes in which something is recommended for the hyperparameter."""
        return tuple(scope for scope in self.titles if self.get(parameter, scope) is not None)


def _overlap(possible: Collection[Scalar] | None, wanted: tuple[Scalar, ...]) -> Literal["none", "some", "all"]:
    if possible is None:
        return "some"
    met = [value in wanted for value in possible]
    return "all" if all(met) else "some" if any(met) else "none"


# -------------------------------------------------------------------------------------------------------------- reading
_SCOPE_KEYS = {"title", "source", "as_of", "inherits", "parameters"}
_ENTRY_KEYS = {each.name for each in dataclasses.fields(Recommendation)} - {"parameter", "scope"} | {"extends"}
_CASE_KEYS = {each.name for each in dataclasses.fields(Case)}
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
    seen = [name]
    while (parent := scopes[seen[-1]].get("inherits")) is not None:
        _require(parent in scopes and parent not in seen, name, f"inherits {parent}, unknown or in a circle")
        seen.append(parent)


def _entry(parameter: str, scope: str, scopes: Mapping[str, Any]) -> Recommendation:
    place = f"{scope}.{parameter}"
    own = dict(scopes[scope]["parameters"][parameter])
    _require(set(own) <= _ENTRY_KEYS, place, f"unknown keys {sorted(set(own) - _ENTRY_KEYS)}")
    base: Mapping[str, Any] = {key: scopes[scope][key] for key in ("source", "as_of") if key in scopes[scope]}
    if (extended := own.pop("extends", None)) is not None:
        _require(parameter in scopes.get(extended, {}).get("parameters", {}), place, f"{extended} has no such entry")
        base = {**scopes[extended]["parameters"][parameter], **base}
    values = {"low": None, "high": None, "default": None, **base, **own}
    ends = {key: values[key] for key in ("low", "high") if values[key] is not None}
    values["cases"] = tuple(_case(place, {**ends, **case}) for case in values.get("cases", ()))
    if values["cases"]:
        _require(not {"low", "high"} & set(own), place, "low and high follow from the cases")
        values["low"] = min(case.low for case in values["cases"])
        values["high"] = max(case.high for case in values["cases"])
    _check(place, values)
    return Recommendation(parameter=parameter, scope=scope, **values)


def _case(place: str, raw: Mapping[str, Any]) -> Case:
    _require({"low", "high"} <= set(raw) <= _CASE_KEYS, place, f"a case has the keys {sorted(raw)}")
    when = {name: tuple(each if isinstance(each, list) else [each]) for name, each in raw.get("when", {}).items()}
    _check_numbers(place, raw["low"], raw["high"], raw.get("default"))
    return Case(**{**raw, "when": when})


def _check(place: str, values: Mapping[str, Any]) -> None:
    for key, words in _VOCABULARY.items():
        _require(values.get(key, "") in words, place, f"{key} is {values.get(key)!r}, not one of {words}")
    _require(bool(values.get("source")), place, "source is missing")
    _require(isinstance(values.get("as_of"), datetime.date), place, "as_of is no date")
    _require((values["low"] is None) == (values["high"] is None), place, "low and high come together")
    _require(values["low"] is not None or values["default"] is not None, place, "nothing is recommended")
    _check_numbers(place, values["low"], values["high"], values["default"])
    _require(values["scale"] == "linear" or values["low"] is None or values["low"] > 0, place, "log needs low above 0")


def _check_numbers(place: str, low: Any, high: Any, default: Any) -> None:
    given = [each for each in (low, high, default) if each is not None]
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in given)
    _require(numbers, place, f"{given} are not all numbers")
    inside = [each for each in (low, default, high) if each is not None]
    _require(inside == sorted(inside), place, f"low, default and high {inside} are not in order")


def _require(condition: bool, place: str, message: str) -> None:
    if not condition:
        raise ValueError(f"catalogue.toml, {place}: {message}")
