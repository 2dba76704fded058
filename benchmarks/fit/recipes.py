"""Recipes of the small-model runs: random settings that bring about each cause and hard case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.fit.datasets import REGRESSIONS
from benchmarks.fit.draws import Draws
from benchmarks.fit.records import GENERATION_OFFSET
from benchmarks.fit.sklearn_runs import SklearnSettings
from benchmarks.fit.torch_runs import TorchSettings

Draw = dict[str, Any]

EASY = ("blobs", "sparse", "moons", "circles", "quantiles")
REAL = ("digits", "cancer", "wine", "diabetes")
SMALL_SETS = {"digits": 700, "cancer": 250, "wine": 70, "diabetes": 200}
"""The most training examples that leave enough validation and oracle examples."""


TORCH_STEPS, SKLEARN_STEPS, TREES = 1500, 3000, 300
"""The largest cost of a run with its continuation, in optimizer steps or trees.

A run that would cost more gets fewer steps between two evaluations (the limit is twice as high if
the rate follows a schedule). A perceptron of scikit-learn, which trains only in whole passes, gets
larger batches instead.
"""


@dataclass(frozen=True)
class Recipe:
    """One run of a small model: its data, settings, duration and engineered cause."""

    number: int
    family: Literal["torch", "sklearn"]
    dataset: str
    cause: str
    detail: str
    settings: TorchSettings | SklearnSettings
    evaluations: int
    later: int
    train: int
    valid: int
    data: Mapping[str, Any] = field(default_factory=dict)
    ended: Literal["complete", "stopped", "failed"] = "complete"
    seed: int = 0

    @property
    def id(self) -> str:
        return f"{self.family}-{self.number:04d}"


def torch_rate(optimizer: str) -> float:
    """Return a learning rate that suits the optimizer."""
    return {"adam": 5e-3, "sgd": 3e-2}[optimizer]


# Each of these functions returns changes to a plain run: settings, `train`, `valid`, `data`,
# `later`, `evaluations`, ...
def _plain(d: Draws) -> Draw:
    """Return a run that goes well: enough examples for the model, some decay, a sensible rate."""
    optimizer = d.one("adam", "adam", "sgd")
    return {
        "dataset": d.one(*EASY, *EASY, *REAL, *REGRESSIONS[:2], "linear"),
        "optimizer": optimizer,
        "rate": torch_rate(optimizer) * d.log(0.6, 1.7),
        "net": "mlp",
        "width": d.one(8, 12, 16),
        "decay": d.one(0.1, 0.3, 0.5) if optimizer == "adam" else d.one(3e-3, 1e-2),
        "batch": d.one(32, 64) if d.long else d.one(8, 16, 32),
        "passes": d.one(1.0, 1.0, 2.0) if d.long else d.one(2.0, 3.0, 5.0, 10.0),
        "train": d.size(1500, 4000),
        "schedule": d.one("constant", "cosine", "cosine"),
        "valid": d.one(50, 100, 100, 200, 300, 500),
        "data": {"noise": d.one(0.0, 0.0, 0.1, 0.2)},
    }


def _plateau(d: Draws) -> Draw:
    return {}


def _late_drop(d: Draws) -> Draw:
    change = {"schedule": "drop", "strength": 20.0, "rate": d.log(0.02, 0.06), "optimizer": "adam", "decay": 0.03}
    if not d.long:
        change |= {"evaluations": d.one(5, 6), "passes": d.one(2.0, 4.0)}
    return {**change, "batch": d.one(4, 8), "dataset": d.one("blobs", "sparse", "quantiles", "friedman1", "digits")}


def _bump(d: Draws) -> Draw:
    change = {"schedule": "bump", "strength": d.log(15, 60), "optimizer": "adam", "width": d.one(16, 32)}
    change |= {"rate": d.log(5e-3, 1.5e-2)}
    if not d.long:
        change |= {"evaluations": d.one(5, 6), "passes": d.one(3.0, 6.0), "strength": d.log(15, 80)}
    return {**change, "dataset": d.one("blobs", "quantiles", "digits", "friedman1", "sparse")}


def _double_descent(d: Draws) -> Draw:
    if d.one(True, False) or not d.long:
        change: Draw = {"schedule": "hump", "strength": d.log(8, 25), "optimizer": "adam", "rate": d.log(2e-3, 6e-3)}
        if not d.long:
            change |= {"evaluations": d.one(5, 6), "passes": d.one(2.0, 4.0)}
        return {**change, "dataset": d.one("blobs", "quantiles", "digits", "friedman1", "sparse", "moons")}
    return {
        "net": "mlp", "width": 128, "optimizer": "adam", "rate": 3e-3, "decay": d.log(0.3, 2.0),
        "train": d.size(100, 250),
        "data": {"noise": d.one(0.0, 0.1)}, "passes": d.one(2.0, 4.0), "dataset": d.one("blobs", "digits", "sparse"),
    }  # fmt: skip


def _noisy(d: Draws) -> Draw:
    return {
        "valid": d.one(50, 60, 80), "batch": d.one(4, 8), "optimizer": "adam", "rate": d.log(8e-3, 2e-2), "width": 16,
        "train": d.size(800, 2500), "decay": 0.1, "data": {"noise": 0.1},
        "dataset": d.one("blobs", "quantiles", "moons", "circles", "friedman1"),
    }  # fmt: skip


def _within_noise_healthy(d: Draws) -> Draw:
    return {"valid": d.one(50, 60, 80), "width": d.one(12, 16)}


def _constant_gap(d: Draws) -> Draw:
    return {
        "data": {"later_noise": d.one(0.15, 0.25)},
        "dataset": d.one(*EASY, "digits"),
        "schedule": "cosine",
        "width": 8,
    }


def _rate_too_small(d: Draws) -> Draw:
    share = d.log(1e-4, 2e-2)
    return {"rate_times": share, "later_rate": min(1 / share, 1000.0), "later": 30 if d.long else 6}


def _too_few_epochs(d: Draws) -> Draw:
    share = d.log(0.01, 0.08) if d.long else d.log(0.05, 0.5)
    return {
        "rate_times": share, "later": 4 * d.one(60, 80) if d.long else 24,
        "dataset": d.one(*EASY, "digits", "friedman1"),
        "evaluations": d.one(50, 60, 80) if d.long else d.one(2, 3, 4, 5), "width": d.one(16, 32),
    }  # fmt: skip


def _cannot_learn(d: Draws) -> Draw:
    how = d.one("linear", "decay", "decay")
    if how == "linear":
        return {"net": "linear", "dataset": "circles", "train": d.size(500, 1500), "valid": d.one(100, 200, 300)}
    return {
        "decay": d.log(100, 400) if d.one(True, False) else d.log(30, 60), "optimizer": "adam", "rate": 3e-3,
        "dataset": d.one("sparse", "quantiles", "circles", "friedman1", "linear"),
    }  # fmt: skip


def _random_not_memorised(d: Draws) -> Draw:
    return {
        "data": {"random_labels": True}, "train": d.size(800, 2500), "width": d.one(2, 4), "decay": 0.05,
        "dataset": d.one("blobs", "moons", "quantiles", "friedman1", "digits"), "rate_times": d.log(0.1, 0.5),
    }  # fmt: skip


def _too_many_epochs(d: Draws) -> Draw:
    return {
        "width": d.one(32, 64, 128), "decay": 0.0, "train": d.size(40, 150), "later": 0,
        "batch": d.one(4, 8), "passes": d.one(1.0, 2.0) if d.long else d.one(5.0, 10.0, 20.0),
        "data": {"noise": d.one(0.1, 0.2, 0.3, 0.4)}, "rate_times": d.log(0.7, 2), "schedule": "constant",
        "dataset": d.one(
            "blobs", "sparse", "sparse", "quantiles", "circles", "digits", "friedman1", "linear", "diabetes"
        ),
    }  # fmt: skip


def _memorised(d: Draws) -> Draw:
    return {**_too_many_epochs(d), "data": {"random_labels": True}, "train": d.size(60, 300), "width": d.one(64, 128)}


def _oversized(d: Draws) -> Draw:
    return {
        **_too_many_epochs(d),
        "width": 256,
        "depth": 2,
        "train": d.size(80, 250),
        "data": {"noise": d.one(0.3, 0.4)},
    }


def _stopped_when_turned(d: Draws) -> Draw:
    return {**_too_many_epochs(d), "ended": "stopped"}


def _blow_up(d: Draws) -> Draw:
    return {"optimizer": d.one("sgd", "sgd", "adam"), "rate": d.log(1.0, 1000.0), "decay": 0.0, "later": 0, "depth": 2}


def _late_blow_up(d: Draws) -> Draw:
    change = {"schedule": "blow-up", "strength": d.log(50, 1000), "later": 0, "decay": 0.0}
    return change if d.long else {**change, "evaluations": d.one(4, 5, 6)}


def _no_validation(d: Draws) -> Draw:
    return {"later": 0, **d.one({}, _too_many_epochs(d), _rate_too_small(d))}


def _one_evaluation(d: Draws) -> Draw:
    return {"evaluations": 1, "later": 3, "ended": d.one("complete", "stopped"), "passes": d.one(1.0, 3.0)}


def _stopped(d: Draws) -> Draw:
    return {**_too_few_epochs(d), "ended": "stopped", **({} if d.long else {"evaluations": d.one(2, 2, 3)})}


def _failed(d: Draws) -> Draw:
    return {**_stopped(d), "ended": "failed"}


def _few_examples(d: Draws) -> Draw:
    return {
        "valid": d.one(8, 10, 12, 15, 20), "evaluations": d.one(3, 4, 5, 6), "later": 0, "width": d.one(16, 32, 64),
        "train": d.size(60, 500), "decay": 0.0, "dataset": d.one(*EASY, "digits", "cancer", "friedman1", "linear"),
    }  # fmt: skip


def _separable(d: Draws) -> Draw:
    """Return a healthy run with a large ratio of losses: it soon fits the training examples almost
    perfectly.
    """
    return {
        "dataset": d.one("digits", "digits", "cancer", "wine", "blobs"), "data": {}, "schedule": "cosine", "decay": 0.0,
        "optimizer": "adam", "rate": d.log(5e-3, 1e-2), "width": d.one(16, 32, 64), "batch": 32,
    }  # fmt: skip


def _mildly_too_many_epochs(d: Draws) -> Draw:
    return {
        **_too_many_epochs(d), "train": d.size(200, 700), "batch": d.one(8, 16), "width": d.one(32, 64),
        "data": {"noise": d.one(0.2, 0.3)},
    }  # fmt: skip


def _few_examples_turning(d: Draws) -> Draw:
    return {
        **_too_many_epochs(d), "train": d.size(80, 400), "valid": d.one(8, 10, 12, 15, 20),
        "passes": d.one(2.0, 3.0, 5.0), "evaluations": d.one(3, 4, 5, 6),
    }  # fmt: skip


def _yet_clear(change: Callable[[Draws], Draw]) -> Callable[[Draws], Draw]:
    """Return the same changes with as few validation examples as undecidable runs have.

    A small number alone decides nothing.
    """
    return lambda d: {**change(d), "valid": d.one(8, 10, 12, 15, 20)}


PLANS: tuple[tuple[str, str, Callable[[Draws], Draw], int, int], ...] = (
    # cause, detail, changes, candidates of short and of long curves
    ("healthy", "plateau", _plateau, 34, 28),
    ("healthy", "late drop of the rate", _late_drop, 20, 20),
    ("healthy", "bump at the beginning", _bump, 40, 36),
    ("healthy", "double descent", _double_descent, 44, 40),
    ("healthy", "noisy but flat", _noisy, 0, 30),
    ("healthy", "few validation examples", _within_noise_healthy, 32, 20),
    ("healthy", "constant gap", _constant_gap, 24, 24),
    ("underfit", "rate far too small", _rate_too_small, 24, 24),
    ("underfit", "too few epochs", _too_few_epochs, 36, 30),
    ("underfit", "cannot learn", _cannot_learn, 16, 16),
    ("underfit", "random labels, not memorised", _random_not_memorised, 14, 14),
    ("overfit", "too many epochs on few examples", _too_many_epochs, 40, 40),
    ("overfit", "random labels memorised", _memorised, 16, 16),
    ("overfit", "over-sized model", _oversized, 20, 18),
    ("overfit", "stopped after it turned", _stopped_when_turned, 8, 8),
    ("diverged", "rate far too large", _blow_up, 36, 30),
    ("diverged", "blown up on the way", _late_blow_up, 24, 24),
    ("unsettled", "no validation", _no_validation, 6, 6),
    ("unsettled", "one evaluation", _one_evaluation, 12, 0),
    ("unsettled", "stopped while going", _stopped, 24, 16),
    ("unsettled", "failed while going", _failed, 8, 6),
    ("unsettled", "within the noise of few examples", _few_examples, 80, 0),
    ("healthy", "nothing left to learn", _separable, 24, 24),
    ("overfit", "somewhat too many epochs", _mildly_too_many_epochs, 24, 24),
    ("unsettled", "few examples, about to turn", _few_examples_turning, 70, 0),
    ("healthy", "few examples, yet clear", _yet_clear(_separable), 24, 6),
    ("underfit", "few examples, yet clear", _yet_clear(_too_few_epochs), 16, 6),
    ("overfit", "few examples, yet clear", _yet_clear(_memorised), 24, 8),
    ("diverged", "few examples, yet clear", _yet_clear(_blow_up), 10, 4),
)
"""The numbers are those of torch; scikit-learn gets three quarters of them.

