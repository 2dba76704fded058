"""Budgets that a sweep cannot keep, and budgets under which no trial could start. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sweeps.errors import Problem
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.checks import NO_PRICE, NO_TOKEN_COUNT
from sweeps.trials.budget import cost_bound, is_bounded, is_within


def budget_problems(plan: SweepPlan) -> Iterable[Problem]:
    """Yield what is wrong with the limits on money and tokens.

    None of it is known without estimates.
    """
    budget = plan.spec.budget
    if not budget.limits_spend or plan.estimate is None or plan.most_expensive is None:
        return
    highest_bound, monthly_usd = cost_bound(plan.most_expensive), budget.monthly_usd
    limit, key = budget, "usd" if budget.usd is not None else "tokens"
    if monthly_usd is not None and (budget.usd is None or monthly_usd < budget.usd):
        # No night may spend more than its month.
        limit, key = budget.model_copy(update={"usd": monthly_usd}), "monthly_usd"
    if not is_bounded(highest_bound, limit):
        if limit.usd is not None and highest_bound.usd is None:
            other_limits = "hours" if highest_bound.tokens is None else "tokens or hours"
            yield Problem(
                plan.spec.document.place(("budget", "usd" if budget.usd is not None else "monthly_usd")),
                f"{NO_PRICE}, so the sweep cannot keep this limit",
                f"give the backend a price if it takes one (`sweep backends {plan.spec.backend_type}`), "
                f"or limit {other_limits}",
            )
        if limit.tokens is not None and highest_bound.tokens is None:
            yield Problem(
                plan.spec.document.place(("budget", "tokens")),
                f"{NO_TOKEN_COUNT}, so the sweep cannot keep this limit",
                "limit hours" if highest_bound.usd is None else "limit usd or hours",
            )
        return
    required, centre_bound = plan.required_budget, cost_bound(plan.estimate)
    if not is_bounded(centre_bound, limit) or not is_within(required, limit):
        with_finals = " and the finals" if plan.spec.finals is not None else ""
        amounts = [f"${required.usd:,.2f}"] if centre_bound.usd is not None else []
        amounts += [f"{required.tokens:,} tokens"] if centre_bound.tokens is not None else []
        yield Problem(
            plan.spec.document.place(("budget", key)),
            f"the limit does not cover one trial{with_finals}: up to {', '.join(amounts)}",
            "raise the limit, or train on fewer examples or for fewer epochs",
        )
