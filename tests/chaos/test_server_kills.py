"""`sweep serve` is killed with SIGKILL before and after each durable write, and started again.

A client that behaves well (it asks what became of a request whose answer it missed) goes through
uploads, jobs, a pause, a cancellation, a failure and deletions. One server of it kills itself at
the chosen point, and the next one continues. Afterwards nothing is lost, nothing happened twice,
and nothing is left over.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

PROGRAM = Path(__file__).parents[1] / "support" / "killable_server.py"
TIMEOUT_S = 60
ENDED = ("succeeded", "failed", "cancelled")
Point = tuple[str, int]

EXAMPLES = b"".join(
    json.dumps({"prompt": f"p{number}", "completion": f" {number % 3}"}).encode() + b"\n" for number in range(12)
)
BROKEN = b"{broken\n" * 12


class ServerDiedError(Exception):
    """The server has killed itself during a request."""


# ----------------------------------------------------------------------------------------- webhooks
class Receiver(http.server.ThreadingHTTPServer):
    """Receives webhooks, and notes for which job and event."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: set[tuple[str, str]] = set()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.received.add((body["data"]["id"], body["type"].removeprefix("fine_tuning.job.")))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# ------------------------------------------------------------------------------------------ servers
class Starter:
    """The process that forks the servers."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SWEEP_")}
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, command: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(TIMEOUT_S)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    starter.close()


@dataclass
class World:
    """A server's folder, the servers that used it, and the client's view of the present one.

    `kills` are the points at which the next servers kill themselves, one server each. `jobs` holds
    the ids that the client knows.
    """

    starter: Starter
    receiver: Receiver
    folder: Path
    kills: list[Point]
    process_id: int = 0
    port: int = 0
    servers: int = 0
    killed: list[Point] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    # -------------------------------------------------------------------------------------- servers
    def start(self) -> None:
        """Start a server, and another one whenever it kills itself before it listens."""
        while True:
            self.servers += 1
            assert self.servers < 20, self.log
            kill_at = self.kills.pop(0) if self.kills else None
            port_file = self.folder / f"port-{self.servers}"
            self.process_id = self.starter.ask(
                {
                    "start": {
                        "root": str(self.root),
                        "points": str(self.folder / f"points-{self.servers}"),
                        "kill_at": kill_at,
                        "port_file": str(port_file),
                        "log": str(self.folder / "log"),
                        "webhook": f"http://127.0.0.1:{self.receiver.server_port}/",
                    }
                }
            )
            deadline = time.monotonic() + TIMEOUT_S
            while not port_file.exists():
                if (code := self.starter.ask({"poll": self.process_id})) is not None:
                    assert code == -signal.SIGKILL, f"the server ended with {code}: {self.log}"
                    assert kill_at is not None
                    self.killed.append(kill_at)
                    break
                assert time.monotonic() < deadline, self.log
                time.sleep(0.005)
            else:
                self.port = int(port_file.read_text())
                return

    def restart_after_kill(self) -> None:
        """Wait for the death of the server, start the next one, and look at what it shows."""
        assert self.wait_for_end() == -signal.SIGKILL, self.log
        (point,) = [json.loads(line) for line in (self.folder / f"points-{self.servers}").read_text().splitlines()][-1:]
        self.killed.append((point[0], point[1]))
        self.start()
        try:
            check_lists(self)
        except ServerDiedError:
            self.restart_after_kill()

    def wait_for_end(self) -> int:
        deadline = time.monotonic() + TIMEOUT_S
        while (code := self.starter.ask({"poll": self.process_id})) is None:
            assert time.monotonic() < deadline, f"the server has not ended: {self.log}"
            time.sleep(0.005)
        return int(code)

    def stop(self) -> None:
        """Stop the server cleanly."""
        os.kill(self.process_id, signal.SIGTERM)
        assert self.wait_for_end() == 0, self.log

    def points(self) -> list[Point]:
        """Return the points that the first server passed."""
        return [(name, number) for name, number in map(json.loads, (self.folder / "points-1").read_text().splitlines())]

    # ------------------------------------------------------------------------------------- requests
    def ask(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> tuple[int, Any]:
        """Send a request. Return the status and the JSON body. Raises ServerDiedError."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, content, {} if content is None else {"Content-Type": content_type})
            answer = connection.getresponse()
            text = answer.read()
        except (ConnectionError, http.client.HTTPException) as error:
            raise ServerDiedError from error
        finally:
            connection.close()
        assert answer.status < 500, (path, text, self.log)
        is_json = "json" in (answer.getheader("content-type") or "")
        return answer.status, json.loads(text) if is_json else text

    def get(self, path: str) -> Any:
        status, body = self.ask("GET", path)
        assert status == 200, (path, body)
        return body

    def until(self, find: Callable[[], Any], act: Callable[[], object] | None = None) -> Any:
        """Return what `find` returns once it is not None. Act first, and again after each kill."""
        deadline = time.monotonic() + TIMEOUT_S
        must_act = act is not None
        while True:
            try:
                if (found := find()) is not None:
                    return found
                if must_act and act is not None:
                    must_act = False
                    act()
                    continue
            except ServerDiedError:
                self.restart_after_kill()
                must_act = act is not None
            assert time.monotonic() < deadline, (self.killed, self.log)
            time.sleep(0.005)


