"""Whole sweeps over a faulty host, as users run them: real processes, Ray, MLflow, sockets.

The host quotes the key wherever it can. Afterwards the key appears nowhere, the spend is correct,
and `sweep clean` removes all leftovers except the champion.
"""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_warnings import MLFLOW_WARNINGS
from scripted_host import (
    ConnectionCutError,
    HostBehaviour,
    Job,
    Request,
    Response,
    ScriptedHost,
    error_response,
    serving,
)

from sweeps.champions.winner import TRIAL_KEY_TAG
from sweeps.cli import main
from sweeps.tracking import default_uri
from sweeps.tracking.registry import CHAMPION_ALIAS, OWN_MODEL_TAG

pytestmark = [
    pytest.mark.integration,
    *MLFLOW_WARNINGS,
]

KEY = "sk-recognisable-6f1e0c7d-of-the-whole-sweeps"
PRICE = 1000.0
TIMEOUT_S = 240.0
FILE = """\
name: {name}
data: {{checks: quick, source: "builtin:nli", prompt: "{{premise}} {{hypothesis}}", completion: " {{label}}",
       train_examples: 30, valid_examples: 12, test_examples: 12}}
backend: {{type: hosted, host: local, model: base-chat, base_url: "{address}", price_per_million_tokens: {price},
          poll_s: 0.02, create_grace_s: 0.2, ask_labels: false, max_concurrent: 4{more}}}
space: {{n_epochs: [2, 3], batch_size: [5, 10, 15]}}
search: {{sampler: random, scheduler: none, trials: {trials}, concurrency: 4, seed: 3}}
objective: {{minimize: valid_loss}}
budget: {{usd: 1000}}
"""
SWEEPS = ("troubled", "unauthorised", "killed")
"""The sweeps in their order. `killed` is the last one, because it ends the process."""

RUN_ALL = """
    import gc, sys
    from sweeps.cli import main as cli
    from sweeps.execution import engine
    engine.disconnect = lambda record=None: None  # one Ray for all sweeps: starting Ray takes longer than the sweeps
    for name in sys.argv[1:]:
        sys.argv = ["sweep", "run", f"{name}.yaml"]
        try:
            cli.main()
        except SystemExit as end:
            gc.unfreeze()
            print(f"{name} ended with {end.code or 0}", flush=True)
"""


