"""Logs become events, over several attempts and several processes, without a gap or a repetition.

No program runs: the files of the run are written as program and supervisor would write them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.command.follower import Follower
from backends.command.options import CommandOptions
from backends.command.program import Program
from backends.command.run_folder import ProgramEnd, RunFolder
from backends.contract import (
    Checkpointed,
    DataFile,
    Dataset,
    EvaluationSettings,
    Failed,
    FailureKind,
    Finished,
    Measured,
    Queued,
    Started,
    Stopped,
    TrainingRequest,
)

pytestmark = pytest.mark.unit

NOTHING = DataFile("", 0, "")
STEPS = 10


class FakeProgram:
    """Writes the files of a run whose program prints JSON lines and writes checkpoints."""

    def __init__(self, folder: Path, *, has_steps: bool = True, **options: Any) -> None:
        request = TrainingRequest(
            "key", "", Dataset(NOTHING, NOTHING, "completion"), {}, 0, EvaluationSettings(keep_metric="valid_loss")
        )
        written = {"run": "train {output}", "metrics": ["jsonl"], "checkpoints": "{output}/checkpoint-*", **options}
        self.program = Program.of(CommandOptions.model_validate(written))
        self.run = RunFolder(folder, "key")
        self.run.create(request)
        self.has_steps = has_steps
        self.metrics = self.run.log if written["metrics"] == ["output"] else self.run.path / "metrics.jsonl"

    def follower(self) -> Follower:
        return Follower(RunFolder(self.run.path.parent, "key"), self.program)

    @contextlib.contextmanager
    def supervised(self) -> Iterator[None]:
        """Let the program run during the block."""
        (self.run.path / "started.json").write_text('{"pid": 1}')
        with (self.run.path / "lock").open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def write(self, rows: Sequence[Mapping[str, Any]], *, mode: str = "a") -> None:
        with self.metrics.open(mode) as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)

    def rows(self, first: int, last: int, *, loss: float = 1.0) -> list[dict[str, Any]]:
        """Return a loop report and an evaluation of each epoch after `first` up to `last`."""
        rows: list[dict[str, Any]] = []
        for epoch in range(first + 1, last + 1):
            loop = {"loss": loss, "step": epoch * STEPS - 5}
            evaluation = {"eval_loss": loss / epoch, "step": epoch * STEPS, "epoch": float(epoch)}
            rows += [loop, evaluation]
        if not self.has_steps:
            rows = [{"eval_loss": row["eval_loss"]} for row in rows if "eval_loss" in row]
        return rows

    def save(self, epoch: int) -> None:
        folder = self.run.output / f"checkpoint-{epoch * STEPS if self.has_steps else epoch}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state.json").write_text("{}")

    def end(self, code: int | None = 0, cause: str = "ended") -> None:
        self.run.write_end(ProgramEnd(code, cause))


def measured(run: RunFolder, scope: str = "evaluation") -> list[Measured]:
    return [event for event in run.events() if isinstance(event, Measured) and event.scope == scope]


def epochs(run: RunFolder) -> list[float]:
    return [event.epoch for event in measured(run)]


def ended(program: FakeProgram, follower: Follower | None = None) -> RunFolder:
    assert (follower or program.follower()).advance() is None
    assert program.run.ended
    return program.run


# -------------------------------------------------------------------------------- one attempt
def test_the_events_of_a_run_come_in_order(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    follower = program.follower()
    assert follower.advance() is None
    assert program.run.events() == [Queued()]
    with program.supervised():
        follower.advance()
        program.write(program.rows(0, 1))
        follower.advance()
        program.write(program.rows(1, 2))
        follower.advance()
    program.save(2)
    program.end()
    run = ended(program, follower)
    kinds = [event.kind for event in run.events()]
    assert kinds == ["queued", "started", *["measured"] * 4, "finished"]
    assert run.events()[-1] == Finished(str(run.output / "checkpoint-20"))
    follower.advance()
    assert [event.kind for event in run.events()] == kinds


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.integers(1, 5), min_size=1, max_size=6), processes=st.lists(st.booleans(), max_size=8))
def test_any_pieces_read_by_any_processes_give_the_same_evaluations(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[int], processes: list[bool]
) -> None:
    """A follower that takes over reads the log from its beginning."""
    program = FakeProgram(tmp_path_factory.mktemp("run"))
    rows, follower = program.rows(0, 5), program.follower()
    with program.supervised():
        for number, size in enumerate(pieces):
            program.write(rows[:size])
            rows = rows[size:]
            if number < len(processes) and processes[number]:
                follower = program.follower()
            follower.advance()
        program.write(rows)
    program.end()
    run = ended(program, follower)
    assert epochs(run) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [event.step for event in measured(run, "step")] == [5, 15, 25, 35, 45]


def test_a_log_that_is_written_again_gives_nothing_twice(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    follower = program.follower()
    with program.supervised():
        program.write(program.rows(0, 2))
        follower.advance()
        program.write(program.rows(0, 1), mode="w")
        follower.advance()
        program.write(program.rows(0, 3), mode="w")
        follower.advance()
    program.end()
    assert epochs(ended(program, follower)) == [1.0, 2.0, 3.0]


def test_two_followers_in_turn_store_each_event_once(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    followers = [program.follower(), program.follower()]
    with program.supervised():
        for epoch in range(6):
            program.write(program.rows(epoch, epoch + 1))
            followers[epoch % 2].advance()
    program.end()
    run = ended(program, followers[0])
    assert epochs(run) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert len(measured(run, "step")) == 6


# -------------------------------------------------------------------------------- later attempts
@pytest.mark.parametrize("has_steps", [True, False], ids=["steps", "no steps"])
@pytest.mark.parametrize("keeps_log", [True, False], ids=["appends", "begins the log again"])
@pytest.mark.parametrize("same_process", [True, False], ids=["same process", "new process"])
def test_a_run_that_continues_has_no_gap(tmp_path: Path, has_steps: bool, keeps_log: bool, same_process: bool) -> None:
    program = FakeProgram(tmp_path, has_steps=has_steps, resume="--resume {checkpoint}")
    follower = program.follower()
    with program.supervised():
        program.write(program.rows(0, 3))
        for epoch in (1, 2):
            program.save(epoch)
        follower.advance()
    program.end(-9, "abandoned")
    before = list(program.run.events())
    end = follower.advance()
    assert end is not None
    assert end.cause == "abandoned"
    assert follower.begin_attempt(only_from_checkpoint=True)
    checkpoint = program.run.attempt.checkpoint
    assert checkpoint is not None
    assert Path(checkpoint).name == f"checkpoint-{20 if has_steps else 2}"
    if not same_process:
        follower = program.follower()
    with program.supervised():
        program.write(program.rows(2, 4), mode="a" if keeps_log else "w")
        follower.advance()
        program.write(program.rows(4, 5))
        follower.advance()
    program.end()
    run = ended(program, follower)
    assert run.events()[: len(before)] == before
    assert epochs(run) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [type(event) for event in run.events()].count(Started) == 1


@pytest.mark.parametrize("has_steps", [True, False], ids=["steps", "no steps"])
@pytest.mark.parametrize("log", ["jsonl", "output"])
def test_a_run_that_begins_from_scratch_has_no_gap(tmp_path: Path, has_steps: bool, log: str) -> None:
    program = FakeProgram(tmp_path, has_steps=has_steps, metrics=[log])
    follower = program.follower()
    with program.supervised():
        program.write(program.rows(0, 3))
        follower.advance()
    program.end(-9, "lost")
    assert follower.advance() is not None
    assert not follower.begin_attempt(only_from_checkpoint=True)
    assert follower.begin_attempt(only_from_checkpoint=False)
    assert program.metrics.exists() == (log == "output")
    with program.supervised():
        for epoch in range(5):
            program.write(program.rows(epoch, epoch + 1, loss=7.0))
            follower.advance()
    program.end()
    run = ended(program, follower)
    assert epochs(run) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [event.values["valid_loss"] for event in measured(run)] == [1.0, 1 / 2, 1 / 3, 7 / 4, 7 / 5]


def test_steps_and_epochs_never_decrease_although_the_second_attempt_reports_elsewhere(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    follower = program.follower()
    with program.supervised():
        program.write([*program.rows(0, 1), {"loss": 0.5, "step": 18}])
        follower.advance()
    program.end(-9, "lost")
    assert follower.advance() is not None
    follower.begin_attempt(only_from_checkpoint=False)
    with program.supervised():
        program.write([*program.rows(0, 1), {"loss": 0.5, "step": 12}, *program.rows(1, 2)])
        follower.advance()
    program.end()
    steps = [event.step for event in ended(program, follower).events() if isinstance(event, Measured)]
    assert steps == sorted(steps)
    assert epochs(program.run) == [1.0, 2.0]


def test_a_stale_follower_notices_that_another_process_began_an_attempt(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    stale = program.follower()
    with program.supervised():
        program.write(program.rows(0, 2))
        stale.advance()
    program.end(-9, "abandoned")
    other = program.follower()
    assert other.advance() is not None
    other.begin_attempt(only_from_checkpoint=False)
    with program.supervised():
        program.write(program.rows(0, 3))
        stale.advance()
    program.end()
    assert epochs(ended(program, stale)) == [1.0, 2.0, 3.0]


def test_only_a_newer_checkpoint_is_continued_on_its_own(tmp_path: Path) -> None:
    """Otherwise a program that always dies at the same place would begin again for ever."""
    program = FakeProgram(tmp_path, resume="--resume {checkpoint}")
    follower = program.follower()
    with program.supervised():
        program.write(program.rows(0, 2))
        program.save(1)
        follower.advance()
    program.end(-9, "lost")
    assert follower.advance() is not None
    assert follower.begin_attempt(only_from_checkpoint=True)
    program.end(-9, "lost")
    assert follower.advance() is not None
    assert not follower.begin_attempt(only_from_checkpoint=True)
    assert follower.begin_attempt(only_from_checkpoint=False)
    assert program.run.attempt.checkpoint == str(program.run.output / "checkpoint-10"), "a new submission continues"


# -------------------------------------------------------------------------------- the end
@pytest.mark.parametrize("cause", ["paused", "abandoned", "lost"])
def test_a_stop_ends_a_run_whose_program_is_gone(tmp_path: Path, cause: str) -> None:
    program = FakeProgram(tmp_path)
    with program.supervised():
        program.write(program.rows(0, 1))
    program.end(-9, cause)
    program.run.request_stop()
    assert ended(program).events()[-1] == Stopped(None)


def test_a_stop_before_the_start_ends_the_run(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    program.run.request_stop()
    assert ended(program).events() == [Queued(), Stopped(None)]
    assert program.run.end == ProgramEnd(None, "stopped")


def test_the_death_of_a_supervisor_is_found_by_its_lock(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    with program.supervised():
        program.write(program.rows(0, 1))
        assert program.follower().advance() is None
    end = program.follower().advance()
    assert end == program.run.end == ProgramEnd(None, "lost")
    follower = program.follower()
    follower.fail(end)
    last = program.run.events()[-1]
    assert isinstance(last, Failed)
    assert last.failure.kind is FailureKind.LOST


def test_a_run_whose_output_is_deleted_still_ends(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    with program.supervised():
        program.write(program.rows(0, 1))
        program.follower().advance()
    program.end(-9, "stopped")
    program.run.delete_output()
    run = ended(program)
    assert run.events()[-1] == Stopped(None)
    assert epochs(run) == [1.0]


def checkpoint_names(program: FakeProgram) -> list[str]:
    return sorted(path.name for path in program.run.output.iterdir())


def test_the_best_state_so_far_is_the_model_of_a_trial_that_is_stopped_early(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    follower = program.follower()
    with program.supervised():
        for epoch in (1, 2, 3):
            program.write(program.rows(epoch - 1, epoch))
            follower.advance()
            program.save(epoch)
        (announced,) = (event.model for event in program.run.events() if isinstance(event, Checkpointed))
        assert Path(announced).resolve().name == "checkpoint-20"
        program.write([{"eval_loss": 9.0, "step": 40, "epoch": 4.0}])
        follower.advance()
        program.save(4)
        program.run.request_stop()
    program.end(-15, "stopped")
    run = ended(program, follower)
    points = [event for event in run.events() if isinstance(event, Measured | Checkpointed)]
    assert [point.step for point in points] == sorted(point.step for point in points)
    assert run.events()[-1] == Stopped(str(run.output / "checkpoint-30"))
    assert checkpoint_names(program) == ["checkpoint-30"]
    assert Path(announced).resolve().name == "checkpoint-30"
    run.delete_output()
    assert not Path(announced).is_symlink()


def test_an_announced_model_stays_usable_however_far_the_run_gets(tmp_path: Path) -> None:
    """A reader may be many events behind, and stop the trial because of an early one."""
    program = FakeProgram(tmp_path)
    follower = program.follower()
    with program.supervised():
        for epoch in range(1, 8):
            program.write(program.rows(epoch - 1, epoch))
            program.save(epoch)
            follower.advance()
            for event in program.run.events():
                if isinstance(event, Checkpointed):
                    assert (Path(event.model) / "state.json").exists()
        assert [type(event) for event in program.run.events()].count(Checkpointed) == 1
        program.run.request_stop()
    program.end(-15, "stopped")
    run = ended(program, follower)
    assert run.events()[-1] == Stopped(str(run.output / "checkpoint-70"))


def test_the_link_to_the_best_of_several_files_has_their_suffix(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path, checkpoints="{output}/*.ckpt")
    follower = program.follower()
    with program.supervised():
        for epoch in (1, 2):
            program.write(program.rows(epoch - 1, epoch))
            (program.run.output / f"epoch={epoch}-step={epoch * STEPS}.ckpt").write_bytes(b"weights")
            follower.advance()
        program.write([{"loss": 1.0, "step": 25}])
        follower.advance()
    program.end()
    run = ended(program, follower)
    (announced,) = (event.model for event in run.events() if isinstance(event, Checkpointed))
    assert announced == str(run.path / "best.ckpt")
    assert Path(announced).resolve().name == "epoch=2-step=20.ckpt"


def test_a_part_of_a_trial_that_reports_nothing_ends_well(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    with program.supervised():
        pass
    program.end()
    silent = Follower(RunFolder(tmp_path, "key"), program.program, reports=False)
    assert isinstance(ended(program, silent).events()[-1], Finished)


def test_a_metric_that_is_missing_is_a_failure_with_the_numbers_that_there_are(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path)
    with program.supervised():
        program.write([{"eval_accuracy": 0.5, "step": 10, "epoch": 1.0}])
    program.end()
    last = ended(program).events()[-1]
    assert isinstance(last, Failed)
    assert last.failure.kind is FailureKind.USER
    assert last.failure.message == "the program ended well, but never reported valid_loss"
    assert "valid_accuracy" in last.failure.detail
