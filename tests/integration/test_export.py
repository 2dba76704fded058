"""`sweep export` after a real sweep: what it writes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from user_environment import user_environment

from sweeps.study.state import read_state
from sweeps.workspace import Workspace

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise}\\n{hypothesis}\\n\\n###\\n\\n", completion: " {label}",
       train_examples: 60, valid_examples: 30, test_examples: 30}
backend: {type: local, device: cpu}
space: {n_epochs: 1, batch_size: 8, learning_rate: 0.001, method: lora, lora_rank: [2, 4]}
search: {sampler: grid, scheduler: none, trials: 2, concurrency: 1}
objective: {minimize: valid_loss}
"""


def sweep(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `sweep` in its own process, because Ray and the libraries' loggers stay in a process."""
    environment = user_environment()
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder,
        env={**environment, "PATH": "/usr/bin:/bin"},  # no converter to GGUF
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_best_model_of_a_sweep_is_written_with_its_card(tmp_path: Path) -> None:
    (tmp_path / "pairs.yaml").write_text(FILE, encoding="utf-8")
    code, _, err = sweep(tmp_path, "run", "pairs.yaml")
    assert code == 0, err
    best = read_state(Workspace(tmp_path / ".sweep"), "pairs", None).best
    assert best is not None
    assert best.verdict is not None
    code, out, err = sweep(tmp_path, "export", "pairs", "--format", "adapter", "--out", "adapter", "--json")
    assert code == 0, err
    exported = json.loads(out)
    assert (exported["trial"], exported["format"]) == (best.number, "adapter")
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(exported["files"])
    code, _, err = sweep(tmp_path, "export", "pairs", "--format", "merged", "--out", "models/merged")
    assert code == 0, err
    merged = tmp_path / "models" / "merged"
    assert not list(merged.parent.glob("*.part"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in merged.iterdir()}
    assert modes["model.safetensors"] == modes["README.md"]

    card = (merged / "README.md").read_text(encoding="utf-8")
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {"library_name": "transformers", "tags": ["finesweep"]}
    plan = json.loads((tmp_path / ".sweep/sweeps/pairs/plan.json").read_text(encoding="utf-8"))
    for digest in plan["data"]["digests"].values():
        assert digest in text
    assert best.values is not None
    assert f"| valid_loss | {best.values[0]:.6g} |" in text
    assert f"| lora_rank | {best.hyperparameters['lora_rank']} |" in text
    assert f"{best.verdict.kind.value}: {best.verdict.evidence}" in text
    assert "{premise}\n{hypothesis}\n\n###" in text
    assert str(tmp_path) not in card

    # --------------------------------------------------------------------------------- bad input
    code, _, err = sweep(tmp_path, "export", "pairs", "--format", "merged", "--out", "models/merged")
    assert code == 2
    assert "is not empty" in err
    code, _, err = sweep(tmp_path, "export", "pairs", "--format", "gguf", "--out", "gguf")
    assert code == 1
    assert "convert_hf_to_gguf.py" in err
    assert not (tmp_path / "gguf").exists()
    assert not (tmp_path / "gguf.part").exists()
    code, _, err = sweep(tmp_path, "export", "pairs", "--format", "merged", "--out", "other", "--trial", "99")
    assert code == 2
    assert "trial 99" in err
