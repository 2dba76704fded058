"""A Ray cluster whose machines share nothing: refused, lost, cut off, slow, and joining machines.

The head trains nothing. The store is an S3 server on a machine of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine_lab
import pytest
from machine_lab import PATIENCE_S, Machine, MachineLab, report, wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(machine_lab.missing() is not None, reason=f"no machines: {machine_lab.missing()}"),
]

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 200, valid_examples: 60, test_examples: 40}
backend: {type: local}
space:
  n_epochs: 12
  batch_size: 16
  learning_rate_multiplier: {low: 0.02, high: 0.05, log: true}
search: {sampler: random, scheduler: none, stop_by_verdict: false, trials: TRIALS, concurrency: 2}
resources: {cpus_per_trial: 1}
objective: {minimize: valid_loss}
"""
STORE_URL = "s3://sweeps/files"
RAY_PORT = "6379"


class Lab(MachineLab):
    """The machines `store` and `head`, and workers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            AWS_ACCESS_KEY_ID="lab", AWS_SECRET_ACCESS_KEY="lab-secret-key", AWS_DEFAULT_REGION="us-east-1"
        )
        self.folder = folder
        self.store = self.add("store")
        self.environment["AWS_ENDPOINT_URL"] = f"http://{self.store.address}:5000"
        self.head = self.add("head")
        self._sweep: Any = None
        self._desk = self.head

    def up(self) -> None:
        """Start the S3 server, and Ray on the head."""
        self.store.start(["moto_server", "-H", "0.0.0.0", "-p", "5000"], self.folder / "store.log")
        bucket = "import fsspec; fsspec.filesystem('s3').makedir('sweeps')"
        wait_for(lambda: self.head.run("python", "-c", bucket).returncode == 0, "the S3 server")
        self.start_head()

    def start_head(self) -> None:
        """Start Ray on the head, which trains nothing."""
        self._ray("--head", f"--port={RAY_PORT}", "--num-cpus=0", "--include-dashboard=false", machine=self.head)

    def worker(self, name: str, cpus: int = 1) -> Machine:
        """Start a machine that trains so many trials at a time."""
        machine = self.add(name)
        self.join(machine, cpus)
        return machine

    def join(self, machine: Machine, cpus: int = 1) -> None:
        """Let a machine join the cluster."""
        self._ray(f"--address={self.head.address}:{RAY_PORT}", f"--num-cpus={cpus}", machine=machine)

    def leave(self, machine: Machine) -> None:
        """End what Ray still has on a machine, as a restart of the machine does."""
        machine.run("ray", "stop", "--force")

    def outdated_worker(self, name: str) -> Machine:
        """Start a machine whose Python has another version of finesweep."""
        machine = self.add(name)
        metadata = machine.path("/tmp/old/finesweep-0.1.9.dist-info")
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: finesweep\nVersion: 0.1.9\n")
        path = f"/tmp/old:{machine_lab.ROOT}"
        self._ray(f"--address={self.head.address}:{RAY_PORT}", "--num-cpus=1", machine=machine, PYTHONPATH=path)
        return machine

    def _ray(self, *options: str, machine: Machine, **environment: str) -> None:
        small = ("--object-store-memory=80000000", f"--node-ip-address={machine.address}")
        done = machine.run("ray", "start", *small, *options, **environment)
        assert done.returncode == 0, done.stdout + done.stderr

    def start_sweep(self, trials: int, *options: str, on: Machine | None = None) -> None:
        """Start `sweep run` on the head, or on another machine. Its output goes to `sweep.log`."""
        self._desk = on or self.head
        self._desk.path("/tmp/pairs.yaml").write_text(FILE.replace("TRIALS", str(trials)))
        (self.folder / "sweep.log").unlink(missing_ok=True)
        address = ("--address", f"{self.head.address}:{RAY_PORT}")
        command = ["sweep", "--root", "/tmp/work", "run", "pairs.yaml", *address, *options]
        self._sweep = self._desk.start(command, self.folder / "sweep.log")

    def wait_for_sweep(self) -> int:
        wait_for(lambda: self.sweep_has_ended, "the end of the sweep", PATIENCE_S * 2)
        return int(self._sweep.returncode)

    @property
    def sweep_has_ended(self) -> bool:
        return self._sweep.poll() is not None

    @property
    def words(self) -> str:
        """What the sweep has said so far."""
        return (self.folder / "sweep.log").read_text()

    def status(self) -> dict[str, Any]:
        done = self._desk.run("sweep", "--root", "/tmp/work", "status", "pairs", "--json")
        answer: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"trials": []}
        return answer

    def trial_on(self, machine: str, epochs: int) -> dict[str, Any] | None:
        """Return a running trial of this machine that has trained so many epochs."""
        for trial in self.status()["trials"]:
            if trial["machine"] == machine and trial["state"] == "running" and len(trial["curve"]) > epochs:
                return dict(trial)
        return None


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    running = Lab(tmp_path)
    try:
        running.up()
        yield running
    finally:
        running.close()


def seconds_until(lab: Lab, words: str, since: float) -> float:
    wait_for(lambda: words in lab.words or lab.sweep_has_ended, f"the words {words!r}")
    assert words in lab.words, lab.words
    return time.monotonic() - since


def test_without_a_store_the_sweep_is_refused_before_any_trial(lab: Lab) -> None:
    lab.worker("gpu-1")
    started = time.monotonic()
    lab.start_sweep(2)
    began = seconds_until(lab, "examining the machines of the cluster", started)
    refused = seconds_until(lab, "error:", started)
    assert lab.wait_for_sweep() == 1
    report(f"without a store: refused {refused - began:.1f} s after the examination began, {refused:.1f} s in all")
    error = lab.words[lab.words.index("error:") :]
    assert "machine gpu-1 (10.214.9.3) does not see the sweep's folder /tmp/work/sweeps/pairs" in error
    assert "--files s3://bucket/path" in error
    assert "Traceback" not in lab.words
    assert lab.status()["trials"] == [], "a trial was started"


def test_lost_joining_slow_and_outdated_machines(lab: Lab) -> None:
    lost = lab.worker("gpu-1")
    lab.worker("gpu-2").slow_down()
    lab.outdated_worker("gpu-old")
    lab.start_sweep(3, "--files", STORE_URL)

    seconds_until(lab, "machine gpu-old (10.214.9.5) has finesweep 0.1.9, but this sweep runs with", time.monotonic())
    lab.worker("gpu-3")
    joined = seconds_until(lab, "machine gpu-3 (10.214.9.6) has joined", time.monotonic())
    taken = wait_for(lambda: lab.trial_on("gpu-1", epochs=2), "a trial on gpu-1")
    lost_at = time.monotonic()
    lost.lose()
    silent = seconds_until(lab, "machine gpu-1 (10.214.9.3) does not answer", lost_at)
    gone = seconds_until(lab, "machine gpu-1 (10.214.9.3) is gone", lost_at)
    seconds_until(lab, f"trial {taken['number']} has lost machine gpu-1 (10.214.9.3)", lost_at)
    again = seconds_until(lab, f"trial {taken['number']} continues on machine gpu-", lost_at)
    report(
        f"a machine switched off: first words after {silent:.1f} s, given up after {gone:.1f} s, its trial continues"
        f" after {again:.1f} s; the joining machine was announced {joined:.1f} s after `ray start` had returned"
    )
    assert lab.wait_for_sweep() == 0, lab.words

    trials = {trial["number"]: trial for trial in lab.status()["trials"]}
    assert sorted(trials) == list(range(3)), "a trial was lost or doubled"
    assert {trial["state"] for trial in trials.values()} == {"complete"}
    assert {len(trial["curve"]) for trial in trials.values()} == {13}, "a curve has a gap"
    assert trials[taken["number"]]["key"] == taken["key"]
    machines = {trial["machine"] for trial in trials.values()}
    assert machines <= {"gpu-2", "gpu-3"} | {"gpu-1"}
    assert trials[taken["number"]]["machine"] != "gpu-1"
    before = taken["curve"]
    assert trials[taken["number"]]["curve"][:2] == before[:2], "the trial started anew with other numbers"
    jobs = list(lab.head.path("/tmp/work/sweeps/pairs/jobs").iterdir())
    assert len(jobs) == 1, "the driver fetched more than the best model"
    assert "Traceback" not in lab.words
    shown = lab.head.run("sweep", "--root", "/tmp/work", "status", "pairs").stdout
    assert "machine" in shown
    assert "gpu-3" in shown


def test_a_machine_that_is_cut_off_stops_before_another_takes_its_trial(lab: Lab) -> None:
    cut = lab.worker("gpu-1")
    lab.start_sweep(2, "--files", STORE_URL)
    taken = wait_for(lambda: lab.trial_on("gpu-1", epochs=1), "a trial on gpu-1")
    lab.worker("gpu-2")
    seconds_until(lab, "machine gpu-2 (10.214.9.4) has joined", time.monotonic())
    cut_at, cut_at_clock = time.monotonic(), time.time()
    cut.cut()
    wait_for(lambda: not cut.processes("ray::TrialRunner"), "the end of the worker that was cut off")
    stopped_clock = time.time()
    again = seconds_until(lab, f"trial {taken['number']} continues on machine gpu-2", cut_at)
    cut.mend()
    begun = begin_of_last_attempt(lab, taken["handle"]["id"])
    report(
        f"a machine cut off: its worker had ended after {stopped_clock - cut_at_clock:.1f} s,"
        f" another one took up the trial after {begun - cut_at_clock:.1f} s (said after {again:.1f} s)"
    )
    assert begun > stopped_clock, "two machines trained one trial at the same time"
    assert lab.wait_for_sweep() == 0, lab.words
    trials = lab.status()["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    assert {len(trial["curve"]) for trial in trials} == {13}


def test_the_only_worker_is_lost_and_replaced(lab: Lab) -> None:
    """Trials that Ray Tune already waits to place must find the new machine."""
    lost = lab.worker("gpu-1")
    lab.start_sweep(3, "--files", STORE_URL)
    wait_for(lambda: lab.trial_on("gpu-1", epochs=1), "a trial on gpu-1")
    lost.lose()
    seconds_until(lab, "no machine is left; the sweep waits for one to join", time.monotonic())
    lab.worker("gpu-2")
    assert lab.wait_for_sweep() == 0, lab.words
    trials = lab.status()["trials"]
    assert sorted(trial["number"] for trial in trials) == [0, 1, 2]
    assert {trial["state"] for trial in trials} == {"complete"}
    assert {len(trial["curve"]) for trial in trials} == {13}


def test_the_head_is_lost_while_the_sweep_runs_on_another_machine(lab: Lab) -> None:
    desk, worker = lab.worker("desk", cpus=0), lab.worker("gpu-1")
    lab.start_sweep(2, "--files", STORE_URL, on=desk)
    taken = wait_for(lambda: lab.trial_on("gpu-1", epochs=2), "a trial on gpu-1")
    lost_at = time.monotonic()
    lab.head.cut(silently=True)
    silent = seconds_until(lab, "the head process of the Ray cluster at", lost_at)
    assert lab.wait_for_sweep() == 1, lab.words
    report(f"the head lost: first words after {silent:.1f} s, the sweep ended {time.monotonic() - lost_at:.1f} s after")
    assert lab.words.count("error:") == 1, lab.words
    assert "Traceback" not in lab.words
    assert "same command again" in lab.words

    for machine in (lab.head, desk, worker):
        lab.leave(machine)
    lab.head.mend()
    lab.start_head()
    lab.join(desk, cpus=0)
    lab.join(worker)
    lab.start_sweep(2, "--files", STORE_URL, on=desk)
    assert lab.wait_for_sweep() == 0, lab.words
    assert_all_complete(lab, 2)
    assert lab.status()["trials"][taken["number"]]["curve"][:2] == taken["curve"][:2]
    assert f"trial {taken['number']} continues on machine gpu-1" in lab.words


def test_the_head_loses_power_with_the_sweep_on_it(lab: Lab) -> None:
    """Its disk stays. All of its processes end at once, those of the sweep among them."""
    worker = lab.worker("gpu-1")
    lab.start_sweep(2, "--files", STORE_URL)
    taken = wait_for(lambda: lab.trial_on("gpu-1", epochs=2), "a trial on gpu-1")
    lab.head.power_cycle()
    wait_for(lambda: not worker.processes("ray::TrialRunner"), "the end of the worker without a head")
    lab.leave(worker)
    lab.start_head()
    lab.join(worker)
    lab.start_sweep(2, "--files", STORE_URL)
    assert lab.wait_for_sweep() == 0, lab.words
    assert_all_complete(lab, 2)
    assert lab.status()["trials"][taken["number"]]["curve"][:2] == taken["curve"][:2]


def assert_all_complete(lab: Lab, count: int) -> None:
    trials = lab.status()["trials"]
    assert sorted(trial["number"] for trial in trials) == list(range(count))
    assert {trial["state"] for trial in trials} == {"complete"}
    assert {len(trial["curve"]) for trial in trials} == {13}, "a curve has a gap"
    assert len({trial["key"] for trial in trials}) == count
    assert "Traceback" not in lab.words


def begin_of_last_attempt(lab: Lab, run: str) -> float:
    script = (
        "import json; from sweeps.file_store.store import FileStore\n"
        f"store = FileStore({STORE_URL!r}); folder = 'runs/{run}'\n"
        "print(json.loads(store.read(f'{folder}/{store.names(folder)[-1]}/begun.json'))['at'])"
    )
    done = lab.head.run("python", "-c", script)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
