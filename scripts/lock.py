"""Resolves the requirement ranges of pyproject.toml and writes requirements.lock and requirements-dev.lock.

The files pin every distribution, so that `pip install --no-deps` needs no resolution; run by `make lock`.
"""

from __future__ import annotations

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
    """Install the ranges into an empty environment and write down what came."""
    root = Path(__file__).resolve().parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    runtime = [TORCH, *BUILD, *project["project"]["dependencies"]]
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for requirements, name in (
            (runtime, "requirements.lock"),
            (project["dependency-groups"]["dev"], "requirements-dev.lock"),
        ):
            before = set(_installed(python))
            subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
            added = [each for each in _installed(python) if each not in before]
            Path(root, name).write_text(HEADER + "".join(f"{each}\n" for each in added), encoding="utf-8")


def _installed(python: Path) -> list[str]:
    frozen = subprocess.run([python, "-m", "pip", "freeze", "--all"], check=True, capture_output=True, text=True)
    kept = (line.split("+")[0] for line in frozen.stdout.splitlines() if "==" in line)
    return [line for line in kept if not line.startswith("pip==")]


if __name__ == "__main__":
    main()
