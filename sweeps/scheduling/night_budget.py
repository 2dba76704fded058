"""What a night may spend under `budget.monthly_usd`, and what it cost. Reads the studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backends import codec
from sweeps.errors import SweepError
from sweeps.execution.environment import Environment
from sweeps.execution.outcome import SweepEnd
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling.database import DatabaseUnavailableError
from sweeps.scheduling.monthly_budget import MonthlySpend, NightCost, cost_of, monthly_spend, sweep_limit
from sweeps.scheduling.night import Night
from sweeps.scheduling.night_context import NightContext
from sweeps.study.stored_study import StoredStudy, read_study


@dataclass(frozen=True)
class NightBudget:
    """The budget of one night's sweep.

    `month` is the state of the month before the night. `month_is_tighter` means that the monthly
    limit ends the sweep before the sweep's own limit does.
    """

    cost: NightCost
    month: MonthlySpend
    month_is_tighter: bool

    def applied_to(self, plan: SweepPlan) -> SweepPlan:
        """Return the plan with the limit of this night."""
        budget = plan.spec.budget.model_copy(update={"usd": self.cost.limit_usd})
        return replace(plan, spec=plan.spec.with_sections(budget=budget))

    def refusal(self, plan: SweepPlan, earlier: Night | None = None) -> str | None:
        """Return why the night cannot start any trial, or None if it can.

        `earlier` is the night that it continues. A sweep that continues may have something cheaper
        to do than a first trial. That is ruled out if its last night in this month found nothing
        that the budget covered.
        """
        left = f"${self.month.left_usd:,.2f} of ${self.month.limit_usd:,.2f} are left in {self.month.name}"
        if self.cost.limit_usd <= self.cost.spent_before_usd:
            return f"no budget: {left}"
        is_new = not self.cost.sweep_id
        if (is_new or self._ran_out_in(earlier)) and plan.required_budget.usd > self.month.left_usd:
            what = "the first trial" + (" and the finals" if plan.spec.finals is not None else "")
            return f"no budget: {left}, and {what} may cost ${plan.required_budget.usd:,.2f}"
        return None

    def _ran_out_in(self, earlier: Night | None) -> bool:
        """Return whether the earlier night ran out of budget in the same month."""
        if earlier is None or earlier.results.get("end") != SweepEnd.BUDGET.value:
            return False
        return bool((earlier.results.get("month") or {}).get("name") == self.month.name)


def night_budget(context: NightContext, plan: SweepPlan, earlier_nights: Sequence[Night]) -> NightBudget | None:
    """Return the budget of tonight's sweep, or None if the sweep file has no `monthly_usd`.

    `earlier_nights` are the other nights of the schedule, after `with_known_costs`.
    """
    own_limit_usd, monthly_usd = plan.spec.budget.usd, plan.spec.budget.monthly_usd
    if monthly_usd is None:
        return None
    tz, now = context.schedule.tz, context.clock()
    stored = _stored_study(plan.spec.name, context.environment)
    sweep_id, spent_usd = (stored.sweep_id, stored.ledger.spent.usd) if stored is not None else ("", 0.0)
    limit_usd = sweep_limit(earlier_nights, tz, sweep_id, spent_usd, monthly_usd, now)
    month_is_tighter = own_limit_usd is None or limit_usd < own_limit_usd
    if own_limit_usd is not None and not month_is_tighter:
        limit_usd = own_limit_usd
    return NightBudget(
        NightCost(sweep_id, spent_usd, limit_usd, monthly_usd),
        monthly_spend(earlier_nights, tz, monthly_usd, now),
        month_is_tighter,
    )


def with_known_costs(context: NightContext, nights: Sequence[Night]) -> list[Night]:
    """Return the nights; those that ended without storing a cost get it from their studies.

    The database then stores these costs.
    """
    known = [_with_cost_of_study(night, context.environment) for night in nights]
    if changed := [night for night, before in zip(known, nights, strict=True) if night != before]:
        context.store.claims.update_earlier(context.claim, changed)
    return known


def with_final_cost(context: NightContext, night: Night) -> Night:
    """Return an ended night with the most that it cost, and with the state of the month.

    Without a monthly limit, or before the night had a sweep, the night stays as it is.
    """
    cost = cost_of(night)
    if cost is None or night.sweep is None or night.ended_at is None:
        return night
    cost = _bounded_by_study(cost, night.sweep, context.environment)
    night = replace(night, results={**night.results, "money": codec.to_json(cost)})
    try:
        others = [other for other in context.store.nights(night.schedule) if other.key != night.key]
    except DatabaseUnavailableError:
        return night
    month = monthly_spend([*others, night], context.schedule.tz, cost.monthly_limit_usd, night.ended_at or 0.0)
    return replace(night, results={**night.results, "month": codec.to_json(month)})


def _with_cost_of_study(night: Night, environment: Environment) -> Night:
    cost = cost_of(night)
    if cost is None or cost.cost_bound_usd is not None or not night.state.ended or not night.sweep:
        return night
    known = _bounded_by_study(cost, night.sweep, environment)
    return replace(night, results={**night.results, "money": codec.to_json(known)})


def _bounded_by_study(cost: NightCost, sweep: str, environment: Environment) -> NightCost:
    """Return the cost with the bound that the study knows, if the study can be read here."""
    stored = _stored_study(sweep, environment)
    if stored is None:
        return cost
    # a user restarted the sweep meanwhile; the old study is unknown
    if cost.sweep_id not in ("", stored.sweep_id):
        return cost
    return replace(cost, sweep_id=stored.sweep_id, cost_bound_usd=stored.ledger.worst_case.usd)


def _stored_study(sweep: str, environment: Environment) -> StoredStudy | None:
    workspace = environment.workspace
    try:
        return read_study(environment.storage or workspace.study_file(sweep), workspace.study_name(sweep))
    except SweepError:
        return None
