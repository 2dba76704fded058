"""Train one configuration in this process and print its measured and its forecast peak as JSON.

    python -m benchmarks.memory.measure NUMBER MODEL_FOLDER WORK_FOLDER

The peak is the largest resident set of the process (VmHWM) less that before the model is loaded,
when all libraries are imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def resident_bytes(name: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def main() -> None:
    import peft  # noqa: F401
    import torch
    import transformers.models.bert.modeling_bert
    import transformers.models.gpt2.modeling_gpt2
    import transformers.models.llama.modeling_llama  # noqa: F401

    from backends.contract import Finished, Placement
    from backends.local import LocalBackend, training_run  # noqa: F401
    from backends.local.options import LocalOptions
    from backends.testing import drain
    from benchmarks.memory.configurations import CONFIGURATIONS, request_for

    configuration = CONFIGURATIONS[int(sys.argv[1])]
    model, work = Path(sys.argv[2]), Path(sys.argv[3])
    request = request_for(configuration, model, work)
    options = LocalOptions(
        model=str(model),
        device="cpu",
        micro_batch_size=configuration.micro_batch,
        gradient_checkpointing=configuration.gradient_checkpointing,
    )
    torch.set_num_threads(1)
    backend = LocalBackend.open(options, work / "workspace", Placement(cpus=1))
    if failures := backend.check(request):
        raise SystemExit(f"{configuration.name}: {failures[0].message}")
    forecast = backend.memory_forecast(request)
    assert forecast is not None
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins again at the present size
    end = drain(backend, backend.submit(request), timeout_s=3600)[-1]
    peak = resident_bytes("VmHWM")
    backend.close()
    assert isinstance(end, Finished), end
    print(
        json.dumps(
            {
                "name": configuration.name,
                "before": before,
                "measured": peak - before,
                "forecast": forecast.peak_bytes,
                "sequence_length": forecast.sequence_length,
                "parts": dict(forecast.parts),
            }
        )
    )


if __name__ == "__main__":
    main()
