"""The commands of every night: `sweep schedule ...` and `sweep scheduler`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeps.errors import Problem, SweepError, SweepInterruptedError, UserInputError
from sweeps.places import Places
from sweeps.terminal import err, json_option, print_json, say, show, tracking_uri

if TYPE_CHECKING:
    from sweeps.nightly.notices import Address
    from sweeps.nightly.schedule import Night, Schedule
    from sweeps.nightly.store import Claim, Schedules

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

SOON_S = 90.0
"""A planned night that is so close is waited for: the clocks of two machines are never quite the same."""


@click.group()
def schedule() -> None:
    """Run a sweep file every night: plan it, look what became of the nights, hand it to another scheduler."""


@schedule.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--cron", required=True, metavar='"0 2 * * *"', help="When: minute, hour, day, month, weekday.")
@click.option("--tz", default="UTC", show_default=True, metavar="ZONE", help="The zone of the times: Europe/Berlin.")
@click.option("--until", metavar="HH:MM", help="Start no trial that would not end by then; the next night goes on.")
@click.option("--name", metavar="NAME", help="What to call the schedule.  [default: the sweep's name]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. search.trials=8.")
@click.option("--data", "located", type=click.Path(path_type=Path), metavar="PATH", help="Where the data is.")
@click.option("--notify-env", "variables", multiple=True, metavar="VAR", help="Tell the Apprise addresses in VAR.")
@click.option("--notify-file", "files", multiple=True, type=click.Path(path_type=Path), help="Tell those in a file.")
@click.option(
    "--notify-when",
    "when",
    type=click.Choice(["always", "changes", "failures"]),
    default="always",
    show_default=True,
    help="Of which nights; failures are told in any case.",
)
@json_option
@click.pass_obj
def add(
    places: Places, file: Path, cron: str, tz: str, until: str | None, name: str | None, overrides: tuple[str, ...],
    located: Path | None, variables: tuple[str, ...], files: tuple[Path, ...], when: Any, as_json: bool,
) -> None:  # fmt: skip
    """Plan the sweep file FILE to run regularly. Nothing runs before `sweep scheduler`, or another scheduler, does."""
    from sweeps import spec
    from sweeps.nightly import calendar, notices
    from sweeps.nightly.schedule import Notify, Schedule

    mistakes = [Problem(place, message, hint) for place, message, hint in calendar.problems(cron, tz, until)]
    if name is not None and not _NAME.match(name):
        mistakes.append(Problem("--name", f"{name!r} cannot be used", "letters, digits, `.`, `_` and `-`, up to 100"))
    for each in variables:
        if not _VARIABLE.match(each):  # it may be an address with a password: it is not repeated
            hint = "an address stays in the environment: export TELL=..., and write --notify-env TELL"
            mistakes.append(Problem("--notify-env", "wants the name of a variable, not an address", hint))
    if located is not None and not located.exists():
        mistakes.append(Problem("--data", f"{located} does not exist", "give the folder or file of the data"))
    checked: Any = None
    try:
        checked = spec.load(file, overrides)
    except UserInputError as error:
        mistakes += error.problems
    if mistakes:
        raise UserInputError(mistakes)
    if variables or files:
        notices.check_installed()
    for variable in variables:
        if variable not in os.environ:
            say(f"note: {variable} is not set here; it must be where the scheduler runs")
    made = Schedule(
        name=name or checked.name,
        file=str(file.absolute()),
        cron=" ".join(cron.split()),
        tz=tz,
        created_at=time.time(),
        until=until,
        data=str(located.absolute()) if located is not None else None,
        overrides=overrides,
        notify=Notify(variables, tuple(str(each.absolute()) for each in files), when),
        folder=str(Path.cwd()),
    )
    schedules = _opened(places)
    schedules.add(made)
    if as_json:
        print_json(_shown(made, []))
    else:
        moment = calendar.next_moment(made, datetime.now(UTC))
        monthly = checked.budget.monthly_usd
        limited = f"; its nights may cost ${monthly:,.2f} in a month" if monthly is not None else ""
        click.echo(f"{made.name}: {_moment(made, moment)}{limited}")
        say("next: sweep scheduler   runs the nights; sweep schedule export hands them to cron and others")


@schedule.command("list")
@json_option
@click.pass_obj
def list_schedules(places: Places, as_json: bool) -> None:
    """List the schedules: when they run next, and what became of the last night."""
    from sweeps.nightly import screen

    schedules = _opened(places)
    found = [(each, schedules.nights(each.name)) for each in schedules.all()]
    if as_json:
        print_json([_shown(each, nights) for each, nights in found])
    elif found:
        show(screen.schedules(found, datetime.now(UTC)))
    else:
        say('there is no schedule; sweep schedule add FILE --cron "0 2 * * *" --tz Europe/Berlin   makes one')


@schedule.command()
@click.argument("name")
@json_option
@click.pass_obj
def pause(places: Places, name: str, as_json: bool) -> None:
    """Plan no more nights of NAME until `resume`. A night that runs goes on."""
    _paused(places, name, True, as_json)


@schedule.command()
@click.argument("name")
@json_option
@click.pass_obj
def resume(places: Places, name: str, as_json: bool) -> None:
    """Plan the nights of NAME again; those that fell into the pause are not made up for."""
    _paused(places, name, False, as_json)


@schedule.command()
@click.argument("name")
@json_option
@click.pass_obj
def remove(places: Places, name: str, as_json: bool) -> None:
    """Delete the schedule NAME and its history. Its sweeps, reports and models stay."""
    _opened(places).remove(name, datetime.now(UTC))
    if as_json:
        print_json({"removed": name})
    else:
        click.echo(f"{name}: removed")


@schedule.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True, help="So many of the newest nights.")
@json_option
@click.pass_obj
def history(places: Places, name: str, limit: int, as_json: bool) -> None:
    """Show the nights of NAME: what ran, what was skipped and why, what it cost, what came of it."""
    from sweeps.nightly import screen

    schedules = _opened(places)
    kept = schedules.get(name)
    every = schedules.nights(name)
    nights = every[-limit:]
    if as_json:
        print_json([each.to_json() for each in nights])
    elif nights:
        show(screen.nights(kept, nights))
        if line := screen.books(kept, every, datetime.now(UTC)):
            click.echo(line)
    else:
        say(f"{name} has had no night yet")


@schedule.command("run-now")
@click.argument("name")
@click.option("--planned", is_flag=True, help="Only where a night is due, as other schedulers want it.")
@click.option(
    "--file", type=click.Path(path_type=Path), help="The sweep file, where it lies elsewhere on this machine."
)
@click.option("--claim", "holder", hidden=True, help="The claim that the scheduler made for this process.")
@json_option
@click.pass_obj
def run_now(places: Places, name: str, planned: bool, file: Path | None, holder: str | None, as_json: bool) -> None:
    """Run a night of NAME here and now, with all that belongs to it: worth, window, summary, history."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have let them be ignored
        signal.signal(number, signal.default_int_handler)
    schedules = _opened(places)
    kept = schedules.get(name)
    if file is not None:
        kept = replace(kept, file=str(file.absolute()))
    claim = _claimed(places, schedules, kept, planned, holder)
    if claim is None:
        if planned:
            say(f"{name}: no night is due, or another process runs it")
            return
        raise SweepError(f"a night of `{name}` is running", "sweep schedule history shows it; wait for it")
    night = _night(places, kept, claim, schedules)
    if as_json:
        print_json(night.to_json())
    else:
        click.echo(f"{name}: {night.state.value}{': ' + night.reason if night.reason else ''}")
    _leave(night)


