"""Whole sweeps over a host that misbehaves, as a user has them: real processes, Ray, MLflow, sockets.

The host quotes the key that it is sent wherever it can. Afterwards the key is nowhere, the books are right, and
`sweep clean` takes away what is left but for the champion.
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
from scripted_host import Asked, Cut, Job, Manners, Said, ScriptedHost, listening, refused

from sweeps.champions.challenge import TRIAL
from sweeps.cli import main
from sweeps.tracking import default_uri
from sweeps.tracking.registry import ALIAS, OURS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEY = "sk-recognisable-6f1e0c7d-of-the-whole-sweeps"
PRICE = 1000.0
TOO_LONG_S = 240.0
FILE = """\
name: {name}
data: {{source: "builtin:nli", prompt: "{{premise}} {{hypothesis}}", completion: " {{label}}",
       train_examples: 30, valid_examples: 12, test_examples: 12}}
backend: {{type: hosted, host: local, model: base-chat, base_url: "{address}", price_per_million_tokens: {price},
          poll_s: 0.02, create_grace_s: 0.2, ask_labels: false, max_concurrent: 4{more}}}
space: {{n_epochs: [2, 3], batch_size: [5, 10, 15]}}
search: {{sampler: random, scheduler: none, trials: {trials}, concurrency: 4, seed: 3}}
objective: {{minimize: valid_loss}}
budget: {{usd: 1000}}
"""
SERIES = ("troubled", "unauthorised", "killed")
"""`killed` comes last: it ends the process."""

RUN_ALL = """
    import gc, sys
    from sweeps.cli import main as cli
    from sweeps.execution import engine
    engine.disconnect = lambda: None  # one Ray for all of them: starting it takes longer than the sweeps
    for name in sys.argv[1:]:
        sys.argv = ["sweep", "run", f"{name}.yaml"]
        try:
            cli.main()
        except SystemExit as end:
            gc.unfreeze()
            print(f"{name} ended with {end.code or 0}", flush=True)
"""


class QuotingHost(ScriptedHost):
    """Quotes the key in error bodies and headers, in the log and the errors of jobs, and fails in many ways."""

    def __init__(self) -> None:
        super().__init__(manners=Manners(kept_checkpoints=2))
        self.key = KEY
        self.sweep = ""
        self.done: Counter[str] = Counter()
        self.vanished: list[Job] = []
        self.killed: Callable[[], None] = lambda: None

    @property
    def third(self) -> Job:
        return list(self.jobs.values())[2]

    def is_of(self, model: str, sweep: str) -> bool:
        """Return whether a model is that of a job of a sweep."""
        return any(
            each.id in model and each.body["metadata"]["sweep_key"].startswith(sweep) for each in self.jobs.values()
        )

    def once(self, what: str, nth: int = 1) -> bool:
        """Return whether this is the nth time that something happens."""
        self.done[what] += 1
        return self.done[what] == nth

    def _answer(self, asked: Asked) -> Said:
        said = super()._answer(asked)
        said.headers.update({"x-request-id": f"req-{KEY}", "x-sent": asked.headers.get("authorization", "")})  # type: ignore[attr-defined]
        return said

    def carry_out(self, asked: Asked, parts: list[str]) -> Said:
        if self.sweep == "unauthorised":
            quoted = f"you sent Bearer {KEY}, " * 40  # longer than what is shown of a message
            return refused(401, f"Incorrect API key provided: {KEY}. {quoted}", "invalid_api_key")
        if asked.method == "POST" and parts == ["fine_tuning", "jobs"] and (trouble := self.trouble_at_creation()):
            return trouble
        if self.sweep == "troubled" and len(self.jobs) > 2 and self.third.epoch >= 1 and not self.vanished:
            self.vanished.append(self.jobs.pop(self.third.id))
        if parts[-1] == "events" and self.once("events", 5):
            raise Cut
        return super().carry_out(asked, parts)

    def trouble_at_creation(self) -> Said | None:
        if self.sweep == "troubled" and self.once("creation", 2):
            return refused(500, f"bug with {KEY}")
        if self.sweep == "troubled" and self.once("limited", 3):
            return refused(429, f"too many requests of {KEY}", "rate_limit_exceeded", **{"retry-after-ms": "50"})
        return None

    def accept(self, body: dict[str, Any]) -> Job:
        job = super().accept(body)
        job.extra_events.append(self.line(job, "info", f"the key {KEY} is fine"))
        return job

    def line(self, job: Job, level: str, message: str) -> dict[str, Any]:
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
        number = list(self.jobs).index(job.id)
        if self.sweep == "killed":
            self.killed()
        if job.ended or job.epoch < 1:
            return
        if self.sweep == "troubled" and number == 1:
            job.status, job.error = "failed", {"code": "server_error", "message": f"a node broke: {KEY}", "param": KEY}
        elif self.sweep == "troubled" and number == 3:
            job.status, job.error = "failed", {}
            job.extra_events.append(self.line(job, "error", f"moderation refused the data of {KEY}"))


Sweep = Callable[..., tuple[int, str, str]]


@dataclass
class Ran:
    """What is there after the series."""

    folder: Path
    host: QuotingHost
    told: str = ""
    began: float = field(default_factory=time.time)
    seen: set[str] = field(default_factory=set)
    """Command lines of this machine's processes that held the key, or the name of a Ray worker."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder, secrets = tmp_path_factory.mktemp("sweeps"), tmp_path_factory.mktemp("secrets")
    (secrets / "key").write_text(KEY + "\n")
    host = QuotingHost()
    with listening(host) as address:
        for name in SERIES:
            more = ", api_key: FILED" if name == "unauthorised" else ""
            trials = 5 if name == "troubled" else 2
            text = FILE.format(name=name, address=address, price=PRICE, trials=trials, more=more)
            (folder / f"{name}.yaml").write_text(text)
        environment = {**os.environ, "SWEEP_SERVER_KEY": KEY, "FILED_FILE": str(secrets / "key")}
        environment.pop("MLFLOW_TRACKING_URI", None)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RUN_ALL), *SERIES],
            cwd=folder,
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        host.killed = lambda: os.killpg(process.pid, signal.SIGKILL)
        found = Ran(folder, host)
        host.sweep = SERIES[0]
        assert process.stdout is not None
        watching = threading.Event()
        watcher = threading.Thread(target=_watch, args=(watching, found.seen))
        watcher.start()
        hanging = threading.Timer(TOO_LONG_S, host.killed)
        hanging.start()
        try:
            for line in process.stdout:
                found.told += line
                if ended := re.match(r"(\w+) ended with", line):
                    host.sweep = SERIES[SERIES.index(ended[1]) + 1]
            process.wait(60)
        finally:
            hanging.cancel()
            watching.set()
            watcher.join()
            process.stdout.close()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        yield found


