"""Why programs failed: the real last words of programs and launchers, and the kind of each."""

from __future__ import annotations

import signal

import pytest

from backends.command.failures import failure_of
from backends.command.run_folder import ProgramEnd
from backends.contract import Failure, FailureKind

pytestmark = pytest.mark.unit

CHILD_FAILED = """\
Traceback (most recent call last):
  File "/opt/conda/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2023-05-03_09:10:11
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 1168)
  error_file: <N/A>
  traceback : {traceback}
============================================================
"""


def failure(text: str, code: int = 1, **end: object) -> Failure:
    return failure_of(ProgramEnd(code, str(end.pop("cause", "ended")), 1.0, **end), text.splitlines())  # type: ignore[arg-type]


OUT_OF_MEMORY = {
    "torch 2.5 and later": (
        'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n    loss.backward()\n'
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
        "79.14 GiB of which 1.13 GiB is free. Process 7 has 78.00 GiB memory in use."
    ),
    "torch 2.0": (
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 8.00 GiB total capacity; "
        "7.06 GiB already allocated; 0 bytes free; 7.29 GiB reserved in total by PyTorch)"
    ),
    "torch 1": (
        "RuntimeError: CUDA out of memory. Tried to allocate 786.00 MiB (GPU 0; 39.56 GiB total capacity; 38.49 GiB "
        "already allocated; 96.56 MiB free; 38.78 GiB reserved in total by PyTorch)"
    ),
    "CUDA": "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "ROCm": "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 1.96 GiB.",
    "Apple": "RuntimeError: MPS backend out of memory (MPS allocated: 17.84 GB, other allocations: 90.00 MB)",
    "cuBLAS": "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "torch on the CPU": (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 132426121216 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "torch on the CPU, before 1.5": (
        "RuntimeError: [enforce fail at CPUAllocator.cpp:56] posix_memalign(&data, gAlignment, nbytes) == 0. 12 vs 0"
    ),
    "torch on Windows": (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:81] data. DefaultCPUAllocator: not enough memory: you tried to "
        "allocate 1981808640 bytes."
    ),
    "bitsandbytes": "Error out of memory at line 351 in file /home/developer/bitsandbytes/csrc/pythonInterface.c",
    "accelerate": "RuntimeError: No executable batch size found, reached zero.",
    "Python": "Traceback (most recent call last):\nMemoryError",
    "NumPy": (
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.28 TiB for an array with shape (1000000, "
        "1000000) and data type float64"
    ),
    "C++": "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
    "fork": "OSError: [Errno 12] Cannot allocate memory",
    "JAX": "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4 bytes.",
    "DeepSpeed, rank 1, then its launcher": (
        '[rank1]: Traceback (most recent call last):\n[rank1]:   File "engine.py", line 287, in __init__\n'
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 1 has a total capacity "
        "of 11.76 GiB\n"
        "[rank0]: torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, remote process exited\n"
        + CHILD_FAILED.format(code=1, traceback="To enable traceback see: https://pytorch.org/docs")
    ),
    "DeepSpeed's launcher": (
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 786.00 MiB (GPU 0; 39.56 GiB total capacity)\n"
        "[2023-04-13 08:39:16,676] [INFO] [launch.py:428:sigkill_handler] Killing subprocess 41\n"
        "[2023-04-13 08:39:16,676] [ERROR] [launch.py:434:sigkill_handler] exits with return code = 1"
    ),
    "accelerate's launcher": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 64.00 MiB.\n"
        'Traceback (most recent call last):\n  File "/usr/bin/accelerate", line 8, in <module>\n'
        "subprocess.CalledProcessError: Command '['python', 'train.py']' returned non-zero exit status 1."
    ),
}


@pytest.mark.parametrize("text", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY.keys())
def test_a_lack_of_memory_is_recognised(text: str) -> None:
    found = failure(text)
    assert found.kind is FailureKind.OUT_OF_MEMORY
    assert found.message == "the program ran out of memory (exit code 1)"
    assert text.splitlines()[-1] in found.detail


