"""How things are measured: timed processes, a calibration of the machine, pairs and ratios, versions and hardware."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

REPOSITORY = Path(__file__).resolve().parent.parent

MAX_DRIFT = 0.25
"""A pair counts only if the machine was equally fast, within this share, before and after both of its runs. On an idle
virtual machine the calibration itself varied from 154 to 186 GFLOP/s; one busy process more halves it."""

_GEMM_SIZE = 1024
_GEMM_SECONDS = 1.0
_POLL_S = 0.25
_PACKAGES = ("torch", "transformers", "peft", "ray", "optuna", "mlflow", "numpy")


# ---------------------------------------------------------------------------------------------------------- calibration
def calibrate(seconds: float = _GEMM_SECONDS) -> float:
    """Return the median GFLOP/s of float32 matrix products on all cores, over about `seconds`: how fast it is now."""
    random = np.random.default_rng(0)
    left, right = (random.standard_normal((_GEMM_SIZE, _GEMM_SIZE), dtype=np.float32) for _ in range(2))
    left @ right  # the first one starts the threads
    took: list[float] = []
    end = time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        took.append(time.perf_counter() - start)
    return 2 * _GEMM_SIZE**3 / statistics.median(took) / 1e9


# ------------------------------------------------------------------------------------------------------------ processes
class ProcessError(Exception):
    """A measured process failed; the text is the end of what it had to say."""


@dataclass(frozen=True)
class Measured:
    """One process, from its start to its end, its children included.

    CPU seconds and the peak of the whole tree are sampled: short children are seen in part. The tree's peak adds up
    resident memory, so pages that processes share count more than once; `peak_bytes` is the first process alone, exact.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    tree_peak_bytes: int


def run_process(
    command: Sequence[str], timeout_s: float, environment: Mapping[str, str], output: Path | None = None
) -> Measured:
    """Run a command in the repository, its stdout into `output`. Raises ProcessError where it fails or takes too long.

    Variables of `environment` that are empty are taken out, and so is OMP_NUM_THREADS: defaults are measured.
    """
    cpu: dict[int, float] = {}
    peak = tree_peak = 0
    clean = {
        name: value for name, value in {**os.environ, **environment}.items() if value and name != "OMP_NUM_THREADS"
    }
    with tempfile.TemporaryFile() as talk, contextlib.ExitStack() as stack:
        stdout = stack.enter_context(output.open("wb")) if output else talk
        start = time.perf_counter()
        child = subprocess.Popen(list(command), cwd=REPOSITORY, stdout=stdout, stderr=talk, env=clean)
        while child.poll() is None:
            peak = max(peak, _high_water(child.pid))
            tree_peak = max(tree_peak, _sample(child.pid, cpu))
            try:
                child.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                if time.perf_counter() - start > timeout_s:
                    child.terminate()
        seconds = time.perf_counter() - start
        if child.returncode != 0:
            talk.seek(0)
            tail = talk.read()[-3000:].decode(errors="replace")
            raise ProcessError(f"{' '.join(command)}\nended with {child.returncode} after {seconds:.0f} s:\n{tail}")
    return Measured(seconds, sum(cpu.values()), peak, tree_peak)


def _high_water(pid: int) -> int:
    """Return the most memory that a process ever had resident, 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _sample(pid: int, cpu: dict[int, float]) -> int:
    """Note the CPU seconds so far of a process and its descendants; return the sum of their resident memory."""
    resident = 0
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for each in tree:
        try:
            times = each.cpu_times()
            resident += each.memory_info().rss
        except psutil.Error:
            continue
        cpu[each.pid] = times.user + times.system
    return resident


# ---------------------------------------------------------------------------------------------------------------- pairs
@dataclass(frozen=True)
class Run:
    """One measured run of a way, in GFLOP/s calibrated before and after."""

    way: str
    round: int
    seconds: float
    before: float
    after: float


@dataclass(frozen=True)
class Ratios:
    """How many times as long `slow` took as `fast`, over the accepted pairs; no numbers where there are none."""

    slow: str
    fast: str
    accepted: tuple[float, ...]
    rejected: int

    @property
    def median(self) -> float | None:
        """The median ratio."""
        return statistics.median(self.accepted) if self.accepted else None

    @property
    def low(self) -> float | None:
        """The smallest ratio."""
        return min(self.accepted, default=None)

    @property
    def high(self) -> float | None:
        """The largest ratio."""
        return max(self.accepted, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the pairs and their summary."""
        return {**asdict(self), "median": self.median, "low": self.low, "high": self.high}


def drift(calibrations: Sequence[float]) -> float:
    """Return by what share the fastest of some calibrations exceeds the slowest."""
    return max(calibrations) / min(calibrations) - 1.0


def ratios(runs: Sequence[Run], slow: str, fast: str, max_drift: float = MAX_DRIFT) -> Ratios:
    """Compare two ways by the runs of the same rounds; a pair on a machine that drifted more is rejected.

    A round that lacks one of the two is left out and is no rejected pair.
    """
    accepted, rejected = [], 0
    by_place = {(each.way, each.round): each for each in runs}
    for number in sorted({each.round for each in runs}):
        one, other = by_place.get((slow, number)), by_place.get((fast, number))
        if one is None or other is None:
            continue
        if drift([one.before, one.after, other.before, other.after]) > max_drift:
            rejected += 1
        else:
            accepted.append(one.seconds / other.seconds)
    return Ratios(slow, fast, tuple(accepted), rejected)


def marginal_ms(few: int, few_seconds: float, many: int, many_seconds: float) -> float:
    """Return milliseconds that one more trial takes, start-up apart: the slope between two sizes."""
    if many <= few:
        raise ValueError(f"{many} trials are not more than {few}")
    return (many_seconds - few_seconds) / (many - few) * 1000


# -------------------------------------------------------------------------------------------------------------- machine
def machine() -> dict[str, Any]:
    """Return hardware, versions and load: what numbers depend on. Nothing in it says whose machine it is."""
    installed = {each.metadata["Name"].lower(): each.version for each in metadata.distributions()}
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_name(),
        "cpus": cpus,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: installed[name] for name in _PACKAGES if name in installed},
        "revision": _revision(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    vector = [each for each in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if each in flags]
    return f"{name or platform.machine()} ({', '.join(vector) or 'no vector flags known'})"


def _revision() -> str:
    """Return the commit that was measured, with `+` where files differ from it; empty outside a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "sweeps", "backends", "search_spaces")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def python(*arguments: str) -> list[str]:
    """Return the command that runs this Python, with the repository's packages in its path."""
    return [sys.executable, *arguments]
