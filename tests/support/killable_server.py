"""Servers that kill themselves with SIGKILL at a chosen durable write, for the tests of kills.

This program imports the server once, and forks a process for each server, so that a start takes
milliseconds. It reads commands from stdin, one JSON object per line, and answers each with a line:
`{"start": {...}}` with the process id, `{"poll": pid}` with the exit code or null.

The hooks are installed in the forked process only; the product knows nothing of them. Each write
has a point before it and a point after it. A point is named by what is written, like
`before COMMIT jobs,events` or `after replace files`; together with its number among the points of
the same name in its server it says where to kill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backends.contract import Checkpointed
from backends.fake import FakeBackend
from sweeps.server import serving, webhooks
from sweeps.server.settings import ServerSettings

_WRITE = re.compile(r"\s*(INSERT INTO|UPDATE|DELETE FROM)\s+(\w+)", re.IGNORECASE)


class Points:
    """Counts the points that a server passes, writes them to a file, and kills at one of them."""

    def __init__(self, log: Path, kill_at: tuple[str, int] | None) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._kill_at = kill_at
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def hit(self, name: str) -> None:
        with self._lock:
            self._passed[name] += 1
            here = name, self._passed[name]
            os.write(self._log, f"{json.dumps(here)}\n".encode())
            if here == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()

    @contextlib.contextmanager
    def around(self, name: str) -> Iterator[None]:
        self.hit(f"before {name}")
        yield
        self.hit(f"after {name}")


class _Rows:
    """The rows of a statement that has run to its end."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def fetchall(self) -> list[Any]:
        return self._rows


def _watch_database(points: Points) -> None:
    """Make a point of each commit, of a transaction or of a single statement."""

    class Watched(sqlite3.Connection):
        written: list[str]

        def execute(self, sql: str, *values: Any) -> Any:
            write = _WRITE.match(sql)
            if sql == "BEGIN IMMEDIATE":
                self.written = []
            elif sql == "COMMIT":
                tables = ",".join(dict.fromkeys(self.written))
                if not tables:
                    return super().execute(sql, *values)
                with points.around(f"COMMIT {tables}"):
                    return super().execute(sql, *values)
            elif write and self.in_transaction:
                self.written.append(write[2])
            elif write:
                with points.around(f"{write[1].split()[0].upper()} {write[2]}"):
                    return _Rows(super().execute(sql, *values).fetchall())
            return super().execute(sql, *values)

    connect = sqlite3.connect

    def watched_connect(path: Any, **options: Any) -> sqlite3.Connection:
        is_ours = Path(path).name == "server.sqlite"
        return connect(path, factory=Watched, **options) if is_ours else connect(path, **options)

    sqlite3.connect = watched_connect  # type: ignore[assignment]


def _watch_files(points: Points, root: Path) -> None:
    """Make a point of each change of the folders that the server keeps."""
    folders = ("files", "incoming", "jobs", "models")

    def place(path: Any) -> str | None:
        path = Path(path)
        if not path.is_relative_to(root) or path == root:
            return None
        first = path.relative_to(root).parts[0]
        return first if first in folders else None

    def watch(owner: Any, name: str, which: int = 0) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            folder = place(arguments[which])
            if folder is None:
                return original(*arguments, **options)
            with points.around(f"{name} {folder}"):
                return original(*arguments, **options)

        setattr(owner, name, watched)

    for name, which in (("replace", 1), ("rename", 1), ("unlink", 0), ("rmdir", 0), ("write_bytes", 0)):
        watch(pathlib.Path, name, which)
    watch(os, "link", 1)
    for name, which in (("rmtree", 0), ("copytree", 1), ("copyfile", 1)):
        watch(shutil, name, which)
    open_path = pathlib.Path.open

    def watched_open(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        folder = place(self) if "w" in mode else None
        if folder is None:
            return open_path(self, mode, *arguments, **options)
        with points.around(f"open {folder}"):
            return open_path(self, mode, *arguments, **options)

    pathlib.Path.open = watched_open  # type: ignore[method-assign, assignment]


def _watch_acts(points: Points, root: Path) -> None:
    """Make a point of each act outside the storage: at the backend, and at the webhook's URL.

    The checkpoints of the fake backend become folders, as those of a real trainer are.
    """

    def watch(owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            with points.around(f"act {name}"):
                return original(*arguments, **options)

        setattr(owner, name, watched)

    for name in ("submit", "stop", "discard"):
        watch(FakeBackend, name)
    watch(webhooks._Poster, "__call__")
    events = FakeBackend.events

    def events_with_folders(self: FakeBackend, handle: Any, after: int) -> Any:
        changed = []
        for event in events(self, handle, after):
            if isinstance(event, Checkpointed):
                folder = root / "backend" / "folders" / handle.id
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "weights").write_text(str(event.step))
                changed.append(dataclasses.replace(event, model=str(folder)))
            else:
                changed.append(event)
        return changed

    FakeBackend.events = events_with_folders  # type: ignore[method-assign]


def _serve(start: dict[str, Any]) -> None:
    """Serve in this process, which was forked for it."""
    root = Path(start["root"])
    points = Points(Path(start["points"]), tuple(start["kill_at"]) if start["kill_at"] else None)
    _watch_database(points)
    _watch_files(points, root)
    _watch_acts(points, root)

    def say(message: str) -> None:
        sys.stderr.write(f"{message}\n")
        if match := re.search(r"listening on \S+:(\d+)/v1", message):
            temporary = Path(start["port_file"]).with_suffix(".tmp")
            temporary.write_text(match[1])
            temporary.rename(start["port_file"])

    settings = ServerSettings(
        root=root,
        backend="fake",
        models={"fake-small": "fake-small"},
        options={"events_per_poll": 1},
        max_jobs=1,
        webhook=start["webhook"],
        webhook_secret="a secret",
    )
    serving.serve(settings, "127.0.0.1", 0, say)


def _fork(start: dict[str, Any]) -> int:
    process_id = os.fork()
    if process_id:
        return process_id
    code = 1
    try:
        log = os.open(start["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _serve(start)
        code = 0
    except BaseException:  # noqa: BLE001  the process ends here, and nobody else sees the error
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _poll(process_id: int) -> int | None:
    ended, status = os.waitpid(process_id, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def main() -> None:
    for line in sys.stdin:
        match json.loads(line):
            case {"start": start}:
                answer: int | None = _fork(start)
            case {"poll": process_id}:
                answer = _poll(process_id)
            case other:
                raise ValueError(other)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
