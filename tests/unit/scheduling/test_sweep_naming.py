"""Names of a night's sweep: it continues in its own folder and avoids those of other sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.execution.environment import Environment, open_study
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling.sweep_naming import folder_has_other_sweep, free_name, renamed
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small}
space: {n_epochs: [2, 3]}
search: {trials: 2}
objective: {maximize: valid_accuracy}
"""
EVENING = 1_800_050_000
"""2027-01-15 21:53 UTC: already the 16th in Kolkata."""


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    return make_plan(from_document(parse(FILE, "f.yaml")), Workspace(tmp_path), estimate=False)


def occupy(workspace: Workspace, name: str, fingerprint: str) -> None:
    workspace.sweep_folder(name).mkdir(parents=True, exist_ok=True)
    (workspace.sweep_folder(name) / "plan.json").write_text(f'{{"fingerprint": "{fingerprint}"}}')


def test_a_folder_belongs_to_the_sweep_whose_plan_or_study_it_holds(tmp_path: Path, plan: SweepPlan) -> None:
    workspace = Workspace(tmp_path)
    assert not folder_has_other_sweep(workspace, "none", "f")
    occupy(workspace, "pairs", "f")
    assert not folder_has_other_sweep(workspace, "pairs", "f")
    assert folder_has_other_sweep(workspace, "pairs", "g")
    begun = renamed(plan, "begun", workspace)
    open_study(begun, Environment(workspace, "unused"))
    assert not folder_has_other_sweep(workspace, "begun", plan.fingerprint), "its process died before it wrote the plan"
    assert folder_has_other_sweep(workspace, "begun", "g")
    workspace.study_file("begun").write_text("no journal\nat all\n")
    assert folder_has_other_sweep(workspace, "begun", plan.fingerprint), "an unreadable study may be any sweep"


def test_the_name_of_the_file_then_the_local_date_then_a_number(tmp_path: Path, plan: SweepPlan) -> None:
    workspace = Workspace(tmp_path)
    environment = Environment(workspace, "unused")

    def name() -> str:
        return free_name(plan, "Asia/Kolkata", EVENING, environment)

    assert name() == "pairs"
    occupy(workspace, "pairs", plan.fingerprint)
    assert name() == "pairs", "the same sweep continues"
    (workspace.sweep_folder("pairs") / "plan.json").write_text('{"fingerprint": "other"}')
    assert name() == "pairs-2027-01-16"
    occupy(workspace, "pairs-2027-01-16", "other")
    assert name() == "pairs-2027-01-16.2"


def test_a_renamed_plan_keeps_the_experiment_and_the_file_keeps_its_content(tmp_path: Path, plan: SweepPlan) -> None:
    workspace = Workspace(tmp_path)
    assert renamed(plan, "pairs", workspace) is plan
    changed = renamed(plan, "pairs-2027-01-16", workspace)
    assert changed.spec.name == "pairs-2027-01-16"
    assert changed.spec.tracking.experiment == "pairs"
    assert changed.folder == workspace.sweep_folder("pairs-2027-01-16")
    assert changed.fingerprint == plan.fingerprint
    assert changed.spec.document.value["name"] == "pairs-2027-01-16"