def _watch(until: threading.Event, seen: set[str]) -> None:
    while not until.wait(0.1):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if KEY in line:
                seen.add(line)
            elif line.startswith("ray::"):
                seen.add("a worker")


def test_every_kind_of_failure_has_happened(ran: Ran) -> None:
    """Else the absence of the key would prove little."""
    for name, code in (("troubled", 0), ("unauthorised", 2)):
        assert f"{name} ended with {code}" in ran.told, ran.told
    assert "killed ended" not in ran.told
    for each in ("a node broke: <key>", "Incorrect API key provided: <key>", "moderation refused the data of <key>"):
        assert each in ran.told, ran.told
    assert ran.host.vanished
    assert ran.host.done["creation"] > 5
    for name in ("study.journal", "mlflow.db*", "journal.sqlite*"):  # a database, or its write-ahead log
        files = (ran.folder / ".sweep").rglob(name)
        assert any(b"a node broke: <key>" in each.read_bytes() for each in files), name


def test_the_key_is_nowhere(ran: Ran) -> None:
    assert KEY not in ran.told
    assert ran.seen == {"a worker"}, "command lines and titles of processes"
    files = [each for each in ran.folder.rglob("*") if each.is_file()]
    names = {each.name for each in files}
    assert {"mlflow.db", "study.journal", "plan.json", "sweep.yaml", "report.html", "journal.sqlite"} <= names
    logs = (each for each in Path("/tmp/ray").glob("session_*") if each.stat().st_mtime >= ran.began)
    sessions = [each for folder in logs for each in folder.glob("logs/**/*") if each.is_file()]
    assert sessions
    for each in (*files, *sessions):
        assert KEY.encode() not in each.read_bytes(), each


