"""Resolves a written hyperparameter to its values: shares become counts, ranges are clamped."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TypeAlias

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces import domains
from search_spaces.catalogue import Catalogue, Recommendation
from search_spaces.limits import Limit, Scalar, yaml_text
from search_spaces.parameters import Bound, Choices, Fixed, Parameter, Range, Recommended, Share
from search_spaces.problems import InvalidValueError, SpaceProblem

_ValueWithPath: TypeAlias = tuple[tuple[str | int, ...], Scalar]
"""A written value, after the path to it."""


@dataclass(frozen=True)
class ResolutionContext:
    """The facts that decide about the values of a hyperparameter.

    `recommendation` has no cases any more. `bounds` come from steering.
    """

    limit: Limit
    training_examples: int
    scope: str
    recommendation: Recommendation | None = None
    bounds: tuple[float, float] | None = None

    @property
    def accepted_text(self) -> str:
        """The limits in words."""
        return f"the backend accepts {self.limit.text}"

    def count(self, share: Share) -> int:
        """Return the share of the training set as a number of examples."""
        return share.examples(self.training_examples)

    def of_training_set(self, written: str) -> str:
        """Explain a share in words."""
        return f"{written} of {self.training_examples:,} examples"


@dataclass
class ResolvedValues:
    """The values of a hyperparameter: a domain or one fixed value.

    `first` is the value to start with, if the domain is a list. `notes` explain every change to the
    written values.
    """

    domain: domains.Domain | None = None
    fixed: Scalar | None = None
    first: Scalar | None = None
    notes: list[str] = field(default_factory=list)


def resolve_values(
    parameter: Parameter, context: ResolutionContext, problems: list[SpaceProblem]
) -> ResolvedValues | None:
    """Return the parameter's values. Append its problems, and return None if there are any."""
    problems_before = len(problems)
    if context.bounds is not None and isinstance(parameter.form, Fixed | Choices):
        message = f"{parameter.name}: bounds apply to a range, not to {parameter.written}"
        problems.append(SpaceProblem((parameter.name,), message, "write a range"))
    values = None
    match parameter.form:
        case Fixed(value):
            values = _listed(parameter, [(parameter.path, value)], context, problems)
        case Choices(written):
            with_paths: list[_ValueWithPath] = [
                ((*parameter.path, position), value) for position, value in enumerate(written)
            ]
            values = _listed(parameter, with_paths, context, problems)
        case Range() as written_range:
            values = _RangeResolver(parameter.name, context, problems, (parameter.name,)).resolve(written_range)
            _suggest_log(written_range, context, values)
        case Recommended():
            values = _recommended(parameter, context, problems)
    return values if len(problems) == problems_before else None


def starting_value(values: ResolvedValues, context: ResolutionContext) -> Scalar:
    """Return the value to try first.

    It is the recommended default if it is among the values, otherwise the first value of a list or
    the middle of a range.
    """
    if values.domain is None:
        assert values.fixed is not None
        return values.fixed
    recommended = recommended_default(context)
    if recommended is not None and domains.contains(values.domain, recommended):
        return recommended
    if isinstance(values.domain, CategoricalDistribution):
        assert values.first is not None
        return values.first
    return domains.middle(values.domain)


def recommended_default(context: ResolutionContext) -> Scalar | None:
    """Return the recommended default as a value of the hyperparameter, or None if there is none."""
    recommendation = context.recommendation
    if recommendation is None or recommendation.default is None:
        return None
    bound = _as_bound(recommendation, recommendation.default)
    value = min(context.count(bound), recommendation.cap or math.inf) if isinstance(bound, Share) else bound
    try:
        return context.limit.convert(value)
    except InvalidValueError:
        return None


