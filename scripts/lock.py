"""Resolves the requirement ranges of pyproject.toml and writes the three lock files.

requirements.lock has what the package runs with; requirements-dev.lock and requirements-image.lock have what the checks
and the container image want beyond it. They pin every distribution, so that `pip install --no-deps` needs no
resolution; run by `make lock`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

# The package accepts a range; a bare `torch` would fetch a CUDA build of several gigabytes.
TORCH = "torch==2.13.0"
BUILD = ["setuptools>=77", "wheel"]
HEADER = "# Written by scripts/lock.py (`make lock`) from the ranges in pyproject.toml. Do not edit.\n"


def main() -> None:
    """Install the package's ranges into an empty environment, see what the others add to it, and write it all down."""
    root = Path(__file__).resolve().parent.parent
    written = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project, groups = written["project"], written["dependency-groups"]
    extras = project["optional-dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        runtime = [TORCH, *BUILD, *project["dependencies"], *extras["local"], *extras["server"]]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *runtime], check=True)
        _write(root / "requirements.lock", _installed(python))
        _write(root / "requirements-dev.lock", added(python, groups["dev"]))
        _write(
            root / "requirements-image.lock", added(python, [*groups["image"], *extras["notify"], *extras["postgres"]])
        )


def added(python: Path, requirements: list[str]) -> list[str]:
    """What `requirements` would add to `python`'s environment, which stays as it is."""
    command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-", *requirements]
    report = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = [each["metadata"] for each in json.loads(report)["install"]]
    return sorted((f"{each['name']}=={each['version']}" for each in found), key=str.lower)


def _write(file: Path, pins: list[str]) -> None:
    file.write_text(HEADER + "".join(f"{pin}\n" for pin in pins), encoding="utf-8")


def _installed(python: Path) -> list[str]:
    frozen = subprocess.run([python, "-m", "pip", "freeze", "--all"], check=True, capture_output=True, text=True)
    kept = (line.split("+")[0] for line in frozen.stdout.splitlines() if "==" in line)
    return [line for line in kept if not line.startswith("pip==")]


if __name__ == "__main__":
    main()
