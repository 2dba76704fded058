"""Injected faults: the syntax of `--faults`, their frequency, and that they are repeatable."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.server.faults import FAULT_KINDS, Faults, FaultsError

pytestmark = pytest.mark.unit


def strikes(text: str, name: str, count: int = 200) -> list[bool]:
    """Return at which of `count` opportunities the fault `name` hits."""
    faults = Faults.parse(text)
    return [faults.strike(name) is not None for _ in range(count)]


def test_a_fault_hits_with_its_probability() -> None:
    assert not Faults.none()
    assert strikes("lost_answer", "lost_answer") == [True] * 200
    assert strikes("lost_answer=0", "lost_answer") == [False] * 200
    assert strikes("lost_answer", "rate_limit") == [False] * 200
    assert 30 < sum(strikes("lost_answer=0.25,seed=1", "lost_answer")) < 70


def test_only_the_seed_and_the_order_of_opportunities_decide() -> None:
    hits = strikes("lost_answer=0.5,seed=1", "lost_answer")
    assert hits == strikes("rate_limit=0.5, seed=1 ,lost_answer=0.5", "lost_answer")
    assert hits != strikes("lost_answer=0.5,seed=2", "lost_answer")


def test_a_fault_affects_an_object_always_or_never() -> None:
    faults = Faults.parse("late_model=0.5:3,seed=4")
    values = {object_id: faults.affects("late_model", object_id) for object_id in "abcdefgh"}
    assert set(values.values()) == {None, "3"}
    assert values == {object_id: faults.affects("late_model", object_id) for object_id in reversed("abcdefgh")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lost_anser", "unknown fault 'lost_anser'; the faults are connection_cut, lost_answer"),
        ("lost_answer=2", "the probability is not a number from 0 to 1"),
        ("lost_answer=x", "the probability is not a number from 0 to 1"),
        ("lost_answer=1:3", "takes no value"),
        ("rate_limit=1:soon", "not a number of seconds"),
        ("rate_limit=1:-1", "not a number of seconds"),
        ("seed=x", "the seed is not a whole number"),
    ],
)
def test_a_mistake_in_the_text_is_reported(text: str, message: str) -> None:
    with pytest.raises(FaultsError, match=message):
        Faults.parse(text)


def test_the_guide_describes_every_fault() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guide" / "serve.md").read_text(encoding="utf-8")
    assert [name for name in FAULT_KINDS if f"| `{name}` |" not in guide] == []
