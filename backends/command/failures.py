"""Why a program failed, from its exit code and its last lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from backends.command.run_folder import ProgramEnd
from backends.contract import Failure, FailureKind
from backends.credentials import masked

SHOWN_LINES = 15

OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|HIP out of memory|MPS backend out of memory"
    r"|DefaultCPUAllocator: can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|\bMemoryError\b|std::bad_alloc"
    r"|NCCL.*(unhandled cuda error|out of memory)|Cannot allocate memory|Unable to allocate .* for an array",
)
"""The words of torch (CUDA, ROCm, MPS, CPU), cuBLAS, DeepSpeed, NCCL, NumPy and Python."""

_EXCEPTION = re.compile(r"^(?:\[rank\d+\]:\s*)?([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\b.*)")


def failure_of(end: ProgramEnd, lines: Sequence[str]) -> Failure:
    """Return the failure of a program that ended with an error. `lines` are its last ones."""
    detail = masked("\n".join(lines[-SHOWN_LINES:]))
    if end.code is None:
        return Failure(FailureKind.USER, f"the program could not be started: {end.reason}", detail)
    if end.cause == "abandoned":
        message = "the program was ended, because no sweep had followed it for a while"
        return Failure(FailureKind.LOST, message, detail)
    if any(OUT_OF_MEMORY.search(line) for line in lines):
        return Failure(FailureKind.OUT_OF_MEMORY, f"the program ran out of memory ({_code(end.code)})", detail)
    if end.code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        message = "the program was killed by signal 9, most likely by the kernel for lack of memory"
        return Failure(FailureKind.LOST, message, detail)
    if end.code in (-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT):
        return Failure(FailureKind.LOST, f"somebody ended the program ({_code(end.code)})", detail)
    error = next((found[1] for line in reversed(lines) if (found := _EXCEPTION.match(line.strip()))), "")
    reason = masked(error or (lines[-1].strip() if lines else "it printed nothing"))
    return Failure(FailureKind.USER, f"the program failed ({_code(end.code)}): {reason[:300]}", detail)


def _code(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
