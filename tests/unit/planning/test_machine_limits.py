"""Resources that this machine lacks are problems before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sweep_files import GOOD

from sweeps import api
from sweeps.errors import UserInputError
from sweeps.planning.machine_limits import Machine, resource_problems, this_machine
from sweeps.planning.plan import plan_document
from sweeps.spec.sweep_file import ResourcesSpec
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

DOCUMENT = parse("resources:\n  cpus_per_trial: 1\n  gpus_per_trial: 1\n", "f.yaml")


def places(cpus: float | None, gpus: float | None, machine: Machine) -> list[str]:
    resources = ResourcesSpec(cpus_per_trial=cpus, gpus_per_trial=gpus)
    return [problem.place for problem in resource_problems(resources, machine, DOCUMENT)]


def test_what_the_machine_lacks_is_a_problem_at_its_line() -> None:
    assert places(64, None, Machine(2, 0)) == ["f.yaml:2"]
    assert places(64, 1, Machine(2, 0)) == ["f.yaml:2", "f.yaml:3"]
    assert places(None, 0.5, Machine(2, 0)) == ["f.yaml:3"]
    assert places(None, 4, Machine(2, 2)) == ["f.yaml:3"]


def test_what_the_machine_has_or_may_have_is_no_problem() -> None:
    assert places(None, None, Machine(2, 0)) == []
    assert places(2, 0, Machine(2, 0)) == []
    assert places(0.5, 2, Machine(2, 2)) == []
    assert places(1, 8, Machine(2, None)) == []


def test_gpus_are_counted_by_their_device_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "dev").mkdir()
    assert this_machine(tmp_path) == Machine(os.cpu_count() or 1, 0)
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    assert this_machine(tmp_path).gpus == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert this_machine(tmp_path).gpus == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert this_machine(tmp_path).gpus == 0
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "dev" / "kfd").touch()
    assert this_machine(tmp_path).gpus is None


def test_a_share_of_several_gpus_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="whole number"):
        ResourcesSpec(gpus_per_trial=1.5)
    assert ResourcesSpec(gpus_per_trial=2.0).gpus_per_trial == 2


def test_the_problem_comes_with_the_other_mistakes_and_not_for_a_cluster(tmp_path: Path) -> None:
    document = with_overrides(parse(GOOD, "f.yaml"), ["resources.cpus_per_trial=4096", "search.trials=0"])
    with pytest.raises(UserInputError) as caught:
        plan_document(document, Workspace(tmp_path), estimate=False, machine=Machine(2, 0))
    assert {problem.place for problem in caught.value.problems} == {
        "--set resources.cpus_per_trial",
        "--set search.trials",
    }
    value = with_overrides(parse(GOOD, "f.yaml"), ["resources.cpus_per_trial=4096"]).value
    with pytest.raises(UserInputError, match="this machine has"):
        api.plan(value, root=tmp_path, estimate=False)
    assert api.plan(value, root=tmp_path, estimate=False, ray_address="head:6379").placement.cpus == 4096
