"""The one place where errors of torch, transformers, tokenizers and the file system become failures of the contract."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from backends.contract import BackendError, Failure, FailureKind

_CPU_OOM = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU torch says so with a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error).lower() for each in _CPU_OOM)


@contextmanager
def room(doing: str) -> Iterator[None]:
    """Turn the lack of memory or disk into BackendError; everything else passes, as it would be our bug."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        failure = _lack_of_room(doing, error)
        if failure is None:
            raise
        raise BackendError(failure) from error


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what a library raises for bad files into BackendError (user); `doing` says what was tried ("loading x").

    Only for calls of a library on files that the user gave: an error of our own must not pass for the user's.
    """
    try:
        yield
    except (SafetensorError, ImportError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise BackendError(_user(doing, error)) from error
    except (OSError, RuntimeError, MemoryError) as error:
        raise BackendError(_lack_of_room(doing, error) or _user(doing, error)) from error


def _lack_of_room(doing: str, error: BaseException) -> Failure | None:
    if is_out_of_memory(error):
        remedy = "choose a smaller model, method: lora, or a machine with more memory"
        return Failure(FailureKind.OUT_OF_MEMORY, f"out of memory while {doing}", remedy)
    # safetensors and torch say it in words only
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left on device" in str(error):
        return Failure(FailureKind.USER, f"the disk is full while {doing}", "free some space, or use another workspace")
    return None


def _user(doing: str, error: BaseException) -> Failure:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    remedies: dict[type, str] = {
        SafetensorError: "the weights are damaged or incomplete: fetch them again",
        OSError: "see whether the files are complete and readable",
    }
    unknown = "the files may be incomplete, or of a kind that the installed transformers does not know"
    remedy = next((text for kind, text in remedies.items() if isinstance(error, kind)), unknown)
    return Failure(FailureKind.USER, f"{doing} failed: {lines[0]}", remedy)
