"""Ray's start: a slow one is tried again, and every failure is one sentence with its remedy."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from sweeps.errors import SweepError
from sweeps.execution import ray_connection

pytestmark = pytest.mark.unit

SLOW = Exception("The current node timed out during startup. This could happen because\nof 40 more lines")
"""What Ray 2.60 raises: a bare Exception."""


class FakeRay:
    """Fails to start as often as there are errors."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.starts = 0

    def init(self, **_: Any) -> None:
        self.starts += 1
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Ray sets a handler of its own
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., FakeRay]:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))

    def start(*errors: BaseException, said: list[str] | None = None) -> FakeRay:
        ray = FakeRay(*errors)
        monkeypatch.setattr(ray_connection.ray, "init", ray.init)
        ray_logger = logging.getLogger("ray")
        handlers, propagates = ray_logger.handlers[:], ray_logger.propagate
        try:
            ray_connection.connect(None, logging.NullHandler(), say=([] if said is None else said).append)
        finally:
            ray_logger.handlers[:], ray_logger.propagate = handlers, propagates
        return ray

    return start


def test_a_slow_start_is_tried_once_more(start: Callable[..., FakeRay]) -> None:
    said: list[str] = []
    assert start(SLOW, said=said).starts == 2
    assert said == ["Ray did not start in time; trying once more"]


def test_a_start_that_fails_twice_is_one_sentence(start: Callable[..., FakeRay]) -> None:
    with pytest.raises(SweepError) as caught:
        start(SLOW, SLOW)
    assert caught.value.message == (
        "cannot connect to Ray on this machine: The current node timed out during startup. This could happen because"
    )
    assert "less busy" in caught.value.hint


def test_a_start_is_on_record_before_it_begins_and_a_failed_one_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process that is killed in between leaves the record, by which the next one cleans up."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    record, seen = tmp_path / "ray.json", []

    def init(**_: Any) -> None:
        session_folder = tmp_path / "ray" / f"session_2026-11-30_{os.getpid()}"
        session_folder.mkdir(parents=True)
        seen.append(fnmatch(str(session_folder), json.loads(record.read_text())["session_folder"]))
        raise SLOW

    monkeypatch.setattr(ray_connection.ray, "init", init)
    ray_logger = logging.getLogger("ray")
    monkeypatch.setattr(ray_logger, "handlers", ray_logger.handlers[:])
    monkeypatch.setattr(ray_logger, "propagate", ray_logger.propagate)
    with pytest.raises(SweepError):
        ray_connection.connect(None, logging.NullHandler(), record=record)
    assert seen == [True, True]
    assert [*(tmp_path / "ray").iterdir()] == []
    assert not record.exists()


def test_a_start_without_a_folder_is_not_tried_again(
    start: Callable[..., FakeRay], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(SweepError) as caught:
        start(FileNotFoundError(2, "No such file or directory"), said=said)
    assert said == []
    assert caught.value.hint.startswith("create the folder")


def test_sigterm_while_ray_starts_is_an_interruption(start: Callable[..., FakeRay]) -> None:
    """Ray's handler raises SystemExit. Afterwards the handler of the program is back."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        start(SystemExit(15))
    assert signal.getsignal(signal.SIGTERM) is before
    start()
    assert signal.getsignal(signal.SIGTERM) is before
