"""The checkpoints of a program: which are complete, which is the best, and which can go."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.command.checkpoints import (
    Checkpoint,
    Checkpoints,
    best_evaluation,
    checkpoints_of,
    files_of,
    is_complete,
)
from backends.contract import EvaluationSettings, Measured

pytestmark = pytest.mark.unit

LOSS = EvaluationSettings(keep_metric="valid_loss")


def evaluation(step: int, loss: float, epoch: float | None = None) -> Measured:
    return Measured(step, step / 10 if epoch is None else epoch, {"valid_loss": loss}, "evaluation")


def safetensors(size: int, cut: int = 0) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    return (len(header).to_bytes(8, "little") + header + bytes(size))[: 8 + len(header) + size - cut]


def write_checkpoint(folder: Path, number: int, *, torn: bool = False) -> Path:
    path = folder / f"checkpoint-{number}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(safetensors(400, cut=8 if torn else 0))
    if not torn:
        (path / "trainer_state.json").write_text("{}")
    return path


def of(folder: Path, *evaluations: Measured, from_zero: bool = False) -> Checkpoints:
    return Checkpoints(checkpoints_of(str(folder / "checkpoint-*")), evaluations, LOSS, from_zero)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -------------------------------------------------------------------------------- completeness
def test_a_checkpoint_is_complete_once_its_files_end_where_their_formats_say(tmp_path: Path) -> None:
    whole, torn = write_checkpoint(tmp_path, 10), write_checkpoint(tmp_path, 20, torn=True)
    assert is_complete(whole)
    assert not is_complete(torn)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_no_part_of_a_file_counts_as_the_whole(tmp_path: Path, kept: float) -> None:
    archive = tmp_path / "checkpoint-1.pt"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("archive/data.pkl", b"x" * 500)
    contents = {".pt": archive.read_bytes(), ".safetensors": safetensors(400), ".json": b'{"step": 10, "epoch": 1.0}'}
    for suffix, content in contents.items():
        file = tmp_path / f"checkpoint-2{suffix}"
        file.write_bytes(content)
        assert is_complete(file), suffix
        file.write_bytes(content[: int(len(content) * kept)])
        assert not is_complete(file), suffix


def test_a_checkpoint_lacks_no_file_that_the_one_before_has(tmp_path: Path) -> None:
    first, second = write_checkpoint(tmp_path, 10), write_checkpoint(tmp_path, 20)
    (first / "global_step10").mkdir()
    (first / "global_step10" / "zero_pp_rank_0_optim_states.pt").write_bytes(b"old format")
    assert not is_complete(second, files_of(first))
    (second / "global_step20").mkdir()
    (second / "global_step20" / "zero_pp_rank_0_optim_states.pt").write_bytes(b"old format")
    assert is_complete(second, files_of(first))


def test_an_empty_folder_and_one_that_is_gone_are_not_complete(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    assert not is_complete(tmp_path / "checkpoint-5")
    assert not is_complete(tmp_path / "checkpoint-6")


# -------------------------------------------------------------------------------- the names
@pytest.mark.parametrize(
    ("name", "number", "label"),
    [
        ("checkpoint-500", 500, "checkpoint"),
        ("epoch=2-step=30.ckpt", 30, "step"),
        ("epoch_3", 3, "epoch"),
        ("model_epoch3.pt", 3, "epoch"),
        ("checkpoint-12.safetensors", 12, "checkpoint"),
        ("checkpoint-0.5-20", 20, ""),
    ],
)
def test_the_last_number_of_a_name_counts(tmp_path: Path, name: str, number: int, label: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / "best").touch()
    assert checkpoints_of(str(tmp_path / "*")) == [Checkpoint(tmp_path / name, number, label)]


def test_checkpoints_are_sorted_by_number_and_not_by_name(tmp_path: Path) -> None:
    for number in (90, 100, 9):
        write_checkpoint(tmp_path, number)
    assert [checkpoint.number for checkpoint in of(tmp_path).found] == [9, 90, 100]


def test_a_checkpoint_belongs_to_the_evaluation_of_its_step_or_its_epoch() -> None:
    evaluations = [evaluation(50, 1.0, epoch=1.0), evaluation(99, 0.5, epoch=2.0)]

    def step_of(number: int, label: str, *, from_zero: bool = False) -> int | None:
        found = Checkpoints((), evaluations, LOSS, from_zero).evaluation_of(Checkpoint(Path("x"), number, label))
        return None if found is None else found.step

    assert step_of(50, "checkpoint") == 50
    assert step_of(2, "checkpoint") == 99
    assert step_of(1, "epoch", from_zero=True) == 99
    assert step_of(100, "step") == 99  # as Lightning counts
    assert step_of(2, "step") is None
    assert step_of(50, "epoch") is None


# -------------------------------------------------------------------------------- the best
def test_the_best_checkpoint_is_that_of_the_best_evaluation(tmp_path: Path) -> None:
    for number in (10, 20, 30):
        write_checkpoint(tmp_path, number)
    best = of(tmp_path, evaluation(10, 0.9), evaluation(20, 0.3), evaluation(30, 0.4)).best
    assert best is not None
    assert best.number == 20


def test_a_torn_checkpoint_is_never_the_best(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 10)
    write_checkpoint(tmp_path, 20, torn=True)
    best = of(tmp_path, evaluation(10, 0.9), evaluation(20, 0.3)).best
    assert best is not None
    assert best.number == 10


def test_without_an_evaluation_the_newest_counts(tmp_path: Path) -> None:
    for number in (10, 20):
        write_checkpoint(tmp_path, number)
    best = of(tmp_path).best
    assert best is not None
    assert best.number == 20
    assert of(tmp_path / "nothing").best is None


@given(st.lists(st.one_of(st.floats(0, 5), st.just(float("nan"))), min_size=1, max_size=8), st.booleans())
def test_no_evaluation_is_better_than_the_best(losses: list[float], maximum: bool) -> None:
    evaluations = [evaluation(number + 1, loss) for number, loss in enumerate(losses)]
    best = best_evaluation(evaluations, EvaluationSettings(keep_metric="valid_loss", keep_maximum=maximum))
    finite = [loss for loss in losses if loss == loss]
    if not finite:
        assert best is None
        return
    assert best is not None
    wanted = max(finite) if maximum else min(finite)
    assert best.values["valid_loss"] == wanted
    assert best.step == losses.index(wanted) + 1


# -------------------------------------------------------------------------------- the others
def test_only_the_best_and_the_newest_stay_while_the_program_runs(tmp_path: Path) -> None:
    for number in (10, 20, 30, 40):
        write_checkpoint(tmp_path, number)
    found = of(tmp_path, *(evaluation(step, loss) for step, loss in ((10, 0.9), (20, 0.3), (30, 0.4), (40, 0.5))))
    found.delete_others(tmp_path, protected=(), has_ended=False)
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-40"]
    of(tmp_path, *found.evaluations).delete_others(tmp_path, protected=(), has_ended=True)
    assert names(tmp_path) == ["checkpoint-20"]


def test_what_may_still_be_needed_or_written_stays(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 10)
    protected = write_checkpoint(tmp_path, 20)
    write_checkpoint(tmp_path, 30, torn=True)
    write_checkpoint(tmp_path, 40)
    write_checkpoint(tmp_path, 50)
    measured = [evaluation(step, loss) for step, loss in ((10, 0.9), (20, 0.8), (30, 0.7), (50, 0.1))]
    of(tmp_path, *measured).delete_others(tmp_path, protected=(str(protected), None), has_ended=False)
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-30", "checkpoint-40", "checkpoint-50"]


def test_nothing_is_deleted_that_no_evaluation_explains(tmp_path: Path) -> None:
    for number in (10, 20):
        write_checkpoint(tmp_path, number)
    of(tmp_path).delete_others(tmp_path, protected=(), has_ended=True)
    of(tmp_path, evaluation(7, 0.5, epoch=0.7)).delete_others(tmp_path, protected=(), has_ended=True)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-20"]


def test_nothing_outside_the_folder_of_the_run_is_deleted(tmp_path: Path) -> None:
    elsewhere = write_checkpoint(tmp_path / "elsewhere", 1)
    run = tmp_path / "run"
    for number in (20, 30):
        write_checkpoint(run, number)
    (run / "checkpoint-10").symlink_to(elsewhere)
    found = of(run, *(evaluation(step, 1 / step) for step in (10, 20, 30)))
    found.delete_others(run, protected=(), has_ended=True)
    assert names(run) == ["checkpoint-30"]
    assert (elsewhere / "model.safetensors").exists()
    outside = of(run, evaluation(30, 0.1))
    outside.delete_others(tmp_path / "other", protected=(), has_ended=True)
    assert names(run) == ["checkpoint-30"]
