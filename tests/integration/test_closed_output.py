"""Closed standard streams, and readers that go away: `sweep status NAME | head -1` is quiet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from user_environment import user_environment

pytestmark = pytest.mark.integration

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small}
space: {n_epochs: [1, 2], batch_size: [4, 8]}
search: {sampler: grid, scheduler: none, concurrency: 2}
objective: {maximize: valid_accuracy}
"""
COMMANDS = ("--help", "schema", "status pairs", "status pairs --json", "plan pairs.yaml", "run pairs.yaml --json")


def sweep(folder: Path, command: str, redirection: str) -> tuple[int, str]:
    """Run a command in a shell, and return its exit code and what it wrote to the file `err`."""
    line = f'"{sys.executable}" -m sweeps.cli {command} {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=user_environment(),
        capture_output=True,
        timeout=250,
        check=False,
    )
    err = folder / "err"
    return done.returncode, err.read_text(encoding="utf-8") if err.exists() else ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a sweep whose readers of both streams went away at once."""
    folder = tmp_path_factory.mktemp("closed")
    (folder / "pairs.yaml").write_text(FILE)
    assert sweep(folder, "run pairs.yaml", "2>&1 | true") == (0, "")
    return folder


def test_a_sweep_goes_on_without_the_reader_of_its_messages(folder: Path) -> None:
    code, _ = sweep(folder, "status pairs --json", ">status 2>err")
    assert code == 0
    trials = json.loads((folder / "status").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_a_reader_ends_quietly(folder: Path, command: str) -> None:
    for redirection in ("2>err | true", "2>err >&-"):
        code, err = sweep(folder, command, redirection)
        assert (code, "Traceback" in err, "rror" in err) == (0, False, False), (redirection, err)


def test_output_that_cannot_be_written_is_an_error(folder: Path) -> None:
    code, err = sweep(folder, "status pairs", "2>err >/dev/full")
    assert code == 1
    assert "standard output: No space left on device" in err
    assert "Traceback" not in err


def test_an_error_keeps_its_exit_code_without_a_reader(folder: Path) -> None:
    for redirection in ("2>&1 | true", "2>&-", "2>/dev/full"):
        assert sweep(folder, "check nowhere.yaml", redirection)[0] == 2
