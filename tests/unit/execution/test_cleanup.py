"""What may go after a sweep and what stays, decided from the record, and what the local trainer has left on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.cleanup import Leftover
from backends.contract import BackendError, DataFile, Dataset, Failure, FailureKind, TrainingRequest
from backends.local import cleanup as local
from backends.local.journal import Journal
from sweeps.errors import SweepError
from sweeps.execution.cleanup import CleanUp, Versions, decide
from sweeps.spec.objective import Objective
from sweeps.study.state import SweepState
from sweeps.trials.trial import Trial, TrialState

pytestmark = pytest.mark.unit

NO_VERSIONS = Versions({}, {})


def trial(number: int, value: float | None, **changes: Any) -> Trial:
    made = Trial(
        number=number,
        key=f"k{number}",
        base_model="base",
        hyperparameters={},
        seed=1,
        state=TrialState.COMPLETE if value is not None else TrialState.RUNNING,
        values=None if value is None else (value,),
        model=None if value is None else f"m{number}",
    )
    return replace(made, **changes)


def sweep(*trials: Trial, repeats: tuple[Trial, ...] = (), finals: bool = False) -> SweepState:
    plan = {"search": {"trials": len(trials)}, "finals": {"candidates": 2, "seeds": 2} if finals else None}
    return SweepState("pairs", plan, Objective("valid_accuracy", "maximize"), trials, repeats)


def left(*numbers: int) -> list[Leftover]:
    """What trials leave at a host: their model, a checkpoint's, a deployment of the model, a result file."""
    every = []
    for n in numbers:
        every += [
            Leftover("deployment", f"m{n}", f"k{n}", f"m{n}"),
            Leftover("model", f"m{n}", f"k{n}", f"m{n}"),
            Leftover("model", f"m{n}:1", f"k{n}", f"m{n}:1"),
            Leftover("result file", f"r{n}", f"k{n}", None, 10),
        ]
    return [*every, Leftover("data file", "file-1", None, None, 100)]


def kept(found: list[Leftover], state: SweepState, versions: Versions = NO_VERSIONS, **how: Any) -> dict[str, str]:
    items = decide(found, state, versions, everything=how.get("everything", False))
    return {f"{each.leftover.kind} {each.leftover.name}": each.kept for each in items if each.kept}


def test_the_best_model_stays_and_nothing_else_of_a_sweep_that_is_over() -> None:
    assert kept(left(0, 1), sweep(trial(0, 0.6), trial(1, 0.8))) == {"model m1": "the best model of the sweep"}
    assert kept(left(0, 1), sweep(trial(0, 0.6), trial(1, 0.8)), everything=True) == {}


def test_a_champion_stays_with_its_deployment_whatever_is_asked() -> None:
    versions = Versions({"k0": "the champion, version 3 of pairs"}, {})
    state = sweep(trial(0, 0.6), trial(1, 0.8))
    always = dict.fromkeys(("model m0", "deployment m0"), "the champion, version 3 of pairs")
    assert kept(left(0, 1), state, versions, everything=True) == always
    assert kept(left(0, 1), state, versions) == always | {"model m1": "the best model of the sweep"}


def test_a_champion_stays_that_the_record_does_not_know() -> None:
    versions = Versions({"k7": "the champion"}, {})
    assert kept(left(0, 7), sweep(trial(0, 0.6)), versions, everything=True) == dict.fromkeys(
        ("deployment m7", "model m7", "model m7:1"), "the champion"
    )


def test_a_champion_stays_whose_model_another_trial_has_made() -> None:
    """As with `epoch_ladder`: trial 1 is the first epoch of trial 0."""
    versions = Versions({"k1": "the champion"}, {})
    found = kept(left(0), sweep(trial(0, 0.8), trial(1, 0.7, model="m0:1")), versions, everything=True)
    assert found == {"model m0:1": "the champion"}


def test_a_champion_before_stays_unless_everything_is_to_go() -> None:
    versions = Versions({}, {"k0": "a champion before"})
    state = sweep(trial(0, 0.6), trial(1, 0.8))
    assert kept(left(0, 1), state, versions)["model m0"] == "a champion before"
    assert kept(left(0, 1), state, versions, everything=True) == {}


def test_what_goes_on_keeps_what_it_needs() -> None:
    found = [Leftover("job", "j1", "k1"), *left(0, 1)]
    state = sweep(trial(0, 0.6), trial(1, None))
    goes_on = "trial 1 goes on with the next `sweep run`"
    names = ("job j1", "deployment m1", "model m1", "model m1:1", "result file r1", "data file file-1")
    assert kept(found, state) == dict.fromkeys(names, goes_on) | {"model m0": "the best model of the sweep"}
    assert kept(found, state, everything=True) == {}
    assert "data file file-1" not in kept(left(0), state), "nothing is left of it that would need the file"


