"""Why a program failed, from its end and its last lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from backends.command.run_folder import ProgramEnd
from backends.contract import Failure, FailureKind
from backends.credentials import masked

SHOWN_LINES = 15
READ_LINES = 400
"""How many of the last lines are read. The error that counts can stand before those of other ranks
and of the launcher."""

OUT_OF_MEMORY = re.compile(
    r"\bOutOfMemoryError\b|out of memory\. Tried to allocate|\b(CUDA|HIP|MPS|XPU)\b.{0,40}\bout of memory\b"
    r"|\bcudaErrorMemoryAllocation\b|\bCU(BLAS|DNN|SPARSE|SOLVER)_STATUS_ALLOC_FAILED\b"
    r"|DefaultCPUAllocator: (can't allocate memory|not enough memory)|(alloc_cpu|CPUAllocator)\.cpp.*\b12 vs 0"
    r"|^Error out of memory at line \d+ in file"
    r"|MemoryError\b|\bstd::bad_alloc\b|Errno 12\b|^Cannot allocate memory"
    r"|\bNCCL\b.*\bout of memory\b|\bRESOURCE_EXHAUSTED\b.*[Oo]ut of memory|\bOOM when allocating tensor\b"
    r"|\bNo executable batch size found\b",
)
"""The words of torch (CUDA, ROCm, MPS and CPU, old and new), CUDA's libraries, bitsandbytes
(csrc/ops.cu), NCCL, JAX, TensorFlow, accelerate, the C++ library and Python. DeepSpeed passes on
those of torch."""

_NOT_OF_THE_DEVICE = re.compile(r"out of resource: shared memory|out of shared memory")
"""Triton and the data loader: other memory, which no smaller batch frees."""

_DISK_FULL = re.compile(r"No space left on device|Errno 28\b|Disk quota exceeded|Errno 122\b")

_KILLED = re.compile(
    r"exitcode\s*:\s*-9\b|exit code: -9\b|Signal 9 \(SIGKILL\)|<Signals\.SIGKILL: 9>|terminated with signal SIGKILL"
    r"|killed by signal: Killed|return code = -9\b"
)
"""How torchrun, accelerate, multiprocessing, the data loader and DeepSpeed say that the kernel has
killed a process."""

_PREFIX = re.compile(r"^(?:\[?(?:default|rank|\w{0,3}:)\d+\]?:\s*|\(\w+ pid=\d+\)\s*|E\d{4}\s\S+\s\d+\s\S+\]\s*)+")
"""What launchers write before the lines of a process."""

_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*_?[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning|Failure|Exhausted|Timeout)\b(?::|$)"
)

_OF_THE_LAUNCHER = re.compile(
    r"^(?:[\w.]*\.)?(ChildFailedError|CalledProcessError|ProcessRaisedException|ProcessExitedException|SystemExit"
    r"|KeyboardInterrupt|SignalException|BrokenPipeError|ConnectionResetError|DistBackendError|DistNetworkError"
    r"|DistStoreError)\b|NCCL|[Gg]loo|Connection closed by peer|Broken pipe|^\w*Warning\b"
)
"""What follows from the failure of another process."""


def failure_of(end: ProgramEnd, lines: Sequence[str], *, continued: bool = False) -> Failure:
    """Return the failure of a program that ended with an error. `lines` are its last ones.

    An error of the program itself (`BUG`) may come from the values of this trial, so the others go
    on. A program that cannot start, or a full disk, concerns all of them (`USER`).

    `continued`: the program began from a checkpoint and has not got any further.
    """
    detail = masked("\n".join(lines[-SHOWN_LINES:]))
    if end.code is None and end.cause == "not started":
        return Failure(FailureKind.USER, f"the program could not be started: {end.reason}", detail)
    if (lost := _loss(end)) is not None:
        return Failure(FailureKind.LOST, lost, detail)
    code = end.code or 0
    plain = [_PREFIX.sub("", line.strip()) for line in lines[-READ_LINES:]]
    cause = _cause(plain)
    if _is_out_of_memory(cause, plain):
        return Failure(FailureKind.OUT_OF_MEMORY, f"the program ran out of memory ({_code(code)})", detail)
    was_killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL) or (
        not cause and any(_KILLED.search(line) for line in plain)
    )
    if was_killed:
        return _killed(end, detail)
    if continued:
        message = f"the program did not continue from its checkpoint ({_code(code)}): {_words(cause, plain)}"
        return Failure(FailureKind.LOST, message, detail)
    if code in (-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT, *(128 + n for n in (15, 1, 2))):
        return Failure(FailureKind.LOST, f"somebody ended the program ({_code(code)})", detail)
    if _DISK_FULL.search(cause or (plain[-1] if plain else "")):
        message = f"the disk was full, so the program failed ({_code(code)})"
        return Failure(FailureKind.USER, message, f"Free some space, and run the sweep again.\n{detail}")
    return Failure(FailureKind.BUG, f"the program failed ({_code(code)}): {_words(cause, plain)}", detail)


def _loss(end: ProgramEnd) -> str | None:
    """Return how the run was lost, if nothing is wrong with the program."""
    match end.cause:
        case "abandoned":
            return "the program was ended, because no sweep had followed it for a while"
        case "signalled":
            return "somebody ended the process that watched the program"
        case "lost":
            return "the process that watched the program was killed, and the program with it"
        case "paused":
            return "the program was ended when the sweep stopped"
    return None


def _killed(end: ProgramEnd, detail: str) -> Failure:
    if end.out_of_memory_kills > 0:
        message = "the program was killed by the kernel, because the machine ran out of memory"
        return Failure(FailureKind.OUT_OF_MEMORY, message, detail)
    return Failure(FailureKind.LOST, "the program was killed by signal 9, perhaps for lack of memory", detail)


def _cause(lines: Sequence[str]) -> str:
    """Return the line of the exception that ended the program; empty if there is none.

    The last one counts, but those of launchers and of ranks that lost another rank do not.
    """
    errors = [line for line in lines if _EXCEPTION.match(line)]
    own = [line for line in errors if not _OF_THE_LAUNCHER.search(line)]
    return own[-1] if own else ""


def _is_out_of_memory(cause: str, lines: Sequence[str]) -> bool:
    """Return whether a lack of memory ended the program.

    A program may survive one, such as a search for the largest batch, and fail of something else.
    """
    if cause:
        return _says_out_of_memory(cause)
    return any(_says_out_of_memory(line) for line in lines)


def _says_out_of_memory(line: str) -> bool:
    return OUT_OF_MEMORY.search(line) is not None and _NOT_OF_THE_DEVICE.search(line) is None


def _words(cause: str, lines: Sequence[str]) -> str:
    last = cause or next((line for line in reversed(lines) if line), "")
    return masked(last or "it printed nothing")[:300]


def _code(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code} ({_name(-code)})"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
