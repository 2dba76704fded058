"""Runs the services of a Compose file without a container engine, each in its own namespaces.

A service sees the files of this machine below its own writable layer. So its commands run exactly
as in the file: with the same paths and ports, with the other services under their names, and with
the user and the privileges of its image. The programs of other projects' images are those that are
installed on this machine. It needs root, and a kernel that allows namespaces and overlays.
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
_UNIT_S = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Image:
    """The settings of an image that the Compose file does not contain."""

    user: str = "0:0"
    home: str = "/root"
    working_dir: str = "/"
    entrypoint: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    root: Path = Path("/")
    """The files of the image: those of this machine, or a folder with the files of the image."""


def missing() -> str | None:
    """Return why services cannot run here, or None if they can."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "namespaces need Linux and root"
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return "no PostgreSQL server is installed (Debian: apt-get install postgresql)"
    overlay = (
        "mount -t tmpfs t /mnt && cd /mnt && mkdir u w m && mount -t overlay -o lowerdir=/,upperdir=u,workdir=w o m"
    )
    try:
        for command in (["unshare", "--mount", "--net", "--uts", "sh", "-c", overlay], ["ip", "netns", "list"]):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed (Debian: apt-get install iproute2 util-linux)"
    except subprocess.CalledProcessError as error:
        return f"this machine does not allow namespaces or overlays: {error.stderr.strip()}"
    return None


