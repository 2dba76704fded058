"""From one written hyperparameter to its values: shares become counts, ranges are clamped to what is accepted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TypeAlias

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces import domains
from search_spaces.catalogue import Catalogue, Recommendation
from search_spaces.limits import Limit, Scalar, plain
from search_spaces.parameters import Bound, Choices, Fixed, Parameter, Range, Recommended, Share
from search_spaces.problems import MisfitError, SpaceProblem

_Placed: TypeAlias = tuple[tuple[str | int, ...], Scalar]
"""A written value and the path to it."""


@dataclass(frozen=True)
class Setting:
    """What a hyperparameter is resolved against; `recommendation` has no cases left, `bounds` are steering's."""

    limit: Limit
    training_examples: int
    scope: str
    recommendation: Recommendation | None = None
    bounds: tuple[float, float] | None = None

    @property
    def accepted(self) -> str:
        """The limits in words."""
        return f"the backend accepts {self.limit.text}"

    def count(self, share: Share) -> int:
        """Return the share of the training set as a number of examples."""
        return share.examples(self.training_examples)

    def of_training_set(self, written: str) -> str:
        """Explain a share in words."""
        return f"{written} of {self.training_examples:,} examples"


@dataclass
class Values:
    """The values of a hyperparameter: a domain, or one fixed value; the value to start with, and what was done."""

    domain: domains.Domain | None = None
    fixed: Scalar | None = None
    first: Scalar | None = None
    notes: list[str] = field(default_factory=list)


def resolve_values(parameter: Parameter, setting: Setting, problems: list[SpaceProblem]) -> Values | None:
    """Return the parameter's values; None where something was appended to `problems`."""
    before = len(problems)
    if setting.bounds is not None and isinstance(parameter.form, Fixed | Choices):
        message = f"{parameter.name}: bounds apply to a range, not to {parameter.written}"
        problems.append(SpaceProblem((parameter.name,), message, "search it as a range"))
    values = None
    match parameter.form:
        case Fixed(value):
            values = _chosen(parameter, [(parameter.path, value)], setting, problems)
        case Choices(written):
            placed: list[_Placed] = [((*parameter.path, place), each) for place, each in enumerate(written)]
            values = _chosen(parameter, placed, setting, problems)
        case Range() as written_range:
            values = _Span(parameter.name, setting, problems, (parameter.name,)).resolve(written_range)
            _suggest_log(written_range, setting, values)
        case Recommended():
            values = _recommended(parameter, setting, problems)
    return values if len(problems) == before else None


def starting_value(values: Values, setting: Setting) -> Scalar:
    """Return the recommended default where the values hold it, else the first of a list or the middle of a range."""
    if values.domain is None:
        assert values.fixed is not None
        return values.fixed
    recommended = recommended_default(setting)
    if recommended is not None and domains.contains(values.domain, recommended):
        return recommended
    if isinstance(values.domain, CategoricalDistribution):
        assert values.first is not None
        return values.first
    return domains.middle(values.domain)


def recommended_default(setting: Setting) -> Scalar | None:
    """Return the recommendation's default in the hyperparameter's own terms; None where there is none that fits."""
    recommendation = setting.recommendation
    if recommendation is None or recommendation.default is None:
        return None
    bound = _in_examples(recommendation, recommendation.default)
    value = min(setting.count(bound), recommendation.cap or math.inf) if isinstance(bound, Share) else bound
    try:
        return setting.limit.read(value)
    except MisfitError:
        return None


# ----------------------------------------------------------------------------------------------------- values and lists
def _chosen(
    parameter: Parameter,
    placed: list[_Placed],
    setting: Setting,
    problems: list[SpaceProblem],
) -> Values:
    chosen: list[Scalar] = []
    notes: list[str] = []
    for path, written in placed:
        share = Share.parse(written) if setting.limit.kind == "int" else None
        try:
            chosen.append(setting.limit.admit(setting.count(share) if share is not None else written))
        except MisfitError as misfit:
            where = parameter.name if share is None else f"{parameter.name}: {setting.of_training_set(str(share))}"
            problems.append(SpaceProblem(path, f"{where}: {misfit.message}", misfit.hint))
        if share is not None:
            notes.append(setting.of_training_set(str(share)))
    distinct = list(dict.fromkeys(chosen))
    if len(distinct) < len(chosen):
        notes.append("values that came out the same stand once")
    if len(distinct) > 1:
        return Values(domain=domains.of_choices(distinct), first=distinct[0], notes=notes)
    return Values(fixed=distinct[0] if distinct else None, notes=notes)


# --------------------------------------------------------------------------------------------------------------- ranges
def _recommended(parameter: Parameter, setting: Setting, problems: list[SpaceProblem]) -> Values | None:
    name, recommendation = parameter.name, setting.recommendation
    if recommendation is None:
        catalogue = Catalogue.load()
        message = f"{name}: nothing is recommended in the scope {setting.scope}"
        if setting.scope not in catalogue.scopes():
            message = f"{name}: the catalogue has no scope {setting.scope}"
        scopes = catalogue.scopes_with(name)
        elsewhere = f"recommended in the scopes {', '.join(scopes)}" if scopes else "recommended in no scope"
        hint = f"{elsewhere}; write `{name}: {{low: ..., high: ...}}`"
        problems.append(SpaceProblem(parameter.path, message, hint))
        return None
    if recommendation.low is None or recommendation.high is None:
        assert recommendation.default is not None
        low = high = _in_examples(recommendation, recommendation.default)
    else:
        low, high = (_in_examples(recommendation, each) for each in (recommendation.low, recommendation.high))
    span = _Span(name, setting, problems, parameter.path, recommendation.cap)
    values = span.resolve(Range(low, high, log=recommendation.scale == "log"))
    if values is not None and recommendation.low is None:
        values.notes.append("the source recommends a value and no range")
    return values


