"""Resolve the requirement ranges of pyproject.toml and write the four lock files (`make lock`).

requirements.lock pins the distributions that the package needs at run time. requirements-dev.lock,
requirements-image.lock and requirements-programs.lock pin the additional ones of the checks, of the
container image and of the training programs that the tests sweep. Each file pins every
distribution, so that `pip install --no-deps` resolves nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

# The package accepts a range of versions. A bare `torch` would download a CUDA build of several
# gigabytes.
TORCH = "torch==2.13.0"
BUILD = ["setuptools>=77", "wheel"]
HEADER = "# Written by scripts/lock.py (`make lock`) from the ranges in pyproject.toml. Do not edit.\n"


def main() -> None:
    """Install the package's ranges into an empty environment, resolve the additions, and write all
    lock files.
    """
    root = Path(__file__).resolve().parent.parent
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project, groups = pyproject["project"], pyproject["dependency-groups"]
    extras = project["optional-dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        runtime = [TORCH, *BUILD, *project["dependencies"], *extras["local"], *extras["server"], *extras["metrics"]]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *runtime], check=True)
        _write(root / "requirements.lock", _installed(python))
        _write(root / "requirements-dev.lock", added(python, groups["dev"]))
        _write(root / "requirements-programs.lock", added(python, groups["programs"]))
        _write(
            root / "requirements-image.lock", added(python, [*groups["image"], *extras["notify"], *extras["postgres"]])
        )


def added(python: Path, requirements: list[str]) -> list[str]:
    """Return the pins that `requirements` would add to `python`'s environment, without
    changing it.
    """
    command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-", *requirements]
    report = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    packages = [distribution["metadata"] for distribution in json.loads(report)["install"]]
    return sorted((f"{package['name']}=={package['version']}" for package in packages), key=str.lower)


def _write(file: Path, pins: list[str]) -> None:
    file.write_text(HEADER + "".join(f"{pin}\n" for pin in pins), encoding="utf-8")


def _installed(python: Path) -> list[str]:
    frozen = subprocess.run([python, "-m", "pip", "freeze", "--all"], check=True, capture_output=True, text=True)
    pins = (line.split("+")[0] for line in frozen.stdout.splitlines() if "==" in line)
    return [pin for pin in pins if not pin.startswith("pip==")]


if __name__ == "__main__":
    main()
