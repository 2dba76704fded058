"""The gate: what stops a check, a plan and a run, what its JSON says, and the data report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import sweep

from sweeps.workspace import RunCommand, Workspace

pytestmark = pytest.mark.unit

FILE = """\
name: cars
data: {source: cars.csv, prompt: "{text} {place}", completion: " {label}", validation: 0.2, test: 0.2}
backend: {type: fake, model: fake-small}
space: {n_epochs: recommended}
search: {trials: 2}
objective: {maximize: valid_accuracy}
"""


GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "baselines.md"


def rows() -> list[str]:
    colours, places = ("red", "blue", "green"), ("the yard", "a field", "some road", "our garage")
    return [f"a {colours[n % 3]} car {n},{places[n % 4]},{colours[n % 3]}" for n in range(150)]


def write(folder: Path, lines: list[str]) -> Path:
    (folder / "cars.csv").write_text("\n".join(["text,place,label", *lines]) + "\n", encoding="utf-8")
    file = folder / "cars.yaml"
    file.write_text(FILE, encoding="utf-8")
    return file


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep with a warning: an example that is there twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return write(tmp_path, [*rows(), rows()[7]])


def codes(checked: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in checked["findings"]}


def accept_all_but(checked: dict[str, Any], *refused: str) -> list[str]:
    return [word for code in sorted(codes(checked) - set(refused)) for word in ("--accept", code)]


def test_the_json_of_a_check_has_codes_counts_places_and_baselines(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = sweep(capsys, "check", str(file), "--json")
    checked = json.loads(out)
    assert (code, checked["ok"], checked["problems"]) == (0, True, [])
    [found] = [finding for finding in checked["findings"] if finding["code"] == "duplicate"]
    assert found.keys() == {"severity", "code", "message", "place", "hint", "count", "places"}
    assert (found["severity"], found["count"], found["place"]) == ("warning", 1, "cars.csv:152")
    assert checked["baselines"].keys() == {"most_frequent", "tfidf", "tfidf.text", "tfidf.place"}
    assert checked["baselines"]["tfidf"]["valid_accuracy"] == 1.0
    assert checked["baselines"]["tfidf.place"]["valid_accuracy"] < 0.6
    assert checked["data"]["training_examples"] > 80
    assert not err
    guide = GUIDE.read_text(encoding="utf-8")
    for key in (*checked, *found, "most_frequent", "tfidf", "nearest", "copy"):
        assert f"`{key}`" in guide


@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_strict_stops_at_warnings_before_anything_starts(
    file: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, _, err = sweep(capsys, command, str(file), "--strict")
    assert code == 2
    assert "[duplicate]" in err
    assert "--accept duplicate lets it pass" in " ".join(err.split())
    assert not list(file.parent.glob(".sweep/**/study.journal"))


def test_accepted_warnings_pass(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = json.loads(sweep(capsys, "check", str(file), "--json")[1])
    code, _, err = sweep(capsys, "check", str(file), "--strict", *accept_all_but(checked))
    assert code == 0
    assert "ok." in err
    code, out, err = sweep(capsys, "check", str(file), "--strict", "--json", *accept_all_but(checked, "duplicate"))
    assert (code, json.loads(out)["ok"]) == (2, False)
    assert err.count("error:") == 1


def test_an_unknown_code_is_not_accepted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = sweep(capsys, "check", str(file), "--strict", "--accept", "duplicat")
    assert code == 2
    assert "Did you mean `duplicate`?" in err


def test_the_json_of_faulty_data_has_the_findings_and_the_problems(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(file.parent, [*rows(), "a red car,the yard,"])
    code, out, err = sweep(capsys, "check", str(file), "--json")
    checked = json.loads(out)
    assert (code, checked["ok"], checked["data"]) == (2, False, None)
    assert "empty-completion" in codes(checked)
    assert [(problem["code"], problem["place"]) for problem in checked["problems"]] == [
        ("empty-completion", "cars.csv:152")
    ]
    assert "[empty-completion]" in err


def test_the_json_of_a_wrong_sweep_file_has_the_problems(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = sweep(capsys, "check", str(file), "--json", "--set", "search.trials=0")
    checked = json.loads(out)
    assert (code, checked["ok"], checked["findings"]) == (2, False, [])
    assert checked["problems"][0]["message"]


def test_check_and_plan_show_the_baselines_and_the_codes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "plan"):
        _, out, err = sweep(capsys, command, str(file))
        assert "TF-IDF + logistic regression" in out
        assert "TF-IDF on {place} alone" in out
        assert "[duplicate]" in out + err


def test_check_html_writes_the_report_on_the_data(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = sweep(capsys, "check", str(file), "--html", "out/report.html")
    assert code == 0
    assert "wrote out/report.html" in err
    text = (file.parent / "out" / "report.html").read_text(encoding="utf-8")
    assert "The strangest examples" in text
    assert "TF-IDF + logistic regression" in text


def test_a_resumed_sweep_keeps_its_gate(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "sweeps" / "cars").mkdir(parents=True)
    command = RunCommand("/home", "cars.yaml", strict=True, accepted=("duplicate",))
    workspace.store_command("cars", command)
    assert workspace.last_command("cars") == command
    assert str(command) == "sweep run cars.yaml --strict --accept duplicate"
    older = {"folder": "/home", "file": "cars.yaml", "overrides": ["a=1"], "data": None, "address": None}
    (tmp_path / "sweeps" / "cars" / "command.json").write_text(json.dumps(older), encoding="utf-8")
    assert workspace.last_command("cars") == RunCommand("/home", "cars.yaml", ("a=1",))
