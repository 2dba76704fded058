"""Counts the durable writes of this process, and kills it with SIGKILL at a chosen one.

A durable write is one that another process can see afterwards: an append to the study's journal, a
transaction of SQLite, a file that is written, renamed or deleted below the workspace.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy.engine import default as sqlalchemy_dialects

from backends.fake_service import FakeService

Moment = Literal["before", "torn", "after"]
"""When the process dies: before a write, in the middle of it, or after it."""

_CHANGES = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE)", re.IGNORECASE)


@dataclass(frozen=True)
class KillPoint:
    """The durable write, counted from 0, and the moment of the death."""

    write: int
    moment: Moment


@dataclass
class DurableWrites:
    """Hooks the writes of this process. `names` holds one text for each write, in their order."""

    root: Path
    kill_at: KillPoint | None = None
    on_write: Callable[[], None] = lambda: None
    names: list[str] = field(default_factory=list)
    tearable: list[bool] = field(default_factory=list)

    def kill_points(self) -> list[KillPoint]:
        """Return every point at which the process of these writes can die."""
        points = []
        for number, tearable in enumerate(self.tearable):
            moments: tuple[Moment, ...] = ("before", "torn", "after") if tearable else ("before", "after")
            points += [KillPoint(number, moment) for moment in moments]
        return points

    def install(self) -> None:
        """Hook every kind of durable write, for the rest of this process."""
        self._hook_file_descriptors()
        self._hook_fake_service()
        self._hook_sqlalchemy()
        for owner, name in (
            (os, "replace"),
            (os, "rename"),
            (os, "remove"),
            (os, "unlink"),
            (shutil, "rmtree"),
            (shutil, "copytree"),
            (shutil, "copyfile"),
        ):
            self._hook_path_function(owner, name)
        self._hook_path_text()

    def write(self, name: str, act: Callable[[], Any], tear: Callable[[], None] | None = None) -> Any:
        """Do one durable write, unless the process dies before it."""
        number = len(self.names)
        self.names.append(name)
        self.tearable.append(tear is not None)
        self._die_at(number, "before")
        if tear is not None and self.kill_at == KillPoint(number, "torn"):
            tear()
            self._die_at(number, "torn")
        self.on_write()
        result = act()
        self._die_at(number, "after")
        return result

    def _die_at(self, number: int, moment: Moment) -> None:
        if self.kill_at == KillPoint(number, moment):
            os.kill(os.getpid(), signal.SIGKILL)

    def _hook_file_descriptors(self) -> None:
        pwrite, ftruncate = os.pwrite, os.ftruncate

        def hooked_pwrite(descriptor: int, content: bytes, offset: int) -> int:
            def tear() -> None:
                pwrite(descriptor, content[: len(content) * 2 // 3], offset)

            if not self._concerns(_path_of(descriptor)):
                return pwrite(descriptor, content, offset)
            written: int = self.write(
                f"pwrite {Path(_path_of(descriptor)).name} {_operations(content)}",
                lambda: pwrite(descriptor, content, offset),
                tear,
            )
            return written

        def hooked_ftruncate(descriptor: int, length: int) -> None:
            if not self._concerns(_path_of(descriptor)):
                return ftruncate(descriptor, length)
            self.write(f"ftruncate {Path(_path_of(descriptor)).name}", lambda: ftruncate(descriptor, length))
            return None

        os.pwrite, os.ftruncate = hooked_pwrite, hooked_ftruncate  # type: ignore[assignment]

    def _hook_fake_service(self) -> None:
        original = FakeService._execute

        def execute(service: FakeService, statement: str, values: Any) -> Any:
            if not _CHANGES.match(statement):
                return original(service, statement, values)
            return self.write(f"service {statement.split(maxsplit=1)[0]}", lambda: original(service, statement, values))

        FakeService._execute = execute  # type: ignore[method-assign]

    def _hook_sqlalchemy(self) -> None:
        original = sqlalchemy_dialects.DefaultDialect.do_commit

        def do_commit(dialect: Any, connection: Any) -> None:
            self.write("SQLAlchemy commit", lambda: original(dialect, connection))

        sqlalchemy_dialects.DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]

    def _hook_path_function(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def hooked(path: Any, *arguments: Any, **options: Any) -> Any:
            if not self._concerns(path):
                return original(path, *arguments, **options)
            return self.write(f"{name} {path}", lambda: original(path, *arguments, **options))

        setattr(owner, name, hooked)

    def _hook_path_text(self) -> None:
        for name in ("write_text", "write_bytes"):
            original = getattr(Path, name)

            def hooked(path: Path, content: Any, *arguments: Any, original: Any = original, **options: Any) -> Any:
                if not self._concerns(path):
                    return original(path, content, *arguments, **options)
                half = content[: len(content) // 2]
                return self.write(
                    f"{original.__name__} {path}",
                    lambda: original(path, content, *arguments, **options),
                    lambda: original(path, half, *arguments, **options),
                )

            setattr(Path, name, hooked)

    def _concerns(self, path: Any) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        return os.path.abspath(os.fspath(path)).startswith(str(self.root))  # type: ignore[arg-type]


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _operations(content: bytes) -> str:
    """Name the operations of a journal, so that a reader of a fault sees what was written."""
    return " ".join(code.decode() for code in re.findall(rb'"op_code":(\d+)', content))
