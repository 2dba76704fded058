"""What is said about a worker that is gone, from the texts of Ray and of the process itself."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from sweeps.execution.last_words import WorkerProcess, loss_of, memory_bytes, out_of_memory_kills

pytestmark = pytest.mark.unit

HERE = WorkerProcess(4711, platform.node(), 3 * 2**29)
ELSEWHERE = WorkerProcess(4711, "host-b", 2**30)

DIED = RuntimeError("The actor died unexpectedly before finishing this task.\n\tclass_name: TrialRunner\n\tpid: 4711\n")

KILLED_BY_MONITOR = RuntimeError(
    "Failure # 1 (occurred at 2026-11-30_11-55-27)\n"
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.2, ID: 8a9d) was "
    "23.39GB used / 23.54GB limit (0.994203)\nSelected to kill: (Task: task name=TrialRunner.train, pid=4711, actual "
    "memory used=9.04GB, worker ID=147037)"
)
"""As Ray 2.60 writes it."""

SEGMENTATION_FAULT = """:actor_name:TrialRunner
*** SIGSEGV received at time=1796035724 on cpu 1 ***
PC: @     0x7f3c2f985ad8  (unknown)  (unknown)
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "/opt/plugin/model.py", line 59 in forward
  File "/opt/plugin/train.py", line 83 in events
"""


class LaterError(Exception):
    """An error of Ray around one of a worker."""

    def __init__(self, text: str, cause: BaseException) -> None:
        super().__init__(text)
        self.cause = cause


def test_a_process_without_last_words_is_described_by_what_is_known(tmp_path: Path) -> None:
    loss = loss_of(DIED, HERE, tmp_path, kills_since=0)
    assert loss.message == (
        f"the worker process 4711 on {platform.node()} ended: it left no message, as after a kill signal; "
        "it occupied 1.5 GiB when it last reported"
    )
    assert "The actor died" in loss.log_text


def test_a_kill_by_the_kernel_for_lack_of_memory_is_told_only_of_this_machine(tmp_path: Path) -> None:
    told = "the kernel most likely ended the worker process"
    assert told in loss_of(DIED, HERE, tmp_path, kills_since=1).message
    assert loss_of(DIED, HERE, tmp_path, kills_since=1).out_of_memory
    assert not loss_of(DIED, HERE, tmp_path, kills_since=0).out_of_memory
    assert told not in loss_of(DIED, ELSEWHERE, tmp_path, kills_since=1).message
    unheard = loss_of(RuntimeError("\tpid: 4712\n"), None, tmp_path, kills_since=1).message
    assert "the worker process 4712 for lack of memory (" in unheard


def test_a_kill_by_rays_memory_monitor_is_told_with_its_figures() -> None:
    loss = loss_of(KILLED_BY_MONITOR, HERE, None, kills_since=0)
    message = loss.message
    assert loss.out_of_memory
    assert message.startswith(f"Ray ended the worker process 4711 on {platform.node()}, because its machine ran low")
    assert message.endswith("23.39GB of 23.54GB were in use, 9.04GB by process 4711")


def test_the_last_words_of_a_process_of_this_machine_are_found(tmp_path: Path) -> None:
    (tmp_path / "worker-abc-01000000-4711.err").write_text(SEGMENTATION_FAULT)
    loss = loss_of(DIED, HERE, tmp_path, kills_since=0)
    assert loss.message.endswith("ended: segmentation fault, SIGSEGV (model.py:59)")
    assert "train.py" in loss.log_text
    assert "SIGSEGV" not in loss_of(DIED, ELSEWHERE, tmp_path, kills_since=0).message, "the same id on another machine"


def test_a_process_that_never_reported_is_found_by_the_id_in_rays_text(tmp_path: Path) -> None:
    (tmp_path / "worker-abc-01000000-4711.err").write_text("\nsweep worker: os._exit(3) at model.py:5\n")
    assert loss_of(DIED, None, tmp_path, kills_since=0).message.endswith("ended: it called os._exit(3) at model.py:5")


def test_a_lost_machine_is_named() -> None:
    error = RuntimeError("The actor died because its node has died. Node Id: abc")
    assert loss_of(error, ELSEWHERE, None, kills_since=0).message == "the machine host-b left the Ray cluster"


def test_an_exception_that_no_backend_raised_is_one_line_with_its_place() -> None:
    text = 'ray::TrialRunner.train()\n  File "/opt/sweeps/trainable.py", line 7, in step\nKeyError: 1'
    loss = loss_of(LaterError(text, KeyError(1)), HERE, None, kills_since=0)
    assert loss.message == "KeyError: 1 (trainable.py:7)"
    assert loss.log_text == text


def test_without_any_error_something_is_still_said() -> None:
    assert loss_of(None, None, None, kills_since=0).message.startswith("the worker process ended: it left no message")


def test_this_process_knows_its_memory_and_the_kills_of_the_kernel() -> None:
    assert (memory_bytes() or 0) > 2**20
    assert (out_of_memory_kills() or 0) >= 0