def _in_examples(recommendation: Recommendation, number: float) -> Bound:
    return Share.of_one(number) if recommendation.unit == "fraction_of_training_set" else number


def _suggest_log(written: Range, setting: Setting, values: Values | None) -> None:
    recommendation = setting.recommendation
    linear = isinstance(values and values.domain, IntDistribution | FloatDistribution) and not written.log
    if values is not None and linear and written.step is None and recommendation and recommendation.scale == "log":
        values.notes.append("searched on a linear scale; the recommendation is log: true")


@dataclass(frozen=True)
class _Span:
    """The resolution of one range; `at` is where the range stands, for problems that are not those of one end."""

    name: str
    setting: Setting
    problems: list[SpaceProblem]
    at: tuple[str, ...]
    cap: int | None = None

    def resolve(self, written: Range) -> Values | None:
        """Return the values of the range; None where a problem was found."""
        if not self.setting.limit.numeric:
            self._report(self.at, f"a range needs numbers, but {self.setting.accepted}", "write a list")
            return None
        before, notes = len(self.problems), list[str]()
        low, high = self._end("low", written.low), self._end("high", written.high)
        step = None if written.step is None else self._whole("step", written.step)
        if isinstance(written.low, Share) or isinstance(written.high, Share):
            ends = dict.fromkeys(plain(end) for end in (written.low, written.high))
            notes.append(self.setting.of_training_set(" .. ".join(ends)))
        if len(self.problems) > before or low is None or high is None:
            return None
        if self.setting.bounds is not None:
            written_ends = f"{plain(low)} .. {plain(high)}"
            low, high = self._inward(*self.setting.bounds)
            notes.append(f"{plain(low)} .. {plain(high)} takes the place of {written_ends}")
        if low > high or (written.log and low <= 0):
            what = (
                f"low {plain(low)} is above high {plain(high)}" if low > high else f"log needs low above 0, not {low}"
            )
            self._report(self.at, what, "swap the two" if low > high else "raise low or leave log out")
            return None
        return self._within_limits(low, high, step, written.log, notes)

    def _end(self, key: str, written: Bound) -> float | None:
        if not isinstance(written, Share):
            return self._whole(key, written)
        if self.setting.limit.kind != "int":
            hint = "a percentage of the training set is a count; this is none"
            self._report((self.name, key), f"{key} cannot be {written}", hint)
            return None
        return min(self.setting.count(written), self.cap or math.inf)

    def _whole(self, key: str, written: float) -> float | None:
        if self.setting.limit.kind == "int" and written != int(written):
            self._report(
                (self.name, key), f"{key} is {plain(written)}, not a whole number", f"accepted: {self._accepted}"
            )
            return None
        return written

    def _inward(self, low: float, high: float) -> tuple[float, float]:
        return (math.ceil(low), math.floor(high)) if self.setting.limit.kind == "int" else (low, high)

    def _within_limits(self, low: float, high: float, step: float | None, log: bool, notes: list[str]) -> Values | None:
        """Clamp; the steps stay where they are written, counted from low."""
        limit = self.setting.limit
        if limit.choices is not None:
            return self._among(low, high, step, notes)
        floor, ceiling = self._inward(
            low if limit.low is None else max(low, limit.low), high if limit.high is None else min(high, limit.high)
        )
        first, last = (floor, ceiling) if step is None else _on_steps(low, floor, ceiling, step)
        if first > last:
            self._report(
                self.at, f"{plain(low)} .. {plain(high)} is outside of the limits", f"accepted: {self._accepted}"
            )
            return None
        if floor != low:
            notes.append(f"low clamped from {plain(low)} to {plain(first)}: {self.setting.accepted}")
        if ceiling != high:
            notes.append(f"high clamped from {plain(high)} to {plain(last)}: {self.setting.accepted}")
        elif last != high:
            notes.append(f"high is {plain(last)}, the last step before {plain(high)}")
        if first == last:
            return Values(fixed=limit.read(first), notes=notes)
        if limit.kind == "int":
            return Values(domain=IntDistribution(int(first), int(last), log, int(step or 1)), notes=notes)
        return Values(domain=FloatDistribution(first, last, log, step), notes=notes)

    def _among(self, low: float, high: float, step: float | None, notes: list[str]) -> Values | None:
        """Keep those of the backend's own values that lie in the range, and on its steps."""
        inside = sorted(each for each in self.setting.limit.choices or () if not isinstance(each, str))
        kept = [
            each
            for each in inside
            if low <= each <= high and (step is None or _on_steps(low, each, each, step)[0] == each)
        ]
        if not kept:
            self._report(self.at, f"{plain(low)} .. {plain(high)} holds nothing", f"accepted: {self._accepted}")
            return None
        notes.append(self.setting.accepted)
        if len(kept) == 1:
            return Values(fixed=kept[0], notes=notes)
        return Values(domain=domains.of_choices(kept), first=kept[(len(kept) - 1) // 2], notes=notes)

    @property
    def _accepted(self) -> str:
        return self.setting.limit.text

    def _report(self, path: tuple[str | int, ...], message: str, hint: str) -> None:
        self.problems.append(SpaceProblem(path, f"{self.name}: {message}", hint))


def _on_steps(origin: float, floor: float, ceiling: float, step: float) -> tuple[float, float]:
    """Return the first and the last of origin, origin + step, ... between floor and ceiling, exact in decimals."""
    start, width = Decimal(str(origin)), Decimal(str(step))
    first = start + ((Decimal(str(floor)) - start) / width).to_integral_value(ROUND_CEILING) * width
    last = start + ((Decimal(str(ceiling)) - start) / width).to_integral_value(ROUND_FLOOR) * width
    return float(first), float(last)
