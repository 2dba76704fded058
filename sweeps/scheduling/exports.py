"""A schedule as a file for a scheduler that is there already: cron, systemd, Kubernetes, GitHub Actions, Airflow.

Each runs `sweep schedule run-now NAME --planned`, which needs the schedule's database: the worth of a night, its window
and its history are the same as under `sweep scheduler`. Nothing secret is written; variables are named.
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

Format = Literal["cron", "systemd", "kubernetes", "github-actions", "airflow"]

FORMATS: tuple[Format, ...] = ("cron", "systemd", "kubernetes", "github-actions", "airflow")

VARIABLES = ("SWEEP_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
"""What the command line reads from the environment; each file passes those that its reader defines."""

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class Place:
    """Where the command and the folder of the sweeps are; `image` is the container image for Kubernetes.

    `file` is the sweep file where it is not at the schedule's own path.
    """

    command: str
    root: str
    image: str | None = None
    file: str | None = None


def export(schedule: Schedule, form: Format, place: Place) -> str:
    """Return the file's content. Raises UserInputError where the format cannot say what the schedule says."""
    match form:
        case "cron":
            return _cron(schedule, place)
        case "systemd":
            return _systemd(schedule, place)
        case "kubernetes":
            return _kubernetes(schedule, place)
        case "github-actions":
            return _github_actions(schedule, place)
        case "airflow":
            return _airflow(schedule, place)
        case _ as unreachable:
            assert_never(unreachable)


def _arguments(schedule: Schedule, place: Place) -> list[str]:
    elsewhere = ["--file", place.file] if place.file is not None else []
    return [place.command, "--root", place.root, "schedule", "run-now", schedule.name, "--planned", *elsewhere]


def _plain_cron(schedule: Schedule) -> str:
    """Return the cron expression where others than cronsim read it the same."""
    if re.search(r"[L#W]", re.sub(r"[A-Za-z]{3,}", "", schedule.cron.upper())) or "#" in schedule.cron:
        hint = "L, W and # are known to few: use plain days, or `sweep scheduler`"
        raise UserInputError([Problem(schedule.name, f"{schedule.cron!r} cannot be exported to this format", hint)])
    return " ".join(schedule.cron.split())


def _cron(schedule: Schedule, place: Place) -> str:
    # In a crontab % ends the command.
    command = shlex.join(_arguments(schedule, place)).replace("%", r"\%")
    named = "\n".join(f"# {each}=..." for each in VARIABLES)
    return (
        f"# `crontab FILE` installs it. The times are those of {schedule.tz}: cronie and others that know CRON_TZ\n"
        f"# follow it; Debian's cron does not, and needs a machine in that zone.\n"
        f"# Variables that the command reads, where you use them:\n{named}\n"
        f"CRON_TZ={schedule.tz}\n"
        f"{_plain_cron(schedule)} {command}\n"
    )


def systemd_units(schedule: Schedule, place: Place) -> dict[str, str]:
    """Return the service and the timer by their file names. Raises UserInputError; see `export`."""
    command = " ".join(_systemd_word(argument) for argument in _arguments(schedule, place))
    service = (
        f"[Unit]\nDescription=Night sweep {schedule.name}\nAfter=network-online.target\nWants=network-online.target\n\n"
        f"[Service]\nType=oneshot\nExecStart={command}\nTimeoutStopSec=200\nKillSignal=SIGINT\n"
        f"# {', '.join(VARIABLES)}, a line each; may be missing.\nEnvironmentFile=-/etc/finesweep.env\n"
    )
    timer = (
        f"[Unit]\nDescription=Nights of the sweep {schedule.name}\n\n"
        f"[Timer]\nOnCalendar={_calendar(schedule)} {schedule.tz}\nPersistent=true\nAccuracySec=1s\n"
        f"Unit=finesweep-{schedule.name}.service\n\n[Install]\nWantedBy=timers.target\n"
    )
    return {f"finesweep-{schedule.name}.service": service, f"finesweep-{schedule.name}.timer": timer}


def _systemd(schedule: Schedule, place: Place) -> str:
    return "\n".join(f"# {name}\n{text}" for name, text in systemd_units(schedule, place).items())