Append new cases at the end, so that the existing runs stay the same.
"""


SHARE = 0.7
"""The share of the candidates from which the committed curves come."""


def recipes(share: float = SHARE, generation: int = 1) -> Iterator[Recipe]:
    """Yield all runs of the small models, or an even share of them, in a fixed order.

    Each generation has the same cases with its own settings, data and seeds. Ids never repeat.
    """
    number, offset = 0, GENERATION_OFFSET * (generation - 1)
    for cause, detail, change, short, long in PLANS:
        for is_long, count in ((False, short), (True, long)):
            for family in ("torch", "sklearn"):
                for nth in range(count if family == "torch" else round(0.75 * count)):
                    number += 1
                    if int(number * share) == int((number - 1) * share):
                        continue
                    draws = Draws(family, detail, offset + nth, is_long)
                    make = _torch if family == "torch" else _sklearn
                    if (recipe := make(offset + number, cause, detail, draws, change(draws))) is not None:
                        yield recipe


def _sizes(d: Draws, draw: Draw) -> tuple[int, int]:
    limit = SMALL_SETS.get(draw["dataset"])
    train, valid = draw["train"], draw["valid"]
    if limit is not None:
        train, valid = min(train, limit), min(valid, {"wine": 50}.get(draw["dataset"], 100))
    return train, valid


def _torch(number: int, cause: str, detail: str, d: Draws, change: Draw) -> Recipe:
    draw: Draw = {**_plain(d), **change}
    evaluations = draw.get("evaluations", d.evaluations())
    text = draw["net"] == "mlp" and draw["depth"] != 2 if "depth" in draw else draw["net"] == "mlp"
    if text and "dataset" not in change and d.rng.random() < 0.2:
        draw |= {"dataset": "nli-words", "net": d.one("bag", "bag", "gru") if not d.long else "bag", "width": 16}
        draw["valid"] = min(draw["valid"], 300)
    elif draw["dataset"] == "digits" and draw["net"] == "mlp" and d.rng.random() < 0.5:
        draw |= {"net": "cnn", "width": max(4, draw["width"] // 4)}
    train, valid = _sizes(d, draw)
    names = ("net", "width", "optimizer", "batch", "decay", "schedule", "strength", "passes", "later_rate", "depth")
    later = draw.get("later", max(evaluations // 2 if d.long else evaluations, 3))
    steps = draw["passes"] * train / draw["batch"] * (evaluations + later)
    draw["passes"] *= min(1.0, (TORCH_STEPS if draw["schedule"] in {"constant", "cosine"} else 2 * TORCH_STEPS) / steps)
    settings = TorchSettings(
        rate=draw["rate"] * draw.get("rate_times", 1.0), **{name: draw[name] for name in names if name in draw}
    )
    return Recipe(
        number, "torch", draw["dataset"], cause, detail, settings, evaluations, later, train, valid, draw["data"],
        draw.get("ended", "complete"), seed=number,
    )  # fmt: skip


_TORCH_ONLY = {"late drop of the rate", "bump at the beginning", "double descent", "blown up on the way"}


def _sklearn(number: int, cause: str, detail: str, d: Draws, change: Draw) -> Recipe | None:
    if detail in _TORCH_ONLY:
        return None
    draw: Draw = {**_plain(d), **change}
    models = {
        "cannot learn": ("sgd",), "rate far too small": ("mlp", "sgd", "boosting"), "random labels memorised": ("mlp",),
        "rate far too large": ("mlp", "sgd", "boosting", "boosting"), "random labels, not memorised": ("sgd", "mlp"),
        "too few epochs": ("mlp", "boosting"), "nothing left to learn": ("mlp",),
        "somewhat too many epochs": ("mlp", "boosting"), "over-sized model": ("mlp", "boosting"),
    }  # fmt: skip
    model = d.one(*models.get(detail, ("mlp", "sgd", "boosting")))
    if cause == "overfit" and model == "sgd":
        draw |= {"dataset": d.one("sparse", "digits", "nli-words")}
    elif detail == "cannot learn":
        draw |= {"dataset": "circles"}
    if draw["dataset"] in {"linear", "friedman2", "diabetes"} and model == "mlp":
        draw["dataset"] = "friedman1"
    evaluations = draw.get("evaluations", d.evaluations())
    later = draw.get("later", max(evaluations // 2 if d.long else evaluations, 3))
    if model == "boosting":
        rate = 0.1 * draw.get("rate_times", 1.0)
        rate = d.log(2.2, 30.0) if cause == "diverged" else rate
        rate = 3 * rate if cause == "overfit" or (d.long and cause == "healthy") else rate
        trees = (1 if d.long else d.one(5, 10, 20)) * (3 if cause == "overfit" else 1)
        later = min(later * 10, 100 // trees) if detail == "rate far too small" else later
        width = d.one(3, 4) if cause == "overfit" else d.one(1, 2)
        passes = max(1, min(trees, TREES // (evaluations + later)))
        settings = SklearnSettings("boosting", width, rate, passes=passes, subsample=d.one(1.0, 0.7))
        draw["train"] = min(draw["train"], 800)
    else:
        rate = {"mlp": 3e-3, "sgd": 1e-3}[model] * draw.get("rate_times", 1.0) * d.log(0.6, 1.7)
        rate = d.log(1.0, 1e4) if cause == "diverged" else rate
        passes = max(1, round(draw["passes"]))
        fits = draw["train"] * passes * (evaluations + later) / SKLEARN_STEPS
        settings = SklearnSettings(
            model, draw["width"], rate, decay=1e-6 if cause == "overfit" else 1e-3,
            batch=max(draw["batch"], min(200, round(fits))), passes=passes, later_rate=draw.get("later_rate", 1.0),
        )  # fmt: skip
    train, valid = _sizes(d, draw)
    return Recipe(
        number, "sklearn", draw["dataset"], cause, detail, settings, evaluations, later, train, valid, draw["data"],
        draw.get("ended", "complete"), seed=number,
    )  # fmt: skip
