"""`sweep run`, `champion` and `predict` with the real Ray, the real MLflow and the built-in
model.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_warnings import MLFLOW_WARNINGS
from user_environment import user_environment

from sweeps.cli import main

pytestmark = [
    pytest.mark.integration,
    *MLFLOW_WARNINGS,
]

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise}\\n{hypothesis}\\n\\n###\\n\\n", completion: " {label}",
       train_examples: 90, valid_examples: 30, test_examples: 60}
backend: {type: local, device: cpu}
space: {n_epochs: 1, batch_size: 8, learning_rate_multiplier: 0.06}
search: {sampler: random, scheduler: none, trials: 1, concurrency: 1}
objective: {maximize: valid_accuracy}
champion: {min_recall: 0}
"""


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `sweep` in its own process, because Ray and the libraries' loggers stay in a process."""
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder,
        env=user_environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_sweep_registers_its_winner_and_the_commands_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def sweep(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        gc.unfreeze()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    code, _, err = sweep("champion", "show")
    assert code == 1
    assert "no model is registered here" in err
    assert not (tmp_path / ".sweep").exists(), "a reading command created files"

    (tmp_path / "pairs.yaml").write_text(FILE)
    code, out, err = run(tmp_path, "run", "pairs.yaml", "--json")
    assert code == 0, err
    decision = json.loads(out)["champion"]
    assert (decision["model"], decision["version"]) == ("pairs", "1")
    assert decision["difference_low"] <= decision["challenger_score"] - decision["champion_score"]
    assert "on 60 test examples" in decision["reason"]

    code, out, err = run(tmp_path, "run", "pairs.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["champion"] == decision, "a complete sweep was decided again"

    code, out, err = sweep("champion", "history", "--json")
    assert code == 0, err
    assert [entry["decision"] for entry in json.loads(out)] == [decision]

    if not decision["promoted"]:  # a run this small may not have learnt anything
        code, _, err = sweep("champion", "show", "pairs")
        assert code == 0
        assert "has no champion" in err
        code, out, err = sweep("champion", "rollback", "--to", "1", "--why", "a start", "--by", "ann")
        assert code == 0, err
        assert "the champion of pairs is version 1" in out

    code, out, err = sweep("champion", "show", "--json")
    assert code == 0, err
    assert json.loads(out)["version"] == "1"

    (tmp_path / "new.csv").write_text(
        'premise,hypothesis\nA man sleeps.,A man is awake.\n"Two dogs, running",Animals run\n'
    )
    code, out, err = sweep("predict", "pairs", "new.csv", "--json")
    assert code == 0, err
    assert "the champion of pairs (version 1) predicts 2 examples" in err
    predictions = json.loads(out)
    assert [row["premise"] for row in predictions] == ["A man sleeps.", "Two dogs, running"]
    for row in predictions:
        probabilities = [row[f"probability.{name}"] for name in ("contradiction", "entailment", "neutral")]
        assert sum(probabilities) == pytest.approx(1)
        assert row["probability"] == max(probabilities) == row[f"probability.{row['prediction']}"]

    (tmp_path / "wrong.csv").write_text("premise,hypotheses\na,b\n")
    code, out, err = sweep("predict", "pairs", "wrong.csv")
    assert (code, out) == (2, "")
    assert "Did you mean 'hypotheses'?" in err
    code, _, err = sweep("predict", "pears", "new.csv")
    assert code == 2
    assert "Did you mean 'pairs'?" in err
    code, _, err = sweep("predict", "pairs", "new.csv", "--version", "9")
    assert code == 2
    assert "has no version 9" in err

    # Without the registry's database, only the sweep has this name. Its model predicts the same.
    for file in (tmp_path / ".sweep").glob("mlflow.db*"):
        file.rename(file.with_name(f"away-{file.name}"))
    code, _, err = sweep("predict", "pairs", "new.csv", "--out", "answers.jsonl")
    assert code == 0, err
    assert "trial 0 of sweep pairs predicts 2 examples" in err
    of_sweep = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    for row, expected in zip(of_sweep, predictions, strict=True):
        assert row["prediction"] == expected["prediction"]
        assert row["probability"] == pytest.approx(expected["probability"], abs=1e-5)