class QuotingHost(ScriptedHost):
    """Quotes the key in errors, headers and logs, and fails in many ways."""

    def __init__(self) -> None:
        super().__init__(behaviour=HostBehaviour(kept_checkpoints=2))
        self.key = KEY
        self.sweep = ""
        self.counts: Counter[str] = Counter()
        self.accepted_jobs: list[Job] = []
        self.deleted_jobs: list[Job] = []
        self.kill_process: Callable[[], None] = lambda: None

    def trained_by(self, model: str, sweep: str) -> bool:
        """Return whether a job of a sweep trained a model."""
        return any(
            job.id in model and job.body["metadata"]["sweep_key"].startswith(sweep) for job in self.jobs.values()
        )

    def is_nth(self, occasion: str, nth: int = 1) -> bool:
        """Count an occasion. Returns whether this is the nth one."""
        self.counts[occasion] += 1
        return self.counts[occasion] == nth

    def _handle(self, request: Request) -> Response:
        response = super()._handle(request)
        quoting = {"x-request-id": f"req-{KEY}", "x-sent": request.headers.get("authorization", "")}
        response.headers.update(quoting)  # type: ignore[attr-defined]
        return response

    def perform(self, request: Request, parts: list[str]) -> Response:
        if self.sweep == "unauthorised":
            quoted = f"you sent Bearer {KEY}, " * 40  # longer than the part of a message that is shown
            return error_response(401, f"Incorrect API key provided: {KEY}. {quoted}", "invalid_api_key")
        if request.method == "POST" and parts == ["fine_tuning", "jobs"] and (error := self.error_at_creation()):
            return error
        if self.sweep == "troubled" and len(self.accepted_jobs) > 2 and not self.deleted_jobs:
            third_job = self.accepted_jobs[2]
            if third_job.epoch >= 1:
                self.deleted_jobs.append(self.jobs.pop(third_job.id))
        if parts[-1] == "events" and self.is_nth("events", 5):
            raise ConnectionCutError
        return super().perform(request, parts)

    def error_at_creation(self) -> Response | None:
        if self.sweep == "troubled" and self.is_nth("creation", 2):
            return error_response(500, f"bug with {KEY}")
        if self.sweep == "troubled" and self.is_nth("limited", 3):
            return error_response(429, f"too many requests of {KEY}", "rate_limit_exceeded", **{"retry-after-ms": "50"})
        return None

    def accept(self, body: dict[str, Any]) -> Job:
        job = super().accept(body)
        self.accepted_jobs.append(job)
        job.extra_events.append(self.log_entry(job, "info", f"the key {KEY} is fine"))
        return job

    def log_entry(self, job: Job, level: str, message: str) -> dict[str, Any]:
        return {
            "id": f"ftevent-{job.id}-{level}",
            "object": "fine_tuning.job.event",
            "created_at": job.created_at + 99,
            "level": level,
            "message": message,
            "type": "message",
            "data": {"sent": {"authorization": KEY}},
        }

    def _advance(self, job: Job) -> None:
        super()._advance(job)
        number = self.accepted_jobs.index(job)  # in `self.jobs` the numbers shift when a job is deleted
        if self.sweep == "killed":
            self.kill_process()
        if job.ended or job.epoch < 1:
            return
        if self.sweep == "troubled" and number == 1:
            job.status, job.error = "failed", {"code": "server_error", "message": f"a node broke: {KEY}", "param": KEY}
        elif self.sweep == "troubled" and number == 3:
            job.status, job.error = "failed", {}
            job.extra_events.append(self.log_entry(job, "error", f"moderation refused the data of {KEY}"))


Sweep = Callable[..., tuple[int, str, str]]


