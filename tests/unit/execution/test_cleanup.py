"""The clean-up of a sweep: which leftovers stay and why, and their removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.cleanup import ORPHANS, Leftover
from backends.contract import BackendError, DataFile, Dataset, Failure, FailureKind, TrainingRequest
from backends.local import cleanup as local_cleanup
from backends.local.journal import Journal
from sweeps.errors import SweepError
from sweeps.execution.cleanup import ChampionVersions, Cleanup, decide
from sweeps.spec.objective import Objective
from sweeps.study.state import SweepState
from sweeps.trials.trial import Trial, TrialState

pytestmark = pytest.mark.unit

NO_VERSIONS = ChampionVersions({}, {})


def trial(number: int, value: float | None, **changes: Any) -> Trial:
    """Return a complete trial with a model, or a running one if `value` is None."""
    original = Trial(
        number=number,
        key=f"k{number}",
        base_model="base",
        hyperparameters={},
        seed=1,
        state=TrialState.COMPLETE if value is not None else TrialState.RUNNING,
        values=None if value is None else (value,),
        model=None if value is None else f"m{number}",
    )
    return replace(original, **changes)


def sweep(*trials: Trial, repeats: tuple[Trial, ...] = (), finals: bool = False) -> SweepState:
    plan = {"search": {"trials": len(trials)}, "finals": {"candidates": 2, "seeds": 2} if finals else None}
    return SweepState("pairs", plan, Objective("valid_accuracy", "maximize"), trials, repeats)


def hosted_leftovers(*numbers: int) -> list[Leftover]:
    """Return what these trials leave at a host.

    A model, its deployment, the model of a checkpoint, and a result file.
    """
    leftovers = []
    for number in numbers:
        leftovers += [
            Leftover("deployment", f"m{number}", f"k{number}", f"m{number}"),
            Leftover("model", f"m{number}", f"k{number}", f"m{number}"),
            Leftover("model", f"m{number}:1", f"k{number}", f"m{number}:1"),
            Leftover("result file", f"r{number}", f"k{number}", None, 10),
        ]
    return [*leftovers, Leftover("data file", "file-1", None, None, 100)]


def kept(
    leftovers: list[Leftover], state: SweepState, versions: ChampionVersions = NO_VERSIONS, *, everything: bool = False
) -> dict[str, str]:
    """Return the leftovers that stay, each with its reason."""
    items = decide(leftovers, state, versions, everything=everything)
    return {f"{item.leftover.kind} {item.leftover.name}": item.kept_because for item in items if item.kept_because}


def test_only_the_best_model_of_a_complete_sweep_stays() -> None:
    state = sweep(trial(0, 0.6), trial(1, 0.8))
    assert kept(hosted_leftovers(0, 1), state) == {"model m1": "the best model of the sweep"}
    assert kept(hosted_leftovers(0, 1), state, everything=True) == {}


def test_a_champion_and_its_deployment_always_stay() -> None:
    versions = ChampionVersions({"k0": "the champion, version 3 of pairs"}, {})
    state = sweep(trial(0, 0.6), trial(1, 0.8))
    always = dict.fromkeys(("model m0", "deployment m0"), "the champion, version 3 of pairs")
    assert kept(hosted_leftovers(0, 1), state, versions, everything=True) == always
    assert kept(hosted_leftovers(0, 1), state, versions) == always | {"model m1": "the best model of the sweep"}


def test_a_champion_stays_even_if_the_study_does_not_know_its_trial() -> None:
    versions = ChampionVersions({"k7": "the champion"}, {})
    assert kept(hosted_leftovers(0, 7), sweep(trial(0, 0.6)), versions, everything=True) == dict.fromkeys(
        ("deployment m7", "model m7", "model m7:1"), "the champion"
    )


def test_a_champion_stays_if_the_run_of_another_trial_made_its_model() -> None:
    """As with `epoch_ladder`: trial 1 is the first epoch of trial 0."""
    versions = ChampionVersions({"k1": "the champion"}, {})
    state = sweep(trial(0, 0.8), trial(1, 0.7, model="m0:1"))
    assert kept(hosted_leftovers(0), state, versions, everything=True) == {"model m0:1": "the champion"}


def test_a_former_champion_stays_unless_everything_may_go() -> None:
    versions = ChampionVersions({}, {"k0": "a former champion"})
    state = sweep(trial(0, 0.6), trial(1, 0.8))
    assert kept(hosted_leftovers(0, 1), state, versions)["model m0"] == "a former champion"
    assert kept(hosted_leftovers(0, 1), state, versions, everything=True) == {}


def test_an_open_trial_keeps_everything_that_it_needs_to_resume() -> None:
    leftovers = [Leftover("job", "j1", "k1"), *hosted_leftovers(0, 1)]
    state = sweep(trial(0, 0.6), trial(1, None))
    resumes = "the next `sweep run` resumes trial 1"
    names = ("job j1", "deployment m1", "model m1", "model m1:1", "result file r1", "data file file-1")
    assert kept(leftovers, state) == dict.fromkeys(names, resumes) | {"model m0": "the best model of the sweep"}
    assert kept(leftovers, state, everything=True) == {}
    assert "data file file-1" not in kept(hosted_leftovers(0), state), "trial 1 left nothing that would need the file"


def test_orphaned_processes_go_even_if_their_trial_is_open() -> None:
    orphans = Leftover(ORPHANS, "programs/k0", "k0")
    items = decide(
        [orphans, Leftover("output", "programs/k0", "k0")], sweep(trial(0, None)), NO_VERSIONS, everything=False
    )
    assert [(item.trial, bool(item.kept_because)) for item in items] == [(0, False), (0, True)]


def test_undecided_finals_keep_the_models_that_they_will_compare() -> None:
    repeats = (trial(2, 0.7, repeat_of=0), trial(3, 0.9, repeat_of=0))
    reasons = kept(hosted_leftovers(0, 2, 3), sweep(trial(0, 0.8), repeats=repeats, finals=True))
    assert set(reasons) == {"model m0", "model m2", "model m3"}


def needed_by_sweep_b(leftovers: list[Leftover]) -> list[Leftover]:
    """Return the leftovers with the data file marked as needed by another sweep."""
    return [
        replace(leftover, needed="sweep b uses it") if leftover.kind == "data file" else leftover
        for leftover in leftovers
    ]


def test_a_leftover_that_another_sweep_needs_stays() -> None:
    leftovers = needed_by_sweep_b(hosted_leftovers(0))
    assert kept(leftovers, sweep(trial(0, 0.6)), everything=True) == {"data file file-1": "sweep b uses it"}


class FailingHost:
    """A host that refuses to remove some things, and is unreachable after a number of removals."""

    def __init__(self, *refused: str, fails_after: int = 99) -> None:
        self.refused, self.fails_after = refused, fails_after
        self.calls: list[str] = []

    def leftovers(self, others: Sequence[Path]) -> list[Leftover]:
        return hosted_leftovers(0)

    def remove(self, leftover: Leftover) -> str:
        if len(self.calls) == self.fails_after:
            raise BackendError(Failure(FailureKind.TRANSIENT, "the host cannot be reached"))
        self.calls.append(leftover.name)
        return leftover.needed or ("the host says no" if leftover.name in self.refused else "")


def test_removing_reports_refusals_and_gives_up_the_claim_on_things_that_others_need() -> None:
    host, state = FailingHost("m0:1"), sweep(trial(0, 0.6))
    items = decide(needed_by_sweep_b(hosted_leftovers(0)), state, NO_VERSIONS, everything=False)
    cleanup = Cleanup(host, "hosted", items)
    refused = cleanup.remove(print)
    assert [(item.leftover.name, item.kept_because) for item in refused] == [("m0:1", "the host says no")]
    assert host.calls == ["m0", "m0:1", "r0", "file-1"]
    assert [item.leftover.kind for item in cleanup.removable] == ["deployment", "result file"]


def test_an_interrupted_removal_says_how_far_it_came() -> None:
    items = decide(hosted_leftovers(0), sweep(), NO_VERSIONS, everything=False)
    cleanup = Cleanup(FailingHost(fails_after=2), "hosted", items)
    with pytest.raises(SweepError, match="removed 2 of 5, then failed: the host cannot be reached") as raised:
        cleanup.remove(print)
    assert "run the same command again" in raised.value.hint


# ------------------------------------------------------------------- leftovers of the local trainer
def create_run(workspace: Path, key: str, base_model: str = "builtin:tiny-lm") -> Journal:
    file = DataFile("/data/train.jsonl", 3, "ab")
    journal = Journal(workspace / "jobs", key)
    journal.create(TrainingRequest(key, base_model, Dataset(file, file, "completion"), {"n_epochs": 1}, seed=1))
    return journal


def create_run_with_model(workspace: Path, key: str) -> Journal:
    journal = create_run(workspace, key)
    journal.model_directory.mkdir()
    (journal.model_directory / "model.safetensors").write_bytes(b"x" * 1000)
    return journal


def test_the_local_trainer_lists_and_removes_models_and_checkpoints(tmp_path: Path) -> None:
    journal = create_run_with_model(tmp_path, "a")
    journal.checkpoint_path.write_bytes(b"x" * 10)
    create_run(tmp_path, "b")
    foreign_file = tmp_path / "jobs" / "not-a-run" / "resume.pt"
    foreign_file.parent.mkdir()
    foreign_file.write_bytes(b"x")
    leftovers = local_cleanup.leftovers(tmp_path, ())
    assert [(leftover.kind, leftover.key, leftover.size_bytes) for leftover in leftovers] == [
        ("model", "a", 1000),
        ("checkpoint", "a", 10),
    ]
    assert leftovers[0].model == journal.kept_model
    for leftover in (*leftovers, *leftovers):
        assert local_cleanup.remove(tmp_path, leftover) == "", "removing twice is no error"
    assert local_cleanup.leftovers(tmp_path, ()) == []
    assert journal.exists, "the record of the run stays"
    assert foreign_file.exists()


def test_a_model_that_another_sweep_trained_from_stays(tmp_path: Path) -> None:
    model = create_run_with_model(tmp_path / "one", "a").kept_model
    assert model is not None
    create_run(tmp_path / "two", "b", base_model=model)
    (leftover,) = local_cleanup.leftovers(tmp_path / "one", [tmp_path / "two", tmp_path / "without-runs"])
    assert leftover.needed == "sweep two has trained from it"


def test_no_file_outside_the_sweeps_folder_is_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    assert local_cleanup.remove(tmp_path / "sweep", Leftover("model", str(outside), "a"))
    assert outside.exists()
