"""`HostedWorld`: a scripted host, a clock that moves when somebody waits, and hosted backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripted_host import KEY, ConnectionCutError, InMemoryTransport, ScriptedHost

from backends.contract import TERMINAL_EVENTS, Dataset, Event, Handle, Measured, TrainingRequest
from backends.hosted import HostedBackend
from backends.testing import write_jsonl

LABELS = (" red", " green", " blue")
MANAGEMENT_TOKEN = "management-token-0123456789"
CREATE = "POST fine_tuning/jobs"
AZURE = {"subscription": "s", "resource_group": "g", "account": "a"}


class HostedWorld:
    """A host, a clock and backends. `now` is the time; tests may move it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_700_000_000.0
        self.host = ScriptedHost(lambda: self.now)
        self.backends: list[HostedBackend] = []
        lines = [{"prompt": f"thing {n}\n\n###\n\n", "completion": LABELS[n % 3]} for n in range(24)]
        train, valid = write_jsonl(folder / "train.jsonl", lines), write_jsonl(folder / "valid.jsonl", lines[:6])
        self.dataset = Dataset(train, valid, "completion", LABELS)
        self.prompts = lines[:6]

    def sleep(self, duration_s: float) -> None:
        self.now += duration_s

    def open(
        self, workspace: str = "workspace", secrets: dict[str, str] | None = None, **options: Any
    ) -> HostedBackend:
        """Open a backend. `close` closes it."""
        values = {
            "base_url": "http://host/v1",
            "model": "base-chat",
            "poll_s": 0,
            "price_per_million_tokens": 10.0,
            **options,
        }
        names = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "SWEEP_SERVER_KEY", "NEBIUS_API_KEY")
        backend = HostedBackend(
            HostedBackend.options_model.model_validate(values),
            self.folder / workspace,
            dict.fromkeys(names, KEY) | {"AZURE_MANAGEMENT_TOKEN": MANAGEMENT_TOKEN} if secrets is None else secrets,
            transport=InMemoryTransport(self.host),
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        self.backends.append(backend)
        return backend

    def close(self) -> None:
        for backend in self.backends:
            backend.close()

    def request(self, key: str = "k", model: str = "base-chat", **hyperparameters: Any) -> TrainingRequest:
        values = {"n_epochs": 2, "batch_size": 8, **hyperparameters}
        return TrainingRequest(key, model, self.dataset, values, seed=7)

    def drain(self, backend: HostedBackend, handle: Handle, hours: float = 24.0) -> list[Event]:
        """Poll a run until it ends. Returns all its events."""
        deadline = self.now + hours * 3600
        while self.now < deadline:
            events = list(backend.events(handle, 0))
            if events and isinstance(events[-1], TERMINAL_EVENTS):
                return events
            self.now += 5.0
        raise AssertionError(f"no end after {hours} h: {events}")

    def complete(self, backend: HostedBackend, **request: Any) -> list[Event]:
        """Submit a request and poll it until it ends. Returns all its events."""
        return self.drain(backend, backend.submit(self.request(**request)))

    def start(self, backend: HostedBackend, **request: Any) -> Handle:
        """Submit a request and poll it until it has a measurement."""
        handle = backend.submit(self.request(**request))
        while not any(isinstance(event, Measured) for event in backend.events(handle, 0)):
            self.now += 30
        return handle

    def data_files(self) -> list[dict[str, Any]]:
        """Return the data files at the host that this package uploaded."""
        return [file for file in self.host.files.values() if file["filename"].startswith("sweep-")]


def evaluations(events: list[Event]) -> list[Measured]:
    """Return the evaluations among events."""
    return [event for event in events if isinstance(event, Measured) and event.scope == "evaluation"]


def cut_connection(operation: str, moment: str) -> None:
    """A fault of `ScriptedHost`: every connection breaks."""
    raise ConnectionCutError
