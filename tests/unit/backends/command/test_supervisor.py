"""The supervisor starts one program, ends it with all its processes, and says how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_runs import wait_for

from backends.command import supervisor
from backends.command.run_folder import ProgramEnd, RunFolder

pytestmark = pytest.mark.integration

SLEEP = [sys.executable, "-S", "-E", "-c", "import time\nwhile True: time.sleep(3600)"]


class Supervised:
    """A folder with a command, and the supervisors that were started on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = RunFolder(folder.parent, folder.name)
        folder.mkdir()
        self.started: list[subprocess.Popen[bytes]] = []

    def write_call(self, *arguments: str, **changes: Any) -> None:
        call = {
            "arguments": list(arguments),
            "environment": {},
            "working_folder": str(self.folder),
            "grace_s": 30.0,
            "abandoned_after_s": 600.0,
            "note": "",
        }
        self.run.write_call({**call, **changes})

    def start(self, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", str(Path(supervisor.__file__)), str(self.folder)]
        self.started.append(subprocess.Popen(command, **options))
        return self.started[-1]

    def shell(self, script: str, **changes: Any) -> None:
        self.write_call("/bin/sh", "-c", script, **changes)

    def wait(self) -> ProgramEnd:
        assert self.started[-1].wait(120) == 0
        end = self.run.end
        assert end is not None
        return end

    def await_start(self) -> None:
        wait_for(lambda: self.run.has_started, "the program starts")

    def await_line(self, line: str) -> None:
        wait_for(lambda: line in self.run.last_lines(100), f"the program prints {line}")


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    """A new folder. Its processes are ended after the test."""
    made = Supervised(tmp_path / "run")
    yield made
    for process in made.started:
        process.kill()
        process.wait()
    for left in supervisor.processes_of(made.folder):
        left.kill()


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9)])
def test_the_exit_code_of_the_program_is_stored(supervised: Supervised, script: str, code: int) -> None:
    supervised.shell(f"echo out; echo err >&2; {script}")
    supervised.start()
    end = supervised.wait()
    assert (end.code, end.cause) == (code, "ended")
    assert supervised.run.last_lines(2) == ["out", "err"]
    assert not supervised.run.is_supervised


def test_a_program_that_does_not_exist_is_reported(supervised: Supervised) -> None:
    supervised.write_call("/no/such/program")
    supervised.start()
    assert supervised.wait() == ProgramEnd(None, "not started", pytest.approx(0, abs=60), "No such file or directory")


def test_the_program_gets_its_environment_and_nothing_to_read(supervised: Supervised) -> None:
    supervised.shell('echo "$GIVEN $FINESWEEP_RUN"; cat; pwd', environment={"GIVEN": "yes"})
    supervised.start()
    supervised.wait()
    assert supervised.run.last_lines(2) == [f"yes {supervised.folder}", str(supervised.folder)]


def test_a_program_is_started_once_however_many_supervisors_there_are(supervised: Supervised) -> None:
    supervised.shell("echo started; read nothing < pipe")
    os.mkfifo(supervised.folder / "pipe")
    first = supervised.start()
    supervised.await_line("started")
    assert supervised.start().wait(60) == 0
    assert first.poll() is None
    (supervised.folder / "pipe").write_text("\n")
    assert first.wait(60) == 0
    assert supervised.start().wait(60) == 0, "the program has run"
    assert supervised.run.last_lines(9) == ["started"]


def test_a_program_gets_sigterm_although_a_worker_blocks_or_ignores_it(supervised: Supervised) -> None:
    supervised.shell("trap 'echo terminated; exit 0' TERM; echo ready; while :; do sleep 0.1; done")

    def block() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})

    supervised.start(preexec_fn=block)
    supervised.await_line("ready")
    supervised.run.request_stop()
    end = supervised.wait()
    assert end.cause == "stopped"
    assert "terminated" in supervised.run.last_lines(5)
    assert end.seconds < 25, "it did not wait for the end of the grace period"


