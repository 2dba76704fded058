"""A real PostgreSQL server on the loopback interface, for the tests that need one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def programs() -> Path:
    """Return the folder of PostgreSQL's programs. Skips the test if it is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not installed and on_path is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return (installed[-1] if installed else Path(str(on_path))).parent


class Server:
    """A PostgreSQL cluster in `folder`, which exists and is empty. It can stop and restart."""

    def __init__(self, folder: Path) -> None:
        self._programs, self._folder = programs(), folder
        # PostgreSQL refuses to run as root.
        self._run_as = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        if self._run_as:
            shutil.chown(folder, "postgres", "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run("initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-w", "-l", f"{self._folder}/log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        with open(os.devnull, "w") as nowhere:
            done = subprocess.run(
                command,
                stdout=nowhere,
                stderr=subprocess.PIPE,
                text=True,
                cwd="/",
                check=False,
                timeout=120,
                **self._run_as,
            )
        assert done.returncode == 0, done.stderr


@contextmanager
def server() -> Iterator[Server]:
    """Run a server in a temporary folder.

    It is not below pytest's folder: another pytest session changes the permissions there.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        running = Server(Path(folder))
        try:
            yield running
        finally:
            running.stop()
            time.sleep(0.1)
