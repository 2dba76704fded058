"""The commands `sweep schedule ...` that manage schedules.

The module `nights` has those that run them.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backends import codec
from sweeps.cli.nights import open_store, run_now, sweep_command
from sweeps.cli.terminal import json_option, print_json, say, show
from sweeps.errors import Problem, UserInputError
from sweeps.workspace import Workspace

if TYPE_CHECKING:
    from sweeps.scheduling.night import Night
    from sweeps.scheduling.schedule import Schedule

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@click.group()
def schedule() -> None:
    """Manage schedules: sweep files that run every night."""


@schedule.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--cron", required=True, metavar='"0 2 * * *"', help="When to run: minute, hour, day, month, weekday.")
@click.option("--tz", default="UTC", show_default=True, metavar="ZONE", help="The time zone, e.g. Europe/Berlin.")
@click.option("--until", metavar="HH:MM", help="Start no trial that would end later. The next night resumes the sweep.")
@click.option("--name", metavar="NAME", help="The schedule's name.  [default: the sweep's name]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. search.trials=8.")
@click.option(
    "--data", "data_path", type=click.Path(path_type=Path), metavar="PATH", help="The file or folder with the data."
)
@click.option(
    "--notify-env",
    "variables",
    multiple=True,
    metavar="VAR",
    help="Notify the Apprise addresses in this environment variable.",
)
@click.option(
    "--notify-file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Notify the Apprise addresses in this file.",
)
@click.option(
    "--notify-when",
    "when",
    type=click.Choice(["always", "changes", "failures"]),
    default="always",
    show_default=True,
    help="Which nights to report. Failures are always reported.",
)
@click.option("--replace", "again", is_flag=True, help="Change the schedule of this name and keep its history.")
@json_option
@click.pass_obj
def add(
    workspace: Workspace,
    file: Path,
    cron: str,
    tz: str,
    until: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    data_path: Path | None,
    variables: tuple[str, ...],
    files: tuple[Path, ...],
    when: Any,
    again: bool,
    as_json: bool,
) -> None:
    """Add a schedule for the sweep file FILE.

    Nothing runs until you start `sweep scheduler` or another scheduler.
    """
    from sweeps.scheduling import calendar, notifications
    from sweeps.scheduling.schedule import NotificationSettings, Schedule
    from sweeps.spec.loading import load

    mistakes = [*calendar.option_problems(cron, tz, until)]
    mistakes += _mistakes(name, variables, data_path)
    checked: Any = None
    try:
        checked = load(file, overrides)
    except UserInputError as error:
        mistakes += error.problems
    if mistakes:
        raise UserInputError(mistakes)
    if variables or files:
        notifications.check_installed()
    for variable in variables:
        if variable not in os.environ:
            say(f"note: {variable} is not set here. Set it where the scheduler runs.")
    made = Schedule(
        name=name or checked.name,
        file=str(file.absolute()),
        cron=" ".join(cron.split()),
        tz=tz,
        created_at=time.time(),
        until=until,
        data=None if data_path is None else str(data_path if _is_url(data_path) else data_path.absolute()),
        overrides=overrides,
        notify=NotificationSettings(variables, tuple(str(file.absolute()) for file in files), when),
        folder=str(Path.cwd()),
    )
    store = open_store(workspace)
    made = store.replace(made) if again else store.add(made)
    if as_json:
        print_json(_shown(made, store.nights(made.name)))
    else:
        moment = calendar.next_planned_time(made, datetime.now(UTC))
        monthly = checked.budget.monthly_usd
        limited = f"; its nights may cost ${monthly:,.2f} in a month" if monthly is not None else ""
        click.echo(f"{made.name}: {_moment(made, moment)}{limited}")
        say("next: sweep scheduler   runs the nights; sweep schedule export   writes files for cron and others")


@schedule.command("list")
@json_option
@click.pass_obj
def list_schedules(workspace: Workspace, as_json: bool) -> None:
    """List the schedules with their next and their last night."""
    from sweeps.cli import schedule_tables

    store = open_store(workspace)
    found = [(schedule, store.nights(schedule.name)) for schedule in store.all()]
    if as_json:
        print_json([_shown(schedule, nights) for schedule, nights in found])
    elif found:
        show(schedule_tables.schedules(found, datetime.now(UTC)))
    else:
        say('there is no schedule. Add one: sweep schedule add FILE --cron "0 2 * * *" --tz Europe/Berlin')


@schedule.command()
@click.argument("name")
@json_option
@click.pass_obj
def pause(workspace: Workspace, name: str, as_json: bool) -> None:
    """Start no more nights of NAME until `resume`. A running night continues."""
    _paused(workspace, name, True, as_json)


@schedule.command()
@click.argument("name")
@json_option
@click.pass_obj
def resume(workspace: Workspace, name: str, as_json: bool) -> None:
    """Start nights of NAME again. Nights during the pause are not run later."""
    _paused(workspace, name, False, as_json)


@schedule.command()
@click.argument("name")
@json_option
@click.pass_obj
def remove(workspace: Workspace, name: str, as_json: bool) -> None:
    """Delete the schedule NAME and its history. Its sweeps, reports and models stay."""
    open_store(workspace).remove(name, datetime.now(UTC))
    if as_json:
        print_json({"removed": name})
    else:
        click.echo(f"{name}: removed")


@schedule.command()
@click.argument("name")
@click.option(
    "--limit", type=click.IntRange(1), default=30, show_default=True, help="Show only this many of the newest nights."
)
@json_option
@click.pass_obj
def history(workspace: Workspace, name: str, limit: int, as_json: bool) -> None:
    """Show the nights of the schedule NAME, with outcome and cost.

    Skipped nights are shown with the reason.
    """
    from sweeps.cli import schedule_tables

    store = open_store(workspace)
    kept = store.get(name)
    every = store.nights(name)
    nights = every[-limit:]
    if as_json:
        print_json([codec.to_json(night) for night in nights])
    elif nights:
        show(schedule_tables.nights(kept, nights))
        if line := schedule_tables.ledger(kept, every, datetime.now(UTC)):
            click.echo(line)
    else:
        say(f"{name} has had no night yet")


@schedule.command()
@click.argument("name")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["cron", "systemd", "kubernetes", "github-actions", "airflow"]),
    help="The scheduler to write for.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="The output file; for systemd, a folder.")
@click.option(
    "--command", metavar="PATH", help="The path of `sweep` on the scheduler's machine.  [default: its path here]"
)
@click.option("--at", "root", metavar="DIR", help="The workspace on the scheduler's machine.  [default: its path here]")
@click.option(
    "--file", metavar="PATH", help="The path of the sweep file on the scheduler's machine.  [default: its path here]"
)
@click.option("--image", metavar="IMAGE", help="The container image, for Kubernetes.")
@json_option
@click.pass_obj
def export(
    workspace: Workspace, name: str, form: Any, out: Path | None, command: str | None, root: str | None,
    file: str | None, image: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write the schedule NAME as a file for another scheduler."""
    from sweeps.scheduling import exports

    kept = open_store(workspace).get(name)
    here = "sweep" if form == "kubernetes" else sweep_command()[-1] if len(sweep_command()) == 1 else "sweep"
    place = exports.ExportTarget(command or here, root or str(workspace.root), image, file)
    # in a checkout the file has its path in the repository
    if form == "github-actions" and file is None:
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


