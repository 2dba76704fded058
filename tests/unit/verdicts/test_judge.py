"""The verdict on a learning curve: an example of each kind, and laws that hold for every curve."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from random import Random
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.contract import Measured
from backends.training_logs.learning_curve import CurvePoint, LearningCurve, LoopReport
from search_spaces.catalogue import Catalogue
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge
from sweeps.verdicts.verdict import VerdictKind

pytestmark = pytest.mark.unit

CATALOGUE = Catalogue.load()
PARAMETERS = ("n_epochs", "learning_rate_multiplier", "lora_rank", "lora_dropout")
ADVICE = Advice.from_recommendations(
    found for name in PARAMETERS if (found := CATALOGUE.get(name, "local")) is not None
)
UNTRAINED = CurvePoint(0.0, 0, train_loss=3.0, valid_loss=3.0, train_metric=0.33, valid_metric=0.33)


def curve(
    train_loss: Sequence[float] | None,
    valid_loss: Sequence[float] | None,
    train_metric: Sequence[float] | None = None,
    valid_metric: Sequence[float] | None = None,
    *,
    baseline: CurvePoint | None = UNTRAINED,
    examples: int = 500,
    ended: Literal["complete", "stopped", "failed", "diverged"] = "complete",
    best_by: Literal["metric", "loss"] = "metric",
) -> LearningCurve:
    """A curve with one evaluation per epoch; a missing column is unknown."""
    columns = (train_loss, valid_loss, train_metric, valid_metric)
    epochs = max(len(column) for column in columns if column is not None)
    points = tuple(
        CurvePoint(n + 1.0, 10 * (n + 1), *(None if column is None else column[n] for column in columns))
        for n in range(epochs)
    )
    return LearningCurve(
        points, baseline, "accuracy", 256, examples, classes=3, chance=0.34, best_by=best_by, ended=ended
    )


HEALTHY = curve([0.9, 0.6, 0.5], [0.92, 0.65, 0.62], [0.6, 0.78, 0.84], [0.58, 0.76, 0.79])
OVERFIT = curve([0.75, 0.55, 0.4, 0.31], [0.65, 0.61, 0.7, 0.74], [0.6, 0.8, 0.9, 0.97], [0.6, 0.76, 0.76, 0.75])
MEMORISED = curve([1.0, 0.7, 0.3, 0.1], [1.1, 1.2, 1.6, 2.2], [0.4, 0.6, 0.85, 0.97], [0.35, 0.33, 0.34, 0.33])
NOTHING_LEARNED = curve([1.1, 1.1, 1.099], [1.1, 1.1, 1.1], [0.34, 0.35, 0.33], [0.33, 0.34, 0.35])
SLOW = curve([2.99, 2.98, 2.97], [2.99, 2.98, 2.97], [0.33, 0.34, 0.33], [0.33, 0.33, 0.34])
CUT_SHORT = curve([1.1, 0.9, 0.7], [1.1, 0.95, 0.8], [0.4, 0.5, 0.68], [0.38, 0.5, 0.64])
RAN_AWAY = curve([4.0, 6.0, 8.0], [4.0, 6.0, 8.0], [0.34, 0.34, 0.34], [0.33, 0.33, 0.33])
COLLAPSED = curve([0.9, 0.5, 1.1, 1.1], [0.9, 0.55, 1.1, 1.1], [0.6, 0.8, 0.3, 0.3], [0.6, 0.78, 0.3, 0.3])


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (HEALTHY, VerdictKind.HEALTHY),
        (OVERFIT, VerdictKind.OVERFIT),
        (MEMORISED, VerdictKind.OVERFIT),
        (NOTHING_LEARNED, VerdictKind.UNDERFIT),
        (CUT_SHORT, VerdictKind.UNDERFIT),
        (RAN_AWAY, VerdictKind.DIVERGED),
        (COLLAPSED, VerdictKind.DIVERGED),
    ],
    ids=["healthy", "overfit", "memorised", "nothing learned", "cut short", "ran away", "collapsed"],
)
def test_every_kind_is_recognised_in_a_curve_that_shows_it(seen: LearningCurve, kind: VerdictKind) -> None:
    assert judge(seen, ADVICE).kind is kind


def test_overfitting_is_explained_with_onset_numbers_and_advice() -> None:
    verdict = judge(OVERFIT, ADVICE)
    assert verdict.evidence == (
        "validation loss rose from 0.61 (epoch 2) to 0.74 (epoch 4) while training loss fell from 0.55 to 0.31"
    )
    assert (verdict.onset_epoch, verdict.keep_epoch) == (2.0, 2.0)
    assert verdict.advice == "lower n_epochs; lower learning_rate_multiplier"


def test_a_widening_gap_of_the_metrics_alone_is_overfitting() -> None:
    verdict = judge(curve(None, None, [0.7, 0.85, 0.99], [0.66, 0.7, 0.7]), ADVICE)
    assert verdict.kind is VerdictKind.OVERFIT
    assert verdict.onset_epoch == 2.0
    assert "a gap of 0.29" in verdict.evidence


def test_a_gap_is_not_overfitting_while_validation_still_gains_or_within_sampling_error() -> None:
    gaining = judge(curve(None, None, [0.8, 0.9, 0.99], [0.66, 0.74, 0.82]), ADVICE)
    within_noise = judge(curve(None, None, [0.7, 0.72, 0.74], [0.66, 0.7, 0.7]), ADVICE)
    assert VerdictKind.OVERFIT not in (gaining.kind, within_noise.kind)


def test_a_run_that_learns_nothing_differs_from_one_that_stopped_while_improving() -> None:
    slow, short = judge(SLOW, ADVICE), judge(CUT_SHORT, ADVICE)
    assert slow.evidence == (
        "the losses hardly moved: validation loss from 3 to 2.97, training loss from 3 to 2.97: "
        "it learns nothing, or far too slowly"
    )
    assert slow.advice.startswith("raise learning_rate_multiplier")
    assert "still rose from 0.5 to 0.64 between epochs 2 and 3 when training ended" in short.evidence
    assert short.advice.startswith("raise n_epochs")


# A base model gives the labels far less probability than their frequencies, so its loss is far
# above chance.
FAR_OFF = CurvePoint(0.0, 0, train_loss=13.0, valid_loss=13.0, train_metric=0.31, valid_metric=0.32)
AT_CHANCE = curve([0.62, 0.56, 0.57], [0.61, 0.57, 0.56], [0.33, 0.34, 0.33], [0.34, 0.34, 0.33], baseline=FAR_OFF)
LOST_AGAIN = curve(
    [1.4, 0.46, 0.62, 0.58], [1.4, 0.47, 0.63, 0.58], [0.5, 0.62, 0.33, 0.34], [0.5, 0.61, 0.33, 0.33], baseline=FAR_OFF
)


def reported(
    losses: Sequence[float], norms: Sequence[float] = (), rates: Sequence[float] = ()
) -> tuple[LoopReport, ...]:
    """Reports of a training loop, ten per epoch."""
    return tuple(
        LoopReport((n + 1) / 10, loss, norms[n] if norms else None, rates[n] if rates else None)
        for n, loss in enumerate(losses)
    )


def test_a_run_that_collapsed_at_once_gets_the_advice_to_lower_the_rate() -> None:
    verdict = judge(AT_CHANCE, ADVICE)
    assert (verdict.kind, verdict.collapsed) == (VerdictKind.UNDERFIT, True)
    assert "how often each label occurs" in verdict.evidence
    assert verdict.advice == "lower learning_rate_multiplier"


def test_a_run_that_learned_and_lost_it_again_has_diverged() -> None:
    verdict = judge(LOST_AGAIN, ADVICE)
    assert verdict.kind is VerdictKind.DIVERGED
    assert "accuracy fell from 0.61 (epoch 2) to 0.33" in verdict.evidence
    assert verdict.onset_epoch == verdict.keep_epoch == 2.0
    assert verdict.advice == "lower learning_rate_multiplier"


def test_a_spike_of_the_batch_loss_in_a_run_that_learned_nothing_is_divergence() -> None:
    spiked = reported([3.0, 9.0, 4.0, *[1.1] * 7])
    verdict = judge(dataclasses.replace(NOTHING_LEARNED, loop_reports=spiked), ADVICE)
    assert verdict.kind is VerdictKind.DIVERGED
    assert "the batch loss rose to 9 (epoch 0.2), the base model has 3" in verdict.evidence
    assert judge(dataclasses.replace(HEALTHY, loop_reports=spiked), ADVICE).kind is VerdictKind.HEALTHY


def test_a_gradient_that_fades_although_nothing_is_learned_is_a_collapse() -> None:
    flat = curve([2.99, 3.01, 3.0], [3.0, 3.0, 3.0], [0.34, 0.33, 0.34], [0.33, 0.34, 0.33])
    faded = reported([3.0] * 12, [4.0] * 6 + [0.5] * 6)
    assert judge(dataclasses.replace(flat, loop_reports=faded), ADVICE).advice == "lower learning_rate_multiplier"
    lively = reported([3.0] * 12, [4.0] * 12)
    unclear = judge(dataclasses.replace(flat, loop_reports=lively), ADVICE)
    assert unclear.advice.startswith("raise learning_rate_multiplier for one epoch; if the losses still do not move")


def test_a_fall_caused_by_a_decaying_rate_is_no_reason_to_train_longer() -> None:
    columns = [0.32, 0.16, 0.13], [0.35, 0.25, 0.21], [0.7, 0.85, 0.87], [0.69, 0.79, 0.8]
    down = reported([0.3] * 10, rates=[1.0 - n / 10 for n in range(10)])
    constant = reported([0.3] * 10, rates=[1.0] * 10)
    assert judge(dataclasses.replace(curve(*columns), loop_reports=constant), ADVICE).kind is VerdictKind.UNDERFIT
    assert judge(dataclasses.replace(curve(*columns), loop_reports=down), ADVICE).kind is VerdictKind.HEALTHY
    rising = dataclasses.replace(CUT_SHORT, loop_reports=down)
    assert judge(rising, ADVICE).improving


def test_divergence_names_the_hyperparameter_to_lower_and_the_last_good_epoch() -> None:
    verdict = judge(COLLAPSED, ADVICE)
    assert verdict.advice == "lower learning_rate_multiplier"
    assert verdict.onset_epoch == verdict.keep_epoch == 2.0


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(curve([0.6, 0.9, 0.5, 0.4], [0.7, 0.95, 0.62, 0.6]), id="a warm-up bump"),
        pytest.param(curve([0.9, 0.5, 0.3, 0.2, 0.1], [0.9, 0.6, 0.8, 0.62, 0.58]), id="double descent"),
        pytest.param(curve([0.8, 0.5, 0.5, 0.5], [0.8, 0.55, 0.55, 0.55]), id="a plateau"),
        pytest.param(curve([0.7, 0.6, 0.6, 0.3], [0.7, 0.62, 0.62, 0.4]), id="a late drop of the learning rate"),
        pytest.param(
            curve([0.1, 0.01, 0.005], [0.1, 0.010, 0.015], [0.9, 1, 1], [0.9, 1, 1]), id="nothing left to lose"
        ),
    ],
)
def test_curves_that_resemble_overfitting_and_are_not(seen: LearningCurve) -> None:
    assert judge(seen, ADVICE).kind not in (VerdictKind.OVERFIT, VerdictKind.DIVERGED)


def test_a_rising_loss_with_a_rising_objective_is_overfitting_only_if_the_loss_decides() -> None:
    columns = [0.6, 0.4, 0.3], [0.61, 0.65, 0.7], [0.7, 0.85, 0.92], [0.70, 0.74, 0.80]
    assert judge(curve(*columns), ADVICE).kind is VerdictKind.HEALTHY
    assert judge(curve(*columns, best_by="loss"), ADVICE).kind is VerdictKind.OVERFIT


def test_a_kept_epoch_after_the_turn_of_the_loss_is_explained() -> None:
    losses = [0.6, 0.4, 0.2], [0.61, 0.60, 0.9]
    seen = judge(curve(*losses, [0.7, 0.8, 0.9], [0.70, 0.74, 0.75]), ADVICE)
    assert (seen.kind, seen.keep_epoch) == (VerdictKind.OVERFIT, 3)
    assert seen.evidence.endswith("; validation accuracy was best at epoch 3: 0.75, against 0.74 at epoch 2")
    assert "best at" not in judge(curve(*losses, [0.7, 0.8, 0.9], [0.70, 0.75, 0.74]), ADVICE).evidence


def test_few_validation_examples_cannot_settle_what_many_can() -> None:
    columns = [0.6, 0.45, 0.3], [0.61, 0.65, 0.7]
    assert judge(curve(*columns, examples=20), ADVICE).kind is VerdictKind.UNSETTLED
    assert judge(curve(*columns, examples=2000), ADVICE).kind is VerdictKind.OVERFIT


@pytest.mark.parametrize("ended", ["stopped", "failed"])
def test_a_run_that_ended_early_is_never_healthy(ended: Literal["stopped", "failed"]) -> None:
    short = dataclasses.replace(HEALTHY, points=HEALTHY.points[:2], ended=ended)
    verdict = judge(short, ADVICE)
    assert verdict.kind is VerdictKind.UNSETTLED
    assert "epoch 2" in verdict.evidence


def test_a_run_that_was_stopped_after_its_turn_is_still_judged() -> None:
    assert judge(dataclasses.replace(OVERFIT, ended="stopped"), ADVICE).kind is VerdictKind.OVERFIT


def test_a_run_that_reports_a_non_finite_loss_has_diverged() -> None:
    verdict = judge(dataclasses.replace(HEALTHY, ended="diverged"), ADVICE)
    assert verdict.kind is VerdictKind.DIVERGED
    assert verdict.onset_epoch == 3.0


def test_a_curve_is_built_from_measurements() -> None:
    base = Measured(0, 0.0, {"valid_loss": 3.0, "valid_accuracy": 0.33}, "evaluation")
    scored = Measured(10, 1.0, {"train_loss": 0.9, "valid_loss": 1.0, "valid_accuracy": 0.6}, "evaluation")
    running = Measured(9, 0.9, {"batch_loss": 1.3, "learning_rate": 1e-4}, "step")
    broken = Measured(11, 1.1, {"batch_loss": math.inf}, "step")
    built = LearningCurve.from_measurements([base, running, scored, broken], metric="valid_accuracy")
    assert built.metric == "accuracy"
    assert built.baseline == CurvePoint(0.0, 0, valid_loss=3.0, valid_metric=0.33)
    assert built.points == (CurvePoint(1.0, 10, 0.9, 1.0, None, 0.6), CurvePoint(1.1, 11, train_loss=math.inf))
    assert judge(built, ADVICE).kind is VerdictKind.DIVERGED
    assert LearningCurve.from_measurements([scored], metric="valid_loss").metric is None


# --------------------------------------------------------------------------------------------- laws
plain = st.floats(min_value=1e-6, max_value=1e3)
shares = st.floats(min_value=0.0, max_value=1.0)
anything = st.none() | st.floats() | plain | shares


def curves(losses: st.SearchStrategy[float | None], metrics: st.SearchStrategy[float | None]) -> st.SearchStrategy:
    """Curves in which any part may be missing."""
    point = st.builds(
        CurvePoint,
        epoch=st.floats(min_value=0, max_value=400),
        step=st.integers(0, 10_000),
        train_loss=losses,
        valid_loss=losses,
        train_metric=metrics,
        valid_metric=metrics,
    )
    return st.builds(
        LearningCurve,
        points=st.lists(point, max_size=30).map(tuple),
        baseline=st.none() | point,
        metric=st.none() | st.just("accuracy"),
        train_examples=st.none() | st.integers(-1, 10**6),
        valid_examples=st.none() | st.integers(-1, 10**6),
        classes=st.none() | st.integers(-1, 100),
        chance=st.none() | shares,
        best_by=st.sampled_from(["metric", "loss"]),
        ended=st.sampled_from(["complete", "stopped", "failed"]),
        loop_reports=st.lists(
            st.builds(LoopReport, st.floats(0, 400), losses.filter(lambda loss: loss is not None), losses), max_size=20
        ).map(lambda found: tuple(sorted(found, key=lambda report: report.epoch))),
    )


finite_curves = curves(st.none() | plain, st.none() | shares)


@given(curves(anything, anything), st.floats())
def test_judging_never_raises_and_always_gives_evidence(seen: LearningCurve, epoch: float) -> None:
    strange = dataclasses.replace(seen, points=(*seen.points, CurvePoint(epoch, -1, 0.0, -1.0, 2.0, -3.0)))
    for judged in (seen, strange):
        verdict = judge(judged, ADVICE)
        assert verdict.evidence
        assert 0 <= verdict.confidence <= 1


@given(finite_curves, st.integers(-20, 20))
@example(OVERFIT, 10)
@example(COLLAPSED, -10)
def test_the_scale_of_a_loss_does_not_matter(seen: LearningCurve, power: int) -> None:
    def scaled(point: CurvePoint) -> CurvePoint:
        # A power of two makes the comparison exact, so that no rounding decides a borderline case.
        losses = [None if loss is None else loss * 2.0**power for loss in (point.train_loss, point.valid_loss)]
        return dataclasses.replace(point, train_loss=losses[0], valid_loss=losses[1])

    other = dataclasses.replace(
        seen,
        points=tuple(map(scaled, seen.points)),
        baseline=seen.baseline and scaled(seen.baseline),
        loop_reports=tuple(dataclasses.replace(report, loss=report.loss * 2.0**power) for report in seen.loop_reports),
    )
    assert judge(other, ADVICE).kind is judge(seen, ADVICE).kind


@given(finite_curves)
@example(HEALTHY)
def test_without_validation_every_verdict_is_unsettled(seen: LearningCurve) -> None:
    blind = tuple(dataclasses.replace(point, valid_loss=None, valid_metric=None) for point in seen.points)
    assert judge(dataclasses.replace(seen, points=blind), ADVICE).kind is VerdictKind.UNSETTLED


@given(
    finite_curves,
    st.sampled_from(["train_loss", "valid_loss", "train_metric", "valid_metric"]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(0, 30),
)
def test_a_non_finite_value_is_divergence(seen: LearningCurve, name: str, value: float, at: int) -> None:
    at = min(at, len(seen.points))
    broken = CurvePoint(1.0, 10, **{name: value})
    verdict = judge(dataclasses.replace(seen, points=(*seen.points[:at], broken, *seen.points[at:])), ADVICE)
    assert verdict.kind is VerdictKind.DIVERGED


@given(finite_curves)
def test_the_order_of_the_points_does_not_matter(seen: LearningCurve) -> None:
    unique = {point.epoch: point for point in seen.points}
    ordered = dataclasses.replace(seen, points=tuple(unique.values()))
    shuffled = dataclasses.replace(seen, points=tuple(reversed(ordered.points)))
    assert judge(shuffled, ADVICE) == judge(ordered, ADVICE)


def test_a_curve_of_thousands_of_noisy_points_is_judged_by_its_trend() -> None:
    waves = [0.02 * math.sin(12.9898 * n) for n in range(3000)]
    falling = [0.3 + 2.5 * math.exp(-n / 200) for n in range(3000)]
    rising = [0.6 + 2.0 * math.exp(-n / 200) + n / 6000 for n in range(3000)]
    points = tuple(
        CurvePoint(n / 100, n, train_loss=falling[n] + waves[n], valid_loss=rising[n] + waves[n]) for n in range(3000)
    )
    verdict = judge(LearningCurve(points, valid_examples=1000), ADVICE)
    assert verdict.kind is VerdictKind.OVERFIT
    assert verdict.onset_epoch == pytest.approx(8.2, abs=1.5)


# Smooth curves, for which more points carry no more information.
smooth_curves = st.sampled_from(
    [HEALTHY, OVERFIT, NOTHING_LEARNED, CUT_SHORT, RAN_AWAY, COLLAPSED, AT_CHANCE, LOST_AGAIN]
)


@given(smooth_curves, st.integers(1, 12))
def test_points_added_by_interpolation_do_not_change_the_kind(seen: LearningCurve, between: int) -> None:
    def mixed(one: CurvePoint, other: CurvePoint, share: float) -> CurvePoint:
        def mix(name: str) -> float | None:
            before, after = getattr(one, name), getattr(other, name)
            return None if before is None or after is None else before + (after - before) * share

        names = ("train_loss", "valid_loss", "train_metric", "valid_metric")
        epoch = one.epoch + (other.epoch - one.epoch) * share
        return CurvePoint(epoch, round(10 * epoch), **{name: mix(name) for name in names})

    points = list(seen.points[:1])
    for one, other in itertools.pairwise(seen.points):
        points += [mixed(one, other, (k + 1) / (between + 1)) for k in range(between)]
        points.append(other)
    assert judge(dataclasses.replace(seen, points=tuple(points)), ADVICE).kind is judge(seen, ADVICE).kind


def test_more_noise_makes_a_verdict_of_over_fitting_less_confident() -> None:
    def confidence(size: float, seed: int) -> float:
        random = Random(seed)
        rising = [0.6 + 1.2 * math.exp(-n / 5) + 0.01 * n for n in range(40)]
        points = tuple(
            CurvePoint(n + 1, n, train_loss=1.5 * math.exp(-n / 8), valid_loss=loss + size * random.uniform(-1, 1))
            for n, loss in enumerate(rising)
        )
        verdict = judge(LearningCurve(points, valid_examples=5000, best_by="loss"), ADVICE)
        return verdict.confidence if verdict.kind is VerdictKind.OVERFIT else 0.0

    means = [sum(confidence(size, seed) for seed in range(40)) / 40 for size in (0.0, 0.05, 0.1, 0.2, 0.4)]
    assert means[0] > 0.75
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.2


def test_advice_in_a_sweep_stays_within_the_limits_of_its_backend() -> None:
    advice = ADVICE.for_run({"n_epochs": 4, "learning_rate_multiplier": 0.2}, {"n_epochs": (1, 5)})
    assert "from 4 to 5" in judge(CUT_SHORT, advice).advice
