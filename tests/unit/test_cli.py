"""The commands that start nothing: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps import cli
from sweeps.spec import load

pytestmark = pytest.mark.unit

FILE = """\
name: pairs
data: {source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small}
space: {n_epochs: recommended, batch_size: recommended}
search: {trials: 4}
objective: {maximize: valid_accuracy}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "pairs.yaml"
    path.write_text(FILE)
    return path


def sweep(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code, stdout and stderr."""
    console = (cli._out, cli._err)
    before, sys.argv = sys.argv, ["sweep", *arguments]
    try:
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    finally:
        sys.argv = before
        assert console == (cli._out, cli._err)
    out, err = capsys.readouterr()
    return int(exit_.value.code or 0), out, err


def test_plan_as_json_goes_to_stdout_and_talk_to_stderr(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = sweep(capsys, "plan", str(file), "--json")
    plan = json.loads(out)
    assert code == 0
    assert plan["data"]["training_examples"] == 120
    assert plan["estimate"]["tokens_per_trial"] > 0
    batch = next(each for each in plan["space"]["parameters"] if each["name"] == "batch_size")
    assert (batch["written"], batch["distribution"]["attributes"]["low"]) == ("recommended", 1)
    assert batch["recommendation"]["source"]
    assert not list(file.parent.glob(".sweep/**/study.journal")), "a plan starts nothing"
    assert sweep(capsys, "status", "--json")[1].strip() == "[]"


def test_plan_for_people_names_every_parameter_and_its_source(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = sweep(capsys, "plan", str(file))
    assert code == 0
    assert "n_epochs" in out
    assert "Best practices for fine-tuning" in out
    assert f"sweep run {file}" in err


def test_check_says_that_all_is_fine(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = sweep(capsys, "check", str(file))
    assert (code, out) == (0, "")
    assert "120 training, 60 validation, 30 test examples" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "absent.yaml"], "no such file"),
        (["plan", "pairs.yaml", "--set", "search.trials=x"], "--set search.trials"),
        (["plan", "pairs.yaml", "--model", "nonsense"], "nonsense"),
        (["plan", "pairs.yaml", "--data", "nowhere"], "nowhere"),
        (["plan", "pairs.yaml", "--set", "space.lora_rnk=3"], "lora_rank"),
        (
            ["plan", "pairs.yaml", "--set", "search.sampler=grid", "--set", "space.n_epochs={low: 1, high: 3}"],
            "pairs.yaml:5",
        ),
        (["plan"], "FILE"),
        (["paln"], "plan"),
        (["backends", "lokal"], "local"),
        (["spaces", "lorra"], "lora"),
        (["spaces", "--scope", "gpt4"], "gpt3-classification"),
        (["init", "pairs.yaml"], "exists already"),
    ],
)
def test_what_the_user_wrote_wrong_ends_with_2(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    if "sampler=grid" in str(arguments):
        arguments = [
            *arguments,
            "--set",
            "space.batch_size={low: 1%, high: 2%}",
            "--set",
            "space.prompt_loss_weight={low: 0, high: 1}",
        ]
        says = "prompt_loss_weight"
    code, out, err = sweep(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_status_of_what_is_not_there_ends_with_1(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(capsys, "status", "pairs")[0] == 1
    code, out, err = sweep(capsys, "status")
    assert (code, out) == (0, "")
    assert "no sweep" in err


def test_init_writes_a_file_that_can_be_planned(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(capsys, "init", "first.yaml")[0] == 0
    assert load(Path("first.yaml")).name == "first"
    Path("questions.csv").write_text("Question,Answer\n" + "".join(f"what is {n}?,it is {n}\n" for n in range(40)))
    assert sweep(capsys, "init", "second.yaml", "--data", "questions.csv")[0] == 0
    spec = load(Path("second.yaml"))
    assert spec.data.prompt is not None
    assert spec.data.prompt.startswith("{Question}")
    assert sweep(capsys, "check", "second.yaml", "--set", "backend={type: fake}")[0] == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(file: Path, capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = sweep(capsys, "completion", shell)
    assert code == 0
    assert "_SWEEP_COMPLETE" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["spaces", "--json"],
        ["spaces", "--scope", "local", "--json"],
        ["backends", "--json"],
        ["backends", "fake", "--json"],
        ["doctor", "--json"],
        ["status", "--json"],
    ],
)
def test_every_reading_command_has_json(file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, _ = sweep(capsys, *arguments)
    assert code == 0
    assert json.loads(out) is not None


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check", "pairs.yaml"], ["plan", "pairs.yaml"]])
def test_what_starts_nothing_loads_no_heavy_library(file: Path, arguments: list[str]) -> None:
    script = (
        "import sys\nfrom sweeps import cli\nsys.argv = ['sweep', *sys.argv[1:]]\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'transformers', 'peft', 'pandas', 'datasets', 'openai'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=file.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
