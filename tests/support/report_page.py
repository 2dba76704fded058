"""A small sweep whose report is looked at, and a parser that keeps what a reader sees."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

from backends.contract import Measured
from sweeps.spec.objective import Objective
from sweeps.study.state import SweepState
from sweeps.trials.trial import Spend, Trial, TrialState
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

ACCURACY = Objective("valid_accuracy", "maximize")
NOW = datetime(2026, 11, 25, 20, 0)
PLAN: dict[str, Any] = {
    "data": {
        "name": "builtin:nli",
        "fallback_from": "snli",
        "training_examples": 2000,
        "validation_examples": 500,
        "test_examples": 500,
        "digests": {"train": "ab12"},
        "origins": {"train": "builtin:nli"},
    },
    "backend": {"type": "local"},
    "base_model": "builtin:tiny-lm",
    "space": {"parameters": [{"name": "n_epochs", "written": "recommended", "text": "2 .. 4", "recommendation": None}]},
    "search": {"trials": 3, "sampler": "tpe", "scheduler": {"type": "asha"}, "seed": 7},
    "concurrency": 2,
    "steering": "act",
    "budget": {"usd": None},
}


def trial(number: int, value: float | None, **changes: Any) -> Trial:
    curve = (
        Measured(0, 0.0, {"valid_loss": 1.2, "valid_accuracy": 0.33}, "evaluation"),
        Measured(9, 1.0, {"valid_loss": 0.9, "valid_accuracy": 0.6}, "evaluation"),
    )
    made = Trial(
        number=number,
        key=f"k{number}",
        base_model="m",
        hyperparameters={"n_epochs": 2 + number % 3, "learning_rate_multiplier": 0.01 * 4**number},
        seed=1,
        state=TrialState.COMPLETE,
        curve=curve,
        values=None if value is None else (value,),
        best_epoch=None if value is None else 1.0,
        spend=Spend(seconds=60.0 + number, tokens=1000 * (number + 1)),
        verdict=FitVerdict(VerdictKind.UNDERFIT, "the losses hardly moved", advice="raise n_epochs from 2 to 3"),
    )
    return replace(made, **changes)


HEALTHY = FitVerdict(VerdictKind.HEALTHY, "validation accuracy went from 0.33 to 0.8")
TRIALS = (trial(0, 0.6), trial(1, 0.8, verdict=HEALTHY), trial(2, None, state=TrialState.FAILED, reason="no memory"))


def state(**changes: Any) -> SweepState:
    return replace(SweepState("snli", PLAN, ACCURACY, TRIALS), **changes)


class Parsed(HTMLParser):
    """The text of a page, the URLs that it makes the browser load, and its open elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.loaded, self.open = "", list[str](), list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "wbr", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += re.sub(r"\s+", " ", data)
