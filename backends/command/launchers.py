"""Programs that train with several processes: their ports, their number, and their launchers.

`torchrun` and `accelerate launch` both take port 29500 unless they are told otherwise, so that two
trials on one machine would clash. What the user writes in `run` wins.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.contract import BackendError, Failure, FailureKind
from backends.ports import PORTS, free_port


@dataclass(frozen=True)
class RankGroup:
    """The processes that train one trial together.

    `processes` run on each of the `nodes`; this node is number `node`. They meet at `port` of
    `address`, the first node.
    """

    processes: int = 1
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """The variables that torch.distributed, torchrun (`PET_*`) and LLaMA-Factory read."""
        shared = {
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
            "PET_MASTER_ADDR": self.address,
            "PET_MASTER_PORT": str(self.port),
        }
        if self.processes > 1:
            shared |= {"PET_NPROC_PER_NODE": str(self.processes), "NPROC_PER_NODE": str(self.processes)}
        if self.nodes > 1:
            shared |= {"PET_NNODES": str(self.nodes), "PET_NODE_RANK": str(self.node)}
            shared |= {"NNODES": str(self.nodes), "NODE_RANK": str(self.node)}
        return shared

    def arguments(self, written: Sequence[str]) -> list[str]:
        """Return a command with the options of `accelerate launch`, which reads no variables."""
        launch = next((at for at, pair in enumerate(itertools.pairwise(written)) if _launches(pair)), None)
        if launch is None:
            return list(written)
        options = {"--main_process_port": str(self.port)}
        if self.processes * self.nodes > 1:
            options["--num_processes"] = str(self.processes * self.nodes)
        if self.nodes > 1:
            options |= {"--num_machines": str(self.nodes), "--machine_rank": str(self.node)}
            options["--main_process_ip"] = self.address
        given = {argument.partition("=")[0] for argument in written}
        added = [part for option, value in options.items() if option not in given for part in (option, value)]
        return [*written[: launch + 2], *added, *written[launch + 2 :]]


def _launches(pair: tuple[str, str]) -> bool:
    return os.path.basename(pair[0]) in ("accelerate", "accelerate.commands.accelerate_cli") and pair[1] == "launch"


def reserved_port(run: Path, folder: Path | None = None) -> int:
    """Return a free port that no other run of this machine gets before this one has ended.

    `run` is the folder of the run. A run that asks again gets its port again. `folder` holds the
    reservations of all sweeps on this machine. Raises BackendError if there is no free port.
    """
    folder = folder or Path(tempfile.gettempdir(), f"finesweep-ports-{os.getuid()}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        taken = {int(path.name): path.read_text(encoding="utf-8") for path in folder.glob("[0-9]*")}
        for port, owner in list(taken.items()):
            if owner == str(run):
                return port
            if not Path(owner).is_dir() or Path(owner, "exit.json").exists():
                (folder / str(port)).unlink()
                del taken[port]
        found = free_port(taken)
        if found is None:
            message = f"no port between {PORTS[0]} and {PORTS[-1]} is free"
            raise BackendError(Failure(FailureKind.TRANSIENT, message))
        (folder / str(found)).write_text(str(run), encoding="utf-8")
        return found
