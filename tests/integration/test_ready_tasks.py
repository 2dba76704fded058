"""The sweep files in spaces/ need no network, and the embedded model learns their tasks."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.contract import EvaluationSettings, GenerationSettings, Measured, Placement, TrainingRequest
from backends.local import LocalBackend
from sweeps.cli import main
from sweeps.data.prepare import prepare
from sweeps.spec.loading import load

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
FILES = sorted(file for file in (ROOT / "spaces").glob("*.yaml") if file.stem != "snli-hosted")
"""All but one, whose check asks a running service."""

FREE_TEXT = {"extract-json": "exact_match", "gsm8k": "numeric", "instruct": "exact_match"}
"""The free-text tasks and the metrics that their sweeps maximize."""


def sweep(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main.main()
    out, err = capsys.readouterr()
    return int(exit_.value.code or 0), out, err


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_check_has_no_warning_but_that_of_the_fallback(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = sweep(capsys, monkeypatch, "--root", str(tmp_path), "check", str(file), "--json")
    assert code == 0
    checked = json.loads(out)
    has_fallback = load(file).data.fallback is not None
    assert [finding["place"] for finding in checked["findings"]] == [f"{file}:5"] * has_fallback
    assert all("is unavailable" in finding["message"] for finding in checked["findings"])
    if file.stem in FREE_TEXT:
        assert [piece["is_trained"] for piece in checked["example"]["pieces"]] == [False, True]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_plan_knows_its_examples_and_tokens(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = sweep(capsys, monkeypatch, "--root", str(tmp_path), "plan", str(file), "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan["data"]["training_examples"] == load(file).data.train_examples
    assert plan["estimate"]["tokens_per_trial"] > 0


def test_every_free_text_task_is_maximized_by_its_metric() -> None:
    with_metrics = {file.stem: load(file) for file in FILES if load(file).task_metrics}
    assert set(with_metrics) == set(FREE_TEXT)
    for name, spec in with_metrics.items():
        (objective,) = spec.objectives
        assert objective.maximize == f"valid_{FREE_TEXT[name]}"
        assert spec.finals is not None
        assert spec.finals.seeds == 2


def _measured(spec: Any, tmp_path: Path, seed: int) -> list[dict[str, float]]:
    """Train in the middle of the space; return the evaluations, the base model first."""
    prepared = prepare(
        spec.data.model_copy(update={"train_examples": 800, "valid_examples": 60, "test_examples": 20}),
        tmp_path,
        keep_rows=True,
    )
    settings = spec.evaluation.generate
    evaluation = EvaluationSettings(
        metrics=tuple(metric.request for metric in spec.task_metrics),
        generation=GenerationSettings(40, 1, replace(settings.decoding)),
    )
    point = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.35}
    request = TrainingRequest(f"s{seed}", "builtin:tiny-lm", prepared.dataset, point, seed, evaluation)
    backend = LocalBackend.open(LocalBackend.options_model(model="builtin:tiny-lm"), tmp_path / "local", Placement())
    assert not list(backend.check(request))
    handle = backend.submit(request)
    events: list[Any] = []
    while not events or events[-1].kind not in ("finished", "failed", "stopped"):
        events += backend.events(handle, len(events))
    backend.close()
    assert events[-1].kind == "finished", events[-1]
    return [dict(event.values) for event in events if isinstance(event, Measured) and event.scope == "evaluation"]


@pytest.mark.trains
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_epochs_on_orders_teach_the_model_to_write_json(seed: int, tmp_path: Path) -> None:
    base, *_, last = _measured(load(ROOT / "spaces/extract-json.yaml"), tmp_path, seed)
    assert base["valid_json_schema"] == base["valid_exact_match"] == 0
    assert last["valid_json_schema"] > 0.5
    assert last["valid_json_fields"] > base["valid_json_fields"] + 0.3
