"""Translation of library and file-system errors into the contract's failures.

The libraries are torch, transformers, tokenizers and safetensors. No other module of the local
backend translates foreign errors.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from backends.contract import BackendError, Failure, FailureKind

_CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` reports a lack of memory.

    On a CPU torch raises a plain RuntimeError for it.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _CPU_OUT_OF_MEMORY)


@contextmanager
def resource_errors_translated(activity: str) -> Iterator[None]:
    """Translate a lack of memory or disk space into BackendError.

    Other errors pass: they are our bugs.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        failure = _resource_failure(activity, error)
        if failure is None:
            raise
        raise BackendError(failure) from error


@contextmanager
def library_errors_translated(activity: str) -> Iterator[None]:
    """Translate errors that a library raises for bad files into BackendError (user).

    `activity` names the operation ("loading x"). Use this only around library calls on files that
    the user supplied. Otherwise it would blame the user for our own errors.
    """
    try:
        yield
    except (SafetensorError, ImportError, KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise BackendError(_user_failure(activity, error)) from error
    except (OSError, RuntimeError, MemoryError) as error:
        raise BackendError(_resource_failure(activity, error) or _user_failure(activity, error)) from error


def _resource_failure(activity: str, error: BaseException) -> Failure | None:
    if is_out_of_memory(error):
        remedy = "choose a smaller model, method: lora, or a machine with more memory"
        return Failure(FailureKind.OUT_OF_MEMORY, f"out of memory while {activity}", remedy)
    # safetensors and torch report a full disk only in the message
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left on device" in str(error):
        message = f"the disk is full while {activity}"
        return Failure(FailureKind.USER, message, "free some space, or use another workspace")
    return None


def _user_failure(activity: str, error: BaseException) -> Failure:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    remedies: dict[type, str] = {
        SafetensorError: "the weights are damaged or incomplete: download them again",
        OSError: "check that the files are complete and readable",
    }
    fallback = "check that the files are complete and that the installed transformers supports the model"
    remedy = next((text for kind, text in remedies.items() if isinstance(error, kind)), fallback)
    return Failure(FailureKind.USER, f"{activity} failed: {lines[0]}", remedy)
