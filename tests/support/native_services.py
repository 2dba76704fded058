"""Runs the services of a Compose file without a container engine, each in namespaces of its own.

A service sees this machine's files below a layer of its own, so that its commands run as they stand in the file: same
paths, same ports, the other services under their names, the user and the privileges of its image. What the images of
other projects bring is taken from this machine. Needs root, and a kernel that lets it make namespaces and overlays.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compose_file

ROOT = Path(__file__).resolve().parents[2]
PATH = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SUBNET = "10.213.7"
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Image:
    """What an image sets and the Compose file does not say: user, home, where it starts, what it runs first."""

    user: str = "0:0"
    home: str = "/root"
    working_dir: str = "/"
    entrypoint: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    root: Path = Path("/")
    """The files that it consists of: this machine's, or a folder with those of the image."""


def missing() -> str | None:
    """Why services cannot be run here, or None."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "namespaces want Linux and root"
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return "no PostgreSQL server is installed (Debian: apt-get install postgresql)"
    trial = "mount -t tmpfs t /mnt && cd /mnt && mkdir u w m && mount -t overlay -o lowerdir=/,upperdir=u,workdir=w o m"
    try:
        for command in (["unshare", "--mount", "--net", "--uts", "sh", "-c", trial], ["ip", "netns", "list"]):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed (Debian: apt-get install iproute2 util-linux)"
    except subprocess.CalledProcessError as error:
        return f"this machine makes no namespaces or overlays: {error.stderr.strip()}"
    return None


class Stack:
    """The services of `compose`, started one by one by `up`. Each leaves `<folder>/logs/<name>.log`."""

    def __init__(self, compose: Mapping[str, Any], images: Mapping[str, Image], folder: Path) -> None:
        self.services: dict[str, Any] = compose["services"]
        self.started: list[str] = []
        self.healthy_after_s: dict[str, float] = {}
        self._images, self._folder = images, folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._spaces = f"compose-{os.getpid()}-"
        self._addresses = {name: f"{SUBNET}.{number}" for number, name in enumerate(self.services, start=2)}

    def up(self) -> None:
        """Start every service once those it waits for are as it wants them. Raises AssertionError where one is not."""
        for name in ("logs", "volumes", "roots"):
            (self._folder / name).mkdir(parents=True)
        self._make_network()
        for name in compose_file.in_order(self.services):
            for other, condition in compose_file.waits_for(self.services[name]).items():
                self._wait(other, condition)
            self._start(name)
        for name in self.services:
            if "healthcheck" in self.services[name]:
                self._wait(name, "service_healthy")

    def stop(self, name: str) -> int | None:
        """Ask a service to end, as `docker compose stop` does. Returns its exit code; None: it had to be killed."""
        process = self._processes[name]
        process.terminate()
        try:
            return process.wait(_seconds(self.services[name].get("stop_grace_period", "10s")))
        except subprocess.TimeoutExpired:
            process.kill()
            return None

    def remove(self) -> None:
        """End everything that runs in the namespaces, by its pid, and take them away."""
        for name in [*self._addresses, "net"]:
            space = self._spaces + name
            if not Path("/run/netns", space).exists():
                continue
            for _ in range(50):
                left = _run("ip", "netns", "pids", space).split()
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                if not left:
                    break
                time.sleep(0.1)
            _run("ip", "netns", "delete", space)
        for process in self._processes.values():
            process.wait()

    def execute(self, name: str, command: Sequence[str], timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command inside a running service, as `docker compose exec` does."""
        entered = ["nsenter", f"--target={self._processes[name].pid}", "--mount", "--net", "--uts", "--root"]
        return subprocess.run(
            [*entered, *self._as_user(name), *command],
            env=self._environment(name),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def from_outside(self, name: str, port: int, path: str, host: str) -> tuple[int, str]:
        """Ask a port of a service as the engine's forwarder of published ports does: status and body."""
        url = f"http://{self._addresses[name]}:{port}{path}"
        command = ["curl", "--silent", "--max-time", "20", "--header", f"Host: {host}", "--write-out", "\n%{http_code}"]
        entered = ["nsenter", f"--net=/run/netns/{self._spaces}net"]
        done = subprocess.run([*entered, *command, url], capture_output=True, text=True, check=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def log(self, name: str) -> str:
        """What the service has written so far."""
        return (self._folder / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def _make_network(self) -> None:
        switch = f"{self._spaces}net"
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "addr", "add", f"{SUBNET}.1/24", "dev", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        for name, address in self._addresses.items():
            space, end = self._spaces + name, f"to{address.rpartition('.')[2]}"
            _run("ip", "netns", "add", space)
            _run("ip", "-n", switch, "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "-n", switch, "link", "set", end, "master", "bridge", "up")
            _run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", space, "link", "set", device, "up")
            _run("ip", "-n", space, "route", "add", "default", "via", f"{SUBNET}.1")

    def _start(self, name: str) -> None:
        service, image = self.services[name], self._images[self.services[name]["image"].partition(":")[0]]
        command = [*image.entrypoint, *service.get("entrypoint", ()), *service["command"]]
        root = self._folder / "roots" / name
        root.mkdir()
        script = self._new_root(name, root / "root", root)
        script += f"exec chroot {root}/root {shlex.join([*self._as_user(name), *command])}\n"
        with (self._folder / "logs" / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self._spaces}{name}"),
                    *("unshare", "--mount", "--uts", "--propagation", "private", "sh", "-euc", script),
                ],
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(name)

    def _new_root(self, name: str, root: Path, scratch: Path) -> str:
        """Shell commands that lay a root for the service: this machine's files below, its own writes above."""
        service, image = self.services[name], self._images[self.services[name]["image"].partition(":")[0]]
        lines = [
            f"mount -t tmpfs upper {scratch}",
            f"mkdir {scratch}/upper {scratch}/work {root}",
            f"mount -t overlay -o lowerdir={image.root},upperdir={scratch}/upper,workdir={scratch}/work overlay {root}",
        ]
        lines += [f"mount --rbind /{each} {root}/{each}" for each in ("proc", "sys", "dev")]
        lines += [f"mount -t tmpfs -o mode=1777,size={service.get('shm_size', '64m')} shm {root}/dev/shm"]
        lines += [f"mkdir -p {root}/tmp/ray", f"mount -t tmpfs -o mode=1777 ray {root}/tmp/ray"]
        if image.root == Path("/"):
            lines += _made_readable(root)
            lines += [f"rm -rf {root}/opt/deploy", f"cp -r {ROOT}/deploy {root}/opt/deploy"]
        hosts = "".join(f"{address} {other}\\n" for other, address in self._addresses.items())
        lines += [f"printf '127.0.0.1 localhost\\n{hosts}' > {root}/etc/hosts", f": > {root}/etc/resolv.conf"]
        lines += [f"hostname {name}", f"install -d -o {image.user.partition(':')[0]} {root}{image.home}"]
        lines += [f"install -d -o {image.user.partition(':')[0]} {root}{image.working_dir}"]
        for source, target, *mode in (each.split(":") for each in service.get("volumes", ())):
            held = ROOT / source if source.startswith(".") else Path(source)
            if not source.startswith((".", "/")):
                held = self._folder / "volumes" / source
                if not held.exists():  # an empty volume takes over the owner that the folder has in the image
                    held.mkdir()
                    user, _, group = image.user.partition(":")
                    os.chown(held, int(user), int(group))
            lines.append(f"mkdir -p {root}{target if held.is_dir() else Path(target).parent}")
            lines += [] if held.is_dir() else [f"touch {root}{target}"]
            lines.append(f"mount --bind {held} {root}{target}")
            lines += [f"mount -o remount,bind,ro {root}{target}"] if "ro" in mode else []
        return "".join(f"{line}\n" for line in lines)

    def _as_user(self, name: str) -> list[str]:
        service, image = self.services[name], self._images[self.services[name]["image"].partition(":")[0]]
        user, _, group = image.user.partition(":")
        command = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        if "no-new-privileges:true" in service.get("security_opt", ()):
            command.append("--no-new-privs")
        if "ALL" in service.get("cap_drop", ()):
            command += ["--inh-caps=-all", "--bounding-set=-all"]
        return [*command, "env", f"--chdir={image.working_dir}"]

    def _environment(self, name: str) -> dict[str, str]:
        image = self._images[self.services[name]["image"].partition(":")[0]]
        given = {"PATH": PATH, "HOME": image.home, "HOSTNAME": name, **dict(image.environment)}
        return {**given, **self.services[name].get("environment", {})}

    def _wait(self, name: str, condition: str) -> None:
        process = self._processes[name]
        if condition == "service_completed_successfully":
            code = process.wait(60)
            assert code == 0, f"{name} ended with {code}:\n{self.log(name)[-4000:]}"
            return
        assert condition == "service_healthy", condition
        if name in self.healthy_after_s:
            return
        check = self.services[name]["healthcheck"]
        command = ["/bin/sh", "-c", check["test"][1]] if check["test"][0] == "CMD-SHELL" else check["test"][1:]
        patience_s = _seconds(check["start_period"]) + check["retries"] * _seconds(check["interval"])
        began, last = time.monotonic(), ""
        while time.monotonic() - began < patience_s:
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name)[-4000:]}"
            with suppress(subprocess.TimeoutExpired):
                done = self.execute(name, command, _seconds(check["timeout"]))
                if done.returncode == 0:
                    self.healthy_after_s[name] = time.monotonic() - began
                    return
                last = done.stdout + done.stderr
            time.sleep(0.3)
        raise AssertionError(f"{name} is not healthy after {patience_s} s: {last}\n{self.log(name)[-4000:]}")


def _made_readable(root: Path) -> list[str]:
    """Shell commands after which any user of the new root can read what is under test, wherever it lies here."""
    lines = []
    for kept in (ROOT, Path(sys.prefix), Path(sys.base_prefix)):
        for folder in reversed(kept.parents):
            if folder.stat().st_dev == Path("/").stat().st_dev and not folder.stat().st_mode & stat.S_IXOTH:
                lines.append(f"chmod o+x {root}{folder}")  # in the layer alone
        if kept.stat().st_dev != Path("/").stat().st_dev:
            lines += [f"mkdir -p {root}{kept}", f"mount --bind {kept} {root}{kept}"]
    return lines


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
    return done.stdout


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([smh])", text)
    assert found, f"a duration that is not known here: {text}"
    return int(found[1]) * _SECONDS[found[2]]
