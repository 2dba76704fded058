"""All services of docker-compose.yml, with the commands of the file: from empty disks to a
champion.

This test needs no container engine: `tests/support/native_services.py` runs the commands. If
SWEEP_IMAGE_ROOT names a folder with the files of the image that the Dockerfile builds, our services
run in it. Otherwise they run in this environment, with the packages of the image's lock.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import compose_file
import native_services
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.timeout(600),
]

ROOT = native_services.ROOT
SECRETS = {
    "POSTGRES_PASSWORD": "p@ss:w/rd%23 $HOME'\"",
    "OBJECTS_ACCESS_KEY": "objects-key",
    "OBJECTS_SECRET_KEY": "objects/secret+1",
}
SWEEP = """\
name: pairs
data: {checks: quick, source: /srv/data/pairs.csv, prompt: "{text}\\n", completion: " {label}",
       validation: 0.1, test: 0.4}
backend: {type: local}
space: {n_epochs: 1, batch_size: 8, learning_rate_multiplier: 0.2}
search: {sampler: random, scheduler: none, trials: 1, concurrency: 1}
objective: {maximize: valid_accuracy}
champion: {min_recall: 0}
"""
LIST_OBJECTS = """
import boto3
store = boto3.client("s3", endpoint_url="http://objects:8333")
print(*(entry["Key"] for entry in store.list_objects_v2(Bucket="mlflow")["Contents"]), sep="\\n")
"""


def images() -> dict[str, native_services.Image]:
    image_root = os.environ.get("SWEEP_IMAGE_ROOT")
    image_packages = Path(sys.prefix, "image")
    if image_root is None and not image_packages.is_dir():
        pytest.skip(f"requirements-image.lock is not installed in {image_packages}: `make test` installs it")
    environment = {
        "PYTHONUNBUFFERED": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        "SWEEP_ROOT": "/srv/sweep",
        "OMP_NUM_THREADS": "1",
    }
    if image_root is None:
        environment["PYTHONPATH"] = f"{ROOT}:{image_packages}"
    else:
        environment["PATH"] = "/opt/sweep/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    postgres = pwd.getpwnam("postgres")
    return {
        "finesweep": native_services.Image(
            "10001:10001", "/home/sweep", "/srv/sweep", (), tuple(environment.items()), Path(image_root or "/")
        ),
        "postgres": native_services.Image(
            f"{postgres.pw_uid}:{postgres.pw_gid}",
            "/var/lib/postgresql",
            "/",
            ("sh", str(ROOT / "tests/support/postgres_entrypoint.sh")),
            (("PGDATA", "/var/lib/postgresql/data"),),
        ),
        "chrislusf/seaweedfs": native_services.Image(),
    }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[native_services.Stack]:
    if (reason := native_services.missing()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("compose")
    (folder / "data").mkdir(mode=0o755)
    rows = (
        f"{who} in {place}, {number}"
        for number in range(2)
        for who in ("A man", "A girl")
        for place in "abcdefghijklmnopqrst"
    )
    (folder / "data/pairs.csv").write_text(
        "text,label\n" + "".join(f'"{row}",{"yes" if row.endswith("1") else "no"}\n' for row in rows)
    )
    (folder / "data/pairs.yaml").write_text(SWEEP)
    compose = compose_file.load(ROOT / "docker-compose.yml", {**SECRETS, "DATA_DIR": str(folder / "data")})
    services = native_services.Stack(compose, images(), folder / "stack")
    try:
        services.up()
        yield services
    finally:
        services.remove()


def get_from_mlflow(stack: native_services.Stack, path: str, **query: str) -> dict[str, Any]:
    query_string = "&".join(f"{key}={quote(value)}" for key, value in query.items())
    status, body = stack.from_outside("mlflow", 5000, f"/api/2.0/mlflow/{path}?{query_string}", "127.0.0.1:5000")
    assert status == 200, body
    answer: dict[str, Any] = json.loads(body)
    return answer


def run_command(stack: native_services.Stack, name: str, *command: str) -> str:
    done = stack.execute(name, command, 400)
    assert done.returncode == 0, f"{done.stderr}\n{stack.log(name)[-2000:]}"
    return done.stdout


def test_all_services_start_in_the_order_of_the_file_and_become_healthy(stack: native_services.Stack) -> None:
    assert stack.started == list(stack.services)
    assert set(stack.healthy_after_s) == set(stack.services) - {"bucket"}
    deadline = time.monotonic() + 60  # the head counts a node some time after it has started
    while run_command(stack, "scheduler", "ray", "status", "--address=ray-head:6379").count(" node_") < 3:
        assert time.monotonic() < deadline, (
            "the head does not count three nodes: its own, the worker and the scheduler's"
        )
    version = run_command(stack, "postgres", "psql", "-U", "sweep", "-d", "mlflow", "-Atc", "SHOW server_version")
    assert stack.services["postgres"]["image"].startswith(f"postgres:{version.partition('.')[0]}.")


def test_foreign_hosts_missing_keys_and_wrong_passwords_are_rejected_and_no_log_has_a_secret(
    stack: native_services.Stack,
) -> None:
    assert stack.from_outside("mlflow", 5000, "/health", "127.0.0.1:5000") == (200, "OK")
    assert stack.from_outside("mlflow", 5000, "/api/2.0/mlflow/experiments/get", "evil.example")[0] == 403
    status, body = stack.from_outside("ray-head", 8265, "/api/version", "127.0.0.1:8265")
    assert (status, json.loads(body)["ray_version"]) == (200, json.loads(body)["ray_version"])
    assert stack.from_outside("objects", 8333, "/mlflow", "objects:8333")[0] == 403, "without a key"
    connect = "import os, psycopg; psycopg.connect(host='postgres', user='sweep', dbname='sweep', password='wrong')"
    rejected = stack.execute("scheduler", ["python", "-c", connect])
    assert "password authentication failed" in rejected.stderr
    for name in ("bucket", "mlflow", "ray-head", "ray-worker", "scheduler", "postgres"):
        for secret in SECRETS.values():
            assert secret not in stack.log(name)


@pytest.mark.trains
def test_a_schedule_runs_and_its_champion_can_be_read_over_http(stack: native_services.Stack) -> None:
    cron = ("--cron", "0 2 * * *", "--tz", "Europe/Berlin")
    run_command(stack, "scheduler", "sweep", "schedule", "add", "/srv/data/pairs.yaml", *cron)
    night = json.loads(run_command(stack, "scheduler", "sweep", "schedule", "run-now", "pairs", "--json"))
    assert night["state"] == "done"
    decision = night["found"]["champion"]
    assert "on 32 test examples" in decision["reason"]
    if not decision["promoted"]:  # a run this small may not have learnt more than chance explains
        rollback = ("champion", "rollback", "pairs", "--to", "1", "--why", "a start", "--by", "ann")
        run_command(stack, "scheduler", "sweep", *rollback)

    champion = get_from_mlflow(stack, "registered-models/alias", name="pairs", alias="champion")["model_version"]
    tags = {tag["key"]: tag["value"] for tag in champion["tags"]}
    assert (champion["version"], champion["status"], tags["finesweep.sweep"]) == ("1", "READY", "pairs")
    run = get_from_mlflow(stack, "runs/get", run_id=champion["run_id"])["run"]
    assert run["info"]["status"] == "FINISHED"
    assert any(metric["key"] == "valid_accuracy" for metric in run["data"]["metrics"])

    stored = run_command(stack, "mlflow", "python", "-c", LIST_OBJECTS).splitlines()
    artifact_path = champion["source"].removeprefix("mlflow-artifacts:/")
    assert f"artifacts/{artifact_path}/MLmodel" in stored, "the model is not in the object store"
    assert "pairs" in run_command(stack, "ray-worker", "ls", "/srv/sweep/sweeps"), (
        "the worker does not share the sweep's folder"
    )

    dumped = run_command(stack, "postgres", "pg_dump", "--username", "sweep", "--data-only", "sweep")
    assert re.search(r"COPY public\.trials .*\n1\t", dumped), "the study is not in PostgreSQL"
    assert "/srv/data/pairs.yaml" in dumped, "the schedule is not in PostgreSQL"


def test_the_scheduler_stops_cleanly(stack: native_services.Stack) -> None:
    assert stack.stop("scheduler") in (0, 143)
    assert "Traceback" not in stack.log("scheduler")
