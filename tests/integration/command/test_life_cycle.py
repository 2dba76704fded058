"""Nothing of a run is orphaned and nothing is lost, whatever is killed and when.

The worker, the supervisor and the program are real processes, which are killed at gates of the
program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_runs import EPOCHS, GatedRun, drained, epochs_of, kill, run_in, wait_for

from backends.command import CommandBackend
from backends.command.options import CommandOptions
from backends.contract import Failed, FailureKind, Finished, Measured, Placement, Stopped

pytestmark = pytest.mark.integration

ALL_EPOCHS = [float(epoch + 1) for epoch in range(EPOCHS)]

GATES = ("start", "before-number", "middle", "loop", "checkpoint", "torn-checkpoint")
"""The gates of the trainer: before it does anything, before its first number, after an evaluation,
in the second epoch, between the files of a checkpoint, and in the middle of a file."""

OFTEN = ("start", "loop", "torn-checkpoint")
PHASES = [pytest.param(gate, marks=() if gate in OFTEN else pytest.mark.slow) for gate in GATES]

NewRun = Callable[..., GatedRun]


@pytest.fixture
def new_run(tmp_path: Path) -> Iterator[NewRun]:
    """Make a run, all of whose processes are ended after the test."""
    made: list[GatedRun] = []

    def make(behaviour: str = "good", gate: str = "", **options: object) -> GatedRun:
        run = run_in(tmp_path, behaviour, gate, **options)
        made.append(run)
        return run

    yield make
    for run in made:
        run.end_all()


def reached(run: GatedRun, gate: str) -> None:
    """Start a worker, which is killed at once where the program waits; the program goes on."""
    worker = run.start_worker()
    try:
        wait_for(lambda: run.has_reached(gate), f"the program reaches {gate}")
    finally:
        worker.kill()
        worker.wait()


# -------------------------------------------------------------------------------- the worker
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_is_adopted_after_the_death_of_its_worker(new_run: NewRun, phase: str) -> None:
    run = new_run(gate=phase)
    reached(run, phase)
    assert len(run.supervisors) == 1
    run.open_gate(phase)
    events = run.finish()
    assert isinstance(events[-1], Finished)
    assert epochs_of(events) == ALL_EPOCHS
    assert len(run.starts) == 1, "it is trained once"
    wait_for(lambda: not run.processes, "all processes end")


@pytest.mark.parametrize("phase", PHASES)
def test_an_abandoned_program_ends_with_everything_that_it_has_started(new_run: NewRun, phase: str) -> None:
    run = new_run("family", phase, abandoned_after_s=1.0)
    reached(run, phase)
    assert len(run.processes) >= 5
    wait_for(lambda: not run.processes, "all processes end")
    assert len(run.starts) == 1


def test_a_program_that_is_followed_is_not_abandoned(new_run: NewRun) -> None:
    run = new_run(gate="middle", abandoned_after_s=1.0)
    with run.opened() as backend:
        handle = run.submitted(backend)
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            backend.events(handle, 0)
        assert run.supervisors
        run.open_gate("middle")
        assert isinstance(drained(backend, handle)[-1], Finished)


def test_an_abandoned_run_continues_from_its_last_checkpoint(new_run: NewRun) -> None:
    run = new_run(gate="loop", abandoned_after_s=0.5)
    reached(run, "loop")
    wait_for(lambda: not run.processes, "all processes end")
    run.open_gate("loop")
    events = run.finish()
    assert isinstance(events[-1], Finished)
    assert epochs_of(events) == ALL_EPOCHS
    assert [start["first"] for start in run.starts] == [0, 1]
    assert "[sweep] attempt 2, from " in (run.run_folder / "output.log").read_text()


def test_without_resume_an_abandoned_run_begins_from_scratch_without_a_gap(new_run: NewRun) -> None:
    run = new_run(gate="loop", abandoned_after_s=0.5, resume=None)
    reached(run, "loop")
    wait_for(lambda: not run.processes, "all processes end")
    leftover = run.run_folder / "output" / "leftover"
    leftover.touch()
    run.open_gate("loop")
    events = run.finish()
    assert isinstance(events[-1], Finished)
    assert epochs_of(events) == ALL_EPOCHS
    assert [start["first"] for start in run.starts] == [0, 0]
    assert not leftover.exists(), "an attempt from scratch finds an empty folder"


# -------------------------------------------------------------------------------- the supervisor
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_goes_on_after_the_death_of_worker_and_supervisor(new_run: NewRun, phase: str) -> None:
    run = new_run("family", phase)
    reached(run, phase)
    kill(run.supervisors[0])
    wait_for(lambda: not run.supervisors and run.starts[0]["pid"] not in run.processes, "the program ends, too")
    orphans = run.processes
    assert orphans, "the family of the program outlives it"
    run.open_gate(phase)
    events = run.finish()
    assert isinstance(events[-1], Finished)
    assert epochs_of(events) == ALL_EPOCHS
    has_checkpoint = phase == "loop"
    assert [start["first"] for start in run.starts] == [0, 1 if has_checkpoint else 0]
    wait_for(lambda: not run.processes, "all processes end")


@pytest.mark.parametrize("phase", PHASES)
def test_a_follower_notices_the_death_of_the_supervisor(new_run: NewRun, phase: str) -> None:
    run = new_run("family", phase)
    with run.opened() as backend:
        handle = run.submitted(backend)
        wait_for(lambda: run.has_reached(phase), f"the program reaches {phase}")
        wait_for((run.run_folder / "started.json").exists, "the supervisor has recorded the start")
        seen = list(backend.events(handle, 0))
        kill(run.supervisors[0])
        run.open_gate(phase)
        events = drained(backend, handle)
        assert repr(events[: len(seen)]) == repr(seen)
    if phase == "loop":  # it has a checkpoint
        assert isinstance(events[-1], Finished)
        assert epochs_of(events) == ALL_EPOCHS
        assert [start["first"] for start in run.starts] == [0, 1]
    else:
        assert isinstance(events[-1], Failed)
        assert events[-1].failure.kind is FailureKind.LOST
        assert len(run.starts) == 1
    wait_for(lambda: not run.processes, "all processes end")


def test_a_program_starts_although_its_first_supervisor_was_killed(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed before it has started the program: there is no trace of it."""
    from backends.command import backend as module

    run = new_run()
    start, starts = module._start_supervisor, list[Path]()

    def only_later(folder: Path) -> int | None:
        starts.append(folder)
        return start(folder) if len(starts) > 1 else None

    monkeypatch.setattr(module, "_start_supervisor", only_later)
    events = run.finish()
    assert isinstance(events[-1], Finished)
    assert epochs_of(events) == ALL_EPOCHS
    assert len(run.starts) == 1