@pytest.mark.parametrize("request_end", ["stop", "pause"])
def test_a_request_before_the_start_is_heard(supervised: Supervised, request_end: str) -> None:
    supervised.shell("echo started")
    (supervised.folder / request_end).touch()
    supervised.start()
    end = supervised.wait()
    assert (end.code, end.cause) == (None, "stopped" if request_end == "stop" else "paused")
    assert supervised.run.last_lines(1) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_supervisor_ends_the_program_in_order(supervised: Supervised, number: signal.Signals) -> None:
    supervised.shell("trap 'echo terminated; exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    process = supervised.start()
    supervised.await_line("ready")
    process.send_signal(number)
    assert supervised.wait().cause == "signalled"
    assert "terminated" in supervised.run.last_lines(5)


def test_sigkill_follows_after_the_grace_period(supervised: Supervised) -> None:
    supervised.shell("trap '' TERM; echo ready; while :; do sleep 0.1; done", grace_s=1.0)
    supervised.start()
    supervised.await_line("ready")
    supervised.run.request_stop()
    end = supervised.wait()
    assert (end.code, end.cause) == (-signal.SIGKILL, "stopped")
    assert supervisor.processes_of(supervised.folder) == []


def test_the_program_dies_with_its_supervisor(supervised: Supervised) -> None:
    supervised.write_call(*SLEEP)
    process = supervised.start()
    supervised.await_start()
    pid = json.loads((supervised.folder / "started.json").read_text())["pid"]
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the program ends")
    assert supervised.run.end is None
    assert not supervised.run.is_supervised


def test_what_the_program_leaves_behind_is_ended_and_counted(supervised: Supervised) -> None:
    supervised.shell("setsid sleep 3600 & setsid env -i /bin/sleep 3600 & sleep 0.2")
    supervised.start()
    end = supervised.wait()
    assert (end.code, end.left_behind) == (0, 2)
    assert supervisor.processes_of(supervised.folder) == []


def test_processes_of_an_earlier_attempt_end_before_the_program_starts(supervised: Supervised) -> None:
    environment = {**os.environ, supervisor.MARK: str(supervised.folder)}
    orphan = subprocess.Popen(SLEEP, env=environment, start_new_session=True)
    other = subprocess.Popen(SLEEP, env={**environment, supervisor.MARK: str(supervised.folder) + "-2"})
    try:
        wait_for(lambda: len(supervisor.processes_of(supervised.folder)) == 1, "the orphan has its mark")
        supervised.shell(f"kill -0 {orphan.pid} && echo alive || echo dead")
        process = supervised.start()
        wait_for(lambda: orphan.poll() is not None, "the orphan ends")
        assert process.wait(60) == 0
        assert supervised.run.last_lines(1) == ["dead"]
        assert other.poll() is None, "the process of another run goes on"
    finally:
        for each in (orphan, other):
            each.kill()
            each.wait()


def test_a_reader_of_the_output_is_no_process_of_the_run(supervised: Supervised) -> None:
    supervised.shell("echo ready")
    supervised.start()
    supervised.wait()
    reader = subprocess.Popen(["tail", "-f", str(supervised.run.log)], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: Path(f"/proc/{reader.pid}/fd/3").exists(), "the reader has opened the file")
        assert supervisor.processes_of(supervised.folder) == []
    finally:
        reader.kill()
        reader.wait()


def test_a_program_that_nobody_watches_is_abandoned(supervised: Supervised) -> None:
    supervised.write_call(*SLEEP, abandoned_after_s=0.5)
    supervised.run.watch()
    supervised.start()
    assert supervised.wait().cause == "abandoned"


def test_ended_orphans_do_not_stay_as_zombies(supervised: Supervised) -> None:
    supervised.shell("for n in 1 2 3; do (setsid sleep 0.05 &) ; done; echo ready; read nothing < pipe")
    os.mkfifo(supervised.folder / "pipe")
    process = supervised.start()
    supervised.await_line("ready")

    def children() -> list[str]:
        return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

    wait_for(lambda: len(children()) == 1, "only the program is left")
    (supervised.folder / "pipe").write_text("\n")
    assert process.wait(60) == 0


def test_a_file_is_written_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    supervisor.write_durably(target, "first")
    supervisor.write_durably(target, "second")
    assert target.read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_supervisor_starts_quickly(supervised: Supervised) -> None:
    """It imports nothing of finesweep; psutil takes most of the time."""
    supervised.shell("exit 0")
    before = os.times().children_user
    began = time.monotonic()
    supervised.start()
    supervised.wait()
    used = os.times().children_user - before
    assert used < 1.0, f"{used:.2f} s of CPU in {time.monotonic() - began:.2f} s"
