"""The cost of a no-op trial: a whole sweep on the fake backend against Ray Tune alone."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure

SIZES = (10, 100, 1000)
WAYS = ("sweep", "ray-tune")
CONCURRENCY = 4
_TIMEOUT_S = 3600.0
_CLEAN = {"MLFLOW_TRACKING_URI": "", "SWEEP_STORAGE": "", "RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0"}

_SWEEP = f"""
name: noop
data: {{checks: quick, source: "builtin:nli", train_examples: 60, valid_examples: 30, test_examples: 30,
        prompt: "{{premise}}\\n{{hypothesis}}\\n\\n###\\n\\n", completion: " {{label}}"}}
backend: {{type: fake}}
space:
  n_epochs: 1
  learning_rate_multiplier: {{low: 0.02, high: 0.2, log: true}}
search: {{sampler: random, scheduler: none, concurrency: {CONCURRENCY}}}
objective: {{maximize: valid_accuracy}}
"""


# ------------------------------------------------------------------------------------------ measure
def benchmark(sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """Run both ways at each size, interleaved, and return their resource usage and the size of
    their files.
    """
    results = []
    for trials in sizes:
        for way in WAYS:
            results.append({"way": way, "trials": trials, **_measured(way, trials)})
            print(f"  no-op {way:8} {trials:5} trials  {results[-1]['seconds']:7.1f} s", flush=True)
    return {"results": results, "marginal": _marginals(results, sizes), "concurrency": CONCURRENCY}


def _measured(way: str, trials: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        root = Path(folder)
        arguments: tuple[str, ...]
        before = measure.calibrate()
        if way == "sweep":
            file = root / "noop.yaml"
            file.write_text(_SWEEP, encoding="utf-8")
            written = root / "written"
            arguments = (
                "-m",
                "sweeps.cli",
                "--root",
                str(written),
                "run",
                str(file),
                "--set",
                f"search.trials={trials}",
            )
        else:
            written = root / "written"
            arguments = ("-m", "benchmarks.noop", "--trials", str(trials), "--folder", str(written))
        usage = measure.run_process(measure.python(*arguments), _TIMEOUT_S, _CLEAN)
        files = [path for path in written.rglob("*") if path.is_file()]
        return {
            "seconds": usage.seconds,
            "cpu_seconds": usage.cpu_seconds,
            "driver_peak_bytes": usage.peak_bytes,
            "tree_peak_bytes": usage.tree_peak_bytes,
            "files": len(files),
            "bytes": sum(file.stat().st_size for file in files),
            "before": before,
            "after": measure.calibrate(),
        }


def _marginals(results: Sequence[dict[str, Any]], sizes: Sequence[int]) -> list[dict[str, Any]]:
    seconds = {(result["way"], result["trials"]): result["seconds"] for result in results}
    return [
        {
            "way": way,
            "few": few,
            "many": many,
            "ms": measure.marginal_ms(few, seconds[way, few], many, seconds[way, many]),
        }
        for way in WAYS
        for few, many in itertools.pairwise(sizes)
    ]


# --------------------------------------------------------------------------- the peer, as a process
def _ray_tune(trials: int, folder: Path) -> None:
    """Run no-op trials through Ray Tune in its fastest form: a class, reused actors, no loggers, no
    dashboard.
    """
    from sweeps.execution.engine import SERVICE_TRIAL_CPUS
    from sweeps.execution.ray_connection import OBJECT_STORE_BYTES, RAY_ENVIRONMENT

    os.environ.update(RAY_ENVIRONMENT)
    import ray
    from ray import tune

    class NoOp(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self._rate = config["learning_rate_multiplier"]

        def step(self) -> dict[str, Any]:
            return {"valid_accuracy": self._rate, "done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def load_checkpoint(self, checkpoint: Any) -> None:
            pass

    ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, log_to_driver=False)
    start = time.perf_counter()
    tune.run(
        NoOp,
        name="noop",
        config={"learning_rate_multiplier": tune.loguniform(0.02, 0.2)},
        num_samples=trials,
        max_concurrent_trials=CONCURRENCY,
        resources_per_trial=tune.PlacementGroupFactory([{"CPU": SERVICE_TRIAL_CPUS}]),
        storage_path=str(folder),
        reuse_actors=True,
        verbose=0,
    )
    print(json.dumps({"trials": trials, "seconds": time.perf_counter() - start}))
    ray.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=_ray_tune.__doc__)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    _ray_tune(options.trials, options.folder)
