"""Bad days of the machine: a full disk, a locked database, a stop in the middle of requests."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

pytestmark = pytest.mark.integration

TIMEOUT_S = 60
SIZE_MB = 8


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------------------------------- full disk
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Filler:
    """A file that takes all the space of a disk."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "filler"

    def fill(self, but_bytes: int = 0) -> None:
        for size in (4096, 1):
            with contextlib.suppress(OSError), self._path.open("ab", buffering=0) as stream:
                while True:
                    stream.write(b"x" * size)
        os.truncate(self._path, self._path.stat().st_size - but_bytes)

    def free(self) -> None:
        self._path.unlink()


def test_a_full_disk_is_named_and_leaves_nothing_half_written(
    serve: Any, make_client: Any, make_examples: Any, small_disk: Path
) -> None:
    root, filler = small_disk / "root", Filler(small_disk)
    server = serve("--set", "seconds_per_epoch=0.3", root=root)
    client = make_client(server.client())
    api = client.api
    done = client.wait(client.create().id)
    upload = api.uploads.create(bytes=200_000, filename="u", mime_type="text/plain", purpose="fine-tune")
    part = api.uploads.parts.create(upload.id, data=b"x" * 100_000)
    files = {file.id for file in api.files.list()}
    incoming = {path.name for path in (root / "incoming").iterdir()}
    assert incoming == {part.id}
    running = client.create(hyperparameters={"n_epochs": 6})
    client.wait(running.id, "running")
    filler.fill()

    def refused(act: Callable[[], object]) -> None:
        with pytest.raises(openai.APIStatusError) as raised:
            act()
        assert raised.value.status_code == 507
        assert raised.value.code == "disk_full"
        assert str(root) in raised.value.message
        assert raised.value.response.headers["retry-after"]

    refused(lambda: api.files.create(file=("a", b"x" * 300_000), purpose="fine-tune"))
    refused(lambda: api.uploads.parts.create(upload.id, data=b"y" * 100_000))

    # the database finds no room for its pages either, at the latest after a few
    def announce_many() -> None:
        for _ in range(300):
            api.uploads.create(bytes=3, filename="n" * 250, mime_type="m" * 250, purpose="fine-tune")

    refused(announce_many)
    refused(lambda: api.fine_tuning.jobs.create(model="fake-small", training_file=running.training_file))
    refused(lambda: api.fine_tuning.jobs.cancel(running.id))
    wait_until(lambda: any(f"job {running.id} waits" in line or "tries again" in line for line in server.log))

    # what is there can be read, and nothing else is there
    assert {job.id for job in api.fine_tuning.jobs.list()} == {done.id, running.id}
    assert {file.id for file in api.files.list()} == files | {running.training_file, running.validation_file}
    assert {path.name for path in (root / "incoming").iterdir()} == incoming
    assert api.files.content(done.result_files[0]).read().startswith(b"step,")

    filler.free()
    assert client.wait(running.id).status == "succeeded", "the job has waited for space"
    second = api.uploads.parts.create(upload.id, data=b"y" * 100_000)
    completed = api.uploads.complete(upload.id, part_ids=[part.id, second.id])
    assert completed.file is not None
    assert api.files.content(completed.file.id).read() == b"x" * 100_000 + b"y" * 100_000
    assert client.wait(client.create().id).status == "succeeded"
    server.stop()
    assert not any("Traceback" in line for line in server.log)
    with contextlib.closing(sqlite3.connect(root / "server.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT number FROM run_events WHERE job_id = ? ORDER BY number"
        numbers = [number for (number,) in connection.execute(query, (running.id,))]
    assert numbers == list(range(len(numbers)))


def test_a_job_whose_files_are_checked_on_a_full_disk_waits_for_space(
    serve: Any, make_client: Any, small_disk: Path
) -> None:
    """Its messages consist of parts, so the trainer needs a converted copy. There is no space."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "word " * 100}]},
        {"role": "assistant", "content": [{"type": "text", "text": "answer"}]},
    ]
    content = (json.dumps({"messages": messages}) + "\n").encode() * 2000
    root, filler = small_disk / "root", Filler(small_disk)
    server = serve("--faults", "stuck_validation", root=root)
    client = make_client(server.client())
    job = client.create(content, valid=None)
    server.stop()
    filler.fill(but_bytes=300 * 1024)
    server = serve(root=root)
    client = make_client(server.client())
    wait_until(lambda: any("validator failed, and is tried again" in line for line in server.log))
    assert client.api.fine_tuning.jobs.retrieve(job.id).status == "validating_files"
    filler.free()
    ended = client.wait(job.id)
    assert ended.status == "succeeded", ended.error
    server.stop()
    assert not any("Traceback" in line for line in server.log), server.log


def test_a_server_that_starts_on_a_full_disk_says_so(small_disk: Path) -> None:
    Filler(small_disk).fill()
    command = [sys.executable, "-m", "sweeps.cli", "serve", "--backend", "fake", "--port", "0"]
    done = subprocess.run(
        [*command, "--root", str(small_disk / "root")], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"The disk that holds {small_disk / 'root'} is full" in done.stderr


# ----------------------------------------------------------------------------------------- database
def test_a_locked_database_is_named_and_the_server_continues(serve: Any, make_client: Any, tmp_path: Path) -> None:
    """A backup program holds the lock for longer than the server waits."""
    server = serve(constants={"sweeps.server.storage.LOCK_TIMEOUT_S": 0.2})
    client = make_client(server.client())
    upload = {"bytes": 3, "filename": "a", "mime_type": "text/plain", "purpose": "fine-tune"}
    with contextlib.closing(sqlite3.connect(tmp_path / "root" / "server.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(openai.APIStatusError) as raised:
            client.api.uploads.create(**upload)
        assert (raised.value.status_code, raised.value.code) == (503, "database_locked")
        assert list(client.api.fine_tuning.jobs.list()) == []
        other.execute("ROLLBACK")
    assert client.api.uploads.create(**upload).status == "pending"
    assert client.wait(client.create().id).status == "succeeded"
    server.stop()
    assert not any("Traceback" in line for line in server.log)


def test_a_damaged_database_is_named_at_the_start(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "server.sqlite").write_bytes(b"this is no database" * 1000)
    command = [sys.executable, "-m", "sweeps.cli", "serve", "--backend", "fake", "--port", "0", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "is damaged" in done.stderr


# --------------------------------------------------------------------------------------------- stop
def test_sigterm_in_the_middle_of_requests_leaves_nothing_behind(
    serve: Any, make_client: Any, make_examples: Any, tmp_path: Path
) -> None:
    """Half an upload, half a JSON body, half a header, a download nobody reads, and a job."""
    server = serve("--set", "seconds_per_epoch=0.3")
    client = make_client(server.client())
    job = client.create(hyperparameters={"n_epochs": 5})
    client.wait(job.id, "running")
    large = client.upload(b"x" * 2**25)
    address = urlsplit(server.url)
    requests = (
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 100000\r\n\r\n"
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="half"\r\n\r\nabc',
        b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 1000\r\n\r\n{"model": "fake-small"',
        b"GET /v1/models HTTP/1.1\r\nHost: local",
        f"GET /v1/files/{large}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
    )
    with contextlib.ExitStack() as stack:
        for request in requests:
            connection = stack.enter_context(socket.create_connection((address.hostname, address.port)))
            connection.sendall(request)
        wait_until(lambda: len(list((tmp_path / "root" / "incoming").iterdir())) == 1)
        assert server.stop(signal.SIGTERM) == 0
    assert list((tmp_path / "root" / "incoming").iterdir()) == []
    assert not any("Traceback" in line for line in server.log), server.log
    client = make_client(serve("--set", "seconds_per_epoch=0.3").client())
    assert client.wait(job.id).status == "succeeded"
    assert [file.filename for file in client.api.files.list()].count("half") == 0


# ------------------------------------------------------------------------------------------ at once
def test_many_clients_create_pause_cancel_and_delete_the_same_objects(
    serve: Any, make_client: Any, make_examples: Any, tmp_path: Path
) -> None:
    """Whatever wins, no request fails on the server's side, and nothing is left over."""
    server = serve("--set", "seconds_per_epoch=0.02", "--max-jobs", "3")
    client = make_client(server.client())
    address = urlsplit(server.url)
    content = make_examples(20)
    statuses: list[int] = []

    def ask(method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            statuses.append(answer.status)
            return json.loads(answer.read())
        finally:
            connection.close()

    def storm(number: int) -> str:
        choice = random.Random(number)
        file_id = client.upload(content, f"{number}")
        body = {"model": "fake-small", "training_file": file_id, "hyperparameters": {"n_epochs": choice.randint(1, 8)}}
        job_id = str(ask("POST", "/v1/fine_tuning/jobs", body)["id"])
        model = f"ft:fake-small:local::{job_id[6:16]}"
        acts = [
            ("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel"),
            ("POST", f"/v1/fine_tuning/jobs/{job_id}/pause"),
            ("POST", f"/v1/fine_tuning/jobs/{job_id}/resume"),
            ("POST", f"/v1/fine_tuning/jobs/{job_id}/pause"),
            ("POST", f"/v1/fine_tuning/jobs/{job_id}/resume"),
            ("DELETE", f"/v1/files/{file_id}"),
            ("DELETE", f"/v1/models/{model}"),
            ("GET", f"/v1/fine_tuning/jobs/{job_id}/events?limit=1000"),
        ]
        choice.shuffle(acts)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda act: ask(*act), acts * 2))
        return job_id

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        job_ids = list(pool.map(storm, range(24)))
    for job_id in job_ids:
        status = ask("GET", f"/v1/fine_tuning/jobs/{job_id}")["status"]
        if status == "paused":
            ask("POST", f"/v1/fine_tuning/jobs/{job_id}/resume")
        client.wait(job_id)
    assert max(statuses) < 500, sorted(set(statuses))
    root = tmp_path / "root"

    def leftovers() -> list[Any]:
        """Return what is still there of the jobs, with their records."""
        with contextlib.closing(sqlite3.connect(root / "server.sqlite")) as connection:
            intents = connection.execute("SELECT * FROM intents").fetchall()
            ids = [path.name for path in (root / "jobs").iterdir()]
            marks = ", ".join("?" * len(ids))
            jobs = connection.execute(f"SELECT id, status, handle, error, data FROM jobs WHERE id IN ({marks})", ids)
            return [*intents, *jobs.fetchall()]

    deadline = time.monotonic() + TIMEOUT_S
    while leftovers():
        assert time.monotonic() < deadline, f"{leftovers()}\n{chr(10).join(server.log)}"
        time.sleep(0.05)
    with contextlib.closing(sqlite3.connect(root / "server.sqlite")) as connection:
        ids = {str(id_) for (id_,) in connection.execute("SELECT id FROM files")}
        assert {path.name for path in (root / "files").iterdir()} == ids
        cancelled = [str(id_) for (id_,) in connection.execute("SELECT id FROM jobs WHERE status = 'cancelled'")]
    assert cancelled
    with contextlib.closing(sqlite3.connect(root / "backend" / "fake-service.sqlite")) as connection:
        keys = [str(key) for (key,) in connection.execute("SELECT key FROM runs")]
    assert len(keys) == len(set(keys))
    server.stop()
    assert not any("Traceback" in line for line in server.log), server.log


def test_many_clients_complete_and_cancel_the_same_upload(serve: Any, tmp_path: Path) -> None:
    server = serve()
    api = server.client()
    for _ in range(10):
        upload = api.uploads.create(bytes=6, filename="u", mime_type="text/plain", purpose="fine-tune")
        parts = [api.uploads.parts.create(upload.id, data=data).id for data in (b"abc", b"def")]
        barrier = threading.Barrier(6)

        def act(number: int, upload_id: str = upload.id, parts: list[str] = parts) -> int:
            barrier.wait(TIMEOUT_S)  # noqa: B023  used in this round only
            try:
                if number % 3 == 0:
                    api.uploads.cancel(upload_id)
                else:
                    api.uploads.complete(upload_id, part_ids=parts)
            except openai.APIStatusError as error:
                return error.status_code
            return 200

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            statuses = list(pool.map(act, range(6)))
        assert sorted(statuses) == [200, 400, 400, 400, 400, 400]
    contents = [path.read_bytes() for path in (tmp_path / "root" / "files").iterdir()]
    assert set(contents) <= {b"abcdef"}
    assert len(contents) == len(list(api.files.list()))
    assert list((tmp_path / "root" / "incoming").iterdir()) == []
