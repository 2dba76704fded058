"""From `sweep run` to the registry and back by the commands alone: real Ray, real MLflow, the embedded model."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.cli import main

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FILE = """\
name: pairs
data: {source: "builtin:nli", prompt: "{premise}\\n{hypothesis}\\n\\n###\\n\\n", completion: " {label}",
       train_examples: 90, valid_examples: 30, test_examples: 60}
backend: {type: local, device: cpu}
space: {n_epochs: 1, batch_size: 8, learning_rate_multiplier: 0.06}
search: {sampler: random, scheduler: none, trials: 1, concurrency: 1}
objective: {maximize: valid_accuracy}
champion: {min_recall: 0}
"""


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """A process of its own, as Ray and the libraries' loggers stay in one."""
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_sweep_registers_its_winner_and_the_commands_ask_it(
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
    assert not (tmp_path / ".sweep").exists(), "looking makes nothing"

    (tmp_path / "pairs.yaml").write_text(FILE)
    code, out, err = run(tmp_path, "run", "pairs.yaml", "--json")
    assert code == 0, err
    decision = json.loads(out)["champion"]
    assert (decision["model"], decision["version"]) == ("pairs", "1")
    assert decision["difference_low"] <= decision["challenger_score"] - decision["champion_score"]
    assert "of 60 test examples" in decision["reason"]

    code, out, err = run(tmp_path, "run", "pairs.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["champion"] == decision, "a complete sweep is not decided anew"

    code, out, err = sweep("champion", "history", "--json")
    assert code == 0, err
    assert [load["decision"] for load in json.loads(out)] == [decision]

    if not decision["promoted"]:  # so small a run may or may not have learnt anything
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
    assert "version 1 of pairs, its champion answers 2 examples" in err
    registered = json.loads(out)
    assert [each["premise"] for each in registered] == ["A man sleeps.", "Two dogs, running"]
    for each in registered:
        shares = [each[f"probability.{name}"] for name in ("contradiction", "entailment", "neutral")]
        assert sum(shares) == pytest.approx(1)
        assert each["probability"] == max(shares) == each[f"probability.{each['prediction']}"]

    (tmp_path / "wrong.csv").write_text("premise,hypotheses\na,b\n")
    code, out, err = sweep("predict", "pairs", "wrong.csv")
    assert (code, out) == (2, "")
    assert "did you mean 'hypotheses'?" in err
    code, _, err = sweep("predict", "pears", "new.csv")
    assert code == 2
    assert "did you mean 'pairs'?" in err
    code, _, err = sweep("predict", "pairs", "new.csv", "--version", "9")
    assert code == 2
    assert "has no version 9" in err

    # without the registry's database the name is the sweep's alone: the trained model answers the same
    for each in (tmp_path / ".sweep").glob("mlflow.db*"):
        each.rename(each.with_name(f"away-{each.name}"))
    code, _, err = sweep("predict", "pairs", "new.csv", "--out", "answers.jsonl")
    assert code == 0, err
    assert "trial 0 of sweep pairs answers 2 examples" in err
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    for mine, other in zip(answers, registered, strict=True):
        assert mine["prediction"] == other["prediction"]
        assert mine["probability"] == pytest.approx(other["probability"], abs=1e-5)
