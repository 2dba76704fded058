"""The plot of a learning curve: every curve can be drawn, and the plot marks the verdict."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from backends.contract import Measured
from backends.training_logs.learning_curve import CurvePoint, LearningCurve
from sweeps.reports.plots import VERDICT_COLOURS, PlotStyle, curve_image, learning_curve_png
from sweeps.trials.trial import Trial
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit


def evaluation(epoch: int, **values: float) -> Measured:
    return Measured(10 * epoch, float(epoch), values, "evaluation")


TRIAL = Trial(
    number=7,
    key="k",
    base_model="m",
    hyperparameters={"n_epochs": 4},
    seed=1,
    curve=(
        evaluation(0, valid_loss=1.1, valid_accuracy=0.33),
        evaluation(1, train_loss=0.75, valid_loss=0.65, train_accuracy=0.6, valid_accuracy=0.6),
        evaluation(2, train_loss=0.55, valid_loss=0.61, train_accuracy=0.8, valid_accuracy=0.76),
        evaluation(3, train_loss=0.31, valid_loss=0.74, train_accuracy=0.97, valid_accuracy=0.75),
    ),
    best_epoch=2.0,
    verdict=FitVerdict(VerdictKind.OVERFIT, "validation loss rose from 0.61 to 0.74", onset_epoch=2.0, keep_epoch=2.0),
)


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    return (matplotlib.image.imread(io.BytesIO(png))[..., :3] * 255).round().astype(int)


def shows(png: bytes, colour: str) -> bool:
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return bool((np.abs(pixels(png) - wanted).max(axis=-1) <= 1).sum() > 50)


def test_the_plot_has_a_fixed_size_and_marks_the_verdict() -> None:
    png = learning_curve_png(TRIAL, "trial 7")
    assert pixels(png).shape == (420, 960, 3)
    assert shows(png, VERDICT_COLOURS[VerdictKind.OVERFIT])
    assert not shows(png, VERDICT_COLOURS[VerdictKind.DIVERGED])


def test_the_onset_shades_the_epochs_after_it() -> None:
    shaded = learning_curve_png(TRIAL, "trial 7")
    assert TRIAL.verdict is not None
    unshaded = learning_curve_png(replace(TRIAL, verdict=replace(TRIAL.verdict, onset_epoch=None)), "trial 7")
    white_if_shaded = (pixels(shaded)[110:330] == 255).all(axis=-1).mean()
    white_if_unshaded = (pixels(unshaded)[110:330] == 255).all(axis=-1).mean()
    assert white_if_shaded < white_if_unshaded - 0.1


@pytest.mark.parametrize(
    "curve",
    [
        pytest.param((), id="nothing measured"),
        pytest.param(TRIAL.curve[:1], id="the base model only"),
        pytest.param((evaluation(1, train_loss=0.5),), id="no validation"),
        pytest.param((evaluation(1, valid_loss=math.nan), evaluation(2, valid_loss=math.inf)), id="nothing finite"),
        pytest.param((*TRIAL.curve, evaluation(4, train_loss=1e30, valid_loss=1e300)), id="huge values"),
        pytest.param(tuple(evaluation(n, valid_loss=0.0) for n in range(1, 500)), id="hundreds of equal points"),
    ],
)
def test_every_curve_can_be_drawn(curve: tuple[Measured, ...]) -> None:
    assert pixels(learning_curve_png(replace(TRIAL, curve=curve), "trial 7")).shape == (420, 960, 3)


def test_a_trial_and_its_curve_give_the_same_plot() -> None:
    assert TRIAL.verdict is not None
    curve = LearningCurve.from_measurements(TRIAL.curve, metric="accuracy")
    assert curve_image(curve, TRIAL.verdict, "trial 7") == learning_curve_png(TRIAL, "trial 7")


def test_an_onset_at_the_last_epoch_is_marked() -> None:
    points = tuple(CurvePoint(n, int(n), 1 / n, 1 / n) for n in (1.0, 2.0, 3.0))
    plain = FitVerdict(VerdictKind.DIVERGED, "the loss exploded")
    verdicts = (plain, replace(plain, onset_epoch=3.0))
    unmarked, marked = (curve_image(LearningCurve(points), verdict, "") for verdict in verdicts)
    red = [int(VERDICT_COLOURS[VerdictKind.DIVERGED][at : at + 2], 16) for at in (1, 3, 5)]

    def red_pixels(png: bytes) -> int:
        return int((np.abs(pixels(png)[110:330] - red).max(axis=-1) <= 60).sum())

    assert red_pixels(marked) > red_pixels(unmarked) + 100


def test_the_same_trial_gives_the_same_bytes() -> None:
    assert learning_curve_png(TRIAL, "trial 7") == learning_curve_png(TRIAL, "trial 7")


def test_importing_the_module_does_not_load_matplotlib_and_drawing_does_not_load_pyplot() -> None:
    program = (
        "import sys; from sweeps.reports import plots; assert 'matplotlib' not in sys.modules; "
        "from sweeps.trials.trial import Trial; plots.learning_curve_png(Trial(1, 'k', 'm', {}, 1), 't'); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("size", [(4.0, 3.0), (6.0, 4.0), (9.6, 4.2)])
def test_nothing_is_cut_off_at_the_edge_of_a_plot_of_any_size(size: tuple[float, float]) -> None:
    base = CurvePoint(0.0, 0, valid_loss=1.0, valid_metric=0.33)
    points = tuple(CurvePoint(i, i, 1 / i, 0.5 + i / 9, i / 5, 0.6) for i in range(1, 5))
    curve = LearningCurve(points, metric="accuracy", baseline=base)
    verdict = FitVerdict(VerdictKind.OVERFIT, "validation loss rose a lot " * 9, onset_epoch=1.0, keep_epoch=1.0)
    edge = pixels(curve_image(curve, verdict, "run", style=PlotStyle(size=size)))
    for strip in (edge[:3], edge[-3:], edge[:, :3], edge[:, -3:]):
        assert (strip == 255).all()
