"""The installed package: it contains all its data, and `doctor` finds a package with our names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sweeps

pytestmark = pytest.mark.integration

CHECKOUT = Path(sweeps.__file__).parents[1]

FILE = """\
name: small
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 60, valid_examples: 30, test_examples: 30}
backend: {type: local}
space: {n_epochs: recommended, batch_size: recommended, learning_rate_multiplier: recommended}
search: {trials: 2}
objective: {maximize: valid_accuracy}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, as pip installs it from a copy of the checkout."""
    source, target = tmp_path_factory.mktemp("source") / "finesweep", tmp_path_factory.mktemp("installed")
    unneeded = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "benchmarks", "docs")
    shutil.copytree(CHECKOUT, source, ignore=unneeded)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-compile", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return target


def python(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_the_installed_package_plans_a_sweep_with_embedded_data_model_and_recommendations(
    installed: Path, tmp_path: Path
) -> None:
    imported = python(installed, tmp_path, "-c", "import sweeps, backends, search_spaces as s; print(s.__file__)")
    assert Path(imported.stdout.strip()).is_relative_to(installed)
    (tmp_path / "small.yaml").write_text(FILE)
    done = python(installed, tmp_path, "-m", "sweeps.cli", "plan", "small.yaml", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["base_model"] == "builtin:tiny-lm"
    assert plan["data"]["training_examples"] == 60
    assert plan["estimate"]["seconds_per_trial"] > 0


def test_the_installed_package_contains_the_named_spaces(installed: Path, tmp_path: Path) -> None:
    done = python(installed, tmp_path, "-m", "sweeps.cli", "spaces", "--json")
    assert done.returncode == 0, done.stderr
    names = {file.stem for file in (CHECKOUT / "search_spaces" / "library").glob("*.yaml")}
    assert {space["name"] for space in json.loads(done.stdout)} == names


def test_doctor_names_a_package_that_takes_one_of_our_names(installed: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "site"
    (stranger / "sweeps").mkdir(parents=True)
    (stranger / "sweeps" / "__init__.py").write_text("")
    info = stranger / "old_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: old-engine\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("sweeps\n")
    (info / "RECORD").write_text("sweeps/__init__.py,,\n")
    script = f"import sys; sys.path.append({str(stranger)!r}); from sweeps.cli import main as cli; cli.main()"
    done = python(installed, tmp_path, "-c", script.replace("cli.main()", "sys.argv[1:] = ['doctor']; cli.main()"))
    assert done.returncode == 1
    assert "old-engine" in done.stdout
    assert "pip uninstall old-engine" in done.stdout
