"""Machines on one computer: each has its own network, mounts, host name, processes and /tmp.

The machines are joined by a bridge. All see the files of this computer outside /tmp and HOME, as
machines that have installed the same software. It needs Linux and root.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SUBNET = "10.214.9"
PROGRAMS = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PATIENCE_S = 300.0
"""How long a test waits for a condition. It measures nothing."""


def missing() -> str | None:
    """Return why there can be no machines here, or None if there can."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "namespaces need Linux and root"
    probe = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        subprocess.run(probe, check=True, capture_output=True, text=True)
        subprocess.run(["ip", "-V"], check=True, capture_output=True)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed (Debian: apt-get install iproute2 util-linux)"
    except subprocess.CalledProcessError as error:
        return f"this computer does not allow namespaces: {error.stderr.strip()}"
    return None


class Machine:
    """A machine. `run` starts a command on it; `lose`, `cut` and `slow_down` are its bad days."""

    def __init__(self, lab: MachineLab, name: str, number: int) -> None:
        self.name, self.address = name, f"{SUBNET}.{number}"
        self._lab, self._link = lab, f"lab{os.getpid() % 10000}-{number}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pauses: threading.Thread | None = None
        self._is_slow = threading.Event()
        setup = (
            "mount --make-rprivate / && mount -t tmpfs tmpfs /tmp && mkdir /tmp/home && mount -t proc proc /proc"
            f" && hostname {name} && ip link set lo up && echo ready && exec sleep infinity"
        )
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", setup],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n", f"machine {name} did not start"
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self._init = int(children[0])
        self._connect()

    def _connect(self) -> None:
        inner = f"{self._link}i"
        _call("ip", "link", "add", self._link, "type", "veth", "peer", "name", inner, "netns", str(self._init))
        _call("ip", "link", "set", self._link, "master", self._lab.bridge, "up")
        for words in (
            f"link set {inner} name eth0",
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {SUBNET}.254",
        ):
            _call(*self._enter(), "ip", *words.split())

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self._init), "--mount", "--net", "--uts", "--pid", "--wdns=/tmp"]

    def start(self, command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command on the machine. Its output goes to a file of this computer."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*self._enter(), *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(environment),
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def run(self, *command: str, timeout_s: float = 120.0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine to its end."""
        return subprocess.run(
            [*self._enter(), *command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self._environment(environment),
            check=False,
        )

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return {
            "PATH": PROGRAMS,
            "PYTHONPATH": str(ROOT),
            "HOME": "/tmp/home",
            "LANG": "C.UTF-8",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            **self._lab.environment,
            **more,
        }

    def path(self, inside: str) -> Path:
        """Return a file of the machine as this computer sees it."""
        return Path(f"/proc/{self._init}/root{inside}")

    def processes(self, words: str) -> list[int]:
        """Return the processes of the machine whose command line contains these words."""
        found = []
        namespace = os.readlink(f"/proc/{self._init}/ns/pid")
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words in command and os.readlink(folder / "ns/pid") == namespace:
                    found.append(int(folder.name))
        return found

    def cut(self, *, silently: bool = False) -> None:
        """Take the machine off the network. Its processes go on.

        With `silently` nothing on any machine notices that the link is down, as behind a router
        that drops all packets.
        """
        if not silently:
            _call("ip", "link", "set", self._link, "down")
            return
        [link] = json.loads(self.run("ip", "-json", "link", "show", "eth0").stdout)
        for other in self._lab.machines.values():
            if other is not self:
                _call(
                    *other._enter(), *_neighbour("replace", self.address, "lladdr", link["address"], "nud", "permanent")
                )
        _call("bridge", "link", "set", "dev", self._link, "state", "disabled")

    def mend(self) -> None:
        """Put it on the network again."""
        _call("ip", "link", "set", self._link, "up")
        _call("bridge", "link", "set", "dev", self._link, "state", "forwarding")

    def lose(self) -> None:
        """Switch the machine off: no goodbye on the network, and no process survives."""
        self.cut()
        self._end()

    def power_cycle(self) -> None:
        """End all processes of the machine at once. Its disk and its network stay."""
        for process in self.processes(""):
            if process != self._init:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def slow_down(self) -> None:
        """Let the trainers of the machine run for a quarter of the time from now on."""

        def pause() -> None:
            while not self._is_slow.wait(0.1):
                trainers = self.processes("ray::TrialRunner")
                for signal_number, seconds in ((signal.SIGSTOP, 0.3), (signal.SIGCONT, 0.0)):
                    for process in trainers:
                        with suppress(ProcessLookupError):
                            os.kill(process, signal_number)
                    time.sleep(seconds)

        self._pauses = threading.Thread(target=pause, daemon=True)
        self._pauses.start()

    def _end(self) -> None:
        self._is_slow.set()
        if self._pauses is not None:
            self._pauses.join()
            self._pauses = None
        with suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)
        for process in (self._holder, *self._processes):
            process.wait(timeout=60)

    def close(self) -> None:
        """End the machine and remove its network. Idempotent."""
        self._end()
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        subprocess.run(["ip", "link", "del", self._link], check=False, capture_output=True)


class MachineLab:
    """A bridge, and the machines on it. `environment` is common to all commands."""

    def __init__(self, **environment: str) -> None:
        self.environment = environment
        self.bridge = f"labbr{os.getpid() % 100000}"
        self.machines: dict[str, Machine] = {}
        _call("ip", "link", "add", self.bridge, "type", "bridge")
        _call("ip", "link", "set", self.bridge, "up")

    def add(self, name: str) -> Machine:
        """Start a machine."""
        machine = Machine(self, name, len(self.machines) + 1)
        self.machines[name] = machine
        return machine

    def close(self) -> None:
        """End all machines."""
        for machine in self.machines.values():
            machine.close()
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)


def wait_for(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Return what the condition returns once it holds. `what` names it if it never does."""
    give_up_at = time.monotonic() + patience_s
    while time.monotonic() < give_up_at:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited in vain for {what}")


def report(text: str) -> None:
    """Write figures of this run where SWEEP_TEST_FIGURES says, for docs/log.md."""
    if target := os.environ.get("SWEEP_TEST_FIGURES"):
        with Path(target).open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")


def _neighbour(action: str, address: str, *more: str) -> list[str]:
    return ["ip", "neigh", action, address, *more, "dev", "eth0"]


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
