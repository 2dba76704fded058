"""Bad days: a full, read-only, locked or slow disk, a database that restarts.

Each ends with one clear error and exit code 1, or is overcome. Once the day is good again, the same
command ends the sweep with everything there.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_day import BadDay, assert_mends, assert_one_clear_error
from sqlalchemy import create_engine, text

from tests.integration import databases

pytestmark = pytest.mark.integration

AT_WRITES = (4, 13, *(pytest.param(write, marks=pytest.mark.slow) for write in (0, 2, 3, 8, 25, 40)))
"""The durable writes of the sweep before which something happens."""

FILLED_BYTES = 4 * 2**20


def can_mount() -> str | None:
    """Return why this process cannot mount a file system, or None if it can."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "mounting a file system needs Linux and root"
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    return None if answer.returncode == 0 else f"this machine allows no mounts: {answer.stderr.strip()}"


needs_mounts = pytest.mark.skipif(can_mount() is not None, reason=str(can_mount()))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of a few MB at `folder`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FILLED_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


FULL = re.compile("No space left on device|database or disk is full")


def fill(folder: Path) -> None:
    """Use the last byte of the disk."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


@needs_mounts
@pytest.mark.parametrize("at_write", AT_WRITES)
def test_a_full_disk_is_one_error_and_loses_nothing(at_write: int, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        day = BadDay(tmp_path, disk / "workspace")
        assert_one_clear_error(day.sweep_run(at_write, lambda: fill(disk)), FULL)
        (disk / "filler").unlink()
        assert_mends(day)


@needs_mounts
@pytest.mark.parametrize("at_write", AT_WRITES)
def test_a_disk_that_becomes_read_only_is_one_error_and_loses_nothing(at_write: int, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        day = BadDay(tmp_path, disk / "workspace")

        def remount(mode: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True, capture_output=True)

        def make_read_only() -> None:
            with contextlib.suppress(subprocess.CalledProcessError):
                remount("ro")

        end = day.sweep_run(at_write, make_read_only)
        if end.exit_code != 0:  # a file open for writing keeps a disk writable
            assert_one_clear_error(end, "Read-only file system")
        remount("rw")
        assert_mends(day)


@needs_mounts
def test_a_read_only_workspace_is_one_error(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        day = BadDay(tmp_path, disk / "workspace")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert_one_clear_error(day.sweep_run(), "Read-only file system")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert_mends(day)


def test_a_slow_disk_only_takes_time(tmp_path: Path) -> None:
    day = BadDay(tmp_path)
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        time.sleep(0.2)
        fsync(descriptor)

    os.fsync = slow_fsync
    try:
        assert_mends(day)
    finally:
        os.fsync = fsync


LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""
"""Another process that locks a database: a lock of SQLite belongs to a process."""


def lock(database: Path, seconds: float) -> subprocess.Popen[str]:
    """Let another process lock an SQLite database for so long. Returns once it is locked."""
    command = [sys.executable, "-c", LOCK, str(database), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


@contextlib.contextmanager
def locked(database: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of an SQLite database during the block, at most for so long."""
    with lock(database, seconds) as process:
        try:
            yield
        finally:
            process.kill()


def test_a_database_of_the_study_that_is_locked_for_a_while_is_waited_for(tmp_path: Path) -> None:
    database = tmp_path / "studies.db"
    day = BadDay(tmp_path, environment={"SWEEP_STORAGE": f"sqlite:///{database}"})
    assert_mends(day)
    day.file.write_text(day.file.read_text().replace("trials: 3", "trials: 4"))
    with locked(database, seconds=3.0):
        end = day.sweep_run()
    assert end.exit_code == 0, end


def test_a_database_of_the_study_that_stays_locked_is_one_error(tmp_path: Path) -> None:
    database = tmp_path / "studies.db"
    day = BadDay(tmp_path, environment={"SWEEP_STORAGE": f"sqlite:///{database}"})
    day.file.write_text(day.file.read_text().replace("trials: 3", "trials: 2"))
    assert day.sweep_run().exit_code == 0
    day.file.write_text(day.file.read_text().replace("trials: 2", "trials: 3"))
    with locked(database, seconds=3600.0):
        assert_one_clear_error(day.sweep_run(), "SWEEP_STORAGE")
    assert_mends(day)


@pytest.mark.parametrize("at_write", [10, 20, 30])
def test_a_service_whose_database_is_locked_for_a_while_is_waited_for(at_write: int, tmp_path: Path) -> None:
    day = BadDay(tmp_path)
    database = day.workspace / "sweeps" / "pairs" / "fake-service.sqlite"
    assert day.sweep_run(at_write, lambda: lock(database, 2.0).returncode).exit_code == 0
    found = day.wrong()
    assert not found, found


@pytest.fixture(scope="module")
def postgres() -> Iterator[databases.Server]:
    with databases.server() as server:
        yield server


def _new_database(server: databases.Server) -> str:
    name = f"day_{uuid.uuid4().hex}"
    engine = create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.url.removesuffix("postgres") + name


@pytest.mark.parametrize(
    "at_write", [9, *(pytest.param(write, marks=pytest.mark.slow) for write in (1, 3, 25, 60, 90))]
)
@pytest.mark.parametrize("comes_back", [True, False], ids=["restarted", "down"])
def test_a_postgresql_that_goes_away_loses_nothing(
    at_write: int, comes_back: bool, tmp_path: Path, postgres: databases.Server
) -> None:
    day = BadDay(tmp_path, environment={"SWEEP_STORAGE": _new_database(postgres)})

    def happens() -> None:
        postgres.stop()
        if comes_back:
            postgres.start()

    end = day.sweep_run(at_write, happens)
    if not comes_back:
        postgres.start()
        assert end.exit_code != 0, end
    if end.exit_code != 0:
        assert_one_clear_error(end, "SWEEP_STORAGE")
    assert_mends(day)
