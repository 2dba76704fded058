"""Which machines may train: one sentence with machine, cause and remedy for each that may not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeps.errors import SweepError
from sweeps.execution.machines import MachineNeeds, MachineReport, choose, refusal, require_machines

pytestmark = pytest.mark.unit

NEEDS = MachineNeeds("0.2.0", "abc", "/work/sweeps/pairs", None, trains=True, driver_node="head", cpus=2.0)
GOOD = MachineReport("n1", "gpu-1", "10.0.0.1", "0.2.0", "abc", sees_folder=True, cpus=4.0)


def test_a_machine_like_the_drivers_may_train() -> None:
    assert refusal(GOOD, NEEDS) is None
    assert choose([GOOD], NEEDS).usable == (GOOD,)


@pytest.mark.parametrize(
    ("report", "sentence", "hint"),
    [
        (replace(GOOD, version="0.1.9"), "has finesweep 0.1.9, but this sweep runs with 0.2.0", "finesweep==0.2.0"),
        (replace(GOOD, source="def"), "has other source files of finesweep 0.2.0", "same build or commit"),
        (replace(GOOD, version=None, source=""), "has no finesweep in the Python of its Ray", "pip install"),
        (replace(GOOD, sees_folder=False), "does not see the sweep's folder /work/sweeps/pairs", "--files s3://"),
        (
            replace(GOOD, problem="The local backend needs torch", hint="Run: pip"),
            "The local backend needs",
            "Run: pip",
        ),
        (
            MachineReport("n1", "gpu-1", "10.0.0.1", problem="did not answer within 60 s", hint="read", cpus=4),
            "did not answer",
            "read",
        ),
    ],
)
def test_a_refusal_names_machine_cause_and_remedy(report: MachineReport, sentence: str, hint: str) -> None:
    refused = refusal(report, NEEDS)
    assert refused is not None
    assert "machine gpu-1 (10.0.0.1)" in refused.sentence
    assert sentence in refused.sentence
    assert hint in refused.hint
    assert "\n" not in refused.sentence
    with pytest.raises(SweepError) as raised:
        require_machines(choose([report], NEEDS))
    assert raised.value.message == refused.sentence
    assert raised.value.hint == refused.hint


def test_another_version_is_left_out_if_other_machines_suffice() -> None:
    choice = choose([GOOD, replace(GOOD, node="n2", version="0.1.9")], NEEDS)
    require_machines(choice)
    assert [report.node for report in choice.usable] == ["n1"]
    assert [refused.report.node for refused in choice.refused] == ["n2"]


def test_a_missing_folder_ends_the_sweep_even_if_one_machine_sees_it() -> None:
    """Otherwise a cluster of many machines would silently train on one."""
    others = [replace(GOOD, node=f"n{number}", sees_folder=False) for number in (2, 3)]
    with pytest.raises(SweepError, match="and 1 more of its machines"):
        require_machines(choose([GOOD, *others], NEEDS))


def test_with_a_store_no_machine_needs_the_folder() -> None:
    report = replace(GOOD, sees_folder=False)
    assert choose([report], replace(NEEDS, files="s3://bucket")).usable == (report,)


def test_a_head_without_room_for_a_trial_is_neither_used_nor_refused() -> None:
    head = replace(GOOD, node="head", cpus=0.0, version="0.1.9")
    choice = choose([head, GOOD], NEEDS)
    assert [report.node for report in choice.usable] == ["n1"]
    assert choice.refused == ()
    with pytest.raises(SweepError, match="no machine of the cluster has the CPUs and GPUs"):
        require_machines(choose([head], NEEDS))


def test_gpus_count_in_fractions() -> None:
    needs = replace(NEEDS, gpus=0.5)
    assert choose([GOOD], needs).usable == ()
    assert choose([replace(GOOD, gpus=1.0)], needs).usable


def test_trials_of_a_service_stay_where_the_journal_is() -> None:
    needs = replace(NEEDS, trains=False)
    head = replace(GOOD, node="head", cpus=0.0)
    elsewhere = replace(GOOD, sees_folder=False)
    assert choose([head, elsewhere], needs).usable == (head,)
    shared = replace(elsewhere, sees_folder=True)
    assert choose([head, shared], needs).usable == (head, shared)