BUGS = {
    "an error after a survived lack of memory": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\nbatch size 16: too large, trying 8\n"
        "Traceback (most recent call last):\nKeyError: 'labels'",
        "KeyError: 'labels'",
    ),
    "a shape": (
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x8 and 9x2)",
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x8 and 9x2)",
    ),
    "an illegal access": (
        "Error an illegal memory access was encountered at line 74 in file /csrc/ops.cu",
        "Error an illegal memory access was encountered at line 74 in file /csrc/ops.cu",
    ),
    "Triton's shared memory": (
        "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 163840, limit: 101376",
        "triton.runtime.errors.OutOfResources: out of resource: shared memory",
    ),
    "the data loader's shared memory": (
        "RuntimeError: DataLoader worker (pid 72) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit.",
        "out of shared memory",
    ),
    "one rank of several": (
        "[rank0]: ValueError: the label 7 is unknown\n" + CHILD_FAILED.format(code=1, traceback="none"),
        "ValueError: the label 7 is unknown",
    ),
    "a dotted exception": ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "GatedRepoError: 401"),
    "argparse": (
        "usage: train.py [-h] --lr LR\ntrain.py: error: the following arguments are required: --lr",
        "the following arguments are required: --lr",
    ),
    "nothing": ("", "it printed nothing"),
}


@pytest.mark.parametrize(("text", "words"), BUGS.values(), ids=BUGS.keys())
def test_other_errors_are_named(text: str, words: str) -> None:
    found = failure(text)
    assert found.kind is FailureKind.BUG
    assert found.message.startswith("the program failed (exit code 1): ")
    assert words in found.message
    assert "\n" not in found.message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", -signal.SIGKILL),
        ("Killed", 137),
        (CHILD_FAILED.format(code=-9, traceback="Signal 9 (SIGKILL) received by PID 1168"), 1),
        ("torch.multiprocessing.spawn.ProcessExitedException: process 0 terminated with signal SIGKILL", 1),
        ("subprocess.CalledProcessError: Command '['python']' died with <Signals.SIGKILL: 9>.", 1),
    ],
)
def test_a_kill_is_the_kernels_if_the_kernel_has_killed(text: str, code: int) -> None:
    assert failure(text, code).kind is FailureKind.LOST
    assert failure(text, code, out_of_memory_kills=1).kind is FailureKind.OUT_OF_MEMORY


def test_an_error_of_its_own_is_not_blamed_on_the_kernel() -> None:
    assert failure("ValueError: no", 1, out_of_memory_kills=3).kind is FailureKind.BUG


@pytest.mark.parametrize("code", [-signal.SIGTERM, -signal.SIGINT, 143])
def test_a_signal_of_somebody_is_a_loss(code: int) -> None:
    assert failure("KeyboardInterrupt", code).kind is FailureKind.LOST


@pytest.mark.parametrize("cause", ["abandoned", "signalled", "lost", "paused"])
def test_a_loss_is_no_failure_of_the_program(cause: str) -> None:
    found = failure("ValueError: no", -9, cause=cause)
    assert found.kind is FailureKind.LOST
    assert "ValueError" not in found.message


def test_a_program_that_cannot_be_started() -> None:
    end = ProgramEnd(None, "not started", 0.0, "No such file or directory")
    found = failure_of(end, [])
    assert found.kind is FailureKind.USER
    assert found.message == "the program could not be started: No such file or directory"


def test_a_full_disk_is_one_sentence_with_a_remedy() -> None:
    found = failure("Traceback (most recent call last):\nOSError: [Errno 28] No space left on device: 'model.bin'")
    assert found.kind is FailureKind.USER
    assert found.message == "the disk was full, so the program failed (exit code 1)"
    assert found.detail.startswith("Free some space")


def test_a_program_that_does_not_get_beyond_its_checkpoint_is_lost() -> None:
    lines = ["RuntimeError: the optimizer state does not fit"]
    found = failure_of(ProgramEnd(1, "ended"), lines, continued=True)
    assert found.kind is FailureKind.LOST
    assert "did not continue from its checkpoint" in found.message


def test_a_signal_has_its_name() -> None:
    assert failure("", -signal.SIGSEGV).message.startswith("the program failed (signal 11 (SIGSEGV))")


def test_no_secret_gets_into_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends import credentials

    monkeypatch.setattr(credentials, "_source", {"HF_TOKEN": "hf_abcdefgh123"})
    found = failure("ValueError: hf_abcdefgh123 is no valid token")
    assert "hf_abcdefgh123" not in found.message + found.detail