def form(filename: str, content: bytes, name: str = "file") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
    return (
        b"--b\r\n" + disposition.encode() + b"\r\n\r\n" + content + b"\r\n--b\r\n"
        b'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n'
    )


FORM = "multipart/form-data; boundary=b"


# ------------------------------------------------------------------------------------------- client
def upload(world: World, name: str, content: bytes) -> str:
    """Upload a file once. Return its id."""
    return str(
        world.until(lambda: file_named(world, name), lambda: world.ask("POST", "/v1/files", form(name, content), FORM))
    )


def file_named(world: World, name: str) -> str | None:
    found = [file["id"] for file in world.get("/v1/files")["data"] if file["filename"] == name]
    assert len(found) < 2, f"{name} was stored twice"
    return found[0] if found else None


def upload_in_parts(world: World, name: str, content: bytes) -> str:
    """Upload a file in two parts. After a kill, begin again if the upload was not completed."""

    def act() -> None:
        announced = {"bytes": len(content), "filename": name, "mime_type": "text/plain", "purpose": "fine-tune"}
        _, started = world.ask("POST", "/v1/uploads", announced)
        parts = [
            world.ask("POST", f"/v1/uploads/{started['id']}/parts", form("part", piece, "data"), FORM)[1]["id"]
            for piece in (content[:100], content[100:])
        ]
        digest = hashlib.md5(content).hexdigest()
        world.ask("POST", f"/v1/uploads/{started['id']}/complete", {"part_ids": parts, "md5": digest})

    return str(world.until(lambda: file_named(world, name), act))


def cancel_upload(world: World) -> None:
    """Begin an upload, and cancel it."""
    done: list[bool] = []

    def act() -> None:
        announced = {"bytes": 100, "filename": "never", "mime_type": "text/plain", "purpose": "fine-tune"}
        _, started = world.ask("POST", "/v1/uploads", announced)
        world.ask("POST", f"/v1/uploads/{started['id']}/parts", form("part", b"x" * 10, "data"), FORM)
        status, body = world.ask("POST", f"/v1/uploads/{started['id']}/cancel")
        assert (status, body["status"]) == (200, "cancelled")
        done.append(True)

    world.until(lambda: True if done else None, act)


def create_job(world: World, name: str, training: str, validation: str | None, epochs: int) -> str:
    """Create a job once: look for its metadata before each try. Return its id."""

    def find() -> str | None:
        found = world.get(f"/v1/fine_tuning/jobs?metadata[name]={name}")["data"]
        assert len(found) < 2, f"the job {name} was created twice"
        return str(found[0]["id"]) if found else None

    body = {
        "model": "fake-small",
        "training_file": training,
        "validation_file": validation,
        "metadata": {"name": name},
        "seed": 7,
        "hyperparameters": {"n_epochs": epochs},
    }
    world.jobs[name] = str(world.until(find, lambda: world.ask("POST", "/v1/fine_tuning/jobs", body)))
    return world.jobs[name]