# --------------------------------------------------------------------------------- values and lists
def _listed(
    parameter: Parameter,
    with_paths: list[_ValueWithPath],
    context: ResolutionContext,
    problems: list[SpaceProblem],
) -> ResolvedValues:
    values: list[Scalar] = []
    notes: list[str] = []
    for path, written in with_paths:
        share = Share.parse(written) if context.limit.kind == "int" else None
        try:
            values.append(context.limit.validate(context.count(share) if share is not None else written))
        except InvalidValueError as error:
            subject = parameter.name if share is None else f"{parameter.name}: {context.of_training_set(str(share))}"
            problems.append(SpaceProblem(path, f"{subject}: {error.message}", error.hint))
        if share is not None:
            notes.append(context.of_training_set(str(share)))
    distinct = list(dict.fromkeys(values))
    if len(distinct) < len(values):
        notes.append("equal values are used once")
    if len(distinct) > 1:
        return ResolvedValues(domain=domains.categorical(distinct), first=distinct[0], notes=notes)
    return ResolvedValues(fixed=distinct[0] if distinct else None, notes=notes)


# ------------------------------------------------------------------------------------------- ranges
def _recommended(
    parameter: Parameter, context: ResolutionContext, problems: list[SpaceProblem]
) -> ResolvedValues | None:
    name, recommendation = parameter.name, context.recommendation
    if recommendation is None:
        problems.append(_no_recommendation(parameter, context.scope))
        return None
    if recommendation.low is None or recommendation.high is None:
        assert recommendation.default is not None
        low = high = _as_bound(recommendation, recommendation.default)
    else:
        low, high = (_as_bound(recommendation, end) for end in (recommendation.low, recommendation.high))
    resolver = _RangeResolver(name, context, problems, parameter.path, recommendation.cap)
    values = resolver.resolve(Range(low, high, log=recommendation.scale == "log"))
    if values is not None and recommendation.low is None:
        values.notes.append("the source recommends a value and no range")
    return values


def _no_recommendation(parameter: Parameter, scope: str) -> SpaceProblem:
    name, catalogue = parameter.name, Catalogue.load()
    message = f"{name}: there is no recommendation in the scope {scope}"
    if scope not in catalogue.scopes():
        message = f"{name}: the catalogue has no scope {scope}"
    scopes = catalogue.scopes_with(name)
    others = f"the scopes with one are {', '.join(scopes)}" if scopes else "no other scope has one"
    return SpaceProblem(parameter.path, message, f"write `{name}: {{low: ..., high: ...}}`; {others}")


def _as_bound(recommendation: Recommendation, number: float) -> Bound:
    return Share.from_fraction(number) if recommendation.unit == "fraction_of_training_set" else number


def _suggest_log(written: Range, context: ResolutionContext, values: ResolvedValues | None) -> None:
    recommendation = context.recommendation
    is_linear = isinstance(values and values.domain, IntDistribution | FloatDistribution) and not written.log
    if values is not None and is_linear and written.step is None and recommendation and recommendation.scale == "log":
        values.notes.append("searched on a linear scale; the recommendation is log: true")


