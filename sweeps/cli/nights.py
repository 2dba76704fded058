"""The commands that run nights: `sweep schedule run-now` and `sweep scheduler`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backends import codec
from sweeps.cli.terminal import err, json_option, print_json, say
from sweeps.errors import SweepError, SweepInterruptedError, UserInputError
from sweeps.execution.interruption import interrupt_on
from sweeps.workspace import Workspace, write_text

if TYPE_CHECKING:
    from sweeps.scheduling.claims import Claim
    from sweeps.scheduling.night import Night
    from sweeps.scheduling.notifications import Address
    from sweeps.scheduling.schedule import Schedule
    from sweeps.scheduling.store import ScheduleStore

SOON_S = 90.0
"""`run-now --planned` waits for a night that is this close: clocks of machines differ a little."""


@click.command("run-now")
@click.argument("name")
@click.option("--planned", is_flag=True, help="Run only if a night is due. For cron and other schedulers.")
@click.option("--file", type=click.Path(path_type=Path), help="The sweep file, if its path differs on this machine.")
@click.option("--claim", "holder", hidden=True, help="The claim that the scheduler made for this process.")
@json_option
@click.pass_obj
def run_now(
    workspace: Workspace, name: str, planned: bool, file: Path | None, holder: str | None, as_json: bool
) -> None:
    """Run a night of the schedule NAME now.

    The night runs as if the scheduler had started it, with change detection, time window, summary
    and history.
    """
    interrupt_on((signal.SIGINT, signal.SIGTERM))  # a shell may have set them to be ignored
    store = open_store(workspace)
    schedule = store.get(name)
    if file is not None:
        schedule = replace(schedule, file=str(file.absolute()))
    claim = claimed(workspace, store, schedule, planned=planned, holder=holder)
    if claim is None:
        if planned:
            say(f"{name}: no night is due, or another process runs it")
            return
        raise SweepError(f"a night of `{name}` is running", f"Wait for it; sweep schedule history {name} shows it.")
    night = _night(workspace, schedule, claim, store)
    if as_json:
        print_json(codec.to_json(night))
    else:
        from sweeps.scheduling import summary

        click.echo(summary.text(schedule, night), nl=False)
    _leave(night)


@click.command()
@click.option(
    "--at-once", type=click.IntRange(1), default=1, show_default=True, help="Run up to this many nights at once."
)
@click.pass_obj
def scheduler(workspace: Workspace, at_once: int) -> None:
    """Run the nights of all schedules when they are due.

    It runs until Ctrl-C or SIGTERM, and you can restart it at any time. It runs a missed night once
    and resumes an interrupted one. If several schedulers share a database, each night runs on one
    of them.
    """
    from sweeps.api.environment import tracking_uri
    from sweeps.scheduling.daemon import Daemon
    from sweeps.scheduling.night import nights_folder
    from sweeps.scheduling.night_process import NightLauncher

    tracking_uri(workspace)  # report a bad tracking URI now, not at night
    store = open_store(workspace)

    def command(claim: Claim) -> Sequence[str]:
        options = ("schedule", "run-now", claim.night.schedule, "--claim", claim.holder)
        return (*sweep_command(), "--root", str(workspace.root), *options)

    def log(night: Night) -> Path:
        return nights_folder(workspace, night.schedule) / f"{night.file_name}.log"

    daemon = Daemon(store, NightLauncher(command, log), _log_line, partial(notify, workspace), at_once)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: daemon.stop.set())
    daemon.run()


def open_store(workspace: Workspace) -> ScheduleStore:
    """Open the database at SWEEP_STORAGE, else that of the workspace. Raises SweepError."""
    from sweeps.api.environment import storage
    from sweeps.scheduling.store import ScheduleStore

    return ScheduleStore.open(workspace, storage())


def claimed(
    workspace: Workspace, store: ScheduleStore, schedule: Schedule, *, planned: bool, holder: str | None = None
) -> Claim | None:
    """Claim a night: that of `holder`, the one that is due if `planned`, else one that starts now.

    First notifies people of the nights that ended before. Returns None if no night is due, or
    another process runs one.
    """
    from sweeps.scheduling.calendar import next_planned_time
    from sweeps.scheduling.notification_delivery import deliver_pending

    name, claims, now = schedule.name, store.claims, datetime.now(UTC)
    if holder is not None:
        return claims.take_over(name, holder, now)
    if planned:
        claims.mark_missed(name, now)
    else:
        claims.mark_lost(name, now)
    deliver_pending(store.notifications, schedule, now, partial(notify, workspace))
    if not planned:
        return claims.claim_now(name, uuid.uuid4().hex, now)
    claim = claims.claim_due(name, uuid.uuid4().hex, now)
    moment = next_planned_time(schedule, now)
    if claim is None and moment is not None and (wait_s := (moment - now).total_seconds()) <= SOON_S:
        time.sleep(wait_s)
        claim = claims.claim_due(name, uuid.uuid4().hex, datetime.now(UTC))
    return claim


def _night(workspace: Workspace, schedule: Schedule, claim: Claim, store: ScheduleStore) -> Night:
    """Run the night in the folder where its schedule was added, then send its summary."""
    from sweeps.api.environment import environment
    from sweeps.cli.progress import Progress
    from sweeps.scheduling.database import DatabaseUnavailableError
    from sweeps.scheduling.night_context import NightContext
    from sweeps.scheduling.night_run import run_night
    from sweeps.scheduling.notification_delivery import deliver

    try:
        workspace = Workspace(workspace.root.absolute())
        where = environment(workspace, os.environ.get("RAY_ADDRESS"))
        # cron and systemd start in another folder
        if schedule.folder is not None and Path(schedule.folder).is_dir():
            os.chdir(schedule.folder)
        night = run_night(NightContext(schedule, claim, store, where, say), Progress(err))
    except UserInputError as error:  # before the night began
        from sweeps.scheduling.night import NightState
        from sweeps.scheduling.night_run import store_outcome

        night = replace(claim.night, state=NightState.FAILED, reason=error.message, ended_at=time.time())
        store_outcome(store, claim, night, say)
    try:
        deliver(store.notifications, schedule, [night], datetime.now(UTC), partial(notify, workspace))
    except DatabaseUnavailableError as error:
        say(f"warning: {error.message}; this night's summary may be sent twice")
    return night


def notify(workspace: Workspace, schedule: Schedule, night: Night) -> bool:
    """Write a night's summary to files and send it to the addresses that want it.

    Returns False if it was sent and reached no address.
    """
    from sweeps.scheduling import notifications, summary
    from sweeps.scheduling.night import nights_folder

    file, page = nights_folder(workspace, schedule.name) / f"{night.file_name}.md", summary.html(schedule, night)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, summary.markdown(schedule, night))
        write_text(file.with_suffix(".html"), page)
        say(f"summary: {file}")
    except OSError as error:  # send the summary all the same, and keep the scheduler running
        say(f"warning: cannot write {file}: {error.strerror}")
    if not schedule.notify.has_recipients or not summary.should_notify(schedule, night):
        return True
    addresses, missing = _addresses(schedule)
    undelivered: list[str] = []
    try:
        notifications.check_installed()
        title = summary.title(schedule, night)
        undelivered = notifications.send(addresses, title, page, failure=night.state.is_failure)
        missing += undelivered
    except SweepError as error:
        missing.append(f"{error.message}; {error.hint}")
    for recipient in missing:
        say(f"warning: {recipient}")
    if missing and file.exists():
        with file.open("a", encoding="utf-8") as written:
            written.writelines(f"- **not delivered**: {recipient}\n" for recipient in missing)
    return not undelivered or len(undelivered) < len(addresses)


def _addresses(schedule: Schedule) -> tuple[list[Address], list[str]]:
    from sweeps.scheduling import notifications

    found: list[Address] = []
    missing: list[str] = []
    for variable in schedule.notify.variables:
        text = os.environ.get(variable, "")
        found += notifications.parse_addresses(text, variable)
        if not text.strip():
            missing.append(f"{variable} is not set on this machine, so nothing was sent to its addresses")
    for file in schedule.notify.files:
        try:
            found += notifications.parse_addresses(Path(file).read_text(encoding="utf-8"), file)
        except (OSError, UnicodeDecodeError) as error:
            missing.append(f"cannot read {file} ({type(error).__name__}), so nothing was sent to its addresses")
    return found, missing


def _leave(night: Night) -> None:
    """Exit with the code that tells how the night ended."""
    from sweeps.scheduling.night import NightState

    if night.state is NightState.STOPPED:
        raise SweepInterruptedError("the night was stopped; nothing is lost", "The next night resumes it.")
    if night.state.is_failure:
        raise SweepError("the night failed", "sweep schedule history shows the reason. The next night tries again.")


def sweep_command() -> list[str]:
    """Return the command line of `sweep`: the script beside this interpreter, else the module."""
    beside = Path(sys.executable).with_name("sweep")
    if beside.exists() and os.access(beside, os.X_OK) and "PYTHONPATH" not in os.environ:
        return [str(beside)]
    found = shutil.which("sweep")
    if found is not None and "PYTHONPATH" not in os.environ:
        return [found]
    return [sys.executable, "-m", "sweeps.cli"]


def _log_line(text: str) -> None:
    say(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z} {text}")