def wait_for(world: World, name: str, *statuses: str) -> None:
    path = f"/v1/fine_tuning/jobs/{world.jobs[name]}"

    def find() -> bool | None:
        status = world.get(path)["status"]
        assert status in statuses or status not in ENDED, f"{name} is {status}: {world.get(path)['error']}"
        return True if status in statuses else None

    world.until(find)


def command(world: World, name: str, verb: str, *statuses: str) -> None:
    path = f"/v1/fine_tuning/jobs/{world.jobs[name]}"

    def find() -> bool | None:
        return True if world.get(path)["status"] in statuses else None

    world.until(find, lambda: world.ask("POST", f"{path}/{verb}"))


def delete(world: World, path: str) -> None:
    world.until(lambda: True if world.ask("GET", path)[0] == 404 else None, lambda: world.ask("DELETE", path))


def scenario(world: World) -> None:
    """Use everything that the server stores."""
    training = upload(world, "train.jsonl", EXAMPLES)
    validation = upload_in_parts(world, "valid.jsonl", EXAMPLES)
    broken = upload(world, "broken.jsonl", BROKEN)
    cancel_upload(world)
    create_job(world, "good", training, validation, epochs=5)
    wait_for(world, "good", "succeeded")
    create_job(world, "bad", broken, None, epochs=1)
    wait_for(world, "bad", "failed")
    create_job(world, "long", training, None, epochs=50)
    wait_for(world, "long", "running")
    create_job(world, "waiting", training, validation, epochs=2)
    wait_for(world, "waiting", "queued")
    command(world, "waiting", "pause", "paused")
    create_job(world, "dropped", training, validation, epochs=2)
    wait_for(world, "dropped", "queued")
    command(world, "dropped", "cancel", "cancelled")
    command(world, "long", "cancel", "cancelled")
    command(world, "waiting", "resume", "queued", "running", "succeeded")
    wait_for(world, "waiting", "succeeded")
    models = [model["id"] for model in world.until(lambda: world.get("/v1/models"))["data"]]
    good = world.jobs["good"].removeprefix("ftjob-")[:10]
    (checkpoint,) = [name for name in models if f":{good}:ckpt-step-" in name][-1:]
    delete(world, f"/v1/models/{checkpoint}")
    delete(world, f"/v1/models/ft:fake-small:local::{good}")
    result = world.until(lambda: world.get(f"/v1/fine_tuning/jobs/{world.jobs['good']}"))["result_files"][0]
    delete(world, f"/v1/files/{result}")
    delete(world, f"/v1/files/{broken}")
    world.until(lambda: True if webhooks_missing(world) == set() else None)


def webhooks_missing(world: World) -> set[tuple[str, str]]:
    expected = {
        "good": "succeeded",
        "bad": "failed",
        "long": "cancelled",
        "dropped": "cancelled",
        "waiting": "succeeded",
    }
    # asked for the effect: the server must be alive to deliver
    world.get("/healthz")
    return {(world.jobs[name], status) for name, status in expected.items()} - world.receiver.received


