"""Summaries: which nights people hear of, and what a summary says."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from example_night import DECISION, DONE, SCHEDULE

from sweeps.scheduling import summary
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.schedule import NotificationSettings, NotifyWhen, Schedule

pytestmark = pytest.mark.unit

BERLIN = "Europe/Berlin"


def schedule_that_notifies(when: NotifyWhen) -> Schedule:
    return replace(SCHEDULE, notify=NotificationSettings(("T",), (), when))


@pytest.mark.parametrize(
    ("when", "state", "change", "promoted", "notified"),
    [
        ("always", NightState.UNCHANGED, "unchanged", False, True),
        ("changes", NightState.UNCHANGED, "unchanged", False, False),
        ("changes", NightState.PARTIAL, "go_on", False, False),
        ("changes", NightState.DONE, "changed", False, True),
        ("changes", NightState.DONE, "go_on", True, True),
        ("failures", NightState.DONE, "changed", True, False),
        ("failures", NightState.FAILED, "first", False, True),
        ("failures", NightState.LOST, "first", False, True),
        ("changes", NightState.FAILED, "go_on", False, True),
    ],
)
def test_the_settings_choose_the_nights_and_failures_are_always_reported(
    when: NotifyWhen, state: NightState, change: str, promoted: bool, notified: bool
) -> None:
    night = replace(DONE, state=state, results={"worth": change, "champion": {**DECISION, "promoted": promoted}})
    assert summary.should_notify(schedule_that_notifies(when), night) is notified


def test_missed_nights_and_the_first_without_budget_are_always_reported() -> None:
    plain = Night("n", int((datetime(2027, 1, 1, tzinfo=ZoneInfo(BERLIN)) + timedelta(hours=2)).timestamp()))
    failures = schedule_that_notifies("failures")
    assert summary.should_notify(failures, replace(plain, state=NightState.MISSED))
    first = replace(plain, state=NightState.NO_BUDGET, results={"news": True})
    again = replace(first, results={"news": False})
    assert summary.should_notify(failures, first)
    assert not summary.should_notify(failures, again)
    assert not summary.should_notify(schedule_that_notifies("changes"), again)
    assert summary.should_notify(schedule_that_notifies("always"), again)
    assert "no budget" in summary.title(failures, first)


def test_the_summary_of_a_complete_night_has_every_row() -> None:
    assert summary.text(SCHEDULE, DONE) == (
        "snli, night of 2027-01-15: done · new champion\n"
        "  state        done\n"
        "  why it ran   the data changed: 120 -> 140 training examples\n"
        "  sweep        snli-2027-01-15 on builtin:nli\n"
        "  time         2027-01-15 09:00 CET to 2027-01-15 10:00 CET\n"
        "  trials       12 tonight (7 stopped, 5 complete), 12 of 12 in all; all trials are done\n"
        "  verdicts     9 healthy, 3 overfit\n"
        "  spent        $1.23, 51,608 tokens\n"
        "  best trial   4, valid_accuracy 0.876: n_epochs 3, rate 0.03883\n"
        "  test split   accuracy 0.861 (0.83 .. 0.889)\n"
        "  champion     snli version 7 is the new champion (difference +0.05 .. +0.15): "
        "better by more than chance explains\n"
        "  data drift   share of <b>x</b>: 0.3 before, 0.5 now\n"
        "  report       /r/report.html\n"
        "  drift report /r/drift.md\n"
        "  MLflow       http://127.0.0.1:5000/#/experiments/1\n"
    )


def test_the_summary_says_what_the_data_give_away_and_what_the_checks_found() -> None:
    text = "The sweep's best, valid_accuracy 0.87, is below TF-IDF + logistic regression, 0.98"
    night = replace(DONE, results={**DONE.results, "baselines": text, "warnings": ["duplicate", "near-overlap"]})
    shown = summary.text(SCHEDULE, night)
    assert f"  baselines    {text}\n" in shown
    assert "  warnings     duplicate, near-overlap; sweep check explains them\n" in shown
    assert "baselines" not in summary.text(SCHEDULE, DONE)  # a night of an older version


def test_the_summary_of_a_failure_has_the_reason_and_no_unknown_values() -> None:
    night = Night("snli", 1_800_000_000, state=NightState.FAILED, reason="the file is gone; look <here> *now*")
    assert summary.markdown(SCHEDULE, night) == (
        "# snli, night of 2027-01-15: FAILED\n\n- **state**: failed: the file is gone; look \\<here\\> \\*now\\*\n"
    )
    assert "&lt;here&gt;" in summary.html(SCHEDULE, night)


def test_a_state_that_begins_its_reason_is_not_repeated() -> None:
    unchanged = replace(DONE, state=NightState.UNCHANGED, reason="unchanged since 2027-01-14 01:00Z", results={})
    assert "state        unchanged since 2027-01-14 01:00Z\n" in summary.text(SCHEDULE, unchanged)


def test_a_challenger_that_was_not_promoted_is_named_with_the_reason() -> None:
    decision = {**DECISION, "promoted": False, "reason": "the difference is inside the noise"}
    text = summary.markdown(SCHEDULE, replace(DONE, results={**DONE.results, "champion": decision}))
    assert "- **champion**: snli version 7 was not promoted (difference +0.05 .. +0.15): the difference is" in text
    assert "new champion" not in text
