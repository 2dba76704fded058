"""The leftovers of a killed driver are ended by the next run, and nothing else is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sweeps.execution import ray_processes
from sweeps.execution.ray_processes import Process, RayRecord

pytestmark = pytest.mark.unit


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child, as a raylet with a worker."""
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE)
    while not ray_processes.descendants(process.pid):
        assert process.poll() is None
    yield process
    ray_processes.end(ray_processes.descendants(process.pid))
    process.kill()
    process.communicate()


@pytest.fixture
def session_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "ray" / "session_1"
    (folder / "logs").mkdir(parents=True)
    (folder.parent / "session_latest").symlink_to(folder)
    return folder


def dead_driver(record: RayRecord) -> RayRecord:
    return replace(record, driver=Process(record.driver.pid, record.driver.started - 1))


def test_the_leftovers_of_a_dead_driver_go(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], session_folder: Path
) -> None:
    child = next(iter(ray_processes.descendants(sleeper.pid)))
    dead_driver(ray_processes.record_of([sleeper.pid], str(session_folder))).write(tmp_path / "ray.json")
    ray_processes.end_leftovers(tmp_path / "ray.json")
    assert sleeper.wait(30) == -9
    assert not child.is_alive
    assert not session_folder.exists()
    assert not (session_folder.parent / "session_latest").is_symlink()
    assert not (tmp_path / "ray.json").exists()


def test_a_later_process_with_the_same_id_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], session_folder: Path
) -> None:
    record = dead_driver(ray_processes.record_of([sleeper.pid], str(session_folder)))
    [process] = record.processes
    replace(record, processes=(Process(process.pid, process.started - 1),)).write(tmp_path / "ray.json")
    ray_processes.end_leftovers(tmp_path / "ray.json")
    assert sleeper.poll() is None
    assert not (tmp_path / "ray.json").exists()


def test_the_processes_of_another_start_of_the_machine_are_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    record = dead_driver(ray_processes.record_of([sleeper.pid], ""))
    replace(record, boot="another").write(tmp_path / "ray.json")
    ray_processes.end_leftovers(tmp_path / "ray.json")
    assert sleeper.poll() is None


def test_the_ray_of_a_living_driver_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record = ray_processes.record_of([], "")
    [other] = ray_processes.record_of([sleeper.pid], "").processes
    replace(record, driver=other, processes=(other,)).write(tmp_path / "ray.json")
    ray_processes.end_leftovers(tmp_path / "ray.json")
    assert sleeper.poll() is None
    assert (tmp_path / "ray.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"driver": 1}'])
def test_a_record_that_cannot_be_read_is_removed(tmp_path: Path, content: str) -> None:
    (tmp_path / "ray.json").write_text(content)
    ray_processes.end_leftovers(tmp_path / "ray.json")
    assert not (tmp_path / "ray.json").exists()


@pytest.mark.parametrize("is_reused", [False, True])
def test_a_driver_that_was_killed_while_ray_started_is_known_by_its_id(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], is_reused: bool
) -> None:
    """Unless another process has its id now: the folder may be that of its Ray."""
    driver = Process(sleeper.pid if is_reused else 2**22 + 1, 1.0)
    folder, other = tmp_path / f"session_2026_1_{driver.pid}", tmp_path / "session_2026_1_7"
    for path in (folder, other):
        path.mkdir()
    pattern = ray_processes.session_folders_of(driver.pid, str(tmp_path))
    replace(ray_processes.record_of([], pattern), driver=driver).write(tmp_path / "ray.json")
    ray_processes.end_leftovers(tmp_path / "ray.json")
    assert folder.exists() == is_reused
    assert other.exists()
    assert not (tmp_path / "ray.json").exists()


def test_only_a_session_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    ray_processes.remove_session_folder(str(tmp_path / "work"))
    ray_processes.remove_session_folder("")
    assert (tmp_path / "work").is_dir()


def test_a_record_survives_writing_and_reading(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record = ray_processes.record_of([sleeper.pid, 2**22 + 1], "folder")
    record.write(tmp_path / "ray.json")
    assert json.loads((tmp_path / "ray.json").read_text()) == json.loads(json.dumps(asdict(record)))
    assert [process.pid for process in record.processes] == [sleeper.pid], "a process that is gone is not recorded"


def test_an_agent_that_outlived_its_raylet_is_known_by_its_open_log(tmp_path: Path) -> None:
    session_folder = tmp_path / "session_2026"
    session_folder.mkdir()
    with (session_folder / "agent.log").open("w") as log:
        processes = {
            name: subprocess.Popen(["bash", "-c", f"exec -a {name} sleep 600"], stdout=log)
            for name in ("ray::DashboardAgent", "tail")
        }
    try:
        for name, process in processes.items():
            while name.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                time.sleep(0.01)
        record = dead_driver(ray_processes.record_of([], str(session_folder)))
        record.write(tmp_path / "ray.json")
        ray_processes.end_leftovers(tmp_path / "ray.json")
        assert processes["ray::DashboardAgent"].wait(60) == -signal.SIGKILL
        assert processes["tail"].poll() is None, "a person may read the log"
        assert not session_folder.exists()
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