# ------------------------------------------------------------------------------------------- checks
def check_lists(world: World) -> None:
    """Every list answers, and no job's log has a gap."""
    for path in ("/v1/files", "/v1/models", "/v1/fine_tuning/jobs"):
        world.get(path)
    for job_id in world.jobs.values():
        for kind in ("events", "checkpoints"):
            world.get(f"/v1/fine_tuning/jobs/{job_id}/{kind}?limit=1000")


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def check_end(world: World, reference: dict[str, list[str]] | None) -> dict[str, list[str]]:
    """Check what a stopped server has left. Return the kinds of each job's events by its name."""
    database = world.root / "server.sqlite"
    assert rows(database, "PRAGMA integrity_check") == [("ok",)]
    ids = {str(id_) for (id_,) in rows(database, "SELECT id FROM files")}
    assert {path.name for path in (world.root / "files").iterdir()} == ids
    names = sorted(str(name) for (name,) in rows(database, "SELECT filename FROM files"))
    assert names == ["step_metrics.csv", "train.jsonl", "valid.jsonl"]
    for id_, sha256 in rows(database, "SELECT id, sha256 FROM files"):
        assert hashlib.sha256((world.root / "files" / str(id_)).read_bytes()).hexdigest() == sha256
    pending = "SELECT id FROM parts WHERE upload_id IN (SELECT id FROM uploads WHERE status = 'pending')"
    parts = {str(id_) for (id_,) in rows(database, pending)}
    assert {path.name for path in (world.root / "incoming").iterdir()} == parts
    assert {str(id_) for (id_,) in rows(database, "SELECT id FROM parts")} == parts
    assert list((world.root / "jobs").iterdir()) == []
    copies = {str(target) for (target,) in rows(database, "SELECT target FROM models WHERE copied")}
    assert {str(path) for path in (world.root / "models").glob("*/*")} == copies
    assert rows(database, "SELECT * FROM intents") == []
    assert rows(database, "SELECT * FROM deliveries") == []

    jobs = {str(name): str(id_) for id_, name in rows(database, "SELECT job_id, value FROM job_metadata")}
    assert jobs == world.jobs
    assert len(rows(database, "SELECT id FROM jobs")) == len(jobs)
    runs = {key: (stopped, discarded) for key, stopped, discarded in runs_of(world)}
    assert set(runs) <= set(jobs.values())
    assert jobs["dropped"] not in runs
    assert runs[jobs["long"]][0] is not None, "the run of a cancelled job still trains"
    assert runs[jobs["good"]][1] == 1, "the backend keeps a deleted model"
    return {name: check_job(database, name, id_, (reference or {}).get(name)) for name, id_ in jobs.items()}


def runs_of(world: World) -> list[tuple[Any, ...]]:
    return rows(world.root / "backend" / "fake-service.sqlite", "SELECT key, stopped_after, discarded FROM runs")


def check_job(database: Path, name: str, job_id: str, reference: list[str] | None) -> list[str]:
    stored = rows(database, f"SELECT number, event FROM run_events WHERE job_id = '{job_id}' ORDER BY number")
    assert [number for number, _ in stored] == list(range(len(stored))), f"the events of {name} have a gap"
    events = [json.loads(event) for _, event in stored]
    kinds = [f"{event['kind']} {event.get('step')}" for event in events]
    if reference is not None and name != "long":
        assert kinds == reference
    log = Counter(message for (message,) in rows(database, f"SELECT message FROM events WHERE job_id = '{job_id}'"))
    for line in ("Fine-tuning job started", "The job has successfully completed", "Fine-tuning job cancelled"):
        assert log[line] <= 1, f"{name}: {line}"
    assert [line for line, count in log.items() if count > 1 and re.match("Checkpoint|Created|Files", line)] == []
    measured = sum(event["kind"] == "measured" for event in events)
    shown = sum(count for line, count in log.items() if line.startswith("Step"))
    # the events of a run that ended after its job was cancelled are no news to clients
    assert shown == measured or (name == "long" and shown <= measured), f"the log of {name} has a gap"
    if name in ("good", "waiting"):
        assert log["The job has successfully completed"] == 1
        steps = sum(event["kind"] == "checkpointed" for event in events)
        assert sum(line.startswith("Checkpoint created") for line in log) == steps
        kept = rows(database, f"SELECT id FROM checkpoints WHERE job_id = '{job_id}'")
        assert len(kept) == (min(3, steps) if name == "waiting" else 2), "one of the last three was deleted"
    return kinds


