"""Delivers the notifications of ended nights, and schedules a retry if a delivery fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sweeps.scheduling.claims import LEASE_S
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.notification_queue import NotificationQueue
from sweeps.scheduling.schedule import Schedule

GIVE_UP_S = 86400.0
"""How long after a night's end deliveries are retried, at growing intervals."""

Notify = Callable[[Schedule, Night], bool]
"""Notifies people of a night's end. Returns False if it tried and reached nobody."""


def deliver_pending(queue: NotificationQueue, schedule: Schedule, now: datetime, notify: Notify) -> None:
    """Notify people of every night in the queue.

    Each night has its own notification, but all missed nights share one. Raises
    DatabaseUnavailableError; then a notification may be delivered twice.
    """
    pending = queue.take(schedule.name, now)
    missed = [night for night in pending if night.state is NightState.MISSED]
    for night in pending:
        if night not in missed:
            deliver(queue, schedule, [night], now, notify)
    if missed:
        deliver(queue, schedule, missed, now, notify)


def deliver(
    queue: NotificationQueue, schedule: Schedule, nights: Sequence[Night], now: datetime, notify: Notify
) -> None:
    """Notify people of these nights in one notification.

    If it reaches nobody, it is due again later, up to `GIVE_UP_S` after the end; the intervals grow
    with the time since then. Raises DatabaseUnavailableError; then it may be delivered twice.
    """
    delivered = notify(schedule, merged(nights))
    since_end_s = now.timestamp() - min(night.ended_at or night.planned_at for night in nights)
    if delivered or since_end_s > GIVE_UP_S:
        queue.confirm(nights)
    else:
        queue.retry_at(nights, now.timestamp() + max(LEASE_S, since_end_s / 2))


def merged(nights: Sequence[Night]) -> Night:
    """Return the newest of missed nights, with a reason that counts them all.

    People get one notification, however many nights no scheduler ran.
    """
    newest = nights[-1]
    if len(nights) == 1:
        return newest
    return replace(newest, reason=f"{len(nights)} nights, {nights[0].label} to {newest.label}: {newest.reason}")
