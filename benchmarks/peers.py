"""The peers of our sweep, each run as a process: `python -m benchmarks.peers WAY JOB RESULT`.

`sequential`  one process, one trial after another, no orchestration; torch uses the job's threads
`ray`         Ray Tune as its documentation shows it: a function loads, tokenizes, trains and
              reports; one CPU per trial
`ray-tuned`   Ray Tune as an expert uses it: tokenized data in the object store, reused actors, the
              base model loaded once per worker and copied per trial, batches grouped by length, no
              loggers
"""

from __future__ import annotations

import copy
import importlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.workloads import Job

WAYS = ("sequential", "ray", "ray-tuned")

_base_models: dict[str, Any] = {}


def points(job: Job) -> list[dict[str, float]]:
    """Return the points of the grid."""
    return [dict(zip(job.grid, values, strict=True)) for values in itertools.product(*job.grid.values())]


def sequential(job: Job, folder: Path) -> list[dict[str, Any]]:
    """Train one point after another. Tokenize the data once."""
    from benchmarks import trainer_loop

    data = trainer_loop.encode(job)
    return [
        trainer_loop.train(job, data, trainer_loop.load_model(job), point, folder / f"trial-{n}")
        for n, point in enumerate(points(job))
    ]


# ----------------------------------------------------------------------------------------- Ray Tune
def _report_evaluations() -> Any:
    from ray import tune
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **options: Any) -> None:
            metrics: Mapping[str, float] = options["metrics"]
            if "eval_valid_loss" in metrics:
                tune.report({"valid_loss": metrics["eval_valid_loss"], "epoch": state.epoch})

    return Report()


def _documented_trial(config: dict[str, Any]) -> None:
    from ray import tune

    from benchmarks import trainer_loop

    job = Job(**config["job"])
    data = trainer_loop.encode(job)
    point = {name: config[name] for name in job.grid}
    with tempfile.TemporaryDirectory() as folder:
        work = trainer_loop.train(
            job, data, trainer_loop.load_model(job), point, Path(folder) / "trial", [_report_evaluations()]
        )
    tune.report({"valid_loss": work["valid_loss"], "done_work": work})


def _tuned_trial(config: dict[str, Any], job: Job, data: Any) -> None:
    import torch
    from ray import tune

    from benchmarks import trainer_loop

    torch.set_num_threads(1)
    if job.model not in _base_models:
        _base_models[job.model] = trainer_loop.load_model(job)
    model = copy.deepcopy(_base_models[job.model])
    with tempfile.TemporaryDirectory() as folder:
        work = trainer_loop.train(
            job, data, model, config, Path(folder) / "trial", [_report_evaluations()], "group_by_length"
        )
    tune.report({"valid_loss": work["valid_loss"], "done_work": work})


def ray(job: Job, folder: Path) -> list[dict[str, Any]]:
    """Run the grid through a Tuner with a function trainable."""
    from dataclasses import asdict

    from ray import tune

    space = {name: tune.grid_search(list(values)) for name, values in job.grid.items()}
    tuner = tune.Tuner(
        tune.with_resources(_documented_trial, {"cpu": 1}),
        param_space={**space, "job": asdict(job)},
        tune_config=tune.TuneConfig(metric="valid_loss", mode="min"),
        run_config=tune.RunConfig(storage_path=str(folder)),
    )
    return _work(tuner.fit())


def ray_tuned(job: Job, folder: Path) -> list[dict[str, Any]]:
    """Run the grid through a Tuner that shares everything that function trainables can share."""
    from ray import tune

    from benchmarks import trainer_loop

    space = {name: tune.grid_search(list(values)) for name, values in job.grid.items()}
    trainable = tune.with_parameters(_tuned_trial, job=job, data=trainer_loop.encode(job))
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(metric="valid_loss", mode="min", reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    return _work(tuner.fit())


def _work(results: Any) -> list[dict[str, Any]]:
    if results.errors:
        raise RuntimeError(f"{len(results.errors)} trials failed: {results.errors[0]}")
    return [result.metrics["done_work"] for result in results]


# -------------------------------------------------------------------------------------------- entry
def main(way: str, job: Job, result: Path) -> None:
    """Run a way. Write its work, and its duration from the moment when all imports are done and Ray
    runs.
    """
    import torch
    from transformers.utils import logging

    quiet: Any = logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    if way == "sequential":
        if job.threads:
            torch.set_num_threads(job.threads)
    else:
        if way == "ray-tuned":
            os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
        import ray as ray_library

        ray_library.init(log_to_driver=False)
    import benchmarks.trainer_loop  # noqa: F401  # import it before the clock starts

    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-peer-") as folder:
        run = {"sequential": sequential, "ray": ray, "ray-tuned": ray_tuned}[way]
        trials = run(job, Path(folder))
    seconds = time.perf_counter() - started
    result.write_text(json.dumps({"trials": trials, "seconds": seconds}), encoding="utf-8")


if __name__ == "__main__":
    # Use the importable module, so that Ray's workers find its functions by name.
    importlib.import_module("benchmarks.peers").main(sys.argv[1], Job.read(Path(sys.argv[2])), Path(sys.argv[3]))
