"""Exactly one job per trial, whatever fails between client and host, and whoever dies."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_host import (
    KEY,
    ConnectionCutError,
    HostBehaviour,
    InMemoryTransport,
    ProcessKilled,
    Response,
    ScriptedHost,
    error_response,
    serving,
)

from backends import codec
from backends.contract import (
    TERMINAL_EVENTS,
    BackendError,
    Dataset,
    Finished,
    Handle,
    Measured,
    Stopped,
    TrainingRequest,
)
from backends.hosted import HostedBackend
from backends.testing import write_jsonl

pytestmark = pytest.mark.integration

SCHEDULES = 510
PARTS = 2
ACTIONS = 16
GRACE_S = 60.0
CREATE = "POST fine_tuning/jobs"


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    lines = [{"prompt": f"thing {n}\n\n###\n\n", "completion": " red"} for n in range(12)]
    train, valid = write_jsonl(folder / "train.jsonl", lines), write_jsonl(folder / "valid.jsonl", lines[:4])
    return Dataset(train, valid, "completion", (" red", " green"))


@pytest.fixture
def unsynced(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory if possible: waiting for disks would take half of the time.

    No power fails in this test.
    """
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


class Schedule:
    """One random sequence of calls, faults, deaths and pauses, drawn from a seed."""

    def __init__(self, seed: int, workspace: Path, dataset: Dataset) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock()
        behaviour = HostBehaviour(
            filters_metadata=self.chance.random() < 0.7,
            keeps_metadata=self.chance.random() < 0.8,
            file_polls=self.chance.choice((0, 0, 2)),
            page_items=self.chance.choice((1, 2, 100)),
            sends_has_more=self.chance.random() < 0.8,
        )
        self.host = ScriptedHost(self.clock, behaviour)
        self.host.fault = self.fault
        self.host.create_delay = self.delay
        self.delays = 0
        self.rate = self.chance.choice((0.03, 0.1, 0.3))
        self.faulty = True
        self.deaths = 0
        self.faults: collections.Counter[str] = collections.Counter()
        # where a host drops metadata, its profile sends the key in the suffix
        name = "openai" if behaviour.keeps_metadata else "nebius"
        self.options = HostedBackend.options_model.model_validate(
            {
                "host": name,
                "base_url": "http://host/v1",
                "model": "base-chat",
                "create_grace_s": GRACE_S,
                "poll_s": 1,
                "ask_labels": False,
            }
        )
        self.workspace, self.dataset = workspace, dataset
        self.backend = self.open()
        self.handles: dict[str, Handle] = {}
        self.stopped: set[str] = set()

    def open(self) -> HostedBackend:
        return HostedBackend(
            self.options,
            self.workspace,
            {"OPENAI_API_KEY": KEY, "NEBIUS_API_KEY": KEY},
            transport=InMemoryTransport(self.host),
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    def fault(self, operation: str, moment: str) -> Response | None:
        # creations are rare among the requests, and they are the subject here, above all accepted
        # ones
        rate = {"before": 0.35, "after": 0.8}[moment] if operation == CREATE and self.rate else self.rate
        if not self.faulty or self.chance.random() > rate:
            return None
        kind = self.chance.choice(("cut", "500", "timeout", "late", "html", "429", "kill"))
        if kind == "429" and moment == "after":
            kind = "500"
        self.faults[f"{kind} {moment}{' of a creation' if operation == CREATE else ''}"] += 1
        match kind:
            case "cut":
                raise ConnectionCutError("cut")
            case "timeout":
                self.clock.sleep(120)
                raise TimeoutError
            case "500":
                return error_response(500, "The server had an error while processing your request")
            case "html":
                return Response(200, b"<html>", {"content-type": "text/html"})
            case "429":
                wait = self.chance.choice((1, 150, 4000))
                return error_response(429, "slow down", "rate_limit_exceeded", **{"retry-after": str(wait)})
            case "kill":
                raise ProcessKilled
            case _:
                raise TimeoutError
        raise AssertionError(kind)

    def delay(self) -> float | None:
        if not self.faulty or not self.rate or self.chance.random() > 0.2:
            return None
        self.delays += 1
        return self.chance.uniform(0.0, GRACE_S - 1)

    def request(self, key: str) -> TrainingRequest:
        return TrainingRequest(key, "base-chat", self.dataset, {"n_epochs": 1, "batch_size": 6}, seed=1)

    @contextlib.contextmanager
    def surviving_death(self) -> Iterator[None]:
        """After a death another process opens the same workspace."""
        try:
            yield
        except ProcessKilled:
            self.deaths += 1
            with contextlib.suppress(Exception):
                self.backend._journal.close()  # as the operating system does
            self.backend = self.open()
        except BackendError as error:
            if not error.failure.kind.retryable:
                raise

    def run(self, keys: list[str]) -> None:
        for _ in range(ACTIONS):
            with self.surviving_death():
                self.act(self.chance.choice(keys))
            self.clock.now += self.chance.choice((0.0, 5.0, 30.0, 300.0, 3000.0))
        self.faulty = False
        for _ in range(400):
            for key in keys:
                self.handles[key] = self.backend.submit(self.request(key))
            if all(self.has_ended(key) for key in keys):
                return
            self.clock.now += 60.0
        raise AssertionError(f"lost: {[key for key in keys if not self.has_ended(key)]}")

    def act(self, key: str) -> None:
        choice = self.chance.random()
        if key not in self.handles or choice < 0.3:
            self.handles[key] = self.backend.submit(self.request(key))
        elif choice < 0.97 or key.startswith("kept"):
            self.backend.events(self.handles[key], 0)
        else:
            self.backend.stop(self.handles[key])
            self.stopped.add(key)

    def has_ended(self, key: str) -> bool:
        events = self.backend.events(self.handles[key], 0)
        return bool(events) and isinstance(events[-1], TERMINAL_EVENTS)

    def check(self, keys: list[str]) -> None:
        jobs = collections.Counter(job.body["metadata"]["sweep_key"] for job in self.host.jobs.values())
        assert set(jobs) <= set(keys)
        for key in keys:
            events = list(self.backend.events(self.handles[key], 0))
            assert jobs[key] <= 1, f"{key} has {jobs[key]} jobs"
            if isinstance(events[-1], Stopped):
                assert not key.startswith("kept")
                assert all(job.ended for job in self.host.jobs.values() if job.body["metadata"]["sweep_key"] == key)
                continue
            assert isinstance(events[-1], Finished), events[-1]
            assert jobs[key] == 1
            (job,) = (job for job in self.host.jobs.values() if job.body["metadata"]["sweep_key"] == key)
            assert self.host.final_model(job) in events[-1].model
            steps = [event.step for event in events if isinstance(event, Measured) and event.scope == "step"]
            assert steps == list(range(1, job.total_steps + 1)), "each step is reported once, in order"
        # one training file and one validation file for all trials; only a lost answer may repeat an
        # upload
        digests = collections.Counter(
            file["filename"] for file in self.host.files.values() if "sweep" in file["filename"]
        )
        assert len(digests) == 2 or not jobs


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def test_no_schedule_of_faults_makes_two_jobs_or_loses_one(unsynced: Path, dataset: Dataset, part: int) -> None:
    faults: collections.Counter[str] = collections.Counter()
    deaths = jobs = delays = 0
    for seed in range(part, SCHEDULES, PARTS):
        schedule = Schedule(seed, unsynced / str(seed), dataset)
        keys = (["kept"], ["stopped-perhaps"], ["kept", "stopped-perhaps"])[seed // PARTS % 3]
        try:
            schedule.run(keys)
            schedule.check(keys)
        except BaseException as error:
            error.add_note(f"schedule {seed}, {schedule.host.behaviour}")
            raise
        finally:
            schedule.backend.close()
        faults += schedule.faults
        deaths += schedule.deaths
        delays += schedule.delays
        jobs += len(schedule.host.jobs)
    # each kind of fault did happen to creations, before and after acceptance
    for kind in ("cut", "500", "timeout", "late", "html", "kill"):
        for moment in ("before", "after"):
            assert faults[f"{kind} {moment} of a creation"] >= 5, faults
    assert delays >= 20
    assert deaths > SCHEDULES / PARTS / 2
    print(f"{SCHEDULES // PARTS} schedules, {jobs} jobs, {deaths} deaths, {sum(faults.values())} faults")  # noqa: T201


def test_a_job_that_the_host_lists_late_is_adopted(tmp_path: Path, dataset: Dataset) -> None:
    """The answer is lost, and the job appears within the grace period: there is no second one."""
    schedule = Schedule(1, tmp_path, dataset)
    schedule.rate = 0.0
    host, clock = schedule.host, schedule.clock
    host.create_delay = lambda: GRACE_S - 1
    handle = schedule.backend.submit(schedule.request("k"))
    for _ in range(200):
        clock.now += 5
        if schedule.backend.events(handle, 0) and isinstance(schedule.backend.events(handle, 0)[-1], Finished):
            break
    assert len(host.jobs) == 1
    assert host.operations.count(CREATE) == 1
    schedule.backend.close()


def test_a_job_of_another_workspace_is_adopted(tmp_path: Path, dataset: Dataset) -> None:
    """The first workspace is lost: the second one finds the job by its key."""
    first = Schedule(1, tmp_path / "one", dataset)
    first.rate = 0.0
    handle = first.backend.submit(first.request("k"))
    first.backend.close()
    second = Schedule(1, tmp_path / "two", dataset)
    second.host, second.clock = first.host, first.clock
    second.backend.close()
    second.backend = second.open()
    assert second.backend.submit(second.request("k")) == handle
    assert len(first.host.jobs) == 1
    assert first.host.operations.count("POST files") == 2, "the data files of the other workspace are used"
    second.backend.close()


CLIENT = """
    import json, sys
    from pathlib import Path
    from backends import codec
    from backends.contract import TrainingRequest
    from backends.hosted import HostedBackend

    task = json.load(sys.stdin)
    options = HostedBackend.options_model.model_validate(task["options"])
    backend = HostedBackend(options, Path(task["workspace"]), {"OPENAI_API_KEY": task["key"]})
    print("ready", flush=True)
    backend.submit(codec.from_json(TrainingRequest, task["request"]))
    print("submitted", flush=True)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("operation", [CREATE, "POST files", "GET fine_tuning/jobs"])
def test_the_successor_of_a_killed_process_has_exactly_one_job(
    tmp_path: Path, dataset: Dataset, operation: str, moment: str
) -> None:
    """SIGKILL while the host works on a request, over real sockets."""
    host = ScriptedHost()
    children: list[subprocess.Popen[str]] = []

    def fault(current_operation: str, current_moment: str) -> None:
        if (current_operation, current_moment) == (operation, moment) and children and children[0].poll() is None:
            os.kill(children[0].pid, signal.SIGKILL)
            children[0].wait()

    host.fault = fault
    with serving(host) as address:
        options = {"base_url": address, "model": "base-chat", "create_grace_s": 0.3, "poll_s": 0.01}
        request = TrainingRequest("k", "base-chat", dataset, {"n_epochs": 2, "batch_size": 6}, seed=1)
        task = {"options": options, "workspace": str(tmp_path), "key": KEY, "request": codec.to_json(request)}
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CLIENT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        children.append(child)
        out, _ = child.communicate(json.dumps(task), timeout=60)
        assert child.returncode == -signal.SIGKILL
        assert out == "ready\n"
        backend = HostedBackend(HostedBackend.options_model.model_validate(options), tmp_path, {"OPENAI_API_KEY": KEY})
        handle = backend.submit(request)
        deadline = time.monotonic() + 30
        while not host.jobs and time.monotonic() < deadline:
            backend.events(handle, 0)
            time.sleep(0.02)
        for _ in range(20):
            backend.events(handle, 0)
        assert len(host.jobs) == 1
        backend.close()