@dataclass(frozen=True)
class _RangeResolver:
    """Resolves one range. `path` leads to the range, for problems that do not belong to one end."""

    name: str
    context: ResolutionContext
    problems: list[SpaceProblem]
    path: tuple[str, ...]
    cap: int | None = None

    def resolve(self, written: Range) -> ResolvedValues | None:
        """Return the values of the range, or None if it has a problem."""
        if not self.context.limit.is_numeric:
            self._report(self.path, f"a range needs numbers, but {self.context.accepted_text}", "write a list")
            return None
        problems_before, notes = len(self.problems), list[str]()
        low, high = self._end("low", written.low), self._end("high", written.high)
        step = None if written.step is None else self._integer_if_needed("step", written.step)
        if isinstance(written.low, Share) or isinstance(written.high, Share):
            ends = dict.fromkeys(yaml_text(end) for end in (written.low, written.high))
            notes.append(self.context.of_training_set(" .. ".join(ends)))
        if len(self.problems) > problems_before or low is None or high is None:
            return None
        if self.context.bounds is not None:
            written_ends = f"{yaml_text(low)} .. {yaml_text(high)}"
            low, high = self._rounded_inward(*self.context.bounds)
            notes.append(f"{yaml_text(low)} .. {yaml_text(high)} replaces {written_ends}")
        if low > high:
            self._report(self.path, f"low {yaml_text(low)} is above high {yaml_text(high)}", "swap the two")
            return None
        if written.log and low <= 0:
            self._report(self.path, f"a log scale needs low above 0, not {low}", "raise low, or leave log out")
            return None
        return self._within_limits(low, high, step, written.log, notes)

    def _end(self, key: str, written: Bound) -> float | None:
        if not isinstance(written, Share):
            return self._integer_if_needed(key, written)
        if self.context.limit.kind != "int":
            hint = "write a number; only a count of examples can be a percentage of the training set"
            self._report((self.name, key), f"{key} cannot be {written}", hint)
            return None
        return min(self.context.count(written), self.cap or math.inf)

    def _integer_if_needed(self, key: str, written: float) -> float | None:
        """Return the number. Report a fraction if the hyperparameter is a whole number."""
        if self.context.limit.kind == "int" and written != int(written):
            message = f"{key} is {yaml_text(written)}, not a whole number"
            self._report((self.name, key), message, f"accepted: {self._accepted}")
            return None
        return written

    def _rounded_inward(self, low: float, high: float) -> tuple[float, float]:
        return (math.ceil(low), math.floor(high)) if self.context.limit.kind == "int" else (low, high)

    def _within_limits(
        self, low: float, high: float, step: float | None, log: bool, notes: list[str]
    ) -> ResolvedValues | None:
        """Clamp the range. The steps stay where the user wrote them, counted from low."""
        limit = self.context.limit
        if limit.choices is not None:
            return self._choices_within(low, high, step, notes)
        clamped_low = low if limit.low is None else max(low, limit.low)
        clamped_high = high if limit.high is None else min(high, limit.high)
        floor, ceiling = self._rounded_inward(clamped_low, clamped_high)
        first, last = (floor, ceiling) if step is None else _on_steps(low, floor, ceiling, step)
        if first > last:
            message = f"{yaml_text(low)} .. {yaml_text(high)} is outside of the limits"
            self._report(self.path, message, f"accepted: {self._accepted}")
            return None
        if floor != low:
            notes.append(f"low clamped from {yaml_text(low)} to {yaml_text(first)}: {self.context.accepted_text}")
        if ceiling != high:
            notes.append(f"high clamped from {yaml_text(high)} to {yaml_text(last)}: {self.context.accepted_text}")
        elif last != high:
            notes.append(f"high is {yaml_text(last)}, the last step before {yaml_text(high)}")
        if first == last:
            return ResolvedValues(fixed=limit.convert(first), notes=notes)
        if limit.kind == "int":
            return ResolvedValues(domain=IntDistribution(int(first), int(last), log, int(step or 1)), notes=notes)
        return ResolvedValues(domain=FloatDistribution(first, last, log, step), notes=notes)

    def _choices_within(self, low: float, high: float, step: float | None, notes: list[str]) -> ResolvedValues | None:
        """Return the backend's own values that are in the range and on its steps."""
        choices = sorted(choice for choice in self.context.limit.choices or () if not isinstance(choice, str))
        kept = [
            choice
            for choice in choices
            if low <= choice <= high and (step is None or _on_steps(low, choice, choice, step)[0] == choice)
        ]
        if not kept:
            message = f"{yaml_text(low)} .. {yaml_text(high)} contains no accepted value"
            self._report(self.path, message, f"accepted: {self._accepted}")
            return None
        notes.append(self.context.accepted_text)
        if len(kept) == 1:
            return ResolvedValues(fixed=kept[0], notes=notes)
        return ResolvedValues(domain=domains.categorical(kept), first=kept[(len(kept) - 1) // 2], notes=notes)

    @property
    def _accepted(self) -> str:
        return self.context.limit.text

    def _report(self, path: tuple[str | int, ...], message: str, hint: str) -> None:
        self.problems.append(SpaceProblem(path, f"{self.name}: {message}", hint))


def _on_steps(origin: float, floor: float, ceiling: float, step: float) -> tuple[float, float]:
    """Return the first and the last of origin, origin + step, ... between floor and ceiling.

    The result is exact in decimals.
    """
    start, width = Decimal(str(origin)), Decimal(str(step))
    first = start + ((Decimal(str(floor)) - start) / width).to_integral_value(ROUND_CEILING) * width
    last = start + ((Decimal(str(ceiling)) - start) / width).to_integral_value(ROUND_FLOOR) * width
    return float(first), float(last)
