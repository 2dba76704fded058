"""Groups of processes: their ports never clash, and each launcher gets what it needs."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.command.launchers import RankGroup, reserved_port
from backends.ports import PORTS, free_port

pytestmark = pytest.mark.unit


def runs(folder: Path, count: int) -> list[Path]:
    made = [folder / f"run{number}" for number in range(count)]
    for run in made:
        run.mkdir()
    return made


def test_runs_that_ask_at_the_same_time_get_different_ports(tmp_path: Path) -> None:
    made = runs(tmp_path, 16)
    with ThreadPoolExecutor(8) as threads:
        ports = list(threads.map(lambda run: reserved_port(run, tmp_path / "ports"), made))
    assert len(set(ports)) == 16
    assert [reserved_port(run, tmp_path / "ports") for run in made] == ports, "a run keeps its port"


def test_the_port_of_an_ended_run_is_free_again(tmp_path: Path) -> None:
    first, second, third = runs(tmp_path, 3)
    port = reserved_port(first, tmp_path / "ports")
    other = reserved_port(second, tmp_path / "ports")
    (first / "exit.json").write_text("{}")
    reserved_port(third, tmp_path / "ports")
    kept = {int(path.name) for path in (tmp_path / "ports").glob("[0-9]*")}
    assert other in kept
    assert port not in kept or reserved_port(third, tmp_path / "ports") == port


def test_a_port_that_another_program_uses_is_left_alone() -> None:
    port = free_port()
    assert port is not None
    others = set(PORTS) - {port}
    assert free_port(others) == port
    with socket.socket() as taken:
        taken.bind(("", port))
        assert free_port(others) is None


def test_accelerate_gets_its_options_after_launch() -> None:
    ranks = RankGroup(processes=4, port=21000)
    command = ["accelerate", "launch", "train.py", "--lr", "1"]
    given = ["accelerate", "launch", "--main_process_port", "21000", "--num_processes", "4", "train.py", "--lr", "1"]
    assert ranks.arguments(command) == given
    own = ["/opt/bin/accelerate", "launch", "--main_process_port=1", "--num_processes", "2", "train.py"]
    assert ranks.arguments(own) == own, "what the user writes wins"
    assert ranks.arguments(["python", "train.py"]) == ["python", "train.py"]


def test_several_machines_meet_at_the_first_one() -> None:
    ranks = RankGroup(processes=2, nodes=3, node=1, address="10.0.0.1", port=21000)
    options = ranks.arguments(["accelerate", "launch", "train.py"])
    assert options[2:-1] == [
        *("--main_process_port", "21000", "--num_processes", "6"),
        *("--num_machines", "3", "--machine_rank", "1", "--main_process_ip", "10.0.0.1"),
    ]
    expected = {
        **{"PET_NNODES": "3", "PET_NODE_RANK": "1", "PET_NPROC_PER_NODE": "2"},
        **{
            "MASTER_ADDR": "10.0.0.1",
            "PET_MASTER_ADDR": "10.0.0.1",
            "MASTER_PORT": "21000",
            "PET_MASTER_PORT": "21000",
        },
    }
    assert ranks.environment.items() >= expected.items()
    assert "PET_NNODES" not in RankGroup(port=1).environment
