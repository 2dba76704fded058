"""A server that is stopped or killed and started again loses nothing."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

PACE = ("--set", "seconds_per_epoch=0.25", "--max-jobs", "2")


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_next_server_continues_the_jobs(serve: Any, make_client: Any, signal_number: int) -> None:
    server = serve(*PACE)
    client = make_client(server.client())
    made = [client.create(hyperparameters={"n_epochs": 4}, metadata={"number": str(number)}).id for number in range(4)]
    paused = client.create(metadata={"number": "paused"}).id
    client.wait(paused, "queued", "running")
    client.api.fine_tuning.jobs.with_raw_response.pause(paused)
    client.wait(made[0], "running")
    before = client.messages(made[0])
    code = server.stop(signal_number)
    assert code == (-signal.SIGKILL if signal_number == signal.SIGKILL else 0)

    client = make_client(serve(*PACE).client())
    for job_id in made:
        assert client.wait(job_id).status == "succeeded"
        log = client.messages(job_id)
        assert len([line for line in log if line.startswith("Checkpoint created")]) == 4, "each event has one line"
        assert log.count("Fine-tuning job started") == 1
    assert client.messages(made[0])[: len(before)] == before
    raw = client.api.fine_tuning.jobs.with_raw_response.retrieve(paused)
    assert json.loads(raw.content)["status"] == "paused"
    client.api.fine_tuning.jobs.resume(paused)
    assert client.wait(paused).status == "succeeded"


def test_the_next_server_stops_the_run_of_a_cancelled_job(serve: Any, make_client: Any, tmp_path: Path) -> None:
    server = serve("--set", "seconds_per_epoch=3600")
    client = make_client(server.client())
    job = client.create()
    client.wait(job.id, "running")
    server.process.send_signal(signal.SIGSTOP)
    server.process.send_signal(signal.SIGKILL)
    server.stop(signal.SIGKILL)
    # as if the kill had come just after
    with sqlite3.connect(tmp_path / "root" / "server.sqlite") as connection:
        connection.execute("UPDATE jobs SET status = 'cancelled'")
    connection.close()
    serve("--set", "seconds_per_epoch=3600")
    deadline = time.monotonic() + 20
    while True:
        with sqlite3.connect(tmp_path / "root" / "backend" / "fake-service.sqlite") as connection:
            ((stopped,),) = connection.execute("SELECT stopped_after FROM runs").fetchall()
        connection.close()
        if stopped is not None:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_next_server_stops_a_run_whose_acceptance_nobody_has_seen(
    serve: Any, make_client: Any, tmp_path: Path
) -> None:
    """A kill between the submission and the record of its answer, and a cancellation in between."""
    server = serve("--set", "seconds_per_epoch=3600")
    client = make_client(server.client())
    job = client.create()
    client.wait(job.id, "running")
    server.process.send_signal(signal.SIGSTOP)
    server.process.send_signal(signal.SIGKILL)
    server.stop(signal.SIGKILL)
    database = tmp_path / "root" / "server.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE jobs SET status = 'cancelled', handle = 'null'")
        connection.execute("DELETE FROM run_events")
        connection.execute("INSERT INTO intents VALUES ('submit', ?)", (job.id,))
    connection.close()
    server = serve("--set", "seconds_per_epoch=3600")

    def intents() -> list[Any]:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            return connection.execute("SELECT * FROM intents").fetchall()

    deadline = time.monotonic() + 60
    while intents():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with contextlib.closing(sqlite3.connect(tmp_path / "root" / "backend" / "fake-service.sqlite")) as connection:
        ((stopped_after,),) = connection.execute("SELECT stopped_after FROM runs").fetchall()
    assert stopped_after is not None
    assert list((tmp_path / "root" / "jobs").iterdir()) == []
    assert make_client(server.client()).api.fine_tuning.jobs.retrieve(job.id).status == "cancelled"


def test_the_next_server_deletes_leftovers_of_a_kill(serve: Any, make_examples: Any, tmp_path: Path) -> None:
    """Half-received bodies and contents without a record go. The parts of a pending upload stay."""
    server = serve()
    api, content = server.client(), make_examples(12)
    kept = api.files.create(file=("a", content), purpose="fine-tune")
    upload = api.uploads.create(bytes=len(content), filename="b", mime_type="text/plain", purpose="fine-tune")
    part = api.uploads.parts.create(upload.id, data=content)
    ended = api.uploads.create(bytes=4, filename="c", mime_type="text/plain", purpose="fine-tune")
    api.uploads.parts.create(ended.id, data=b"abc")
    server.stop(signal.SIGKILL)
    root = tmp_path / "root"
    (root / "incoming" / "body_half").write_bytes(b"half")
    (root / "files" / "file-of-nobody").write_bytes(b"whole")
    with sqlite3.connect(root / "server.sqlite") as connection:
        connection.execute("UPDATE uploads SET expires_at = 1 WHERE id = ?", (ended.id,))
    connection.close()

    server = serve()
    api = server.client()
    assert [path.name for path in (root / "incoming").iterdir()] == [part.id]
    assert [path.name for path in (root / "files").iterdir()] == [kept.id]
    done = api.uploads.complete(upload.id, part_ids=[part.id])
    assert done.file is not None
    assert api.files.content(done.file.id).read() == content
    assert list((root / "incoming").iterdir()) == []


def test_a_second_server_cannot_use_the_same_folder_or_port(serve: Any, tmp_path: Path) -> None:
    server = serve()
    command = [sys.executable, "-m", "sweeps.cli", "serve", "--backend", "fake", "--root", str(tmp_path / "root")]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"process {server.process.pid} serves" in done.stderr
    assert "Traceback" not in done.stderr
    other = [*command[:-1], str(tmp_path / "other"), "--port", server.url.split(":")[2].removesuffix("/v1")]
    done = subprocess.run(other, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Choose another --port" in done.stderr
