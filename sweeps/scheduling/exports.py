"""Exports a schedule to another scheduler: cron, systemd, Kubernetes, GitHub Actions or Airflow.

Each exported file runs `sweep schedule run-now NAME --planned`, which needs access to the
schedule's database. Change detection, window and history then work as under `sweep scheduler`. A
file contains no secret, only the names of environment variables.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, assert_never
from zoneinfo import ZoneInfo

import yaml
from cronsim import CronSim

from sweeps.errors import Problem, UserInputError
from sweeps.scheduling.schedule import Schedule

ExportFormat = Literal["cron", "systemd", "kubernetes", "github-actions", "airflow"]

FORMATS: tuple[ExportFormat, ...] = ("cron", "systemd", "kubernetes", "github-actions", "airflow")

VARIABLES = ("SWEEP_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
"""The environment variables that the command line reads. Each file passes them on if defined."""

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class ExportTarget:
    """The paths on the machine of the other scheduler.

    `command` is the `sweep` program, `root` the workspace, and `image` the container image for
    Kubernetes. `file` is the sweep file, if its path differs from the schedule's.
    """

    command: str
    root: str
    image: str | None = None
    file: str | None = None


def export(schedule: Schedule, export_format: ExportFormat, target: ExportTarget) -> str:
    """Return the content of the file.

    Raises UserInputError if the format cannot express the schedule.
    """
    match export_format:
        case "cron":
            return _cron(schedule, target)
        case "systemd":
            return _systemd(schedule, target)
        case "kubernetes":
            return _kubernetes(schedule, target)
        case "github-actions":
            return _github_actions(schedule, target)
        case "airflow":
            return _airflow(schedule, target)
        case _ as unreachable:
            assert_never(unreachable)


def _arguments(schedule: Schedule, target: ExportTarget) -> list[str]:
    file_option = ["--file", target.file] if target.file is not None else []
    return [target.command, "--root", target.root, "schedule", "run-now", schedule.name, "--planned", *file_option]


def _plain_cron(schedule: Schedule) -> str:
    """Return the cron expression.

    Raises UserInputError if it uses extensions that most schedulers do not know.
    """
    if re.search(r"[L#W]", re.sub(r"[A-Za-z]{3,}", "", schedule.cron.upper())) or "#" in schedule.cron:
        hint = "Few schedulers know L, W and #. Use plain days, or run `sweep scheduler`."
        raise UserInputError([Problem(schedule.name, f"{schedule.cron!r} cannot be exported", hint)])
    return " ".join(schedule.cron.split())


def _cron(schedule: Schedule, target: ExportTarget) -> str:
    # In a crontab, an unescaped % ends the command.
    command = shlex.join(_arguments(schedule, target)).replace("%", r"\%")
    variables = "\n".join(f"# {variable}=..." for variable in VARIABLES)
    return (
        f"# Install this file with `crontab FILE`. The times are local to {schedule.tz}. Some cron daemons, such as\n"
        "# cronie, follow CRON_TZ. Debian's cron does not: there, the machine must be in that zone.\n"
        f"# If you use these variables, set them here:\n{variables}\n"
        f"CRON_TZ={schedule.tz}\n"
        f"{_plain_cron(schedule)} {command}\n"
    )


def systemd_units(schedule: Schedule, target: ExportTarget) -> dict[str, str]:
    """Return the content of the service and the timer by file name.

    Raises UserInputError; see `export`.
    """
    command = " ".join(_systemd_word(argument) for argument in _arguments(schedule, target))
    service = (
        f"[Unit]\nDescription=Nightly sweep {schedule.name}\n"
        "After=network-online.target\nWants=network-online.target\n\n"
        f"[Service]\nType=oneshot\nExecStart={command}\nTimeoutStopSec=200\nKillSignal=SIGINT\n"
        f"# Optional; one line per variable: {', '.join(VARIABLES)}\nEnvironmentFile=-/etc/finesweep.env\n"
    )
    timer = (
        f"[Unit]\nDescription=Timer of the nightly sweep {schedule.name}\n\n"
        f"[Timer]\nOnCalendar={_calendar(schedule)} {schedule.tz}\nPersistent=true\nAccuracySec=1s\n"
        f"Unit=finesweep-{schedule.name}.service\n\n[Install]\nWantedBy=timers.target\n"
    )
    return {f"finesweep-{schedule.name}.service": service, f"finesweep-{schedule.name}.timer": timer}


def _systemd(schedule: Schedule, target: ExportTarget) -> str:
    return "\n".join(f"# {name}\n{text}" for name, text in systemd_units(schedule, target).items())


def _systemd_word(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[\s\"'\\;]", word) else escaped


def _calendar(schedule: Schedule) -> str:
    """Return the cron expression as a systemd calendar event.

    Raises UserInputError if it restricts both the day of the month and the weekday: cron then runs
    on days that match either, systemd on days that match both.
    """
    _, _, day, _, weekday = _plain_cron(schedule).upper().split()
    if not day.startswith("*") and not weekday.startswith("*"):
        hint = "cron runs on days that match either, systemd on days that match both. Add two schedules instead."
        message = f"{schedule.cron!r} cannot be exported to systemd: it restricts the day of the month and the weekday"
        raise UserInputError([Problem(schedule.name, message, hint)])
    expanded = CronSim(schedule.cron, datetime(2027, 1, 1))
    days = sorted({int(weekday) % 7 for weekday in expanded.weekdays if isinstance(weekday, int)})
    names = "" if len(days) == 7 else ",".join(_DAYS[day] for day in days) + " "
    fields = [
        _listed(expanded.months, 1, 12),
        _listed(expanded.days, 1, 31),
        _listed(expanded.hours, 0, 23),
        _listed(expanded.minutes, 0, 59),
    ]
    return f"{names}*-{fields[0]}-{fields[1]} {fields[2]}:{fields[3]}:00"


def _listed(values: set[int], low: int, high: int) -> str:
    return "*" if values >= set(range(low, high + 1)) else ",".join(f"{value:02}" for value in sorted(values))


def _kubernetes(schedule: Schedule, target: ExportTarget) -> str:
    if target.image is None:
        raise UserInputError(
            [Problem("--image", "Kubernetes needs a container image", "Name an image that contains finesweep.")]
        )
    name = re.sub(r"[^a-z0-9-]", "-", f"sweep-{schedule.name}".lower())[:52].strip("-")
    secret = {"secretRef": {"name": "finesweep", "optional": True}}
    container = {
        "name": "sweep",
        "image": target.image,
        "command": _arguments(schedule, target),
        "envFrom": [secret],
        "volumeMounts": [{"name": "sweeps", "mountPath": target.root}],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 200,
        "containers": [container],
        "volumes": [{"name": "sweeps", "persistentVolumeClaim": {"claimName": "finesweep"}}],
    }
    job = {"backoffLimit": 0, "template": {"spec": pod}}
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "finesweep"}},
        "spec": {
            "schedule": _plain_cron(schedule),
            "timeZone": schedule.tz,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "jobTemplate": {"spec": job},
        },
    }
    note = (
        f"# Needs a volume claim `finesweep`, mounted at {target.root}, and optionally a secret `finesweep` with\n"
        f"# {', '.join(VARIABLES)} and the variables with notification addresses.\n"
        "# Install it with `kubectl apply -f FILE`.\n"
    )
    return note + yaml.safe_dump(manifest, sort_keys=False)


def _github_actions(schedule: Schedule, target: ExportTarget) -> str:
    variables = (*VARIABLES, *schedule.notify.variables)
    environment = {variable: f"${{{{ secrets.{variable} }}}}" for variable in variables}
    steps = [
        {"uses": "actions/checkout@v4"},
        {"uses": "actions/setup-python@v5", "with": {"python-version": "3.12"}},
        {"run": "pip install 'finesweep[notify,postgres]'"},
        {"run": shlex.join(_arguments(schedule, replace(target, command="sweep", root=".sweep")))},
    ]
    # GitHub schedules in UTC only. One entry per UTC offset of the zone covers the year, and
    # --planned runs a night only if it is due.
    job = {"runs-on": "ubuntu-latest", "timeout-minutes": 360, "env": environment, "steps": steps}
    workflow = {
        "name": f"sweep {schedule.name}",
        "on": {"schedule": [{"cron": cron} for cron in _in_utc(schedule)], "workflow_dispatch": {}},
        "concurrency": {"group": f"sweep-{schedule.name}", "cancel-in-progress": False},
        "permissions": {"contents": "read"},
        "jobs": {"night": job},
    }
    note = (
        f"# .github/workflows/sweep-{schedule.name}.yml\n"
        f"# GitHub schedules in UTC. For {_plain_cron(schedule)} in {schedule.tz} there is one entry per UTC offset\n"
        "# of the zone, and --planned runs a night only if it is due. The runner keeps no files: set the secret\n"
        "# SWEEP_STORAGE to the URL of the schedule's database, and MLFLOW_TRACKING_URI to that of a server.\n"
    )
    return note + yaml.safe_dump(workflow, sort_keys=False, width=110)


def _in_utc(schedule: Schedule) -> list[str]:
    """Return the expression in UTC, once for each UTC offset of the zone.

    Raises UserInputError if the day would change.
    """
    minute, hour, *days = _plain_cron(schedule).split()
    start, zone = datetime(2027, 1, 1, tzinfo=UTC), ZoneInfo(schedule.tz)
    offsets = {(start + timedelta(days=day)).astimezone(zone).utcoffset() or timedelta() for day in range(366)}
    if offsets == {timedelta()}:
        return [_plain_cron(schedule)]
    if not (minute.isdigit() and hour.isdigit()):
        message = f"GitHub schedules in UTC, and {schedule.cron!r} has several times of day to convert"
        raise UserInputError([Problem(schedule.name, message, "Give one time of day, or use --tz UTC.")])
    converted = []
    for offset in sorted(offsets):
        moved = int(hour) * 60 + int(minute) - int(offset.total_seconds() // 60)
        if not 0 <= moved < 1440 and days != ["*", "*", "*"]:
            message = f"GitHub schedules in UTC, where {schedule.cron!r} falls on a different day than in {schedule.tz}"
            hint = "Give a time that falls on the same day in UTC, or use --tz UTC."
            raise UserInputError([Problem(schedule.name, message, hint)])
        converted.append(f"{moved % 60} {moved // 60 % 24} {' '.join(days)}")
    return converted


def _airflow(schedule: Schedule, target: ExportTarget) -> str:
    identifier = re.sub(r"[^A-Za-z0-9_.-]", "_", f"sweep_{schedule.name}")
    command = shlex.join(_arguments(schedule, target))
    return f'''"""The nightly sweep {schedule.name}. Put this file into the DAG folder of Airflow 2.4 or newer."""

import datetime

import pendulum
from airflow import DAG

try:
    from airflow.providers.standard.operators.bash import BashOperator
except ImportError:  # Airflow 2
    from airflow.operators.bash import BashOperator

with DAG(
    dag_id={json.dumps(identifier)},
    schedule={json.dumps(_plain_cron(schedule))},
    start_date=pendulum.datetime(2026, 1, 1, tz={json.dumps(schedule.tz)}),
    catchup=False,
    max_active_runs=1,
    tags=["finesweep"],
):
    BashOperator(
        task_id="night",
        bash_command={json.dumps(command + " ")},
        append_env=True,
        retries=0,
        execution_timeout=datetime.timedelta(hours=24),
    )
'''
