"""Fixtures: a real server in a process of its own, and the real OpenAI client in strict mode."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

PATCHED_SERVE = Path(__file__).parents[2] / "support" / "patched_serve.py"
ENDED = ("succeeded", "failed", "cancelled")
LABELS = [" red", " green", " blue"]
WORDS = {" red": "apple rose blood", " green": "grass leaf tree", " blue": "sea sky ice"}


def examples(count: int, chat: bool = False) -> bytes:
    """Return a file of examples that a model can learn: the words of a prompt decide its label."""
    lines = []
    for number in range(count):
        label = LABELS[number % 3]
        words = WORDS[label].split()
        prompt = f"{words[number % 3]} {words[(number + 1) % 3]} ->"
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": label.strip()}]
        lines.append({"messages": messages} if chat else {"prompt": prompt, "completion": label})
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@dataclass
class Server:
    """A server process, its address and its log. `stop` signals it by its process id."""

    process: subprocess.Popen[str]
    url: str
    log: list[str]
    reader: threading.Thread
    clients: list[OpenAI] = field(default_factory=list)

    def client(self, key: str = "any", **options: Any) -> OpenAI:
        options = {"max_retries": 0, "_strict_response_validation": True, **options}
        client = OpenAI(base_url=self.url, api_key=key, **options)
        self.clients.append(client)
        return client

    def stop(self, signal_number: int = signal.SIGINT) -> int:
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            os.kill(self.process.pid, signal_number)
        code = self.process.wait(60)
        self.reader.join()
        return code


class Client:
    """The OpenAI client, with the requests that many tests make."""

    def __init__(self, api: OpenAI, model: str = "fake-small") -> None:
        self.api, self.model = api, model

    def upload(self, content: bytes, name: str = "examples.jsonl") -> str:
        return self.api.files.create(file=(name, content), purpose="fine-tune").id

    def create(self, content: bytes | None = None, valid: bytes | None = b"", **fields: Any) -> FineTuningJob:
        training = self.upload(examples(30) if content is None else content)
        body: dict[str, Any] = {"model": self.model, "training_file": training, "seed": 7, **fields}
        if valid is not None:
            body["validation_file"] = self.upload(valid or examples(12))
        return self.api.fine_tuning.jobs.create(**body)

    def wait(self, job_id: str, *statuses: str, timeout_s: float = 120) -> FineTuningJob:
        deadline = time.monotonic() + timeout_s
        while True:
            job = self.api.fine_tuning.jobs.retrieve(job_id)
            if job.status in (statuses or ENDED):
                return job
            assert job.status not in ENDED, f"the job ended: {job.status} {job.error}"
            assert time.monotonic() < deadline, f"the job is still {job.status}"
            time.sleep(0.05)

    def messages(self, job_id: str) -> list[str]:
        """Read the log page by page, and return its messages, the oldest first."""
        return [event.message for event in self.api.fine_tuning.jobs.list_events(job_id, limit=3)][::-1]


Serve = Callable[..., Server]


@contextlib.contextmanager
def servers(default_root: Path) -> Iterator[Serve]:
    """Yield a function that starts servers, and stop all of them afterwards."""
    started: list[Server] = []

    def start(
        *arguments: str,
        root: Path | None = None,
        environment: Mapping[str, str] | None = None,
        constants: Mapping[str, float] | None = None,
        open_files: int | None = None,
    ) -> Server:
        program = ["-m", "sweeps.cli"]
        if constants is not None or open_files is not None:
            program = [str(PATCHED_SERVE), json.dumps({"constants": constants or {}, "open_files": open_files})]
        command = [sys.executable, *program, "serve", "--port", "0", "--root", str(root or default_root)]
        if "--backend" not in arguments:
            command += ["--backend", "fake"]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("SWEEP_")}
        process = subprocess.Popen(
            [*command, *arguments],
            env={**environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        log: list[str] = []
        for line in process.stderr:
            log.append(line)
            if match := re.search(r"listening on (http://\S+)", line):
                reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
                reader.start()
                started.append(Server(process, match[1], log, reader))
                return started[-1]
        process.wait()
        process.stderr.close()
        pytest.fail(f"the server ended with {process.returncode}: {''.join(log)}")

    try:
        yield start
    finally:
        for server in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.stop()
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()
            server.reader.join()
            assert server.process.stderr is not None
            server.process.stderr.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers in folders of this test."""
    with servers(tmp_path / "root") as start:
        yield start


@pytest.fixture(scope="module")
def module_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server that the tests of a module share."""
    return tmp_path_factory.mktemp("shared") / "root"


@pytest.fixture(scope="module")
def serve_module(module_root: Path) -> Iterator[Serve]:
    """Start a server that the tests of a module share."""
    with servers(module_root) as start:
        yield start


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Client:
    """The client of a server with the fake backend that the tests of a module share."""
    return Client(serve_module().client())


@pytest.fixture
def client(serve: Serve) -> Client:
    """The client of a server with the fake backend and without faults."""
    return Client(serve().client())


@pytest.fixture(scope="session")
def make_client() -> type[Client]:
    """The class of clients, for tests that start servers of their own."""
    return Client


@pytest.fixture(scope="session")
def make_examples() -> Callable[..., bytes]:
    """The function that makes files of examples."""
    return examples