def _systemd_word(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[\s\"'\\;]", word) else escaped


def _calendar(schedule: Schedule) -> str:
    """Return the cron expression in systemd's words. Raises UserInputError for days joined by "or"."""
    _, _, day, _, weekday = _plain_cron(schedule).upper().split()
    if not day.startswith("*") and not weekday.startswith("*"):
        hint = "cron takes a day of the month or one of the week; systemd wants both: make two schedules"
        raise UserInputError([Problem(schedule.name, f"{schedule.cron!r} cannot be said to systemd", hint)])
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


def _kubernetes(schedule: Schedule, place: Place) -> str:
    if place.image is None:
        raise UserInputError(
            [Problem("--image", "Kubernetes runs containers", "give the image that has finesweep in it")]
        )
    name = re.sub(r"[^a-z0-9-]", "-", f"sweep-{schedule.name}".lower())[:52].strip("-")
    secret = {"secretRef": {"name": "finesweep", "optional": True}}
    container = {
        "name": "sweep",
        "image": place.image,
        "command": _arguments(schedule, place),
        "envFrom": [secret],
        "volumeMounts": [{"name": "sweeps", "mountPath": place.root}],
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
        f"# Wants a volume claim `finesweep` for {place.root}, and a secret `finesweep` for {', '.join(VARIABLES)}\n"
        "# and the addresses of notices. `kubectl apply -f FILE` installs it.\n"
    )
    return note + yaml.safe_dump(manifest, sort_keys=False)


def _github_actions(schedule: Schedule, place: Place) -> str:
    notices = {each: f"${{{{ secrets.{each} }}}}" for each in (*VARIABLES, *schedule.notify.variables)}
    steps = [
        {"uses": "actions/checkout@v4"},
        {"uses": "actions/setup-python@v5", "with": {"python-version": "3.12"}},
        {"run": "pip install 'finesweep[notify,postgres]'"},
        {"run": shlex.join(_arguments(schedule, replace(place, command="sweep", root=".sweep")))},
    ]
    # GitHub plans in UTC alone: each of the zone's offsets is planned, and the command runs the night that is due.
    job = {"runs-on": "ubuntu-latest", "timeout-minutes": 360, "env": notices, "steps": steps}
    workflow = {
        "name": f"sweep {schedule.name}",
        "on": {"schedule": [{"cron": each} for each in _in_utc(schedule)], "workflow_dispatch": {}},
        "concurrency": {"group": f"sweep-{schedule.name}", "cancel-in-progress": False},
        "permissions": {"contents": "read"},
        "jobs": {"night": job},
    }
    note = (
        f"# .github/workflows/sweep-{schedule.name}.yml\n"
        f"# GitHub plans in UTC: {_plain_cron(schedule)} in {schedule.tz}\n"
        "# is planned at each offset that the zone has in a year, and --planned runs the one that is due. The runner\n"
        "# keeps nothing: set the secret SWEEP_STORAGE to the URL of the database that holds the schedule, and\n"
        "# MLFLOW_TRACKING_URI to a server.\n"
    )
    return note + yaml.safe_dump(workflow, sort_keys=False, width=110)


def _in_utc(schedule: Schedule) -> list[str]:
    """Return the expression at each of the zone's offsets to UTC. Raises UserInputError where days would shift."""
    minute, hour, *days = _plain_cron(schedule).split()
    start, zone = datetime(2027, 1, 1, tzinfo=UTC), ZoneInfo(schedule.tz)
    offsets = {(start + timedelta(days=each)).astimezone(zone).utcoffset() or timedelta() for each in range(366)}
    if offsets == {timedelta()}:
        return [_plain_cron(schedule)]
    if not (minute.isdigit() and hour.isdigit()):
        hint = "give one time of day, or --tz UTC"
        raise UserInputError(
            [Problem(schedule.name, "GitHub plans in UTC, which only a single time can be moved to", hint)]
        )
    found = []
    for offset in sorted(offsets):
        moved = int(hour) * 60 + int(minute) - int(offset.total_seconds() // 60)
        if not 0 <= moved < 1440 and days != ["*", "*", "*"]:
            hint = "give a time whose day is the same in UTC, or --tz UTC"
            raise UserInputError([Problem(schedule.name, "the day in UTC is another one than in the zone", hint)])
        found.append(f"{moved % 60} {moved // 60 % 24} {' '.join(days)}")
    return found


def _airflow(schedule: Schedule, place: Place) -> str:
    identifier = re.sub(r"[^A-Za-z0-9_.-]", "_", f"sweep_{schedule.name}")
    command = shlex.join(_arguments(schedule, place))
    return f'''"""Nights of the sweep {schedule.name}. Put this file into Airflow's folder of DAGs (2.4 or newer)."""

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
