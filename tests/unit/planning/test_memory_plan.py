"""The memory of trials in a plan: which points are asked about, and what the plan says."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from plans_by_hand import plan
from rich.console import Console

from backends.contract import Estimate
from backends.memory_forecast.forecast import MemoryForecast
from sweeps.cli import plan_view
from sweeps.planning.decisions import MAX_MEMORY_REQUESTS, BackendAnswers, complete_plan, probe_requests
from sweeps.planning.sweep_plan import SweepPlan

pytestmark = pytest.mark.unit

GIB = 2**30
ESTIMATE = Estimate(tokens=1000, seconds=60.0, usd=None, disk_bytes=10_000_000, basis="by hand")
LORA = (
    "space={method: [full, lora], lora_rank: {low: 4, high: 64, log: true}, n_epochs: 2, batch_size: 8, "
    "lora_target: [q_proj, 'k_proj,v_proj']}"
)


def local_plan(space: str = LORA) -> SweepPlan:
    return plan("backend={type: local, device: cpu}", space)


def forecast(gib: float, *, available: float | None = 16.0, is_measured: bool = True) -> MemoryForecast:
    return MemoryForecast(
        peak_bytes=int(gib * GIB),
        device="this machine",
        available_bytes=None if available is None else int(available * GIB),
        micro_batch_size=4,
        sequence_length=1024,
        parts={"weights": 3_000_000_000, "gradients": 0, "activations": 5_000_000_000},
        is_measured=is_measured,
    )


def answered(largest: MemoryForecast | None, space: str = LORA) -> SweepPlan:
    planned = local_plan(space)
    most = None if largest is None else (probe_requests(planned).memory[-1], largest)
    answers = BackendAnswers(central=ESTIMATE, longest=(ESTIMATE,), memory=forecast(8), most_memory=most)
    return complete_plan(planned, answers)


def shown(planned: SweepPlan) -> str:
    console = Console(width=250, file=io.StringIO())
    console.print(plan_view.plan(planned))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ---------------------------------------------------------------------------------------- questions
def test_the_extremes_of_what_drives_memory_are_combined() -> None:
    points = [dict(request.hyperparameters) for request in probe_requests(local_plan()).memory]
    lora = [(point["lora_rank"], point["lora_target"]) for point in points if point["method"] == "lora"]
    assert sorted(lora) == [(4, "k_proj,v_proj"), (4, "q_proj"), (64, "k_proj,v_proj"), (64, "q_proj")]
    # A point has no hyperparameter whose condition it does not meet, and no point is asked twice.
    full = [point for point in points if point["method"] == "full"]
    assert full == [{"n_epochs": 2, "batch_size": 8, "method": "full"}]


def test_a_space_that_drives_no_memory_is_one_point() -> None:
    (request,) = probe_requests(local_plan("space={n_epochs: {low: 1, high: 9}, batch_size: 8}")).memory
    assert "batch_size" in request.hyperparameters


def test_many_combinations_are_cut_off() -> None:
    targets = ", ".join(f"layer_{number}" for number in range(3 * MAX_MEMORY_REQUESTS))
    space = f"space={{method: lora, lora_target: [{targets}], n_epochs: 1}}"
    assert len(probe_requests(local_plan(space)).memory) == MAX_MEMORY_REQUESTS


def test_each_text_that_only_the_backend_can_judge_is_asked_about() -> None:
    planned = local_plan()
    centre = planned.space.seed_points[0]
    texts = {str(request.hyperparameters["lora_target"]) for request in probe_requests(planned).texts}
    assert texts | {str(centre.get("lora_target"))} >= {"q_proj", "k_proj,v_proj"}
    assert not probe_requests(plan()).texts  # the fake backend has no such hyperparameter


# ------------------------------------------------------------------------------------------ answers
def test_the_plan_shows_memory_and_disk_of_a_trial() -> None:
    planned = answered(forecast(12))
    text = shown(planned)
    assert "about 8.59 GB per trial at the centre of the space (activations 5 GB, weights 3 GB)" in text
    assert "up to 12.9 GB; micro-batches of 4, up to 1,024 tokens each; this machine has 17.2 GB" in text
    assert "about 10 MB per kept model" in text
    assert planned.to_json()["memory"] == {
        "bytes_per_trial": 8 * GIB,
        "bytes_per_trial_at_most": 12 * GIB,
        "device_bytes": 16 * GIB,
        "micro_batch_size": 4,
        "sequence_length": 1024,
        "parts": {"weights": 3_000_000_000, "gradients": 0, "activations": 5_000_000_000},
    }
    assert not [finding for finding in planned.findings if finding.code == "memory"]


def test_a_plan_without_a_forecast_says_nothing_about_memory() -> None:
    planned = complete_plan(local_plan(), BackendAnswers(central=ESTIMATE, longest=(ESTIMATE,)))
    assert "memory" not in shown(planned)
    assert planned.to_json()["memory"] is None


@pytest.mark.parametrize(
    ("largest", "words"),
    [
        (forecast(40), "such trials fail before they start"),
        (forecast(40, is_measured=False), "such trials will probably fail"),
    ],
)
def test_points_that_do_not_fit_are_a_finding_at_the_space(largest: MemoryForecast, words: str) -> None:
    (finding,) = [finding for finding in answered(largest).findings if finding.code == "memory"]
    assert finding.severity == "warning"
    assert finding.message.startswith("with method ")
    assert "a run needs about 40.0 GiB of memory, but this machine has 16.0 GiB" in finding.message
    assert words in finding.hint


def test_unknown_memory_is_no_finding() -> None:
    planned = answered(replace(forecast(40), available_bytes=None))
    assert not [finding for finding in planned.findings if finding.code == "memory"]
    assert "this machine has" not in shown(replace(planned, memory=forecast(8, available=None)))