@schedule.command()
@click.argument("name")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["cron", "systemd", "kubernetes", "github-actions", "airflow"]),
    help="For which scheduler.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write here; for systemd a folder.")
@click.option("--command", metavar="PATH", help="Where `sweep` is over there.  [default: where it is here]")
@click.option("--at", "root", metavar="DIR", help="The folder of the sweeps over there.  [default: the one here]")
@click.option("--file", metavar="PATH", help="Where the sweep file is over there.  [default: where it is here]")
@click.option("--image", metavar="IMAGE", help="The container image, for Kubernetes.")
@json_option
@click.pass_obj
def export(
    places: Places, name: str, form: Any, out: Path | None, command: str | None, root: str | None,
    file: str | None, image: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write the schedule NAME for cron, systemd, Kubernetes, GitHub Actions or Airflow, to run it there."""
    from sweeps.nightly import exports

    kept = _opened(places).get(name)
    here = "sweep" if form == "kubernetes" else _sweep_command()[-1] if len(_sweep_command()) == 1 else "sweep"
    place = exports.Place(command or here, root or str(places.root), image, file)
    if form == "github-actions" and file is None:  # the checkout has it at its path in the repository
        below = Path(kept.file).is_relative_to(Path.cwd())
        place = replace(place, file=str(Path(kept.file).relative_to(Path.cwd())) if below else Path(kept.file).name)
    text = exports.export(kept, form, place)
    if out is not None:
        written = {out: text}
        if form == "systemd":
            written = {out / file_name: unit for file_name, unit in exports.systemd_units(kept, place).items()}
        for path, content in written.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            say(f"wrote {path}")
    if as_json:
        print_json({"name": name, "format": form, "file": str(out) if out else None, "content": text})
    elif out is None:
        click.echo(text, nl=False)


@click.command()
@click.option("--at-once", type=click.IntRange(1), default=1, show_default=True, help="So many nights side by side.")
@click.pass_obj
def scheduler(places: Places, at_once: int) -> None:
    """Run the nights of all schedules as they come due, until Ctrl-C or SIGTERM.

    It can end and start again at any time: what was missed is caught up once, what was cut off goes on, and of several
    schedulers on one database only one runs each night.
    """
    from sweeps.nightly.daemon import Daemon
    from sweeps.nightly.night import folder

    tracking_uri(places)  # a mistake there is told now and not at night
    schedules = _opened(places)

    def command(claim: Claim) -> Sequence[str]:
        options = ("schedule", "run-now", claim.night.schedule, "--claim", claim.holder)
        return (*_sweep_command(), "--root", str(places.root), *options)

    def tell(kept: Schedule, night: Night) -> None:
        _tell(places, kept, night)

    def log(night: Night) -> Path:
        return folder(places, night.schedule) / f"{night.file_name}.log"

    daemon = Daemon(schedules, command, log, _log_line, tell, at_once)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: daemon.stop.set())
    daemon.run()


def _opened(places: Places) -> Schedules:
    from sweeps.nightly.store import Schedules

    return Schedules.open(places, os.environ.get("SWEEP_STORAGE"))


def _claimed(places: Places, schedules: Schedules, kept: Schedule, planned: bool, holder: str | None) -> Claim | None:
    from sweeps.nightly.calendar import next_moment
    from sweeps.nightly.daemon import together

    now = datetime.now(UTC)
    if holder is not None:
        return schedules.claim_of(kept.name, holder, now)
    if not planned:
        return schedules.claim_now(kept.name, uuid.uuid4().hex, now)
    if missed := schedules.mark_missed(kept.name, now):
        _tell(places, kept, together(missed))
    claim = schedules.claim_due(kept.name, uuid.uuid4().hex, now)
    moment = next_moment(kept, now)
    if claim is None and moment is not None and (wait_s := (moment - now).total_seconds()) <= SOON_S:
        time.sleep(wait_s)
        claim = schedules.claim_due(kept.name, uuid.uuid4().hex, datetime.now(UTC))
    return claim


def _night(places: Places, kept: Schedule, claim: Claim, schedules: Schedules) -> Night:
    """Run the night and tell people of it."""
    from sweeps.nightly.night import run_night
    from sweeps.report.progress import Progress
    from sweeps.run import Environment

    try:
        uri = tracking_uri(places)
        environment = Environment(places, uri, os.environ.get("SWEEP_STORAGE"), os.environ.get("RAY_ADDRESS"))
        night = run_night(kept, claim, schedules, environment, Progress(err), say)
    except UserInputError as error:  # before the night began
        from sweeps.nightly.night import store
        from sweeps.nightly.schedule import NightState

        failed = replace(claim.night, state=NightState.FAILED, reason=error.message, ended_at=time.time())
        store(schedules, claim, failed, say)
        night = failed
    _tell(places, kept, night)
    return night


def _tell(places: Places, kept: Schedule, night: Night) -> None:
    """Write the summary of a night to files and, where people want to hear of it, send it."""
    from sweeps.nightly import notices, summary
    from sweeps.nightly.night import folder

    file = folder(places, kept.name) / f"{night.file_name}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(summary.markdown(kept, night), encoding="utf-8")
    page = summary.html(kept, night)
    (file.parent / f"{night.file_name}.html").write_text(page, encoding="utf-8")
    say(f"summary: {file}")
    if not kept.notify.anyone or not summary.is_telling(kept, night):
        return
    addresses, missing = _addresses(kept)
    try:
        notices.check_installed()
        missing += notices.send(addresses, summary.title(kept, night), page, failure=night.state.bad)
    except SweepError as error:
        missing.append(f"{error.message}; {error.hint}")
    for each in missing:
        say(f"warning: {each}")
    if missing:
        with file.open("a", encoding="utf-8") as written:
            written.writelines(f"- **not told**: {each}\n" for each in missing)


def _addresses(kept: Schedule) -> tuple[list[Address], list[str]]:
    from sweeps.nightly import notices

    found: list[Address] = []
    missing: list[str] = []
    for variable in kept.notify.variables:
        text = os.environ.get(variable, "")
        found += notices.addresses(text, variable)
        if not text.strip():
            missing.append(f"{variable} is not set here: nobody was told through it")
    for file in kept.notify.files:
        try:
            found += notices.addresses(Path(file).read_text(encoding="utf-8"), file)
        except (OSError, UnicodeDecodeError) as error:
            missing.append(f"{file} cannot be read ({type(error).__name__}): nobody was told through it")
    return found, missing


def _leave(night: Night) -> None:
    """End the command with the code that says how the night went."""
    from sweeps.nightly.schedule import NightState

    if night.state is NightState.STOPPED:
        raise SweepInterruptedError("the night was stopped; nothing is lost", "the next night goes on where it was")
    if night.state.bad:
        raise SweepError("the night failed", "sweep schedule history has the reason; the next night tries again")


def _paused(places: Places, name: str, paused: bool, as_json: bool) -> None:
    changed = _opened(places).pause(name, paused, datetime.now(UTC))
    if as_json:
        print_json(_shown(changed, []))
    else:
        click.echo(f"{name}: {'paused' if paused else 'planned again'}")


def _shown(kept: Schedule, nights: Sequence[Night]) -> dict[str, Any]:
    from sweeps.nightly.books import shown
    from sweeps.nightly.calendar import next_moment

    moment = next_moment(kept, datetime.now(UTC))
    last = nights[-1].to_json() if nights else None
    books = shown(kept, nights, datetime.now(UTC))
    coming = moment.isoformat() if moment else None
    return {**kept.to_json(), "next": coming, "last": last, "month": asdict(books) if books else None}


def _moment(kept: Schedule, moment: datetime | None) -> str:
    from sweeps.nightly import screen

    return f"next night {screen.clock(kept, moment)}" if moment is not None else "no night is planned"


def _sweep_command() -> list[str]:
    """Return how this command is run again: the script beside this interpreter, else the module."""
    beside = Path(sys.executable).with_name("sweep")
    if beside.exists() and os.access(beside, os.X_OK) and "PYTHONPATH" not in os.environ:
        return [str(beside)]
    found = shutil.which("sweep")
    if found is not None and "PYTHONPATH" not in os.environ:
        return [found]
    return [sys.executable, "-m", "sweeps.cli"]


def _log_line(text: str) -> None:
    say(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z} {text}")