@pytest.mark.parametrize(
    "delay_s", [0.0, 0.02, 0.05, *(pytest.param(n / 100, marks=pytest.mark.slow) for n in range(8, 30, 3))]
)
def test_a_supervisor_may_be_killed_at_any_moment_of_its_start(new_run: NewRun, delay_s: float) -> None:
    run = new_run("family", gate="middle")
    worker = run.start_worker()
    wait_for(lambda: run.supervisors, "there is a supervisor")
    time.sleep(delay_s)
    for pid in run.supervisors:
        kill(pid)
    run.open_gate("middle")
    try:
        assert worker.wait(120) == 0, (run.folder / "worker.txt").read_text()
    finally:
        worker.kill()
        worker.wait()
    end = run.finish()[-1]
    if isinstance(end, Failed):
        assert end.failure.kind is FailureKind.LOST
    else:
        assert isinstance(end, Finished)
    wait_for(lambda: not run.processes, "all processes end")


def test_a_supervisor_that_never_starts_ends_the_run(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from backends.command import backend as module

    run = new_run()

    def failing(folder: Path) -> None:
        (folder / "supervisor.log").write_text("Traceback ...\nModuleNotFoundError: No module named 'psutil'\n")

    monkeypatch.setattr(module, "_start_supervisor", failing)
    events = run.finish()
    assert isinstance(events[-1], Failed)
    assert events[-1].failure.kind is FailureKind.LOST
    assert "No module named 'psutil'" in events[-1].failure.message


def test_two_workers_start_one_program(new_run: NewRun) -> None:
    run = new_run(gate="middle")
    workers = [run.start_worker() for _ in range(3)]
    wait_for(lambda: run.has_reached("middle"), "the program reaches its gate")
    run.open_gate("middle")
    for worker in workers:
        assert worker.wait(120) == 0, (run.folder / "worker.txt").read_text()
    assert len(run.starts) == 1
    assert epochs_of(run.finish()) == ALL_EPOCHS


# -------------------------------------------------------------------------------- the program
def test_a_program_that_the_kernel_kills_continues_from_its_checkpoint(new_run: NewRun) -> None:
    run = new_run("killed-once")
    events = run.finish()
    assert isinstance(events[-1], Finished)
    assert epochs_of(events) == ALL_EPOCHS
    assert [start["first"] for start in run.starts] == [0, 2]


def test_a_killed_program_that_cannot_resume_is_lost(new_run: NewRun) -> None:
    run = new_run("killed-once", resume=None)
    events = run.finish()
    assert isinstance(events[-1], Failed)
    assert events[-1].failure.kind is FailureKind.LOST
    assert len(run.starts) == 1


def test_a_program_that_cannot_continue_is_lost_and_not_blamed(new_run: NewRun) -> None:
    run = new_run("cannot-resume", "loop", abandoned_after_s=0.5)
    reached(run, "loop")
    wait_for(lambda: not run.processes, "all processes end")
    run.open_gate("loop")
    events = run.finish()
    assert isinstance(events[-1], Failed)
    assert events[-1].failure.kind is FailureKind.LOST
    assert "the optimizer state does not fit" in events[-1].failure.message


# -------------------------------------------------------------------------------- stop and pause
@pytest.mark.parametrize("behaviour", ["good", "stubborn", "family"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_stopped_program_ends_with_all_its_processes(new_run: NewRun, behaviour: str, phase: str) -> None:
    run = new_run(behaviour, phase)
    with run.opened() as backend:
        handle = run.submitted(backend)
        wait_for(lambda: run.has_reached(phase), f"the program reaches {phase}")
        backend.stop(handle)
        events = drained(backend, handle)
        assert isinstance(events[-1], Stopped)
        assert not run.processes
        model = events[-1].model
        if phase == "loop":
            assert model == str(run.run_folder / "output" / "checkpoint-4")
        elif phase == "checkpoint":
            assert model is None or "checkpoint" not in model or Path(model).exists()
        backend.discard(handle)
        assert not (run.run_folder / "output").exists()
        assert repr(list(backend.events(handle, 0))) == repr(events)


@pytest.mark.parametrize("victims", ["worker", "supervisor", "both"])
def test_a_stop_reaches_its_end_although_somebody_is_killed(new_run: NewRun, victims: str) -> None:
    run = new_run("stubborn", "middle", grace_s=2.0)
    worker = run.start_worker()
    wait_for(lambda: run.has_reached("middle"), "the program reaches its gate")
    with run.opened() as other:
        other.stop(run.submitted(other))
    if victims in ("worker", "both"):
        worker.kill()
    if victims in ("supervisor", "both"):
        kill(run.supervisors[0])
    events = run.finish()
    worker.kill()
    worker.wait()
    assert isinstance(events[-1], Stopped)
    assert len(run.starts) == 1
    wait_for(lambda: not run.processes, "all processes end")


def test_the_orphans_of_a_killed_supervisor_end_with_a_stop(new_run: NewRun) -> None:
    run = new_run("family", "middle")
    reached(run, "middle")
    kill(run.supervisors[0])
    wait_for(lambda: not run.supervisors, "the supervisor ends")
    assert run.processes
    with run.opened() as backend:
        from backends.contract import Handle

        backend.stop(Handle("command", run.key))
        assert not run.processes
        assert isinstance(backend.events(Handle("command", run.key), 0)[-1], Stopped)


def test_a_discarded_program_ends_at_once(new_run: NewRun) -> None:
    run = new_run("stubborn", "middle", grace_s=1000.0)
    with run.opened() as backend:
        handle = run.submitted(backend)
        wait_for(lambda: run.has_reached("middle"), "the program reaches its gate")
        backend.discard(handle)
        assert not run.processes
        events = backend.events(handle, 0)
        assert isinstance(events[-1], Stopped)
        assert epochs_of(events) == [1.0]
        assert {path.name for path in run.run_folder.iterdir()} & {"output", "metrics.jsonl"} == set()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("resume", ["--resume {checkpoint}", None])
def test_a_paused_program_frees_the_machine_and_continues_later(
    new_run: NewRun, phase: str, resume: str | None
) -> None:
    run = new_run("family", phase, resume=resume)
    with run.opened() as backend:
        handle = run.submitted(backend)
        wait_for(lambda: run.has_reached(phase), f"the program reaches {phase}")
        seen = list(backend.events(handle, 0))
        backend.pause(run.key)
        backend.pause(run.key)
        wait_for(lambda: not run.processes, "all processes end")
        paused = list(backend.events(handle, 0))
        assert repr(paused[: len(seen)]) == repr(seen)
        assert not isinstance(paused[-1], Failed | Stopped | Finished)
    run.open_gate(phase)
    events = run.finish()
    assert isinstance(events[-1], Finished)
    assert repr(events[: len(paused)]) == repr(paused)
    assert epochs_of(events) == ALL_EPOCHS
    assert [start["first"] for start in run.starts] == [0, 1 if phase == "loop" and resume else 0]


def test_a_run_that_is_resumed_while_it_still_pauses_waits_for_the_end(new_run: NewRun) -> None:
    run = new_run("stubborn", "loop", grace_s=2.0)
    reached(run, "loop")
    with run.opened() as backend:
        backend.pause(run.key)
    assert run.processes
    run.open_gate("loop")
    events = run.finish()
    assert isinstance(events[-1], Finished)
    assert epochs_of(events) == ALL_EPOCHS


def test_pausing_changes_nothing_where_nothing_runs(new_run: NewRun) -> None:
    run = new_run()
    with run.opened() as backend:
        backend.pause(run.key)
        handle = run.submitted(backend)
        events = drained(backend, handle)
        backend.pause(run.key)
        assert repr(list(backend.events(handle, 0))) == repr(events)
        assert backend.submit(run.request()) == handle


def test_a_paused_run_can_be_stopped(new_run: NewRun) -> None:
    run = new_run(gate="middle")
    with run.opened() as backend:
        handle = run.submitted(backend)
        wait_for(lambda: run.has_reached("middle"), "the program reaches its gate")
        backend.pause(run.key)
        wait_for(lambda: not run.processes, "all processes end")
        backend.stop(handle)
        assert isinstance(backend.events(handle, 0)[-1], Stopped)


def test_the_further_part_of_a_trial_begins_again_with_the_first_one(new_run: NewRun) -> None:
    """Its worker stops it whenever the worker of the first part ends, as after Ctrl-C."""
    run = new_run("silent", "start")
    second = Placement(nodes=2, node=1, address="127.0.0.1", port=29_999)
    options = CommandOptions.model_validate(run.options)
    backend = CommandBackend.open(options, run.workspace, second)
    handle = backend.submit(run.request())
    wait_for(lambda: run.has_reached("start"), "the program reaches its gate")
    backend.stop(handle)
    assert isinstance(drained(backend, handle)[-1], Stopped)
    run.open_gate("start")
    assert backend.submit(run.request()) == handle
    assert isinstance(drained(backend, handle)[-1], Finished), "it reports nothing, and that is no failure"
    assert len(run.starts) == 2
    assert backend.submit(run.request()) == handle
    assert len(run.starts) == 2
    backend.close()


# -------------------------------------------------------------------------------- the clean-up
def test_cleaning_up_ends_processes_and_deletes_files(new_run: NewRun) -> None:
    run = new_run("family", "loop")
    reached(run, "loop")
    with run.opened() as backend:
        assert [leftover.kind for leftover in backend.leftovers(())] == ["running program", "output"]
        kill(run.supervisors[0])
        wait_for(lambda: not run.supervisors, "the supervisor ends")
        orphans, output = backend.leftovers(())
        assert orphans.kind == "orphaned processes"
        assert backend.remove(orphans) == ""
        assert not run.processes
        assert output.size_bytes
        assert backend.remove(output) == ""
        assert list(backend.leftovers(())) == []
        assert backend.remove(output) == ""


# -------------------------------------------------------------------------------- failures
@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        ("bug", FailureKind.BUG, "ValueError: the label 7 is unknown"),
        ("out-of-memory", FailureKind.OUT_OF_MEMORY, "the program ran out of memory (exit code 1)"),
        ("silent", FailureKind.USER, "the program ended well, but never reported valid_loss"),
    ],
)
def test_a_failure_says_what_the_program_said(new_run: NewRun, behaviour: str, kind: FailureKind, words: str) -> None:
    events = new_run(behaviour).finish()
    assert isinstance(events[-1], Failed)
    assert events[-1].failure.kind is kind
    assert words in events[-1].failure.message


def test_a_metric_that_never_appears_is_named_with_those_that_do(new_run: NewRun) -> None:
    events = new_run(rename={"eval_loss": "valid_perplexity"}).finish()
    assert isinstance(events[-1], Failed)
    assert events[-1].failure.message == "the program ended well, but never reported valid_loss"
    assert "valid_perplexity" in events[-1].failure.detail


def test_a_program_that_vanishes_before_its_start(new_run: NewRun) -> None:
    run = new_run(run="sh -c true {learning_rate} {n_epochs} {output}", working_folder="gone-folder")
    events = run.finish()
    assert isinstance(events[-1], Failed)
    assert events[-1].failure.kind is FailureKind.USER
    assert events[-1].failure.message == "the program could not be started: No such file or directory"


def test_a_program_that_leaves_its_work_to_a_process_in_the_background_is_told_so(new_run: NewRun) -> None:
    run = new_run(run="sleep 3600 & : {learning_rate} {n_epochs} {output}", shell=True)
    events = run.finish()
    assert isinstance(events[-1], Failed)
    assert "It ended while 1 of its processes still ran" in events[-1].failure.detail
    assert not run.processes


def test_losses_that_are_not_finite_are_reported_as_they_are(new_run: NewRun) -> None:
    events = new_run("diverges").finish()
    losses = [event.values["valid_loss"] for event in events if isinstance(event, Measured) and event.scope != "step"]
    assert len(losses) == EPOCHS
    assert losses[0] == losses[0]
    assert all(loss != loss for loss in losses[1:])


# -------------------------------------------------------------------------------- checkpoints
def test_only_the_best_checkpoint_stays(new_run: NewRun) -> None:
    events = new_run().finish()
    end = events[-1]
    assert isinstance(end, Finished)
    assert Path(end.model).name == f"checkpoint-{4 * EPOCHS}"
    assert [path.name for path in Path(end.model).parent.iterdir()] == [Path(end.model).name]


def test_a_program_may_delete_its_checkpoints_itself(new_run: NewRun) -> None:
    events = new_run("deletes-checkpoints").finish()
    assert isinstance(events[-1], Finished)
    assert Path(events[-1].model).is_dir()
