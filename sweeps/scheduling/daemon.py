"""The loop of `sweep scheduler`: claims due nights and runs each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from sweeps.scheduling.calendar import next_planned_time
from sweeps.scheduling.claims import Claim
from sweeps.scheduling.database import DatabaseUnavailableError
from sweeps.scheduling.night import Night, NightState
from sweeps.scheduling.night_process import NightLauncher, NightProcess
from sweeps.scheduling.notification_delivery import Notify, deliver, deliver_pending, merged
from sweeps.scheduling.schedule import Schedule
from sweeps.scheduling.store import ScheduleStore

POLL_INTERVAL_S = 15.0
"""How often the scheduler looks for due nights and for new schedules."""

STOP_TIMEOUT_S = 180.0
"""How long a night has to stop cleanly before the scheduler kills it."""


class Daemon:
    """Runs nights, at most `max_concurrent` at a time; the others wait.

    `launcher` starts the process of a night. `say` receives the log messages. `notify` notifies
    people of the nights whose own process did not; see `deliver`. If the database is unavailable,
    the daemon waits for it. Its memory holds nothing that another daemon, or a restarted one, would
    miss. Set `stop` to end `run`.
    """

    def __init__(
        self,
        store: ScheduleStore,
        launcher: NightLauncher,
        say: Callable[[str], None],
        notify: Notify,
        max_concurrent: int = 1,
        poll_interval_s: float = POLL_INTERVAL_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._launcher, self._say, self._notify = store, launcher, say, notify
        self._max_concurrent, self._poll_interval_s, self._clock = max_concurrent, poll_interval_s, clock
        self._running: list[NightProcess] = []
        self._announced: dict[str, str] = {}
        self._database_available = True
        self.stop = threading.Event()

    def run(self) -> None:
        """Loop until `stop` is set, then stop the running nights; they can continue later."""
        self._say(f"scheduler started as process {os.getpid()}; stop it with Ctrl-C or SIGTERM")
        while not self.stop.is_set():
            self.tick()
            self.stop.wait(1.0 if self._running else self._poll_interval_s)
        self._stop_nights()
        self._say("scheduler stopped")

    def tick(self) -> None:
        """Make one round: handle ended, lost and missed nights, notify people, start due nights."""
        try:
            self._handle_ended()
            for schedule in self._store.all():
                self._handle_schedule(schedule)
            if not self._database_available:
                self._say("the database is available again")
                self._database_available = True
        except DatabaseUnavailableError as error:
            if self._database_available:
                self._say(f"{error.message}; waiting for it")
            self._database_available = False

    def _handle_schedule(self, schedule: Schedule) -> None:
        claims = self._store.claims
        self._announce(schedule)
        for night in claims.mark_lost(schedule.name, self._clock()):
            self._say(f"{schedule.name}: night {night.label} is lost: {night.reason}")
        if missed := claims.mark_missed(schedule.name, self._clock()):
            self._say(f"{schedule.name}: missed: {merged(missed).reason}")
        deliver_pending(self._store.notifications, schedule, self._clock(), self._notify)
        if len(self._running) >= self._max_concurrent:
            return
        if (claim := claims.claim_due(schedule.name, uuid.uuid4().hex, self._clock())) is not None:
            self._start(schedule, claim)

    def _announce(self, schedule: Schedule) -> None:
        """Log the next night of a schedule whenever it changes."""
        moment = next_planned_time(schedule, self._clock())
        text = "paused" if moment is None else f"next night {moment:%Y-%m-%d %H:%M}Z"
        if self._announced.get(schedule.name) != text:
            self._say(f"{schedule.name}: {text}")
        self._announced[schedule.name] = text

    def _start(self, schedule: Schedule, claim: Claim) -> None:
        try:
            night_process = self._launcher.launch(schedule, claim)
        except OSError as error:
            reason = f"cannot start its process: {error.strerror or error}"
            self._finish(schedule, claim, replace(claim.night, state=NightState.FAILED, reason=reason))
            return
        self._running.append(night_process)
        pid, log = night_process.process.pid, night_process.log
        self._say(f"{schedule.name}: night {claim.night.label} started as process {pid}; log: {log}")

    def _handle_ended(self) -> None:
        for night_process in list(self._running):
            exit_code = night_process.process.poll()
            if exit_code is not None:
                self._handle_exit(night_process, exit_code)
                self._running.remove(night_process)

    def _handle_exit(self, night_process: NightProcess, exit_code: int) -> None:
        """Log the outcome that the process stored.

        If it stored none, derive the outcome from the exit code and store it.
        """
        schedule, claim = night_process.schedule, night_process.claim
        night = self._stored(claim)
        if night.state is not NightState.RUNNING:
            self._say(f"{schedule.name}: {night.state.value}{': ' + night.reason if night.reason else ''}")
        elif exit_code in (130, -signal.SIGINT):
            reason = "stopped before its sweep began"
            self._finish(schedule, claim, replace(night, state=NightState.STOPPED, reason=reason))
        else:
            how = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
            reason = f"its process ended with {how}: {night_process.last_line()}"
            self._finish(schedule, claim, replace(night, state=NightState.FAILED, reason=reason))

    def _stored(self, claim: Claim) -> Night:
        nights = self._store.nights(claim.night.schedule)
        return next((night for night in nights if night.key == claim.night.key), claim.night)

    def _finish(self, schedule: Schedule, claim: Claim, night: Night) -> None:
        night = replace(night, ended_at=self._clock().timestamp())
        self._store.claims.finish(claim, night)
        self._say(f"{schedule.name}: {night.state.value}: {night.reason}")
        deliver(self._store.notifications, schedule, [night], self._clock(), self._notify)

    def _stop_nights(self) -> None:
        for night_process in self._running:
            self._say(f"{night_process.schedule.name}: stopping the night; it can continue later")
            night_process.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for night_process in self._running:
            try:
                night_process.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._say(f"{night_process.schedule.name}: killing the night, which did not stop in time")
                night_process.process.kill()
                night_process.process.wait()
        try:
            self._handle_ended()
        except DatabaseUnavailableError as error:
            self._say(f"{error.message}; the next scheduler will record how the nights ended")
