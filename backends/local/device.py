"""Device, data type and threads of a run's computations."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import torch

from backends.contract import Placement
from backends.local.model_source import user_error

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def resolve_device(requested: str) -> torch.device:
    """Return the device. `auto` is CUDA if torch sees a GPU, else mps, else the CPU.

    Raises BackendError (user) if torch does not see the requested device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if requested == "auto":
        requested = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[requested]:
        raise user_error(
            f"torch {torch.__version__} sees no {requested} device",
            "set backend.device to cpu or auto, or install a driver",
        )
    return torch.device(requested)


def resolve_dtype(requested: str, device: torch.device) -> torch.dtype:
    """Return the data type in which `device` computes; see `choose_dtype`."""
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
    return choose_dtype(requested, device.type, bf16)


def choose_dtype(requested: str, device_type: str, has_bf16: bool) -> torch.dtype:
    """Return the data type of the computations.

    `auto` is bfloat16 on a GPU with bfloat16 arithmetic and float32 everywhere else. CPUs use
    float32 because it is the safe choice there. Raises BackendError (user) for bfloat16 on a device
    without bfloat16 instructions (about 25 times slower than float32) and for float16 (gradients
    underflow without loss scaling).
    """
    if requested == "float16":
        raise user_error("training in float16 is not supported: its gradients underflow", "use bfloat16 or float32")
    if requested == "bfloat16":
        if device_type in {"cpu", "cuda"} and not has_bf16:
            raise user_error(f"this {device_type} device has no bfloat16 arithmetic", "use float32, or omit dtype")
        return torch.bfloat16
    return torch.bfloat16 if requested == "auto" and device_type == "cuda" and has_bf16 else torch.float32


@cache
def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether `cpuinfo` lists bfloat16 instructions. False if the file does not exist."""
    if not cpuinfo.is_file():
        return False
    flags = next((line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


_GLIBC_TRIM_THRESHOLD, _GLIBC_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 2**30


@cache
def keep_freed_memory() -> bool:
    """Make glibc keep up to 1 GiB of freed memory for the next step. Return whether that succeeded.

    By default glibc returns each large tensor to the system, which has to clear the pages again:
    12,000 to 22,000 page faults per step of a small encoder, 5 to 7 % of its time (docs/log.md).
    With any other C library this function does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    results = [libc.mallopt(option, _KEEP_BYTES) for option in (_GLIBC_MMAP_THRESHOLD, _GLIBC_TRIM_THRESHOLD)]
    return all(result == 1 for result in results)


def set_threads(placement: Placement) -> None:
    """Use as many threads as the placement has cores.

    More would compete with neighbouring trials.
    """
    threads = max(1, int(placement.cpus))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
