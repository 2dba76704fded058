"""A schedule and a night with every kind of result, for tests of summaries."""

from __future__ import annotations

from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.schedule import Schedule

SCHEDULE = Schedule("snli", "/s.yaml", "0 2 * * *", "Europe/Berlin", 0.0, "06:00")
DECISION = {
    "promoted": True,
    "reason": "better by more than chance explains",
    "challenger_score": 0.9,
    "champion_score": 0.8,
    "difference_low": 0.05,
    "difference_high": 0.15,
    "model": "snli",
    "version": "7",
}
DONE = Night(
    "snli",
    1_800_000_000,
    state=NightState.DONE,
    started_at=1_800_000_010.0,
    ended_at=1_800_003_600.0,
    sweep="snli-2027-01-15",
    reason="the data changed: 120 -> 140 training examples",
    results={
        "worth": "changed",
        "end": "all trials are done",
        "data": "builtin:nli",
        "trials": 12,
        "trials_of_the_sweep": 12,
        "wanted_trials": 12,
        "states": {"complete": 5, "stopped": 7},
        "verdicts": {"healthy": 9, "overfit": 3},
        "priced": True,
        "usd": 1.234,
        "tokens": 51_608,
        "metric": "valid_accuracy",
        "best": {"trial": 4, "value": 0.876, "epoch": 2, "hyperparameters": {"n_epochs": 3, "rate": 0.0388311}},
        "test_accuracy": [0.861, 0.83, 0.889],
        "champion": DECISION,
        "drift": {"report": "/r/drift.md", "words": ["share of <b>x</b>: 0.3 before, 0.5 now"]},
        "report": "/r/report.html",
        "mlflow": "http://127.0.0.1:5000/#/experiments/1",
        "problems": [],
    },
)
