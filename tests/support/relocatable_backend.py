"""A tiny in-process backend whose runs are a few files, for the tests of the store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backends import codec
from backends.contract import (
    Checkpointed,
    DataFile,
    Dataset,
    Event,
    Finished,
    Handle,
    Measured,
    Started,
    TrainingRequest,
)
from backends.relocation import ResumePoint


def request(train: Path, valid: Path, key: str = "sweep-0001") -> TrainingRequest:
    """Return a request over two files that exist."""
    from sweeps.file_store.store import digest

    train_file, valid_file = (DataFile(str(path), 1, digest(path)) for path in (train, valid))
    return TrainingRequest(key, "tiny", Dataset(train_file, valid_file, "completion"), {"n_epochs": 3}, seed=1)


class CountingBackend:
    """A run counts its epochs in a file; each epoch improves its model."""

    def __init__(self, workspace: Path, epochs: int = 3) -> None:
        self.workspace, self.epochs = workspace, epochs
        self.trained: list[int] = []

    def _folder(self, handle: Handle) -> Path:
        return self.workspace / "jobs" / handle.id

    def run_of(self, key: str) -> Handle:
        return Handle("counting", f"run-{key}")

    def submit(self, request: TrainingRequest) -> Handle:
        handle = self.run_of(request.key)
        self._folder(handle).mkdir(parents=True, exist_ok=True)
        (self._folder(handle) / "request.json").write_text(json.dumps(codec.to_json(request)))
        return handle

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Train one epoch if no event after number `after` is known."""
        if len(known := self._known(handle)) <= after and not (known and isinstance(known[-1], Finished)):
            self._train(handle, known)
        return self._known(handle)[after:]

    def _train(self, handle: Handle, known: list[Event]) -> None:
        folder = self._folder(handle)
        epoch = sum(isinstance(event, Checkpointed) for event in known) + 1
        new: list[Event] = [] if known else [Started({"cache": f"{self.workspace}/cache", "n_epochs": self.epochs})]
        if epoch > self.epochs:
            new = [Finished(f"{folder}/model")]
        else:
            self.trained.append(epoch)
            (folder / "model").mkdir(exist_ok=True)
            (folder / "model" / "weights").write_text(f"weights of epoch {epoch}")
            new += [Measured(epoch, epoch, {"valid_loss": 1 / epoch}, "evaluation")]
            new += [Checkpointed(epoch, epoch, f"{folder}/model")]
            (folder / "resume").write_text(str(epoch))
        with (folder / "events.jsonl").open("a") as stream:
            stream.writelines(json.dumps(codec.to_json(event)) + "\n" for event in new)

    def _known(self, handle: Handle) -> list[Event]:
        path = self._folder(handle) / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [codec.from_json(Event, json.loads(line)) for line in lines]

    def resume_point(self, handle: Handle) -> ResumePoint | None:
        folder = self._folder(handle)
        if not (folder / "resume").exists():
            return None
        files = (folder / "resume", folder / "events.jsonl", folder / "model" / "weights")
        return ResumePoint((folder / "resume").read_text() + str(len(self._known(handle))), files)

    def forget(self, handle: Handle) -> None:
        shutil.rmtree(self._folder(handle), ignore_errors=True)


def with_key(original: TrainingRequest, key: str) -> TrainingRequest:
    return replace(original, key=key)