@dataclass
class FinishedSweeps:
    """The state after all sweeps."""

    folder: Path
    host: QuotingHost
    output: str = ""
    began_at: float = field(default_factory=time.time)
    processes: set[str] = field(default_factory=set)
    """Command lines that contained the key, and "a worker" if there was a Ray worker."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedSweeps]:
    folder, secrets = tmp_path_factory.mktemp("sweeps"), tmp_path_factory.mktemp("secrets")
    (secrets / "key").write_text(KEY + "\n")
    host = QuotingHost()
    with serving(host) as address:
        for name in SWEEPS:
            more = ", api_key: FILED" if name == "unauthorised" else ""
            trials = 5 if name == "troubled" else 2
            text = FILE.format(name=name, address=address, price=PRICE, trials=trials, more=more)
            (folder / f"{name}.yaml").write_text(text)
        environment = {**os.environ, "SWEEP_SERVER_KEY": KEY, "FILED_FILE": str(secrets / "key")}
        environment.pop("MLFLOW_TRACKING_URI", None)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RUN_ALL), *SWEEPS],
            cwd=folder,
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        host.kill_process = lambda: os.killpg(process.pid, signal.SIGKILL)
        finished = FinishedSweeps(folder, host)
        host.sweep = SWEEPS[0]
        assert process.stdout is not None
        stop_watching = threading.Event()
        watcher = threading.Thread(target=_watch, args=(stop_watching, finished.processes))
        watcher.start()
        timeout = threading.Timer(TIMEOUT_S, host.kill_process)
        timeout.start()
        try:
            for line in process.stdout:
                finished.output += line
                if ended := re.match(r"(\w+) ended with", line):
                    host.sweep = SWEEPS[SWEEPS.index(ended[1]) + 1]
            process.wait(60)
        finally:
            timeout.cancel()
            stop_watching.set()
            watcher.join()
            process.stdout.close()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        yield finished


def _watch(stop: threading.Event, processes: set[str]) -> None:
    """Collect the suspicious command lines of this machine until `stop` is set."""
    while not stop.wait(0.1):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if KEY in line:
                processes.add(line)
            elif line.startswith("ray::"):
                processes.add("a worker")


def test_every_kind_of_failure_did_happen(finished: FinishedSweeps) -> None:
    """Otherwise the absence of the key would prove little."""
    for name, code in (("troubled", 0), ("unauthorised", 2)):
        assert f"{name} ended with {code}" in finished.output, finished.output
    assert "killed ended" not in finished.output
    for message in (
        "a node broke: <key>",
        "Incorrect API key provided: <key>",
        "moderation refused the data of <key>",
    ):
        assert message in finished.output, finished.output
    assert finished.host.deleted_jobs
    assert finished.host.counts["creation"] > 5
    for name in ("study.journal", "mlflow.db*", "journal.sqlite*"):  # a database, or its write-ahead log
        files = (finished.folder / ".sweep").rglob(name)
        assert any(b"a node broke: <key>" in file.read_bytes() for file in files), name


def test_the_key_appears_nowhere(finished: FinishedSweeps) -> None:
    assert KEY not in finished.output
    assert finished.processes == {"a worker"}, "command lines and titles of processes"
    files = [file for file in finished.folder.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"mlflow.db", "study.journal", "plan.json", "sweep.yaml", "report.html", "journal.sqlite"} <= names
    sessions = (folder for folder in Path("/tmp/ray").glob("session_*") if folder.stat().st_mtime >= finished.began_at)
    ray_logs = [file for folder in sessions for file in folder.glob("logs/**/*") if file.is_file()]
    assert ray_logs
    for file in (*files, *ray_logs):
        assert KEY.encode() not in file.read_bytes(), file


# -------------------------------------------------------------------------------------------- money
@pytest.fixture
def sweep(finished: FinishedSweeps, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweep:
    monkeypatch.chdir(finished.folder)
    monkeypatch.setenv("SWEEP_SERVER_KEY", KEY)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    finished.host.sweep = ""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        gc.unfreeze()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


def test_the_spend_is_correct_and_counts_each_job_once(finished: FinishedSweeps, sweep: Sweep) -> None:
    code, out, err = sweep("status", "troubled", "--json")
    assert code == 0, err
    status = json.loads(out)
    jobs = [job for job in finished.host.jobs.values() if job.body["metadata"]["sweep_key"].startswith("troubled")]
    succeeded = [job for job in jobs if job.status == "succeeded"]
    assert len(succeeded) == 4
    charged = sum(finished.host.trained_tokens(job) for job in succeeded) * PRICE / 1e6
    assert status["spent"]["usd"] == pytest.approx(charged), "a failed job is free at this host"
    assert status["spent"]["tokens"] == sum(finished.host.trained_tokens(job) for job in jobs)
    (lost,) = finished.host.deleted_jobs
    assert status["committed"]["usd"] > finished.host.trained_tokens(lost) * PRICE / 1e6, (
        "nobody knows what the lost job has cost"
    )
    assert "$" in finished.output
    assert re.search(r"\$[0-9.]+ spent, \$[0-9.]+ reserved, \$[0-9.]+ left", finished.output)

    client = MlflowClient(default_uri(finished.folder / ".sweep"))
    experiment = client.get_experiment_by_name("troubled")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_trial = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert sum(run.data.metrics.get("usd", 0.0) for run in by_trial) == pytest.approx(charged)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.metrics["usd"] == pytest.approx(charged)


def test_the_plan_shows_the_cost_and_is_an_error_without_a_price(finished: FinishedSweeps, sweep: Sweep) -> None:
    code, out, err = sweep("plan", "troubled.yaml")
    assert code == 0, err
    text = " ".join(out.split())
    assert "1000 USD per million tokens, from the sweep file" in text
    code, out, err = sweep("plan", "troubled.yaml", "--json")
    estimate = json.loads(out)["estimate"]
    assert 0 < estimate["usd_per_trial"] <= estimate["usd_per_trial_at_most"] <= estimate["usd_at_most"]
    code, out, err = sweep("plan", "troubled.yaml", "--set", "backend.price_per_million_tokens=null")
    assert (code, out) == (2, "")
    assert "so the sweep cannot keep this limit" in err
    assert "Give the backend a price" in err
    assert re.search(r"troubled.yaml:\d+", err)


# ----------------------------------------------------------------------------------------- clean-up
def items(out: str) -> dict[str, dict[str, Any]]:
    return {f"{item['kind']} {item['name']}": item for item in json.loads(out)["items"]}


def test_clean_removes_all_leftovers_except_the_champion(finished: FinishedSweeps, sweep: Sweep) -> None:
    host = finished.host
    code, out, err = sweep("status", "troubled", "--json")
    best, *_ = trials = sorted(
        (trial for trial in json.loads(out)["trials"] if trial["values"]), key=lambda trial: trial["values"][0]
    )
    champion = trials[2]  # the sweep itself does not keep this model
    client = MlflowClient(default_uri(finished.folder / ".sweep"))
    client.create_registered_model("answers", tags={OWN_MODEL_TAG: "1"})
    client.create_model_version("answers", str(finished.folder), tags={TRIAL_KEY_TAG: champion["key"]})
    client.set_registered_model_alias("answers", CHAMPION_ALIAS, "1")

    before = (dict(host.files), set(host.models))
    code, out, err = sweep("clean", "troubled", "--json")
    assert code == 0, err
    assert json.loads(out)["removed"] is False
    listed = items(out)
    kept = {name: item["kept_because"] for name, item in listed.items() if not item["goes"]}
    assert kept.pop(f"model {champion['model']}") == "the champion, version 1 of answers"
    assert kept.pop(f"model {best['model']}") == "the best model of the sweep"
    shared = {name for name in kept if name.startswith("data file")}
    assert len(shared) == len(kept) == 2
    assert all(re.fullmatch("sweep killed uses it", reason) for reason in kept.values())
    assert {item["kind"] for item in listed.values() if item["goes"]} == {"model", "result file"}
    assert (dict(host.files), set(host.models)) == before, "a listing changes nothing"
    code, out, err = sweep("clean", "troubled")
    assert code == 0, err
    assert "stays: the champion, version 1 of answers" in " ".join(out.split())
    assert "Nothing was deleted" in err

    code, out, err = sweep("clean", "troubled", "--all", "--yes", "--json")
    assert code == 0, err
    remaining = {model for model in host.models if model.startswith("ft:") and host.trained_by(model, "troubled")}
    assert remaining == {champion["model"]}
    assert champion["model"] in host.models
    assert set(items(out)) >= {f"model {champion['model']}", f"model {best['model']}"}
    code, out, err = sweep("clean", "troubled", "--all", "--yes", "--json")
    assert code == 0, err
    assert list(items(out)) == [f"model {champion['model']}"], "data files of other sweeps are no longer listed"


def test_clean_keeps_what_an_unfinished_sweep_needs(finished: FinishedSweeps, sweep: Sweep) -> None:
    """The job of the killed sweep still runs."""
    assert any(not job.ended for job in finished.host.jobs.values())
    code, out, err = sweep("clean", "killed", "--yes", "--json")
    assert code == 0, err
    assert "cancelled" not in {job.status for job in finished.host.jobs.values()}
    assert not any(item["goes"] for item in items(out).values())
    reasons = {item["kept_because"] for name, item in items(out).items() if name.startswith("job")}
    assert all(re.fullmatch(r"the next `sweep run` resumes trial \d", reason) for reason in reasons), reasons
    code, out, err = sweep("clean", "killed", "--all", "--yes", "--json")
    assert code == 0, err
    assert all(job.ended for job in finished.host.jobs.values())


def test_clean_reports_errors(finished: FinishedSweeps, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = sweep("clean", "trubled")
    assert code == 2
    assert "troubled" in err
    code, _, err = sweep("clean")
    assert code == 2
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, _, err = sweep("clean", "troubled", "--yes")
    assert code == 1, "without the registry the champion is unknown"
    assert "127.0.0.1:9" in err