def _mistakes(name: str | None, variables: Sequence[str], data_path: Path | None) -> Iterable[Problem]:
    """Yield every mistake in the options of `add`."""
    if name is not None and not _NAME.match(name):
        yield Problem(
            "--name", f"{name!r} is not a valid name", "Use letters, digits, `.`, `_` and `-`, up to 100 characters."
        )
    for variable in variables:
        # it may be an address with a password, so the message does not repeat it
        if not _VARIABLE.match(variable):
            hint = "Keep the address in the environment: export NOTIFY_URLS=..., then --notify-env NOTIFY_URLS."
            yield Problem("--notify-env", "expected the name of an environment variable, not an address", hint)
    if data_path is not None and not (_is_url(data_path) or data_path.exists()):
        yield Problem("--data", f"{data_path} does not exist", "Give the file or folder with the data.")


def _is_url(data_path: Path) -> bool:
    from sweeps.data.sources import url_of

    return url_of(data_path) is not None


def _paused(workspace: Workspace, name: str, paused: bool, as_json: bool) -> None:
    changed = open_store(workspace).set_paused(name, paused, datetime.now(UTC))
    if as_json:
        print_json(_shown(changed, []))
    else:
        click.echo(f"{name}: {'paused' if paused else 'resumed'}")


def _shown(kept: Schedule, nights: Sequence[Night]) -> dict[str, Any]:
    from sweeps.scheduling.calendar import next_planned_time
    from sweeps.scheduling.current_month import current_month

    now = datetime.now(UTC)
    moment, month = next_planned_time(kept, now), current_month(kept, nights, now)
    return {
        **codec.to_json(kept),
        "next": moment.isoformat() if moment else None,
        "last": codec.to_json(nights[-1]) if nights else None,
        "month": codec.to_json(month) if month else None,
    }


def _moment(kept: Schedule, moment: datetime | None) -> str:
    from sweeps.cli import schedule_tables

    return f"next night {schedule_tables.clock(kept, moment)}" if moment is not None else "no night is planned"


schedule.add_command(run_now)
