"""Measuring: timed processes, machine calibration, paired ratios, versions and hardware."""

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
"""A pair of runs counts only if the machine was equally fast, within this share, before and after
both runs. On an idle virtual machine the calibration itself varied from 154 to 186 GFLOP/s. One
more busy process halves it.
"""

_GEMM_SIZE = 1024
_GEMM_SECONDS = 1.0
_POLL_S = 0.25
_PACKAGES = ("torch", "transformers", "peft", "ray", "optuna", "mlflow", "numpy")


# -------------------------------------------------------------------------------------- calibration
def calibrate(seconds: float = _GEMM_SECONDS) -> float:
    """Return the machine's present speed: the median GFLOP/s of float32 matrix products on all
    cores.

    The measurement takes about `seconds`.
    """
    random = np.random.default_rng(0)
    left, right = (random.standard_normal((_GEMM_SIZE, _GEMM_SIZE), dtype=np.float32) for _ in range(2))
    left @ right  # the first product starts the threads
    durations_s: list[float] = []
    end = time.perf_counter() + seconds
    while not durations_s or time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        durations_s.append(time.perf_counter() - start)
    return 2 * _GEMM_SIZE**3 / statistics.median(durations_s) / 1e9


# ---------------------------------------------------------------------------------------- processes
class ProcessError(Exception):
    """A measured process failed. The text ends with the end of the process's output."""


@dataclass(frozen=True)
class ProcessUsage:
    """The resources of one process and its children, from start to end.

    CPU seconds and the tree's peak memory are sampled, so that short-lived children count only in
    part. `tree_peak_bytes` adds up resident memory, so that shared pages count more than once.
    `peak_bytes` is exact and covers the first process alone.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    tree_peak_bytes: int


def run_process(
    command: Sequence[str], timeout_s: float, environment: Mapping[str, str], output: Path | None = None
) -> ProcessUsage:
    """Run a command in the repository and write its stdout to `output`.

    An empty value in `environment` removes the variable. OMP_NUM_THREADS is always removed, so that
    the defaults are measured. Raises ProcessError if the command fails or exceeds `timeout_s`.
    """
    cpu: dict[int, float] = {}
    peak = tree_peak = 0
    clean = {
        name: value for name, value in {**os.environ, **environment}.items() if value and name != "OMP_NUM_THREADS"
    }
    with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
        stdout = stack.enter_context(output.open("wb")) if output else log
        start = time.perf_counter()
        child = subprocess.Popen(list(command), cwd=REPOSITORY, stdout=stdout, stderr=log, env=clean)
        while child.poll() is None:
            peak = max(peak, _peak_resident_bytes(child.pid))
            tree_peak = max(tree_peak, _sample(child.pid, cpu))
            try:
                child.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                if time.perf_counter() - start > timeout_s:
                    child.terminate()
        seconds = time.perf_counter() - start
        if child.returncode != 0:
            log.seek(0)
            tail = log.read()[-3000:].decode(errors="replace")
            raise ProcessError(f"{' '.join(command)}\nexited with {child.returncode} after {seconds:.0f} s:\n{tail}")
    return ProcessUsage(seconds, sum(cpu.values()), peak, tree_peak)


def _peak_resident_bytes(pid: int) -> int:
    """Return the peak resident memory of a process, or 0 if the system does not report it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _sample(pid: int, cpu: dict[int, float]) -> int:
    """Record the CPU seconds of a process and its descendants in `cpu`; return their total resident
    bytes.
    """
    resident = 0
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in tree:
        try:
            times = process.cpu_times()
            resident += process.memory_info().rss
        except psutil.Error:
            continue
        cpu[process.pid] = times.user + times.system
    return resident


# -------------------------------------------------------------------------------------------- pairs
@dataclass(frozen=True)
class TimedRun:
    """One timed run of a way. `before` and `after` are the machine's calibrations in GFLOP/s."""

    way: str
    round: int
    seconds: float
    before: float
    after: float


@dataclass(frozen=True)
class Ratios:
    """The ratios of `slow`'s duration to `fast`'s over the accepted pairs.

    Without pairs there are no numbers.
    """

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
    """Return the share by which the fastest of some calibrations exceeds the slowest."""
    return max(calibrations) / min(calibrations) - 1.0


def ratios(runs: Sequence[TimedRun], slow: str, fast: str, max_drift: float = MAX_DRIFT) -> Ratios:
    """Compare two ways by the runs of the same rounds.

    Reject a pair if the machine drifted by more than `max_drift`.

    A round without a run of both ways is ignored and does not count as rejected.
    """
    accepted, rejected = [], 0
    by_way_and_round = {(run.way, run.round): run for run in runs}
    for number in sorted({run.round for run in runs}):
        slow_run, fast_run = by_way_and_round.get((slow, number)), by_way_and_round.get((fast, number))
        if slow_run is None or fast_run is None:
            continue
        if drift([slow_run.before, slow_run.after, fast_run.before, fast_run.after]) > max_drift:
            rejected += 1
        else:
            accepted.append(slow_run.seconds / fast_run.seconds)
    return Ratios(slow, fast, tuple(accepted), rejected)


def marginal_ms(few: int, few_seconds: float, many: int, many_seconds: float) -> float:
    """Return the milliseconds per additional trial without start-up: the slope between two
    sizes.
    """
    if many <= few:
        raise ValueError(f"the larger size, {many} trials, is not more than the smaller, {few}")
    return (many_seconds - few_seconds) / (many - few) * 1000


# ------------------------------------------------------------------------------------------ machine
def machine() -> dict[str, Any]:
    """Return the facts on which measurements depend: hardware, versions and load.

    Nothing identifies the machine.
    """
    installed = {package.metadata["Name"].lower(): package.version for package in metadata.distributions()}
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
    vector = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{name or platform.machine()} ({', '.join(vector) or 'no vector flags known'})"


def _revision() -> str:
    """Return the measured commit, with `+` if files differ from it, or an empty text outside a
    checkout.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "sweeps", "backends", "search_spaces")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def python(*arguments: str) -> list[str]:
    """Return the command line that runs this Python interpreter with `arguments`."""
    return [sys.executable, *arguments]
