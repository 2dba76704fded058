"""Train one configuration in this process, and print the measured peak in bytes.

    python -m benchmarks.memory.measure NUMBER MODEL_FOLDER WORK_FOLDER

The peak is the largest resident set of the process (VmHWM) less that before the model is loaded,
when all libraries are imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

from backends.contract import Finished, Placement
from backends.local import LocalBackend
from backends.local.options import LocalOptions
from benchmarks.memory.configurations import CONFIGURATIONS, Configuration, request_for


def resident_bytes(name: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def open_backend(configuration: Configuration, model: Path, work: Path) -> LocalBackend:
    options = LocalOptions(
        model=str(model),
        device="cpu",
        micro_batch_size=configuration.micro_batch,
        gradient_checkpointing=configuration.gradient_checkpointing,
    )
    return LocalBackend.open(options, work / "workspace", Placement(cpus=1))


def forecast_bytes(configuration: Configuration, model: Path, work: Path) -> int:
    """Return the forecast of the local backend for a configuration, without training it."""
    backend = open_backend(configuration, model, work)
    forecast = backend.memory_forecast(request_for(configuration, model, work))
    backend.close()
    assert forecast is not None
    assert forecast.sequence_length == configuration.tokens, f"{forecast.sequence_length} tokens"
    return forecast.peak_bytes


def measured_bytes(configuration: Configuration, model: Path, work: Path) -> int:
    """Train a configuration and return its peak."""
    import peft  # noqa: F401
    import torch
    import transformers.models.bert.modeling_bert
    import transformers.models.gpt2.modeling_gpt2
    import transformers.models.llama.modeling_llama  # noqa: F401

    from backends.local import training_run  # noqa: F401
    from backends.testing import drain

    torch.set_num_threads(1)
    request = request_for(configuration, model, work)
    backend = open_backend(configuration, model, work)
    if failures := backend.check(request):
        raise SystemExit(f"{configuration.name}: {failures[0].message}")
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins again at the present size
    end = drain(backend, backend.submit(request), timeout_s=7200)[-1]
    peak = resident_bytes("VmHWM")
    backend.close()
    assert isinstance(end, Finished), end
    return peak - before


if __name__ == "__main__":
    print(measured_bytes(CONFIGURATIONS[int(sys.argv[1])], Path(sys.argv[2]), Path(sys.argv[3])))
