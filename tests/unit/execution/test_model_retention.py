"""Which models of a sweep are deleted."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import cast

import pytest
from session_driver import drive, open_session

from backends.contract import Backend, Handle
from sweeps.execution.model_retention import ModelRetention
from sweeps.trials.trial import leaderboard

pytestmark = pytest.mark.unit


class DiscardRecorder:
    """A backend that records the runs whose models it is told to delete."""

    def __init__(self) -> None:
        self.discarded: set[str] = set()

    def discard(self, handle: Handle) -> None:
        self.discarded.add(handle.id)

    def stop(self, handle: Handle) -> None: ...


def test_a_trial_that_became_a_champion_keeps_its_model_when_the_sweep_resumes(tmp_path: Path) -> None:
    session = open_session(tmp_path, "search.trials=6")
    drive(session)
    worst = leaderboard(session.study.search_trials, session.objective)[-1]

    def discarded(protected_keys: Collection[str]) -> set[str]:
        recorder = DiscardRecorder()
        ModelRetention(session.plan, session.study, cast(Backend, recorder), protected_keys).finish(keep=None)
        return recorder.discarded

    assert worst.handle is not None
    assert worst.handle.id in discarded(())
    assert len(discarded({worst.key})) == len(discarded(())) - 1
    assert worst.handle.id not in discarded({worst.key})
