"""A signal ends the sweep cleanly, and none gets lost before it starts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from session_driver import open_session

from sweeps.execution.interruption import ENDING_SIGNALS, ends_on_signals, interrupt_on, stop_interrupting

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give every ending signal the handler of the command; restore the handlers afterwards."""
    previous = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    interrupt_on(ENDING_SIGNALS)
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)
    stop_interrupting()


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_before_the_sweep_is_an_interruption(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_whose_exception_a_library_swallows_ends_the_sweep_at_its_start(
    tmp_path: Path, number: signal.Signals
) -> None:
    session = open_session(tmp_path)
    handler = signal.getsignal(number)
    with suppress(KeyboardInterrupt):  # as Python itself does it for a destructor
        signal.raise_signal(number)
    has_run = False
    with pytest.raises(KeyboardInterrupt), ends_on_signals(session):
        has_run = True
    assert not has_run
    assert signal.getsignal(number) is handler
    with ends_on_signals(session):  # the signal meant the first one
        has_run = True
    assert has_run


def test_a_signal_that_ended_a_command_does_not_end_the_next_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    interrupt_on(ENDING_SIGNALS)
    with ends_on_signals(open_session(tmp_path)):
        pass


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_during_the_sweep_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    session = open_session(tmp_path)
    with ends_on_signals(session):
        assert not session.should_end()
        signal.raise_signal(number)
        assert session.should_end()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_handlers_before_are_back_after_the_command() -> None:
    stop_interrupting()
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    interrupt_on(ENDING_SIGNALS)
    interrupt_on(ENDING_SIGNALS)
    stop_interrupting()
    assert {number: signal.getsignal(number) for number in ENDING_SIGNALS} == before
