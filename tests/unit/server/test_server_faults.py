"""Which faults there are, how they are written, and that they are repeatable."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.server.faults import KNOWN, Faults, FaultsError

pytestmark = pytest.mark.unit


def taken(text: str, name: str, count: int = 200) -> list[bool]:
    faults = Faults.parse(text)
    return [faults.strikes(name) is not None for _ in range(count)]


def test_a_fault_happens_as_often_as_it_is_said() -> None:
    assert not Faults.none()
    assert taken("lost_answer", "lost_answer") == [True] * 200
    assert taken("lost_answer=0", "lost_answer") == [False] * 200
    assert taken("lost_answer", "rate_limit") == [False] * 200
    assert 30 < sum(taken("lost_answer=0.25,seed=1", "lost_answer")) < 70


def test_the_seed_and_the_order_decide() -> None:
    one = taken("lost_answer=0.5,seed=1", "lost_answer")
    assert one == taken("rate_limit=0.5, seed=1 ,lost_answer=0.5", "lost_answer")
    assert one != taken("lost_answer=0.5,seed=2", "lost_answer")


def test_an_object_is_concerned_or_not_for_ever() -> None:
    faults = Faults.parse("late_model=0.5:3,seed=4")
    first = {name: faults.concerns("late_model", name) for name in "abcdefgh"}
    assert set(first.values()) == {None, "3"}
    assert first == {name: faults.concerns("late_model", name) for name in reversed("abcdefgh")}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lost_anser", "there is no fault 'lost_anser'; there are connection_cut, lost_answer"),
        ("lost_answer=2", "a probability is a number from 0 to 1"),
        ("lost_answer=x", "a probability is a number from 0 to 1"),
        ("lost_answer=1:3", "takes no value"),
        ("rate_limit=1:soon", "not a number of seconds"),
        ("rate_limit=1:-1", "not a number of seconds"),
        ("seed=x", "not a whole number"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, says: str) -> None:
    with pytest.raises(FaultsError, match=says):
        Faults.parse(text)


def test_the_guide_tells_of_every_fault() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guide" / "serve.md").read_text(encoding="utf-8")
    assert [name for name in KNOWN if f"| `{name}` |" not in guide] == []
