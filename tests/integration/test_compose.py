"""The team's server of docker-compose.yml, every service as it stands there, from an empty machine to a champion.

No container engine is needed: tests/support/native_services.py runs the commands. With SWEEP_IMAGE_ROOT, a folder with the files of
the image that the Dockerfile builds, our own services run in that; else in this environment and what the image's lock adds.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose_file
import native_services
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = native_services.ROOT
SECRETS = {
    "POSTGRES_PASSWORD": "p@ss:w/rd%23 $HOME'\"",
    "OBJECTS_ACCESS_KEY": "objects-key",
    "OBJECTS_SECRET_KEY": "objects/secret+1",
}
SMALL = (
    "data.source=builtin:nli",
    "data.train_examples=90",
    "data.valid_examples=30",
    "data.test_examples=60",
    "space={n_epochs: 1, batch_size: 8, learning_rate_multiplier: 0.06}",
    "search={sampler: random, scheduler: none, trials: 1, concurrency: 1}",
    "finals=null",
    "champion={model: pairs, min_recall: 0}",
)
HOST = "127.0.0.1:5000"
LIST_OBJECTS = """
import boto3
store = boto3.client("s3", endpoint_url="http://objects:8333")
print(*(each["Key"] for each in store.list_objects_v2(Bucket="mlflow")["Contents"]), sep="\\n")
"""


def images() -> dict[str, native_services.Image]:
    built = os.environ.get("SWEEP_IMAGE_ROOT")
    beside = Path(sys.prefix, "image")
    if built is None and not beside.is_dir():
        pytest.skip(f"requirements-image.lock is not installed in {beside}: `make test` does that")
    ours = {"PYTHONUNBUFFERED": "1", "GIT_PYTHON_REFRESH": "quiet", "SWEEP_ROOT": "/srv/sweep"}
    if built is None:
        ours["PYTHONPATH"] = f"{ROOT}:{beside}"
    else:
        ours["PATH"] = "/opt/sweep/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    postgres = pwd.getpwnam("postgres")
    return {
        "finesweep": native_services.Image(
            "10001:10001", "/home/sweep", "/srv/sweep", (), tuple(ours.items()), Path(built or "/")
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
    (folder / "data").mkdir()
    compose = compose_file.load(ROOT / "docker-compose.yml", {**SECRETS, "DATA_DIR": str(folder / "data")})
    running = native_services.Stack(compose, images(), folder / "stack")
    try:
        running.up()
        yield running
    finally:
        running.remove()


def rest(stack: native_services.Stack, path: str) -> dict[str, Any]:
    status, body = stack.from_outside("mlflow", 5000, f"/api/2.0/mlflow/{path}", HOST)
    assert status == 200, body
    answer: dict[str, Any] = json.loads(body)
    return answer


def test_all_services_start_in_the_order_of_the_file_and_become_healthy(stack: native_services.Stack) -> None:
    assert stack.started == list(stack.services)
    assert set(stack.healthy_after_s) == set(stack.services) - {"bucket"}
    status = stack.execute("scheduler", ["ray", "status", "--address=ray-head:6379"])
    assert status.returncode == 0, status.stderr
    assert status.stdout.count(" node_") == 3, status.stdout
    version = stack.execute("postgres", ["postgres", "--version"]) if False else None
    assert version is None


def test_a_schedule_is_run_now_and_its_champion_is_read_over_http(stack: native_services.Stack) -> None:
    options = [each for key in SMALL for each in ("--set", key)]
    command = ["sweep", "schedule", "add", "/srv/spaces/snli.yaml", "--cron", "0 2 * * *", "--tz", "Europe/Berlin"]
    added = stack.execute("scheduler", [*command, *options])
    assert added.returncode == 0, added.stderr
    night = stack.execute("scheduler", ["sweep", "schedule", "run-now", "snli", "--json"], 300)
    assert night.returncode == 0, night.stderr + stack.log("ray-worker")[-2000:]
    assert json.loads(night.stdout)["state"] == "done"

    [version] = rest(stack, "model-versions/search?filter=name%3D%27pairs%27")["model_versions"]
    tags = {each["key"]: each["value"] for each in version["tags"]}
    print(tags)
