"""The live screen fits any terminal: its first lines stay whole, and no number is cut."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from backends.contract import Measured
from sweeps.cli.live_screen import LiveScreen
from sweeps.cli.sparkline import BLOCKS, UNKNOWN, sparkline
from sweeps.spec.objective import Objective
from sweeps.trials.point_name import point_name
from sweeps.trials.trial import Trial, TrialState
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit

POINT = {"n_epochs": 3, "batch_size": 16, "learning_rate_multiplier": 0.123456, "prompt_loss_weight": 0.01}


def running(number: int) -> Trial:
    curve = tuple(
        Measured(step, float(step), {"valid_accuracy": value}, "evaluation") for step, value in enumerate((0.3, 0.61))
    )
    return Trial(number, f"k{number}", "m", POINT, 1, curve=curve)


def ended(number: int) -> Trial:
    verdict = FitVerdict(VerdictKind.UNSETTLED, "evidence")
    return replace(
        running(number), state=TrialState.STOPPED, values=(0.6123,), best_epoch=1.0, verdict=verdict, reason="by asha"
    )


def drawn(width: int, height: int, *, trials: int = 20, encoding: str = "utf-8") -> list[str]:
    screen = LiveScreen(
        name="a-sweep-with-a-long-name",
        done=trials,
        total=40,
        progress=f"{trials} of 40 trials · 1:02 · about 0:58 left",
        best=Text("best valid_accuracy 0.6123 (trial 3, +0.0120 on trial 1): " + point_name(POINT)),
        facts=[Text("20 unsettled"), Text("$1.20 spent, $3.80 left")],
        running=[running(101), running(102)],
        ended=[ended(number) for number in range(trials)],
        doing={101: "trains"},
        objective=Objective("valid_accuracy", "maximize"),
        searched=tuple(POINT),
    )
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict" if encoding == "utf-8" else "replace")
    console = Console(file=written, width=width, height=height, force_terminal=True, color_system=None)
    console.print(screen)
    written.flush()
    written.seek(0)
    return written.read().splitlines()


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("height", [10, 24, 60])
def test_it_fits_the_terminal_and_keeps_what_matters(width: int, height: int) -> None:
    lines = drawn(width, height)
    assert len(lines) <= height - 2
    assert all(len(line.rstrip()) <= width for line in lines)
    assert "20 of 40 trials · 1:02 · about 0:58 left" in lines[0]
    assert lines[1].startswith("best valid_accuracy 0.6123 (trial 3, +0.0120 on trial 1)")
    assert lines[3].startswith("$1.20 spent, $3.80 left")
    rows = [line for line in lines[5:] if line.strip()]
    assert rows, "at least one trial is shown"
    assert "101" in rows[0], "a running trial comes first"
    assert all("0.61" in row for row in rows), "no value is cut"
    assert all("unsettled, stopped" in row for row in rows[2:]), "no verdict is cut"


def test_a_terminal_without_unicode_gets_no_curves() -> None:
    lines = drawn(80, 24, encoding="ascii")
    assert not any(block in line for line in lines for block in BLOCKS)
    assert "curve" not in lines[4]


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([], 8, ""),
        ([1.0, 2.0], 0, ""),
        ([0.5], 8, "▁"),
        ([3.0, 3.0, 3.0], 8, "▁▁▁"),
        ([0.0, 1.0, 0.5], 8, "▁█▅"),
        ([0.0, math.nan, 1.0], 8, f"▁{UNKNOWN}█"),
        ([math.inf, math.nan], 8, UNKNOWN * 2),
        (list(range(100)), 4, "▁▃▆█"),
    ],
)
def test_a_sparkline_goes_from_the_lowest_to_the_highest_block(values: list[float], width: int, expected: str) -> None:
    assert sparkline(values, width) == expected


@given(st.lists(st.floats(), max_size=50), st.integers(0, 12))
def test_a_sparkline_never_exceeds_its_width(values: list[float], width: int) -> None:
    drawn_values = sparkline(values, width)
    assert len(drawn_values) == min(width, len(values))


def test_a_point_is_named_in_a_few_characters() -> None:
    assert point_name(POINT) == "3 epochs · batch 16 · lr×0.123 · prompt loss 0.01"
    assert point_name(POINT, ("batch_size", "lora_rank")) == "batch 16"
    assert (
        point_name({"n_epochs": 1, "base_model": "/models/tiny/", "dropout": True}) == "1 epoch · tiny · dropout True"
    )
