"""What curves carry: when they extrapolate, when they say why not, and the sentences."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sweeps.scaling.curves import Measure, MeasuredPoint, judged
from sweeps.scaling.result import ScaleResult
from sweeps.scaling.sentences import about_more_data, comparisons, examples_to_reach

pytestmark = pytest.mark.unit

ACCURACY = Measure("valid_accuracy", "maximize", (0.0, 1.0), valid_examples=500, guess=0.34)
LOSS = Measure("valid_loss", "minimize", (-math.inf, math.inf), valid_examples=500)
SIZES = (100, 300, 1000, 3000)


def curve(means, *, seeds=3, spread=0.004, sizes=SIZES, measure=ACCURACY, label="small"):
    rng = np.random.default_rng(5)
    points = [
        MeasuredPoint(size, f"s-{size}", tuple(mean + spread * rng.standard_normal(seeds)))
        for size, mean in zip(sizes, means, strict=True)
    ]
    return judged(label, label, points, measure, 7)


def rising(sizes=SIZES, limit=0.9, scale=2.5, exponent=0.4):
    return [limit - scale * size**-exponent for size in sizes]


def test_a_rising_curve_says_what_doubling_adds():
    found = curve(rising())
    assert found.reason == ""
    assert found.extrapolation is not None
    truth = 2.5 * (3000**-0.4 - 6000**-0.4)
    assert found.extrapolation.low <= truth <= found.extrapolation.high
    assert found.extrapolation.gain == pytest.approx(truth, abs=0.01)
    sentence = about_more_data(found, ACCURACY)
    assert sentence.startswith("small: doubling your data from 3,000 to 6,000 examples would add about ")
    assert "points of valid_accuracy (95 % interval " in sentence


def test_a_falling_loss_says_by_how_much_doubling_lowers_it():
    found = curve([0.5 + 8 * size**-0.5 for size in SIZES], measure=LOSS)
    assert found.extrapolation is not None
    assert "small: valid_loss: doubling your data from 3,000 to 6,000 examples would lower it by about 0.0" in (
        about_more_data(found, LOSS)
    )


@pytest.mark.parametrize(
    ("means", "options", "reason"),
    [
        (rising((100, 300, 1000)), {"sizes": (100, 300, 1000)}, "at least 4 sizes, and there are 3"),
        (rising((1000, 1200, 1400, 1600)), {"sizes": (1000, 1200, 1400, 1600)}, "span a factor of 1.6"),
        (rising(), {"seeds": 1}, "use --seeds 3"),
        ([0.6, 0.6, 0.6, 0.6], {"spread": 0.01}, "do no better than 100, within the noise"),
        ([0.8, 0.7, 0.65, 0.6], {}, "do worse than 100"),
        ([0.34, 0.35, 0.5, 0.7], {}, "at 100 and 300 examples the model still guesses"),
        ([0.5, 0.52, 0.53, 0.9], {}, "the law fitted to the smaller sizes expects"),
    ],
)
def test_points_that_carry_no_extrapolation_say_why(means, options, reason):
    found = curve(means, **options)
    assert found.extrapolation is None
    assert reason in found.reason
    assert "carry no extrapolation" in about_more_data(found, ACCURACY)


def test_a_single_point_whose_seeds_differ_most_is_named():
    """As on SNLI with a learning rate at which one of three runs collapsed."""
    values = {100: (0.39, 0.40, 0.42), 200: (0.44, 0.45, 0.46), 400: (0.47, 0.47, 0.50), 800: (0.34, 0.45, 0.46)}
    found = judged("m", "m", [MeasuredPoint(size, "s", runs) for size, runs in values.items()], ACCURACY, 7)
    assert found.reason == (
        "800 examples do no better than 100, within the noise; the seeds at 800 differ by 0.12: "
        "look at the verdicts of these runs"
    )


def test_a_point_without_values_is_left_out():
    points = [MeasuredPoint(size, "s", (0.5, 0.6, 0.7) if size > 100 else (), missing="failed") for size in SIZES]
    found = judged("m", "m", points, ACCURACY, 7)
    assert [point.size for point in found.measured] == [300, 1000, 3000]
    assert math.isnan(found.points[0].mean)


def test_the_interval_of_a_mean_is_that_of_the_t_distribution():
    point = MeasuredPoint(100, "s", (0.5, 0.6, 0.7))
    assert point.mean == pytest.approx(0.6)
    assert point.half_width == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert MeasuredPoint(100, "s", (0.5,)).half_width is None


def test_the_better_model_needs_fewer_examples():
    small, large = curve([0.4, 0.42, 0.45, 0.5], spread=0.0), curve([0.4, 0.5, 0.6, 0.7], spread=0.0, label="large")
    assert examples_to_reach(large, 0.45, ACCURACY) == round(100 * math.sqrt(3))
    assert examples_to_reach(large, 0.3, ACCURACY) == 100
    assert examples_to_reach(small, 0.7, ACCURACY) is None
    [sentence] = comparisons([small, large], ACCURACY)
    assert sentence == "large reaches 0.5, the best mean of small (with 3,000 examples), with about 300."
    assert not list(comparisons([small], ACCURACY))


def test_a_value_reached_by_luck_and_lost_again_does_not_count():
    bumpy = curve([0.6, 0.4, 0.5, 0.7], spread=0.0)
    needed = examples_to_reach(bumpy, 0.6, ACCURACY)
    assert needed is not None
    assert needed > 1000


def test_the_result_is_strict_json_also_with_missing_points_and_without_bounds():
    falling = curve([0.5 + 8 * size**-0.5 for size in SIZES], measure=LOSS)
    empty = judged("none", "none", [MeasuredPoint(size, "s", missing="failed") for size in SIZES], LOSS, 7)
    result = ScaleResult("demo", "d.csv", LOSS, 3, False, (falling, empty), "the budget was used up before")
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert written["measure"]["bounds"] == [None, None]
    assert written["curves"][0]["extrapolation"]["size"] == 3000
    assert written["curves"][1]["points"][0]["mean"] is None
    assert len(written["sentences"]) == 2
