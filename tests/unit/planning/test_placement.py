"""How many trials train at the same time, and what each of them gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plans_by_hand import plan, spec

from backends.contract import Placement
from sweeps.errors import SweepError
from sweeps.planning.placement import DEFAULT_SERVICE_CONCURRENCY, place, with_gpus
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.sweep_spec import SweepSpec

pytestmark = pytest.mark.unit


def trainer(*overrides: str) -> SweepSpec:
    """Return a spec whose backend trains in our own processes."""
    loaded = spec(*overrides)
    return replace(loaded, capabilities=replace(loaded.capabilities, in_process=True))


def service(*overrides: str, max_concurrent: int | None = None) -> SweepSpec:
    """Return a spec whose backend is a service."""
    loaded = spec(*overrides)
    capabilities = replace(loaded.capabilities, in_process=False, max_concurrent=max_concurrent)
    return replace(loaded, capabilities=capabilities)


@pytest.mark.parametrize(
    ("overrides", "cpus", "concurrency", "cpus_per_trial"),
    [
        ((), 8, 8, 1.0),
        ((), 1, 1, 1.0),
        (("search.concurrency=3",), 8, 3, 2.0),
        (("search.concurrency=3",), 2, 3, 1.0),
        (("resources.cpus_per_trial=3",), 8, 2, 3.0),
        (("resources.cpus_per_trial=0.5",), 8, 16, 0.5),
        (("resources.cpus_per_trial=9",), 8, 1, 9.0),
        (("search.concurrency=2", "resources.cpus_per_trial=1"), 8, 2, 1.0),
    ],
)
def test_trials_in_our_processes_share_the_cpus(
    overrides: tuple[str, ...], cpus: int, concurrency: int, cpus_per_trial: float
) -> None:
    assert place(trainer(*overrides), cpus) == (concurrency, Placement(cpus_per_trial, 0.0))


@pytest.mark.parametrize(
    ("overrides", "max_concurrent", "concurrency"),
    [
        (("search.trials=50",), None, DEFAULT_SERVICE_CONCURRENCY),
        (("search.trials=2",), None, 2),
        (("search.trials=50",), 7, 7),
        (("search.concurrency=3",), 7, 3),
        (("search.concurrency=9",), 7, 7),
        (("search.concurrency=9",), None, 9),
    ],
)
def test_a_service_takes_as_many_trials_as_it_and_the_file_allow_whatever_this_machine_has(
    overrides: tuple[str, ...], max_concurrent: int | None, concurrency: int
) -> None:
    for cpus in (1, 64):
        assert place(service(*overrides, max_concurrent=max_concurrent), cpus) == (concurrency, Placement(0.0, 0.0))


def placed(loaded: SweepSpec) -> SweepPlan:
    concurrency, placement = place(loaded, 4)
    return replace(plan(), spec=loaded, concurrency=concurrency, placement=placement)


def test_each_trial_gets_a_gpu_where_there_are_any() -> None:
    with_two = with_gpus(placed(trainer()), 2.0)
    assert (with_two.concurrency, with_two.placement.gpus) == (2, 1.0)
    asked = with_gpus(placed(trainer("search.concurrency=1")), 2.0)
    assert (asked.concurrency, asked.placement.gpus) == (1, 1.0)


def test_gpus_change_nothing_for_a_service_or_where_there_are_none_or_where_the_file_decides() -> None:
    for loaded, gpus in (
        (service(), 2.0),
        (trainer(), 0.0),
        (trainer("resources.gpus_per_trial=0"), 2.0),
        (trainer("resources.gpus_per_trial=0.5"), 2.0),
    ):
        before = placed(loaded)
        assert with_gpus(before, gpus) == before


def test_more_gpus_than_there_are_is_an_error_with_a_remedy() -> None:
    with pytest.raises(SweepError, match="needs 2 GPU, but Ray sees 1") as caught:
        with_gpus(placed(trainer("resources.gpus_per_trial=2")), 1.0)
    assert "--address" in caught.value.hint
