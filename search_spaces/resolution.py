"""From written hyperparameters to a space that can be sampled; every problem is collected on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces import domains
from search_spaces.catalogue import Case, Catalogue, Recommendation
from search_spaces.conditions import Conditions, dependency_order
from search_spaces.limits import Limit, Scalar, plain
from search_spaces.parameters import Parameter, Recommended
from search_spaces.problems import SpaceError, SpaceProblem, did_you_mean
from search_spaces.resolved import ResolvedParameter, ResolvedSpace
from search_spaces.values import Setting, Values, resolve_values, starting_value


def resolve(
    written: Iterable[Parameter],
    training_examples: int,
    limits: Mapping[str, Limit],
    scope: str,
    bounds: Mapping[str, tuple[float, float]],
) -> ResolvedSpace:
    """Do what `SearchSpace.resolve` promises. Raises SpaceError with everything that is wrong."""
    problems: list[SpaceProblem] = []
    asked = {each.name: each for each in written}
    left_out = tuple(name for name, each in asked.items() if each.optional and name not in limits)
    parameters = {name: each for name, each in asked.items() if name not in left_out}
    advice = {name: Catalogue.load().get(name, scope) for name in parameters}
    order = dependency_order(parameters, _parents(parameters, limits, advice), problems)
    problems.extend(_unknown(parameters, limits, bounds))
    conditions = Conditions(parameters, limits, problems)
    resolved = []
    for parameter in (parameters[name] for name in order if name in limits):
        name, notes, limit = parameter.name, list[str](), limits[parameter.name]
        condition = conditions.find(parameter, notes)
        recommendation, spanned = _here(advice[name], training_examples, conditions.possible(name))
        setting = Setting(limit, training_examples, scope, recommendation, bounds.get(name))
        values = resolve_values(parameter, setting, problems)
        if values is None:
            continue
        conditions.settle(name, _countable(values))
        follows = isinstance(parameter.form, Recommended)
        centre = starting_value(values, setting)
        resolved.append(
            ResolvedParameter(
                name=name,
                written=parameter.written,
                distribution=values.domain,
                fixed=values.fixed,
                centre=centre,
                default=_backend_default(values, limit, centre),
                condition=condition,
                recommendation=recommendation,
                follows_recommendation=follows,
                notes=(*values.notes, *(spanned if follows else ()), *notes),
            )
        )
    problems.extend(_exclusions(parameters, limits, conditions))
    if problems:
        raise SpaceError(problems)
    return ResolvedSpace(tuple(resolved), left_out)


def _unknown(
    parameters: Mapping[str, Parameter], limits: Mapping[str, Limit], bounds: Iterable[str]
) -> Iterable[SpaceProblem]:
    for name in parameters:
        if name not in limits:
            yield SpaceProblem((name,), f"this backend has no hyperparameter {name}", did_you_mean(name, limits))
    for name in bounds:
        if name not in parameters:
            yield SpaceProblem((name,), f"{name}: bounds, but it is not in the space", did_you_mean(name, parameters))


def _parents(
    parameters: Mapping[str, Parameter],
    limits: Mapping[str, Limit],
    advice: Mapping[str, Recommendation | None],
) -> dict[str, list[str]]:
    """Return what must be resolved first: the names in `when:`, in the backend's requirements, and in the catalogue."""
    parents = {}
    for name, parameter in parameters.items():
        required = limits[name].requires if name in limits else {}
        recommendation = advice[name]
        cases = recommendation.cases if recommendation else ()
        consulted = [other for case in cases for other in case.when]
        parents[name] = [*parameter.when, *required, *consulted]
    return parents


def _here(
    recommendation: Recommendation | None, training_examples: int, possible: Mapping[str, Collection[Scalar]]
) -> tuple[Recommendation | None, tuple[str, ...]]:
    """Return the recommendation for this training set and condition, and a note where it had to span several cases."""
    if recommendation is None:
        return None, ()
    cases = recommendation.applicable(training_examples, possible)
    notes = (f"spans {', '.join(map(_case_text, cases))}",) if len(cases) > 1 else ()
    return recommendation.at(training_examples, possible), notes


def _case_text(case: Case) -> str:
    conditions = [f"{name} is {' or '.join(map(plain, values))}" for name, values in case.when.items()]
    return (
        f"{plain(case.low)} .. {plain(case.high)} {'where ' + ' and '.join(conditions) if conditions else 'elsewhere'}"
    )


def _countable(values: Values) -> Collection[Scalar] | None:
    """Return what a condition can name: the values of a list or of whole numbers, but not those of a float range."""
    match values.domain:
        case None:
            assert values.fixed is not None
            return (values.fixed,)
        case IntDistribution() as whole:
            return range(whole.low, whole.high + 1, whole.step)
        case CategoricalDistribution() as choice:
            return tuple(each for each in choice.choices if each is not None)
        case FloatDistribution():
            return None


def _backend_default(values: Values, limit: Limit, centre: Scalar) -> Scalar:
    """Return the backend's default moved into the values; the centre where the backend has none that can be moved."""
    default, domain = limit.default, values.domain
    if default is None or domain is None:
        return centre
    if domains.contains(domain, default):
        return limit.read(default)
    if isinstance(default, str | bool):
        return centre
    if isinstance(domain, CategoricalDistribution):
        numbers = [each for each in domain.choices if isinstance(each, int | float)]
        return min(numbers, key=lambda each: abs(each - default))
    return domains.nearest(domain, default)


def _exclusions(
    parameters: Mapping[str, Parameter], limits: Mapping[str, Limit], conditions: Conditions
) -> Iterable[SpaceProblem]:
    names = [name for name in parameters if name in limits]
    for position, later in enumerate(names):
        for earlier in names[:position]:
            exclusive = later in limits[earlier].excludes or earlier in limits[later].excludes
            if exclusive and conditions.ever_together(earlier, later):
                message = f"{later}: cannot be given together with {earlier}"
                yield SpaceProblem((later,), message, "keep one, or keep them apart by `when:`")