class Stack:
    """The services of a Compose file, which `up` starts one after another.

    Each service writes to `<folder>/logs/<name>.log`.
    """

    def __init__(self, compose: Mapping[str, Any], images: Mapping[str, Image], folder: Path) -> None:
        self.services: dict[str, Any] = compose["services"]
        self.started: list[str] = []
        self.healthy_after_s: dict[str, float] = {}
        self._images, self._folder = images, folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._namespace_prefix = f"compose-{os.getpid()}-"
        self._addresses = {name: f"{SUBNET}.{number}" for number, name in enumerate(self.services, start=2)}

    def up(self) -> None:
        """Start each service after the services that it waits for, and wait until all are healthy.

        Raises AssertionError if a service fails or does not become healthy.
        """
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
        """Ask a service to stop, as `docker compose stop` does.

        Returns its exit code, or None if it had to be killed.
        """
        process = self._processes[name]
        process.terminate()
        try:
            return process.wait(_seconds(self.services[name].get("stop_grace_period", "10s")))
        except subprocess.TimeoutExpired:
            process.kill()
            return None

    def remove(self) -> None:
        """Kill all processes in the namespaces by their pids, and delete the namespaces."""
        for name in [*self._addresses, "net"]:
            namespace = self._namespace_prefix + name
            if not Path("/run/netns", namespace).exists():
                continue
            for _ in range(50):
                pids = _run("ip", "netns", "pids", namespace).split()
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                if not pids:
                    break
                time.sleep(0.1)
            _run("ip", "netns", "delete", namespace)
        for process in self._processes.values():
            process.wait()

    def execute(self, name: str, command: Sequence[str], timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command inside a running service, as `docker compose exec` does."""
        enter = ["nsenter", f"--target={self._processes[name].pid}", "--mount", "--net", "--uts", "--root"]
        return subprocess.run(
            [*enter, *self._as_user(name), *command],
            env=self._environment(name),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def from_outside(self, name: str, port: int, path: str, host: str) -> tuple[int, str]:
        """Send a request to a port of a service, as the engine forwards it from a published port.

        Returns the status and the body.
        """
        url = f"http://{self._addresses[name]}:{port}{path}"
        command = ["curl", "--silent", "--max-time", "20", "--header", f"Host: {host}", "--write-out", "\n%{http_code}"]
        enter = ["nsenter", f"--net=/run/netns/{self._namespace_prefix}net"]
        done = subprocess.run([*enter, *command, url], capture_output=True, text=True, check=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def log(self, name: str) -> str:
        """Return the output of the service so far."""
        return (self._folder / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def _make_network(self) -> None:
        switch = f"{self._namespace_prefix}net"
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "addr", "add", f"{SUBNET}.1/24", "dev", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        for name, address in self._addresses.items():
            namespace, port = self._namespace_prefix + name, f"to{address.rpartition('.')[2]}"
            _run("ip", "netns", "add", namespace)
            _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", namespace, "link", "set", device, "up")
            _run("ip", "-n", namespace, "route", "add", "default", "via", f"{SUBNET}.1")

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
                    *("nsenter", f"--net=/run/netns/{self._namespace_prefix}{name}"),
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
        """Return shell commands that mount the root of a service.

        The files of this machine, or of its image, are the lower layer. Its own writes are the
        upper layer, in `scratch`.
        """
        service, image = self.services[name], self._images[self.services[name]["image"].partition(":")[0]]
        lines = [
            f"mount -t tmpfs upper {scratch}",
            f"mkdir {scratch}/upper {scratch}/work {root}",
            f"mount -t overlay -o lowerdir={image.root},upperdir={scratch}/upper,workdir={scratch}/work overlay {root}",
        ]
        lines += [f"mount --rbind /{folder} {root}/{folder}" for folder in ("proc", "sys", "dev")]
        lines += [f"mount -t tmpfs -o mode=1777,size={service.get('shm_size', '64m')} shm {root}/dev/shm"]
        lines += [f"mkdir -p {root}/tmp/ray", f"mount -t tmpfs -o mode=1777 ray {root}/tmp/ray"]
        if image.root == Path("/"):
            lines += _grant_read_access(root)
            lines += [f"rm -rf {root}/opt/deploy", f"cp -r {ROOT}/deploy {root}/opt/deploy"]
        hosts = "".join(f"{address} {other}\\n" for other, address in self._addresses.items())
        lines += [f"printf '127.0.0.1 localhost\\n{hosts}' > {root}/etc/hosts", f": > {root}/etc/resolv.conf"]
        lines += [f"hostname {name}", f"install -d -o {image.user.partition(':')[0]} {root}{image.home}"]
        lines += [f"install -d -o {image.user.partition(':')[0]} {root}{image.working_dir}"]
        for source, target, *mode in (volume.split(":") for volume in service.get("volumes", ())):
            origin = ROOT / source if source.startswith(".") else Path(source)
            if not source.startswith((".", "/")):
                origin = self._folder / "volumes" / source
                if not origin.exists():  # an empty volume gets the owner of the folder in the image
                    origin.mkdir()
                    user, _, group = image.user.partition(":")
                    os.chown(origin, int(user), int(group))
            lines.append(f"mkdir -p {root}{target if origin.is_dir() else Path(target).parent}")
            lines += [] if origin.is_dir() else [f"touch {root}{target}"]
            lines.append(f"mount --bind {origin} {root}{target}")
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
        of_image = {"PATH": PATH, "HOME": image.home, "HOSTNAME": name, **dict(image.environment)}
        return {**of_image, **self.services[name].get("environment", {})}

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
        timeout_s = _seconds(check["start_period"]) + check["retries"] * _seconds(check["interval"])
        started_at, output = time.monotonic(), ""
        while time.monotonic() - started_at < timeout_s:
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name)[-4000:]}"
            with suppress(subprocess.TimeoutExpired):
                done = self.execute(name, command, _seconds(check["timeout"]))
                if done.returncode == 0:
                    self.healthy_after_s[name] = time.monotonic() - started_at
                    return
                output = done.stdout + done.stderr
            time.sleep(0.3)
        raise AssertionError(f"{name} is not healthy after {timeout_s} s: {output}\n{self.log(name)[-4000:]}")


def _grant_read_access(root: Path) -> list[str]:
    """Return shell commands that let any user of the new root read this checkout and its Python."""
    lines = []
    for needed in (ROOT, Path(sys.prefix), Path(sys.base_prefix)):
        for folder in reversed(needed.parents):
            if folder.stat().st_dev == Path("/").stat().st_dev and not folder.stat().st_mode & stat.S_IXOTH:
                lines.append(f"chmod o+x {root}{folder}")  # in the upper layer only
        if needed.stat().st_dev != Path("/").stat().st_dev:
            lines += [f"mkdir -p {root}{needed}", f"mount --bind {needed} {root}{needed}"]
    return lines


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
    return done.stdout


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)([smh])", text)
    assert match, f"unknown form of a duration: {text}"
    return int(match[1]) * _UNIT_S[match[2]]
