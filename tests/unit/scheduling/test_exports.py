"""Exported schedules: a real parser reads each, or the real schema checks it."""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from cronsim import CronSim

from sweeps.errors import UserInputError
from sweeps.scheduling.calendar import planned_times
from sweeps.scheduling.exports import FORMATS, ExportTarget, export, systemd_units
from sweeps.scheduling.schedule import NotificationSettings, Schedule

pytestmark = pytest.mark.unit

TARGET = ExportTarget("/opt/sweep/bin/sweep", "/var/lib/night sweeps 100%", "registry.example/finesweep:1")
COMMAND = [TARGET.command, "--root", TARGET.root, "schedule", "run-now", "snli", "--planned"]
CRONS = ("0 2 * * *", "*/15 1-5 * * 1-5", "30 23 1,15 * *", "5 4 * 3,6 sun")


def schedule(cron: str = "0 2 * * *", tz: str = "Europe/Berlin") -> Schedule:
    return Schedule("snli", "/srv/snli.yaml", cron, tz, 0.0, "06:00", notify=NotificationSettings(("TEAM",)))


@pytest.mark.parametrize("cron", CRONS)
def test_a_crontab_has_the_zone_the_times_and_the_command(cron: str) -> None:
    lines = [line for line in export(schedule(cron), "cron", TARGET).splitlines() if not line.startswith("#")]
    assert lines[0] == "CRON_TZ=Europe/Berlin"
    fields = lines[1].split(None, 5)
    assert CronSim(" ".join(fields[:5]), datetime(2027, 1, 1)).parts == CronSim(cron, datetime(2027, 1, 1)).parts
    assert shlex.split(fields[5].replace(r"\%", "%")) == COMMAND, "in a crontab a bare % would end the command"
    assert "%" not in fields[5].replace(r"\%", "")


@pytest.mark.skipif(shutil.which("crontab") is None, reason="there is no cron on this machine")
@pytest.mark.parametrize("cron", CRONS)
def test_cron_itself_accepts_the_crontab(cron: str, tmp_path: Path) -> None:
    file = tmp_path / "crontab"
    checks = {}
    for name, text in (("good", export(schedule(cron), "cron", TARGET)), ("bad", "0 25 * * * true\n")):
        file.write_text(text)
        checks[name] = subprocess.run(["crontab", "-n", str(file)], capture_output=True, text=True, check=False)
    if "invalid option" in checks["bad"].stderr:
        pytest.skip("this cron has no dry run")
    assert checks["good"].returncode == 0, checks["good"].stderr
    assert checks["bad"].returncode != 0, "otherwise the check proves nothing"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