def test_finals_that_are_not_decided_keep_their_models() -> None:
    repeats = (trial(2, 0.7, repeat_of=0), trial(3, 0.9, repeat_of=0))
    found = kept(left(0, 2, 3), sweep(trial(0, 0.8), repeats=repeats, finals=True))
    assert set(found) == {"model m0", "model m2", "model m3"}


def test_what_others_need_stays() -> None:
    found = [replace(each, needed="sweep b uses it") if each.kind == "data file" else each for each in left(0)]
    assert kept(found, sweep(trial(0, 0.6)), everything=True) == {"data file file-1": "sweep b uses it"}


class Place:
    """A place that breaks down after so many removals."""

    def __init__(self, *refused: str, breaks_after: int = 99) -> None:
        self.refused, self.breaks_after = refused, breaks_after
        self.asked: list[str] = []

    def leftovers(self, others: object) -> list[Leftover]:
        return left(0)

    def remove(self, leftover: Leftover) -> str:
        if len(self.asked) == self.breaks_after:
            raise BackendError(Failure(FailureKind.TRANSIENT, "the host cannot be reached"))
        self.asked.append(leftover.name)
        return leftover.needed or ("the host says no" if leftover.name in self.refused else "")


def test_removing_says_what_the_place_refuses_and_lets_go_of_what_others_need() -> None:
    place, state = Place("m0:1"), sweep(trial(0, 0.6))
    found = [replace(each, needed="sweep b uses it") if each.kind == "data file" else each for each in left(0)]
    cleaning = CleanUp(place, "hosted", decide(found, state, NO_VERSIONS, everything=False))
    assert [(each.leftover.name, each.kept) for each in cleaning.remove(print)] == [("m0:1", "the host says no")]
    assert place.asked == ["m0", "m0:1", "r0", "file-1"]
    assert [each.leftover.kind for each in cleaning.going] == ["deployment", "result file"]


def test_removing_that_breaks_off_says_how_far_it_came() -> None:
    cleaning = CleanUp(Place(breaks_after=2), "hosted", decide(left(0), sweep(), NO_VERSIONS, everything=False))
    with pytest.raises(SweepError, match="2 of 5 removed, then: the host cannot be reached") as raised:
        cleaning.remove(print)
    assert "run the same command again" in raised.value.hint


# ------------------------------------------------------------------------------------------------------ local remnants
def run(workspace: Path, key: str, base_model: str = "builtin:tiny-lm") -> Journal:
    file = DataFile("/data/train.jsonl", 3, "ab")
    journal = Journal(workspace / "jobs", key)
    journal.create(TrainingRequest(key, base_model, Dataset(file, file, "completion"), {"n_epochs": 1}, seed=1))
    return journal


def with_model(workspace: Path, key: str, **how: Any) -> Journal:
    journal = run(workspace, key, **how)
    journal.model_directory.mkdir()
    (journal.model_directory / "model.safetensors").write_bytes(b"x" * 1000)
    return journal


def test_the_local_trainer_lists_and_deletes_models_and_checkpoints(tmp_path: Path) -> None:
    journal = with_model(tmp_path, "a")
    journal.checkpoint_path.write_bytes(b"x" * 10)
    run(tmp_path, "b")
    (tmp_path / "jobs" / "somebody-elses").mkdir()
    (tmp_path / "jobs" / "somebody-elses" / "resume.pt").write_bytes(b"x")
    found = local.leftovers(tmp_path, ())
    assert [(each.kind, each.key, each.size_bytes) for each in found] == [("model", "a", 1000), ("checkpoint", "a", 10)]
    assert found[0].model == journal.kept_model
    for each in (*found, *found):
        assert local.remove(tmp_path, each) == "", "what is gone is no error"
    assert local.leftovers(tmp_path, ()) == []
    assert journal.exists, "the record of the run stays"
    assert (tmp_path / "jobs" / "somebody-elses" / "resume.pt").exists()


def test_a_model_that_another_sweep_trained_from_stays(tmp_path: Path) -> None:
    model = with_model(tmp_path / "one", "a").kept_model
    assert model is not None
    run(tmp_path / "two", "b", base_model=model)
    (found,) = local.leftovers(tmp_path / "one", [tmp_path / "two", tmp_path / "without-runs"])
    assert found.needed == "sweep two has trained from it"


def test_nothing_outside_the_sweeps_folder_is_deleted(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    assert local.remove(tmp_path / "sweep", Leftover("model", str(outside), "a"))
    assert outside.exists()
