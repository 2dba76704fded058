"""A sweep through our own server: the same results as without it, and jobs adopted after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow_warnings import MLFLOW_WARNINGS
from user_environment import user_environment

from backends.contract import DataFile, Dataset, PredictOptions
from backends.hosted import HostedBackend
from backends.hosted.options import HostedOptions
from backends.model_packages import hosted_predictor

pytestmark = [
    pytest.mark.integration,
    *MLFLOW_WARNINGS,
]

DATA = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise}\\n{hypothesis}\\n\\n###\\n\\n", completion: " {label}",
       train_examples: 150, valid_examples: 60, test_examples: 30}
"""
SPACE = """\
space:
  n_epochs: [2, 3]
  batch_size: {low: 2%, high: 8%, log: true}
  learning_rate_multiplier: recommended
  prompt_loss_weight: [0.01, 0.1]
search: {sampler: tpe, scheduler: none, trials: 2, concurrency: 1, seed: 7}
objective: {maximize: valid_accuracy}
"""
NO_FILE = DataFile("none", 0, "")
LOCAL = "backend: {type: local, model: 'builtin:tiny-lm', device: cpu}\nresources: {cpus_per_trial: 1}\n"
HOSTED = "backend: {type: hosted, host: local, base_url: '%s', model: %s, poll_s: 0.1, create_grace_s: 2}\n"


def start(folder: Path, text: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "pairs.yaml").write_text(text)
    environ = user_environment()
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps.cli", "run", "pairs.yaml", "--json"],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def outcome(process: subprocess.Popen[str]) -> Mapping[str, Any]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    summary: Mapping[str, Any] = json.loads(out)
    return summary


def curve(trial: Mapping[str, Any]) -> list[tuple[float, Mapping[str, float]]]:
    return [(evaluation["epoch"], evaluation["values"]) for evaluation in trial["curve"]]


@pytest.mark.slow
@pytest.mark.trains
def test_the_same_space_gives_the_same_locally_and_over_the_server(tmp_path: Path, serve: Any) -> None:
    # One thread for each job, as for each local trial: another number of threads rounds
    # differently.
    server = serve("--backend", "local", "--set", "device=cpu", "--max-jobs", str(os.cpu_count() or 1))
    through_server = start(tmp_path / "hosted", DATA + HOSTED % (server.url, "tiny-lm") + SPACE)
    direct = outcome(start(tmp_path / "local", DATA + LOCAL + SPACE))
    served = outcome(through_server)

    assert len(direct["trials"]) == len(served["trials"]) == 2
    for one, other in zip(direct["trials"], served["trials"], strict=True):
        assert one["hyperparameters"] == other["hyperparameters"]
        assert one["verdict"]["kind"] == other["verdict"]["kind"]
        assert one["best_epoch"] == other["best_epoch"]
        assert one["values"] == pytest.approx(other["values"], abs=1e-4)
        assert [epoch for epoch, _ in curve(one)] == [epoch for epoch, _ in curve(other)]
        for (_, values), (_, served_values) in zip(curve(one), curve(other), strict=True):
            assert set(values) == set(served_values)
            assert values == pytest.approx(dict(served_values), rel=1e-3, abs=1e-4)
    assert direct["best"]["number"] == served["best"]["number"]
    assert_packaged_answers_are_the_backends(server.url, served["best"]["model"], tmp_path)


def assert_packaged_answers_are_the_backends(url: str, model: str, folder: Path) -> None:
    """The registered package of a model answers like the backend that scored the sweep."""
    options = HostedOptions(host="local", base_url=url, model="tiny-lm")
    labels = (" entailment", " neutral", " contradiction")
    data = Dataset(NO_FILE, NO_FILE, "completion", labels)
    prompts = [{"prompt": f"The {animal} sleeps\nIt rests\n\n###\n\n"} for animal in ("cat", "dog", "small bird")]
    with closing(HostedBackend(options, folder / "asking", {})) as backend:
        scored = backend.predict(model, prompts, PredictOptions(labels=labels))
        package = backend.package(model, data, folder)
    assert package.code == Path(hosted_predictor.__file__)
    answers = hosted_predictor.load(str(folder), json.loads(json.dumps(package.settings))).predict(prompts)
    for (text, logprobs), wanted in zip(answers, scored, strict=True):
        assert text == wanted.text
        assert logprobs == pytest.approx(list(wanted.label_logprobs or ()), rel=1e-6)


def test_a_sweep_that_was_killed_adopts_its_jobs(tmp_path: Path, serve: Any, make_client: Any) -> None:
    server = serve("--max-jobs", "2", "--set", "seconds_per_epoch=2.5")
    client = make_client(server.client())
    space = "space: {n_epochs: [2, 3], batch_size: {low: 1, high: 8}}\n"
    space += "search: {sampler: random, scheduler: none, trials: 4, concurrency: 2}\n"
    text = DATA + HOSTED % (server.url, "fake-small") + space + "objective: {maximize: valid_accuracy}\n"

    def jobs() -> list[Any]:
        return list(client.api.fine_tuning.jobs.list())

    killed = start(tmp_path / "sweep", text)
    deadline = time.monotonic() + 120
    while len(jobs()) < 2:
        assert time.monotonic() < deadline
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    begun = {job.id: job.status for job in jobs()}
    assert set(begun.values()) & {"validating_files", "queued", "running"}, "there is nothing to adopt"

    done = outcome(start(tmp_path / "sweep", text))
    assert [trial["state"] for trial in done["trials"]] == ["complete"] * 4
    after = jobs()
    assert set(begun) <= {job.id for job in after}
    trials = Counter(job.metadata["sweep_key"] for job in after if job.metadata)
    assert sorted(trials) == sorted(trial["key"] for trial in done["trials"])
    assert set(trials.values()) == {1}, "a trial has more than one job"
    assert {job.status for job in after} == {"succeeded"}