@pytest.mark.parametrize("cron", CRONS)
def test_systemd_accepts_the_units_and_plans_the_same_times(cron: str, tmp_path: Path) -> None:
    program = tmp_path / "sweep"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = export(schedule(cron), "systemd", replace(TARGET, command=str(program)))
    files = []
    for name, unit in systemd_units(schedule(cron), replace(TARGET, command=str(program))).items():
        files.append(tmp_path / name)
        files[-1].write_text(unit)
        assert unit in text
    assert [file.suffix for file in files] == [".service", ".timer"]
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, files)], capture_output=True, text=True, check=False, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if "finesweep-snli" in line]
    assert complaints == [], done.stderr
    [when] = [line.partition("=")[2] for line in text.splitlines() if line.startswith("OnCalendar=")]
    shown = subprocess.run(
        ["systemd-analyze", "calendar", "--base-time=2027-01-01 12:00:00 UTC", "--iterations=8", when],
        capture_output=True,
        text=True,
        check=False,
        env={"TZ": "UTC", "LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    assert shown.returncode == 0, shown.stderr
    theirs = [
        datetime.strptime(line.split("): ")[-1].split(": ")[-1].strip().split(" ", 1)[1], "%Y-%m-%d %H:%M:%S %Z")
        for line in shown.stdout.splitlines()
        if "UTC" in line and ("Next elapse" in line or "in UTC" in line or "Iter" in line)
    ]
    ours = list(islice(planned_times(cron, "Europe/Berlin", datetime(2027, 1, 1, 12, tzinfo=UTC)), 8))
    assert sorted(set(theirs))[:8] == [our.replace(tzinfo=None) for our in ours], shown.stdout


@pytest.mark.parametrize("cron", CRONS)
def test_the_kubernetes_cronjob_is_valid(cron: str) -> None:
    import kubernetes_validate

    manifest = yaml.safe_load(export(schedule(cron), "kubernetes", TARGET))
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    spec = manifest["spec"]
    assert (spec["timeZone"], spec["concurrencyPolicy"], spec["schedule"]) == ("Europe/Berlin", "Forbid", cron)
    [container] = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == COMMAND
    with pytest.raises(UserInputError, match="Kubernetes needs a container image"):
        export(schedule(), "kubernetes", replace(TARGET, image=None))


@pytest.mark.parametrize("tz", ["Europe/Berlin", "America/New_York", "UTC", "Asia/Kolkata"])
def test_the_github_workflow_is_valid_and_covers_every_utc_offset(tz: str, tmp_path: Path) -> None:
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    file = folder / "sweep.yml"
    file.write_text(export(schedule(tz=tz), "github-actions", replace(TARGET, file="spaces/snli.yaml")))
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    workflow = yaml.load(file.read_text(), yaml.BaseLoader)
    assert workflow["jobs"]["night"]["env"]["TEAM"] == "${{ secrets.TEAM }}"
    assert workflow["jobs"]["night"]["steps"][-1]["run"].endswith("run-now snli --planned --file spaces/snli.yaml")
    # On every day of the year one of the planned times is the local one.
    crons = [entry["cron"] for entry in workflow["on"]["schedule"]]
    for day in range(0, 365, 7):
        start = datetime(2027, 1, 1, tzinfo=UTC) + timedelta(days=day)
        local = next(planned_times("0 2 * * *", tz, start)).astimezone(ZoneInfo(tz))
        assert local.astimezone(UTC) in [next(planned_times(cron, "UTC", start)) for cron in crons]


def test_times_that_do_not_convert_to_utc_are_refused_for_github() -> None:
    with pytest.raises(UserInputError, match="several times of day to convert"):
        export(schedule("*/5 2 * * *"), "github-actions", TARGET)
    with pytest.raises(UserInputError, match="on a different day than in Europe/Berlin"):
        export(schedule("0 1 * * 1"), "github-actions", TARGET)
    assert "0 1 * * 1" in export(schedule("0 1 * * 1", "UTC"), "github-actions", TARGET)


@pytest.mark.parametrize("cron", CRONS)
def test_the_airflow_dag_has_the_times_the_zone_and_the_command(cron: str) -> None:
    tree = ast.parse(export(schedule(cron), "airflow", TARGET))
    compile(tree, "dag.py", "exec")
    calls = {
        node.func.id: node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    dag = {keyword.arg: keyword.value for keyword in calls["DAG"].keywords}
    task: dict[Any, Any] = {keyword.arg: keyword.value for keyword in calls["BashOperator"].keywords}
    assert ast.literal_eval(dag["schedule"]) == cron
    assert ast.literal_eval(dag["catchup"]) is False
    assert ast.literal_eval(dag["max_active_runs"]) == 1
    assert json.dumps("Europe/Berlin") in ast.unparse(dag["start_date"]).replace("'", '"')
    assert shlex.split(ast.literal_eval(task["bash_command"])) == COMMAND


@pytest.mark.skipif("SWEEP_TEST_INSTALL" not in os.environ, reason="installs Airflow: set SWEEP_TEST_INSTALL=1")
@pytest.mark.timeout(900)
def test_airflow_itself_runs_the_dag(tmp_path: Path) -> None:
    home, command = tmp_path / "airflow", tmp_path / "sweep"
    command.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {shlex.quote(str(tmp_path / "arguments"))}\n')
    command.chmod(0o755)
    (home / "dags").mkdir(parents=True)
    exported = export(schedule("30 23 1,15 * *"), "airflow", replace(TARGET, command=str(command)))
    (home / "dags" / "night.py").write_text(exported)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    binaries = tmp_path / "env" / "bin"
    subprocess.run([binaries / "python", "-m", "pip", "install", "--quiet", "apache-airflow"], check=True)
    environment = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}

    def airflow(*arguments: str) -> str:
        call = [binaries / "airflow", *arguments]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    airflow("db", "migrate")
    airflow("dags", "reserialize")
    planned = datetime.fromisoformat(airflow("dags", "next-execution", "sweep_snli").split()[-1])
    local = planned.astimezone(ZoneInfo("Europe/Berlin"))
    assert (local.day in (1, 15), local.hour, local.minute) == (True, 23, 30)
    airflow("dags", "test", "sweep_snli")
    assert (tmp_path / "arguments").read_text().splitlines() == COMMAND[1:]


def test_a_schedule_that_a_format_cannot_express_is_refused() -> None:
    for export_format in FORMATS:
        with pytest.raises(UserInputError, match="cannot be exported"):
            export(schedule("0 2 L * *"), export_format, TARGET)
    with pytest.raises(UserInputError, match="cannot be exported to systemd"):
        export(schedule("0 2 1 * mon"), "systemd", TARGET)
