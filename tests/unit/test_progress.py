"""What a running sweep says while it waits, where there is no terminal."""

from __future__ import annotations

import io
import time
from datetime import datetime

import pytest
from rich.console import Console

from backends.waiting import Waiting
from sweeps.record import Trial
from sweeps.report.progress import Progress, moment

pytestmark = pytest.mark.unit

LIMIT = "creating a job: rate-limited: 2 requests per day (HTTP 429)"


def trial(number: int) -> Trial:
    return Trial(number, f"k{number}", "base", {}, 1)


def test_a_limit_that_holds_several_trials_back_is_said_once() -> None:
    written, now = io.StringIO(), time.time()
    progress = Progress(Console(file=written, width=40))
    progress.waits(trial(3), Waiting(LIMIT, now + 3600))
    progress.waits(trial(4), Waiting(LIMIT, now + 3600.5))
    progress.waits(trial(3), Waiting(LIMIT, now + 3700))
    assert written.getvalue() == f"trial 3 waits until {moment(now + 3600, now)}: {LIMIT}\n"
    progress.waits(trial(3), Waiting(LIMIT, now + 7200))
    progress.waits(trial(4), Waiting("the host cannot be reached", now + 60))
    assert [each.split(" waits ")[0] for each in written.getvalue().splitlines()] == ["trial 3", "trial 3", "trial 4"]


def test_a_moment_has_its_day_where_it_is_another() -> None:
    now = datetime(2026, 11, 26, 23, 30).timestamp()
    assert moment(now + 600, now) == "23:40"
    assert moment(now + 3600, now) == "2026-11-27 00:30"
