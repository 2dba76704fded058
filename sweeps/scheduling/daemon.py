"""The scheduler's loop: claims the nights that are due, runs each in a process of its own, and outlives them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from sweeps.scheduling.calendar import next_moment
from sweeps.scheduling.schedule import Night, NightState, Schedule
from sweeps.scheduling.store import LEASE_S, Claim, Schedules, StorageAwayError

POLL_S = 15.0
"""So often it looks for nights that are due, and for schedules that were added meanwhile."""

STOPPING_S = 180.0
"""A night that is asked to stop gets so long to end in order, before it is killed."""

GIVE_UP_S = 86400.0
"""A day long it is tried to tell people of an end, in ever longer steps."""

_TAIL_BYTES = 4000


Teller = Callable[[Schedule, Night], bool]
"""Tells people of the end of a night, and returns whether that reached one of them, if there is anybody to be told."""


class Process(Protocol):
    """What the scheduler asks of a process that runs a night; `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


def _start(command: Sequence[str], output: IO[bytes], environment: Mapping[str, str] | None) -> Process:
    # Of its own session, so that Ctrl-C reaches only the scheduler, which then asks the nights to stop.
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=dict(environment) if environment is not None else None,
    )


@dataclass(frozen=True)
class _Child:
    claim: Claim
    schedule: Schedule
    process: Process
    log: Path


class Daemon:
    """Runs nights, at most `at_once` of them; the others wait for their turn.

    `command` says how a claimed night is run, `tell` tells people of one of which its own process did not; see `tell`.
    A database that is away is waited for. Nothing is kept in memory that another daemon, or this one started anew,
    would miss.
    """

    def __init__(
        self,
        schedules: Schedules,
        command: Callable[[Claim], Sequence[str]],
        logs: Callable[[Night], Path],
        say: Callable[[str], None],
        tell: Teller,
        at_once: int = 1,
        poll_s: float = POLL_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        environment: Mapping[str, str] | None = None,
        start: Callable[[Sequence[str], IO[bytes], Mapping[str, str] | None], Process] = _start,
    ) -> None:
        self._schedules, self._command, self._logs = schedules, command, logs
        self._say, self._tell, self._at_once, self._poll_s, self._clock = say, tell, at_once, poll_s, clock
        self._environment, self._start = environment, start
        self._children: list[_Child] = []
        self._away = False
        self._planned: dict[str, str] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        """Loop until `stop` is set, then stop the nights that run, so that they can go on, and wait for them."""
        self._say(f"the scheduler runs as process {os.getpid()}; Ctrl-C or SIGTERM ends it")
        while not self.stop.is_set():
            self.tick()
            self.stop.wait(1.0 if self._children else self._poll_s)
        self._end()
        self._say("the scheduler has ended")

    def tick(self) -> None:
        """Look once: what has ended, what was lost or missed, what is due."""
        try:
            self._reap()
            for schedule in self._schedules.all():
                self._announce(schedule)
                for night in self._schedules.mark_lost(schedule.name, self._clock()):
                    self._say(f"{schedule.name}: the night {night.label} is lost: {night.reason}")
                if missed := self._schedules.mark_missed(schedule.name, self._clock()):
                    self._say(f"{schedule.name}: missed: {together(missed).reason}")
                tell_untold(self._schedules, schedule, self._clock(), self._tell)
                if len(self._children) >= self._at_once:
                    continue
                holder = uuid.uuid4().hex
                if (claim := self._schedules.claim_due(schedule.name, holder, self._clock())) is not None:
                    self._begin(schedule, claim)
            if self._away:
                self._say("the database is back")
                self._away = False
        except StorageAwayError as away:
            if not self._away:
                self._say(f"{away.message}; waiting for it")
            self._away = True

    @property
    def running(self) -> list[str]:
        """The schedules whose nights run now."""
        return [each.schedule.name for each in self._children]

    def _announce(self, schedule: Schedule) -> None:
        moment = next_moment(schedule, self._clock())
        text = "paused" if moment is None else f"next night {moment:%Y-%m-%d %H:%M}Z"
        if self._planned.get(schedule.name) != text:
            self._say(f"{schedule.name}: {text}")
        self._planned[schedule.name] = text

    def _begin(self, schedule: Schedule, claim: Claim) -> None:
        log = self._logs(claim.night)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                process = self._start(self._command(claim), output, self._environment)
        except OSError as error:
            failed = replace(
                claim.night, state=NightState.FAILED, reason=f"cannot be started: {error.strerror or error}"
            )
            self._close(schedule, claim, failed)
            return
        self._children.append(_Child(claim, schedule, process, log))
        self._say(f"{schedule.name}: the night {claim.night.label} begins as process {process.pid}; log: {log}")

    def _reap(self) -> None:
        for each in list(self._children):
            code = each.process.poll()
            if code is None:
                continue
            night = self._stored(each)
            if night.state is NightState.RUNNING:
                if code in (130, -signal.SIGINT):
                    night = replace(night, state=NightState.STOPPED, reason="stopped before its sweep began")
                    self._close(each.schedule, each.claim, night)
                    self._children.remove(each)
                    continue
                how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                reason = f"its process ended with {how}: {_last_line(each.log)}"
                night = replace(night, state=NightState.FAILED, reason=reason)
                self._close(each.schedule, each.claim, night)
            else:
                self._say(f"{each.schedule.name}: {night.state.value}{': ' + night.reason if night.reason else ''}")
            self._children.remove(each)

    def _stored(self, child: _Child) -> Night:
        named = (child.claim.night.planned_at, child.claim.night.attempt)
        nights = self._schedules.nights(child.schedule.name)
        return next((night for night in nights if (night.planned_at, night.attempt) == named), child.claim.night)

    def _close(self, schedule: Schedule, claim: Claim, night: Night) -> None:
        night = replace(night, ended_at=self._clock().timestamp())
        self._schedules.finish(claim, night)
        self._say(f"{schedule.name}: {night.state.value}: {night.reason}")
        tell(self._schedules, schedule, [night], self._clock(), self._tell)

    def _end(self) -> None:
        for each in self._children:
            self._say(f"{each.schedule.name}: asked to stop, so that it can go on")
            each.process.send_signal(signal.SIGINT)
        end = time.monotonic() + STOPPING_S
        for each in self._children:
            try:
                each.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._say(f"{each.schedule.name}: does not end, and is killed")
                each.process.kill()
                each.process.wait()
        try:
            self._reap()
        except StorageAwayError as away:
            self._say(f"{away.message}; how the nights ended is seen when the next scheduler starts")


def tell_untold(schedules: Schedules, schedule: Schedule, now: datetime, teller: Teller) -> None:
    """Tell people of the ended nights of which nobody did: each by itself, but those that were missed in one notice."""
    untold = schedules.take_untold(schedule.name, now)
    missed = [each for each in untold if each.state is NightState.MISSED]
    for each in untold:
        if each not in missed:
            tell(schedules, schedule, [each], now, teller)
    if missed:
        tell(schedules, schedule, missed, now, teller)


def tell(schedules: Schedules, schedule: Schedule, nights: Sequence[Night], now: datetime, teller: Teller) -> None:
    """Tell people of these ends in one notice; where it reached nobody, let it be tried again within `GIVE_UP_S`.

    The steps grow with the time since the end. Raises StorageAwayError; then they may be told twice.
    """
    delivered = teller(schedule, together(nights))
    since = now.timestamp() - min(night.ended_at or night.planned_at for night in nights)
    if delivered or since > GIVE_UP_S:
        schedules.told(nights)
    else:
        schedules.tell_later(nights, now.timestamp() + max(LEASE_S, since / 2))


def together(missed: Sequence[Night]) -> Night:
    """Return the newest of missed nights, speaking for all: people are told once, however long nobody looked."""
    newest = missed[-1]
    if len(missed) == 1:
        return newest
    return replace(newest, reason=f"{len(missed)} nights, {missed[0].label} to {newest.label}: {newest.reason}")


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].strip() if lines else "no output"
