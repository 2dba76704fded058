"""A whole sweep by a task metric over a host: killed while a model answers, and continued."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from scripted_host import KEY, HostBehaviour, Response, ScriptedHost, error_response, serving

from sweeps.tracking import default_uri

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TIMEOUT_S = 240.0
ASKING = "POST chat/completions"
FILE = """\
name: texts
data: {{checks: quick, source: data.jsonl, prompt: "{{question}}", completion: " {{answer}}", train_examples: 30,
       valid_examples: 12, test_examples: 12}}
backend: {{type: hosted, host: local, format: chat, model: base-chat, base_url: "{address}", poll_s: 0.02,
          create_grace_s: 0.2}}
space: {{n_epochs: [1, 2, 3]}}
search: {{sampler: grid, scheduler: none, trials: 3, concurrency: 1, seed: 3}}
evaluation: {{metrics: [exact_match], generate: {{examples: 8, max_tokens: 12}}}}
objective: {{maximize: valid_exact_match}}
"""


def is_right(question: str, epochs: int) -> bool:
    """Return whether a model of so many epochs answers correctly. More epochs know more."""
    return zlib.crc32(question.encode()) % 4 < epochs


class WritingHost(ScriptedHost):
    """Its models answer `Repeat WORDS.` the better, the longer they trained."""

    def __init__(self) -> None:
        super().__init__(behaviour=HostBehaviour())
        self.write = self._write
        self.answered: Counter[tuple[str, str]] = Counter()
        self.at_request: Callable[[int], Response | None] = lambda number: None
        self.requests = 0
        self.kill: Callable[[], None] = lambda: None
        self.fault = self._observe

    def _observe(self, operation: str, moment: str) -> Response | None:
        if operation != ASKING or moment != "before":
            return None
        self.requests += 1
        return self.at_request(self.requests)

    def _write(self, model: str, request: dict[str, Any]) -> dict[str, Any]:
        question = str(request["messages"][-1]["content"]).split("\n")[0]
        self.answered[model, question] += 1
        job = next(job for job in self.jobs.values() if job.id in model)
        right = question.removeprefix("Repeat ").removesuffix(".")
        return {"content": right if is_right(question, job.hyperparameters["n_epochs"]) else "I forgot."}


def run(folder: Path, host: WritingHost) -> tuple[int, str]:
    """Run the sweep as a user does. The host can `kill` it. Returns its exit code and output."""
    environment = {**os.environ, "SWEEP_SERVER_KEY": KEY, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps.cli", "run", "texts.yaml"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    host.kill = lambda: os.killpg(process.pid, signal.SIGKILL)
    timeout = threading.Timer(TIMEOUT_S, lambda: os.killpg(process.pid, signal.SIGKILL))
    timeout.start()
    try:
        output, _ = process.communicate()
    finally:
        timeout.cancel()
    return process.returncode, output


def wait_for_recorded_answers(folder: Path, count: int) -> None:
    """Wait until the journal of the only sweep has so many answers."""
    (journal,) = folder.rglob("journal.sqlite")
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as connection:
            if connection.execute("SELECT count(*) FROM answers").fetchone()[0] >= count:
                return
        time.sleep(0.05)
    raise AssertionError(f"the journal does not have {count} answers")


def test_a_sweep_by_a_task_metric_is_refused_killed_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"question": f"Repeat sheep {n} of {n % 7}.", "answer": f"sheep {n} of {n % 7}"} for n in range(100)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    host = WritingHost()
    with serving(host) as address:
        (tmp_path / "texts.yaml").write_text(FILE.format(address=address))
        # The host refuses the sixth query and all later ones: the objective has no value.
        host.at_request = lambda number: error_response(403, "no more inference") if number > 5 else None
        code, output = run(tmp_path, host)
        assert code == 1, output
        assert "cannot be asked, so valid_exact_match has no value" in output
        assert "no more inference" in output
        assert len(host.jobs) == 1
        assert len(host.answered) == 5

        # It goes on where it was, until it is killed while the second model answers.
        recorded: set[tuple[str, str]] = set()

        def kill(number: int) -> Response | None:
            if len(host.jobs) == 2 and len(host.answered) == 8 + 4 and not recorded:
                recorded.update(host.answered)
                wait_for_recorded_answers(tmp_path, len(recorded))
                host.kill()
            return None

        host.at_request = kill
        code, output = run(tmp_path, host)
        assert recorded, output
        assert code == -signal.SIGKILL

        host.at_request = lambda number: None
        code, output = run(tmp_path, host)
        assert code == 0, output
    assert len(host.jobs) == 3
    assert len(host.answered) == 3 * 8
    assert {host.answered[question] for question in recorded} == {1}, "no answer is lost, and nothing is asked twice"

    asked = {question for _, question in host.answered}
    assert len(asked) == 8, "all models answer the same examples"
    wanted = {epochs: sum(is_right(question, epochs) for question in asked) / 8 for epochs in (1, 2, 3)}
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = MlflowClient(default_uri(tmp_path / ".sweep"))
    experiment = client.get_experiment_by_name("texts")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    measured = {int(run.data.params["n_epochs"]): run.data.metrics["valid_exact_match"] for run in trials}
    assert measured == pytest.approx(wanted)
    best = max(wanted.values())
    assert f"{best:.3g}" in output or f"{best:.4f}" in output, output
