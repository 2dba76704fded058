"""Resolves written hyperparameters to a space that can be sampled, and collects every problem."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces import domains
from search_spaces.catalogue import Case, Catalogue, Recommendation
from search_spaces.conditions import ConditionResolver, dependency_order
from search_spaces.limits import Limit, Scalar, yaml_text
from search_spaces.parameters import Parameter, Recommended
from search_spaces.problems import SpaceError, SpaceProblem, did_you_mean
from search_spaces.resolved import ResolvedParameter, ResolvedSpace
from search_spaces.values import ResolutionContext, ResolvedValues, resolve_values, starting_value


def resolve(
    written: Iterable[Parameter],
    training_examples: int,
    limits: Mapping[str, Limit],
    scope: str,
    bounds: Mapping[str, tuple[float, float]],
) -> ResolvedSpace:
    """Return what `SearchSpace.resolve` promises. Raises SpaceError with all problems."""
    problems: list[SpaceProblem] = []
    all_parameters = {parameter.name: parameter for parameter in written}
    left_out = tuple(name for name, parameter in all_parameters.items() if parameter.optional and name not in limits)
    parameters = {name: parameter for name, parameter in all_parameters.items() if name not in left_out}
    recommendations = {name: Catalogue.load().get(name, scope) for name in parameters}
    order = dependency_order(parameters, _parents(parameters, limits, recommendations), problems)
    problems.extend(_unknown_names(parameters, limits, bounds))
    conditions = ConditionResolver(parameters, limits, problems)
    resolved = []
    for parameter in (parameters[name] for name in order if name in limits):
        name, notes, limit = parameter.name, list[str](), limits[parameter.name]
        condition = conditions.resolve(parameter, notes)
        recommendation, span_notes = _narrowed(
            recommendations[name], training_examples, conditions.possible_values(name)
        )
        context = ResolutionContext(limit, training_examples, scope, recommendation, bounds.get(name))
        values = resolve_values(parameter, context, problems)
        if values is None:
            continue
        conditions.set_values(name, _countable_values(values))
        follows = isinstance(parameter.form, Recommended)
        centre = starting_value(values, context)
        resolved.append(
            ResolvedParameter(
                name=name,
                written=parameter.written,
                distribution=values.domain,
                fixed=values.fixed,
                centre=centre,
                default=_default_in_domain(values, limit, centre),
                condition=condition,
                recommendation=recommendation,
                follows_recommendation=follows,
                notes=(*values.notes, *(span_notes if follows else ()), *notes),
            )
        )
    problems.extend(_exclusions(parameters, limits, conditions))
    if problems:
        raise SpaceError(problems)
    return ResolvedSpace(tuple(resolved), left_out)


def _unknown_names(
    parameters: Mapping[str, Parameter], limits: Mapping[str, Limit], bounds: Iterable[str]
) -> Iterable[SpaceProblem]:
    for name in parameters:
        if name not in limits:
            yield SpaceProblem((name,), f"this backend has no hyperparameter {name}", did_you_mean(name, limits))
    for name in bounds:
        if name not in parameters:
            message = f"{name}: the bounds are for a hyperparameter that is not in the space"
            yield SpaceProblem((name,), message, did_you_mean(name, parameters))


def _parents(
    parameters: Mapping[str, Parameter],
    limits: Mapping[str, Limit],
    recommendations: Mapping[str, Recommendation | None],
) -> dict[str, list[str]]:
    """Return, for each parameter, the names that must be resolved before it.

    They come from its `when:`, the requirements of the backend, and the cases in the catalogue.
    """
    parents = {}
    for name, parameter in parameters.items():
        required = limits[name].requires if name in limits else {}
        recommendation = recommendations[name]
        cases = recommendation.cases if recommendation else ()
        in_cases = [other for case in cases for other in case.when]
        parents[name] = [*parameter.when, *required, *in_cases]
    return parents


def _narrowed(
    recommendation: Recommendation | None, training_examples: int, possible_values: Mapping[str, Collection[Scalar]]
) -> tuple[Recommendation | None, tuple[str, ...]]:
    """Return the recommendation for this data and condition, and a note on spanned cases."""
    if recommendation is None:
        return None, ()
    cases = recommendation.applicable_cases(training_examples, possible_values)
    notes = (f"spans {', '.join(map(_case_text, cases))}",) if len(cases) > 1 else ()
    return recommendation.narrowed(training_examples, possible_values), notes


def _case_text(case: Case) -> str:
    conditions = [f"{name} is {' or '.join(map(yaml_text, values))}" for name, values in case.when.items()]
    where = f"where {' and '.join(conditions)}" if conditions else "elsewhere"
    return f"{yaml_text(case.low)} .. {yaml_text(case.high)} {where}"


def _countable_values(values: ResolvedValues) -> Collection[Scalar] | None:
    """Return the values that a condition can name, or None for a range of floats."""
    match values.domain:
        case None:
            assert values.fixed is not None
            return (values.fixed,)
        case IntDistribution() as integers:
            return range(integers.low, integers.high + 1, integers.step)
        case CategoricalDistribution() as categorical:
            return tuple(choice for choice in categorical.choices if choice is not None)
        case FloatDistribution():
            return None


def _default_in_domain(values: ResolvedValues, limit: Limit, centre: Scalar) -> Scalar:
    """Return the value of the domain that is nearest to the backend's default.

    Returns the centre if the backend has no default, or has one without a nearest value.
    """
    default, domain = limit.default, values.domain
    if default is None or domain is None:
        return centre
    if domains.contains(domain, default):
        return limit.convert(default)
    if isinstance(default, str | bool):
        return centre
    if isinstance(domain, CategoricalDistribution):
        numbers = [choice for choice in domain.choices if isinstance(choice, int | float)]
        return min(numbers, key=lambda number: abs(number - default))
    return domains.nearest(domain, default)


def _exclusions(
    parameters: Mapping[str, Parameter], limits: Mapping[str, Limit], conditions: ConditionResolver
) -> Iterable[SpaceProblem]:
    names = [name for name in parameters if name in limits]
    for position, later in enumerate(names):
        for earlier in names[:position]:
            exclusive = later in limits[earlier].excludes or earlier in limits[later].excludes
            if exclusive and conditions.can_coexist(earlier, later):
                message = f"{later}: cannot be given together with {earlier}"
                yield SpaceProblem((later,), message, "remove one, or separate them by `when:`")