# -------------------------------------------------------------------------------------------- tests
def run_through(
    starter: Starter, receiver: Receiver, folder: Path, kills: list[Point], reference: dict[str, list[str]] | None
) -> tuple[World, dict[str, list[str]]]:
    """Go through the scenario with kills. Return the world and the events of its jobs."""
    folder.mkdir(parents=True)
    world = World(starter, receiver, folder, list(kills))
    world.start()
    try:
        scenario(world)
        world.stop()
        return world, check_end(world, reference)
    except BaseException as error:
        error.add_note(f"killed at {world.killed} of {kills}; the log of the servers:\n{world.log}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(world.process_id, signal.SIGKILL)
        raise


@dataclass(frozen=True)
class Reference:
    """What happens without a kill: the events of the jobs, and the points that were passed."""

    events: dict[str, list[str]]
    points: list[Point]


@pytest.fixture(scope="module")
def reference(starter: Starter, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    world, events = run_through(starter, receiver, tmp_path_factory.mktemp("reference") / "world", [], None)
    assert "Traceback" not in world.log
    return Reference(events, world.points())


def kinds_of(points: list[Point]) -> dict[str, list[Point]]:
    """Return the points by their names."""
    by_name: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_name[point[0]].append(point)
    return by_name


EXPECTED = (
    "COMMIT files", "COMMIT uploads", "COMMIT parts", "COMMIT uploads,parts", "COMMIT uploads,parts,files",
    "COMMIT jobs,job_metadata,events", "COMMIT jobs,events", "COMMIT jobs,intents", "COMMIT jobs,events,deliveries",
    "COMMIT jobs,events,files,models,deliveries", "COMMIT run_events", "COMMIT run_events,events",
    "COMMIT run_events,jobs,events", "COMMIT run_events,models,checkpoints,events", "COMMIT models,checkpoints",
    "COMMIT intents,models", "INSERT intents", "DELETE intents", "DELETE files", "DELETE deliveries", "UPDATE jobs",
    "open incoming", "open jobs", "replace files", "unlink files", "unlink incoming", "write_bytes files", "link jobs",
    "rmtree jobs", "copytree models", "rename models", "rmtree models", "act submit", "act stop", "act discard",
    "act __call__",
)  # fmt: skip
"""The writes of the server."""


def test_the_scenario_passes_every_kind_of_write(reference: Reference) -> None:
    """Otherwise nothing below would kill at it."""
    names = set(kinds_of(reference.points))
    for name in EXPECTED:
        assert {f"before {name}", f"after {name}"} <= names, (name, sorted(names))


SHORT = (
    "after replace files",
    "after COMMIT uploads,parts,files",
    "after COMMIT jobs,job_metadata,events",
    "after act submit",
    "after COMMIT run_events,models,checkpoints,events",
    "before COMMIT jobs,events,files,models,deliveries",
    "after COMMIT jobs,events,deliveries",
    "after COMMIT intents,models",
)
"""The points of the short version: one after each step that leaves something to complete."""


@pytest.mark.parametrize("name", SHORT)
def test_a_kill_at_a_write_loses_and_doubles_nothing(
    starter: Starter, receiver: Receiver, reference: Reference, tmp_path: Path, name: str
) -> None:
    point = kinds_of(reference.points)[name][0]
    world, _ = run_through(starter, receiver, tmp_path / "world", [point], reference.events)
    assert world.killed == [point]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_kill_at_any_write_loses_or_doubles_anything(
    starter: Starter, receiver: Receiver, reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each point of the scenario, then a second kill at a point of the server that recovers."""
    missed: list[Point] = []
    killed: set[str] = set()
    failures: list[str] = []
    points = reference.points
    for number, point in enumerate(points):
        second = points[number // 2 % 12]
        folder = tmp_path / "world"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            world, _ = run_through(starter, receiver, folder, [point, second], reference.events)
        except AssertionError as error:
            failures.append(f"{point}: {error} {getattr(error, '__notes__', '')}"[:3000])
            continue
        if point in world.killed:
            killed.add(point[0])
        else:
            # how many events the long job has before its cancellation is a matter of time
            missed.append(point)
        if number % 50 == 0:
            with capsys.disabled():
                print(f"\n{number} of {len(points)} kills, {len(failures)} failures, {len(missed)} missed", flush=True)
    with capsys.disabled():
        print(f"\n{len(points)} kills, {len(failures)} failures, {len(missed)} missed: {missed}", flush=True)
    assert failures == []
    assert {f"{side} {name}" for name in EXPECTED for side in ("before", "after")} <= killed, missed