# ---------------------------------------------------------------------------------------------------------------- money
@pytest.fixture
def sweep(ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweep:
    monkeypatch.chdir(ran.folder)
    monkeypatch.setenv("SWEEP_SERVER_KEY", KEY)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ran.host.sweep = ""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        gc.unfreeze()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


def test_the_books_are_right_and_each_job_is_counted_once(ran: Ran, sweep: Sweep) -> None:
    code, out, err = sweep("status", "troubled", "--json")
    assert code == 0, err
    told = json.loads(out)
    jobs = [each for each in ran.host.jobs.values() if each.body["metadata"]["sweep_key"].startswith("troubled")]
    done = [each for each in jobs if each.status == "succeeded"]
    assert len(done) == 4
    charged = sum(ran.host.trained_tokens(each) for each in done) * PRICE / 1e6
    assert told["spent"]["usd"] == pytest.approx(charged), "a job that failed is free at this host"
    assert told["spent"]["tokens"] == sum(ran.host.trained_tokens(each) for each in jobs)
    (lost,) = ran.host.vanished
    assert told["committed"]["usd"] > ran.host.trained_tokens(lost) * PRICE / 1e6, "nobody can say what it has cost"
    assert "$" in ran.told
    assert re.search(r"\$[0-9.]+ spent, \$[0-9.]+ committed, \$[0-9.]+ left", ran.told)

    client = MlflowClient(default_uri(ran.folder / ".sweep"))
    experiment = client.get_experiment_by_name("troubled")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_trial = [each for each in runs if "mlflow.parentRunId" in each.data.tags]
    assert sum(each.data.metrics.get("usd", 0.0) for each in by_trial) == pytest.approx(charged)
    (parent,) = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    assert parent.data.metrics["usd"] == pytest.approx(charged)


def test_the_plan_says_what_it_costs_and_refuses_what_cannot_be_priced(ran: Ran, sweep: Sweep) -> None:
    code, out, err = sweep("plan", "troubled.yaml")
    assert code == 0, err
    text = " ".join(out.split())
    assert "1000 USD per million tokens, as the file says" in text
    code, out, err = sweep("plan", "troubled.yaml", "--json")
    estimate = json.loads(out)["estimate"]
    assert 0 < estimate["usd_per_trial"] <= estimate["usd_per_trial_at_most"] <= estimate["usd_at_most"]
    code, out, err = sweep("plan", "troubled.yaml", "--set", "backend.price_per_million_tokens=null")
    assert (code, out) == (2, "")
    assert "no limit can be held" in err
    assert "give the backend a price" in err
    assert re.search(r"troubled.yaml:\d+", err)


# ------------------------------------------------------------------------------------------------------------- clean-up
def items(out: str) -> dict[str, dict[str, Any]]:
    return {f"{each['kind']} {each['name']}": each for each in json.loads(out)["items"]}


def test_clean_takes_away_what_is_left_but_for_the_champion(ran: Ran, sweep: Sweep) -> None:
    host = ran.host
    code, out, err = sweep("status", "troubled", "--json")
    best, *_ = told = sorted(
        (each for each in json.loads(out)["trials"] if each["values"]), key=lambda each: each["values"][0]
    )
    champion = told[2]  # the sweep itself keeps no more
    client = MlflowClient(default_uri(ran.folder / ".sweep"))
    client.create_registered_model("answers", tags={OURS: "1"})
    client.create_model_version("answers", str(ran.folder), tags={TRIAL: champion["key"]})
    client.set_registered_model_alias("answers", ALIAS, "1")

    before = (dict(host.files), set(host.models))
    code, out, err = sweep("clean", "troubled", "--json")
    assert code == 0, err
    assert json.loads(out)["removed"] is False
    found = items(out)
    kept = {name: each["kept_because"] for name, each in found.items() if not each["goes"]}
    assert kept.pop(f"model {champion['model']}") == "the champion, version 1 of answers"
    assert kept.pop(f"model {best['model']}") == "the best model of the sweep"
    shared = {each for each in kept if each.startswith("data file")}
    assert len(shared) == len(kept) == 2
    assert all(re.fullmatch("sweep killed uses it", each) for each in kept.values())
    assert {each["kind"] for each in found.values() if each["goes"]} == {"model", "result file"}
    assert (dict(host.files), set(host.models)) == before, "looking changes nothing"
    code, out, err = sweep("clean", "troubled")
    assert code == 0, err
    assert "stays: the champion, version 1 of answers" in " ".join(out.split())
    assert "Nothing was deleted" in err

    code, out, err = sweep("clean", "troubled", "--all", "--yes", "--json")
    assert code == 0, err
    mine = {each for each in host.models if each.startswith("ft:") and host.is_of(each, "troubled")}
    assert mine == {champion["model"]}
    assert champion["model"] in host.models
    assert set(items(out)) >= {f"model {champion['model']}", f"model {best['model']}"}
    code, out, err = sweep("clean", "troubled", "--all", "--yes", "--json")
    assert code == 0, err
    assert list(items(out)) == [f"model {champion['model']}"], "files that others use are theirs now"


def test_clean_of_a_sweep_that_goes_on_takes_nothing_that_it_needs(ran: Ran, sweep: Sweep) -> None:
    """The killed one: its job still runs."""
    assert any(not each.ended for each in ran.host.jobs.values())
    code, out, err = sweep("clean", "killed", "--yes", "--json")
    assert code == 0, err
    assert "cancelled" not in {each.status for each in ran.host.jobs.values()}
    assert not any(each["goes"] for each in items(out).values())
    reasons = {each["kept_because"] for name, each in items(out).items() if name.startswith("job")}
    assert all(re.fullmatch(r"the next `sweep run` resumes trial \d", each) for each in reasons), reasons
    code, out, err = sweep("clean", "killed", "--all", "--yes", "--json")
    assert code == 0, err
    assert all(each.ended for each in ran.host.jobs.values())


def test_clean_says_what_is_wrong(ran: Ran, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = sweep("clean", "trubled")
    assert code == 2
    assert "troubled" in err
    code, _, err = sweep("clean")
    assert code == 2
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, _, err = sweep("clean", "troubled", "--yes")
    assert code == 1, "without the registry nobody knows which model is the champion"
    assert "127.0.0.1:9" in err
