"""Where and with which arithmetic a run computes: device, dtype, threads."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import torch

from backends.contract import Placement
from backends.local.model_source import user_error

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def resolve_device(asked: str) -> torch.device:
    """Return the device; `auto` is the GPU that torch sees, else mps, else the CPU. Raises BackendError (user)."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        asked = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[asked]:
        raise user_error(
            f"torch {torch.__version__} sees no {asked} device",
            "set backend.device to cpu or auto, or install a driver",
        )
    return torch.device(asked)


def resolve_dtype(asked: str, device: torch.device) -> torch.dtype:
    """Return the type of the arithmetic; see `choose_dtype`."""
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
    return choose_dtype(asked, device.type, bf16)


def choose_dtype(asked: str, device_type: str, has_bf16: bool) -> torch.dtype:
    """Return bfloat16 for `auto` on a GPU that computes in it, else float32, also on CPUs: there it is the safe choice.

    Raises BackendError (user) for bfloat16 without the instructions (it would be some 25 times slower than float32) and
    for float16, whose gradients underflow without loss scaling.
    """
    if asked == "float16":
        raise user_error("training in float16 is not supported: its gradients underflow", "use bfloat16 or float32")
    if asked == "bfloat16":
        if device_type in {"cpu", "cuda"} and not has_bf16:
            raise user_error(f"this {device_type} device has no bfloat16 arithmetic", "use float32, or leave dtype out")
        return torch.bfloat16
    return torch.bfloat16 if asked == "auto" and device_type == "cuda" and has_bf16 else torch.float32


@cache
def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU says that it has bfloat16 instructions; False where it cannot be asked."""
    if not cpuinfo.is_file():
        return False
    flags = next((line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


_GLIBC_TRIM_THRESHOLD, _GLIBC_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 2**30


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, up to 1 GiB, for the next step; return whether it does.

    Else it gives each large tensor back to the system, which has to clear the pages again: 12,000 to 22,000 page faults
    a step of a small encoder, 5 to 7 % of its time (docs/log.md). Where the C library is not glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    done = [libc.mallopt(each, _KEEP_BYTES) for each in (_GLIBC_MMAP_THRESHOLD, _GLIBC_TRIM_THRESHOLD)]
    return all(each == 1 for each in done)


def set_threads(placement: Placement) -> None:
    """Use as many threads as the placement has cores: more would fight with the neighbours."""
    threads = max(1, int(placement.cpus))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
