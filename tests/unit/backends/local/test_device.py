"""Devices, data types, threads, and the translation of library errors."""

from __future__ import annotations

import ctypes
import errno
import resource
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from backends.contract import BackendError, FailureKind, Placement
from backends.local import device, failures

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("requested", "kind", "has_bf16", "expected"),
    [
        ("auto", "cpu", False, torch.float32),
        ("auto", "cpu", True, torch.float32),
        ("auto", "cuda", True, torch.bfloat16),
        ("auto", "cuda", False, torch.float32),
        ("auto", "mps", False, torch.float32),
        ("bfloat16", "cpu", True, torch.bfloat16),
        ("float32", "cuda", True, torch.float32),
    ],
)
def test_the_data_type_suits_the_device(requested: str, kind: str, has_bf16: bool, expected: torch.dtype) -> None:
    assert device.choose_dtype(requested, kind, has_bf16) is expected


@pytest.mark.parametrize("requested", ["bfloat16", "float16"])
def test_a_harmful_data_type_is_refused(requested: str) -> None:
    with pytest.raises(BackendError) as raised:
        device.choose_dtype(requested, "cpu", has_bf16=False)
    assert raised.value.failure.kind is FailureKind.USER


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_a_user_error() -> None:
    with pytest.raises(BackendError, match="cuda"):
        device.resolve_device("cuda")


def test_bf16_support_is_read_from_the_cpu_flags(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_text("processor: 0\nflags\t\t: fpu avx512_bf16 amx_tile\n", encoding="utf-8")
    old.write_text("processor: 0\nflags\t\t: fpu avx2 avx512f\n", encoding="utf-8")
    assert device.cpu_has_bf16(new)
    assert not device.cpu_has_bf16(old)
    assert not device.cpu_has_bf16(tmp_path / "none")


def test_the_number_of_threads_follows_the_placement() -> None:
    before = torch.get_num_threads()
    try:
        device.set_threads(Placement(cpus=2))
        assert torch.get_num_threads() == 2
        device.set_threads(Placement(cpus=0.5))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SafetensorError("Error while deserializing header"), FailureKind.USER),
        (OSError("no file named model.safetensors"), FailureKind.USER),
        (ValueError("Unrecognized model"), FailureKind.USER),
        (OSError(errno.ENOSPC, "No space left on device"), FailureKind.USER),
        (torch.OutOfMemoryError("CUDA out of memory"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureKind.OUT_OF_MEMORY),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
    ],
)
def test_library_errors_become_failures(error: Exception, kind: FailureKind) -> None:
    with pytest.raises(BackendError, match="loading it") as raised, failures.library_errors_translated("loading it"):
        raise error
    assert raised.value.failure.kind is kind
    assert raised.value.failure.detail


def test_our_own_errors_are_not_translated() -> None:
    with pytest.raises(KeyError), failures.resource_errors_translated("training"):
        raise KeyError("a bug")
    with pytest.raises(RuntimeError, match="shapes"), failures.resource_errors_translated("training"):
        raise RuntimeError("shapes do not match")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_kept_freed_memory_saves_page_faults_of_large_tensors() -> None:
    def page_faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.empty(16 * 2**20, dtype=torch.uint8).fill_(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert device.keep_freed_memory()
    page_faults()
    assert page_faults() < 16 * 2**20 / 4096
