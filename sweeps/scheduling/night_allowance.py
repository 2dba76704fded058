"""What a night may spend where the sweep file has `budget.monthly_usd`: the month's books, asked of the studies too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sweeps.errors import SweepError
from sweeps.execution.environment import Environment
from sweeps.execution.outcome import SweepEnd
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling.monthly_budget import Money, Month, month, most
from sweeps.scheduling.schedule import Night, Schedule
from sweeps.study.stored_study import StoredStudy, read_study


@dataclass(frozen=True)
class Allowance:
    """What is left of the month for tonight's sweep. `binds`: the month ends the sweep before its own limit does."""

    money: Money
    month: Month
    binds: bool

    def limited(self, plan: SweepPlan) -> SweepPlan:
        """Return the plan with the limit that holds tonight."""
        budget = plan.spec.budget.model_copy(update={"usd": self.money.limit})
        return replace(plan, spec=plan.spec.with_sections(budget=budget))

    def refusal(self, plan: SweepPlan, before: Night | None = None) -> str | None:
        """Say why nothing can be begun tonight; None where something can. `before` is the night that it goes on from.

        A sweep that goes on may have something cheaper to do than its first trial; not where its last night in this
        month found nothing that it could pay.
        """
        left = f"${self.month.left:,.2f} of ${self.month.limit:,.2f} are left of {self.month.name}"
        if self.money.limit <= self.money.before:
            return f"no budget: {left}"
        if (not self.money.study or self._paid_out(before)) and plan.required_budget.usd > self.month.left:
            what = "the first trial" + (" and the finals" if plan.spec.finals is not None else "")
            return f"no budget: {left}, and {what} may take ${plan.required_budget.usd:,.2f}"
        return None

    def _paid_out(self, before: Night | None) -> bool:
        if before is None or before.found.get("end") != SweepEnd.BUDGET.value:
            return False
        return bool((before.found.get("month") or {}).get("name") == self.month.name)


def allowance(
    plan: SweepPlan, schedule: Schedule, nights: Sequence[Night], environment: Environment, now: float
) -> Allowance | None:
    """Return what tonight's sweep may spend, None without `monthly_usd`.

    `nights` are the others of the schedule, after `told`.
    """
    own, monthly = plan.spec.budget.usd, plan.spec.budget.monthly_usd
    if monthly is None:
        return None
    ledger = month(nights, schedule.tz, monthly, now)
    stored = _study(plan.spec.name, environment)
    study, before = (stored.sweep_id, stored.ledger.spent.usd) if stored is not None else ("", 0.0)
    limit = most(nights, schedule.tz, study, before, monthly, now)
    binds = own is None or limit < own
    return Allowance(Money(study, before, limit if binds or own is None else own, monthly), ledger, binds)


def closed(money: Money, sweep: str, environment: Environment) -> Money:
    """Return the night's money with what its sweep has cost at most, as its study knows it at the night's end."""
    stored = _study(sweep, environment)
    if stored is None:
        return money
    if money.study not in ("", stored.sweep_id):  # begun anew by hand meanwhile: what became of it nobody can tell
        return money
    return replace(money, study=stored.sweep_id, at_most=stored.ledger.worst_case.usd)


def told(night: Night, environment: Environment) -> Night:
    """Fill in for a night that ended without a word what its study says, where that can be read here."""
    money = Money.of(night)
    if money is None or money.at_most is not None or not night.state.ended or not night.sweep:
        return night
    return replace(night, found={**night.found, "money": closed(money, night.sweep, environment).to_json()})


def _study(sweep: str, environment: Environment) -> StoredStudy | None:
    workspace = environment.workspace
    try:
        return read_study(environment.storage or workspace.study_file(sweep), workspace.study_name(sweep))
    except SweepError:
        return None
