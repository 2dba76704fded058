"""The commands that start no sweep: their output, its stream, and their exit codes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import sweep

from sweeps.spec.loading import load

pytestmark = pytest.mark.unit

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small}
space: {n_epochs: recommended, batch_size: recommended}
search: {trials: 4}
objective: {maximize: valid_accuracy}
"""

OVERFIT = "epoch,loss,val_loss\n0,0.75,0.65\n1,0.55,0.61\n2,0.4,0.7\n3,0.31,0.84\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "pairs.yaml"
    path.write_text(FILE)
    (tmp_path / "overfit.csv").write_text(OVERFIT)
    (tmp_path / "healthy.json").write_text(
        '{"loss": [0.9, 0.6, 0.5], "val_loss": [0.92, 0.62, 0.61], "beta": [1, 1, 1]}'
    )
    return path


def test_plan_prints_json_to_stdout_and_messages_to_stderr(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = sweep(capsys, "plan", str(file), "--json")
    plan = json.loads(out)
    assert code == 0
    assert plan["data"]["training_examples"] == 120
    assert plan["estimate"]["tokens_per_trial"] > 0
    batch = next(parameter for parameter in plan["space"]["parameters"] if parameter["name"] == "batch_size")
    assert (batch["written"], batch["distribution"]["attributes"]["low"]) == ("recommended", 1)
    assert batch["recommendation"]["source"]
    assert not list(file.parent.glob(".sweep/**/study.journal")), "a plan must start nothing"
    assert sweep(capsys, "status", "--json")[1].strip() == "[]"


def test_plan_as_text_names_parameters_and_their_sources(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = sweep(capsys, "plan", str(file))
    assert code == 0
    assert "n_epochs" in out
    assert "Best practices for fine-tuning" in out
    assert f"sweep run {file}" in err


def test_check_of_a_correct_file_counts_its_examples(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = sweep(capsys, "check", str(file))
    assert (code, out) == (0, "")
    assert "120 training, 60 validation, 30 test examples" in err


def test_check_shows_a_conversation_with_what_is_trained(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"from": "human", "value": "really?"}, {"from": "gpt", "value": "yes"}]
    talks = [
        {"conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": f"answer {n}"}, *turns]}
        for n in range(30)
    ]
    (file.parent / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    options = ["--set", "data={checks: quick, source: talks.jsonl, test: 0.1}"]
    options += ["--set", "objective={minimize: valid_loss}"]
    options += ["--set", "backend={type: local, model: 'builtin:tiny-lm', device: cpu}"]
    code, out, err = sweep(capsys, "check", str(file), *options)
    assert code == 0
    assert "layout: ShareGPT, 24 conversations, 48 answers are trained" in err
    assert "<|end|>]]\nuser: really?\nassistant:[[ yes<|end|>]]" in out
    code, out, _ = sweep(capsys, "check", str(file), *options, "--json")
    checked = json.loads(out)
    assert [piece["is_trained"] for piece in checked["example"]["pieces"]] == [False, True, False, True]
    assert checked["data"]["conversations"]["trained_answers"] == 48
    assert [finding["message"] for finding in checked["findings"]] == ["only 24 training examples"]


@pytest.mark.parametrize(
    ("arguments", "message"),
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
        (["fit"], "FILE"),
        (["fit", "absent.csv"], "no such file"),
        (["fit", "pairs.yaml"], "pairs.yaml:1"),
        (["fit", "overfit.csv", "--metric", "perplexity"], "is a loss and no metric"),
        (["fit", "overfit.csv", "--plot", "curve.gif"], ".png"),
        (["fit", "overfit.csv", "--plot", "a.png", "--plot-size", "1x1"], "4x3"),
        (["fit", "overfit.csv", "--columns", "valid_los=x"], "Did you mean valid_loss?"),
        (["fit", "overfit.csv", "--classes", "1"], "--classes"),
    ],
)
def test_a_mistake_of_the_user_ends_with_exit_code_2(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    if "sampler=grid" in str(arguments):
        arguments = [
            *arguments,
            "--set",
            "space.batch_size={low: 1%, high: 2%}",
            "--set",
            "space.prompt_loss_weight={low: 0, high: 1}",
        ]
        message = "prompt_loss_weight"
    code, out, err = sweep(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["status", "report", "ui"])
def test_an_unknown_sweep_is_a_mistake_of_the_user(
    command: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = sweep(capsys, command, "pairs")
    assert (code, out) == (2, "")
    assert "pairs: there is no such sweep" in err


@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_an_unsupported_tracking_uri_is_reported_before_anything_is_created(
    command: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://somewhere:5000")
    code, out, err = sweep(capsys, command, str(file))
    assert (code, out) == (2, "")
    assert "MLFLOW_TRACKING_URI" in err
    assert "http, https" in err
    assert not (file.parent / ".sweep").exists()


def test_mistakes_in_form_names_and_data_are_reported_together(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "own.csv").write_text("premise,label\na,x\nb,y\nc,x\nd,y\n")
    file.write_text(
        FILE.replace("builtin:nli", "own.csv")
        .replace("trials: 4", "trials: many")
        .replace("n_epochs", "n_epoch")
        .replace("valid_accuracy", "valid_acuracy")
    )
    code, _, err = sweep(capsys, "check", str(file), "--set", "finals.candidates=0")
    assert code == 2
    for mistake in (
        "pairs.yaml:2: no record of own.csv has the field 'hypothesis'",
        "pairs.yaml:5: this backend has no hyperparameter n_epoch",
        "pairs.yaml:6: `search.trials` cannot be 'many'",
        "pairs.yaml:7: backend `fake` does not measure metric `valid_acuracy`",
        "--set finals.candidates: `finals.candidates` cannot be 0",
    ):
        assert mistake in err
    assert "5 problems; nothing was started" in err


def test_status_without_any_sweep_says_that_there_is_none(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_init_writes_the_schema_that_the_first_line_names(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(capsys, "init", "first.yaml")[0] == 0
    assert Path("first.yaml").read_text().startswith("# yaml-language-server: $schema=./sweep.schema.json\n")
    code, printed, _ = sweep(capsys, "schema")
    assert code == 0
    assert Path("sweep.schema.json").read_text() == printed
    schema = json.loads(printed)
    assert schema["required"] == ["name", "backend", "objective"]
    assert schema["allOf"][0]["then"]["required"] == ["data", "space"]


def test_init_keeps_a_schema_file_with_other_content_unless_forced(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(capsys, "init", "first.yaml")[0] == 0
    assert sweep(capsys, "init", "second.yaml")[0] == 0, "an identical schema file must not be an error"
    older = json.dumps({**json.loads(Path("sweep.schema.json").read_text()), "required": []})
    Path("sweep.schema.json").write_text(older)
    assert sweep(capsys, "init", "upgraded.yaml")[0] == 0, "the schema of another version is replaced"
    assert json.loads(Path("sweep.schema.json").read_text())["required"]
    Path("sweep.schema.json").write_text("mine")
    code, _, err = sweep(capsys, "init", "third.yaml")
    assert code == 2
    assert "sweep.schema.json: exists already, with other content" in err
    assert "--force" in err
    assert not Path("third.yaml").exists()
    assert Path("sweep.schema.json").read_text() == "mine"
    assert sweep(capsys, "init", "third.yaml", "--force")[0] == 0
    assert json.loads(Path("sweep.schema.json").read_text())["type"] == "object"


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
        ["fit", "overfit.csv", "--json"],
    ],
)
def test_every_reading_command_has_json(file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, _ = sweep(capsys, *arguments)
    assert code == 0
    assert json.loads(out) is not None


def test_fit_prints_verdict_evidence_best_epoch_and_advice(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = sweep(capsys, "fit", "overfit.csv", "--valid-examples", "5000", "--plot", "out/curve.png")
    assert code == 0
    for part in ("overfit", "%", "rose from 0.61", "epoch 2", "lower n_epochs", "counted from 0", "Keras CSV log"):
        assert part in out
    assert "wrote out/curve.png" in err
    assert (file.parent / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_fit_of_several_files_prints_a_table_and_draws_one_plot_per_file(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["overfit.csv", "healthy.json", "--valid-examples", "5000"]
    code, out, err = sweep(capsys, "fit", *arguments, "--plot", "curve.png")
    rows = [line.split()[:2] for line in out.splitlines()]
    assert code == 0
    assert ["overfit.csv", "overfit"] in rows
    assert ["healthy.json", "healthy"] in rows
    assert "curve-1.png" in err
    assert (file.parent / "curve-2.png").exists()
    assert "beta" not in out
    assert "ignored columns: beta" in sweep(capsys, "fit", *arguments, "--verbose")[1]
    verdicts = json.loads(sweep(capsys, "fit", *arguments, "--json")[1])
    assert [(verdict["verdict"], verdict["keep"], verdict["axis"]) for verdict in verdicts] == [
        ("overfit", 2.0, "epoch"),
        ("healthy", 3.0, "epoch"),
    ]
    assert verdicts[1]["ignored_columns"] == ["beta"]


def test_fit_reports_all_wrong_files_and_hides_no_verdict(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = sweep(capsys, "fit", "absent.csv", "overfit.csv", "pairs.yaml", "--json")
    assert code == 1
    assert [entry["verdict"] for entry in json.loads(out)] == ["overfit"]
    assert "absent.csv" in err
    assert "pairs.yaml:1" in err
    assert sweep(capsys, "fit", "absent.csv", "pairs.yaml")[0] == 2


def test_fit_of_a_folder_judges_its_logs_and_counts_the_rest(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "deep" / "er").mkdir(parents=True)
    (file.parent / "deep" / "er" / "metrics.csv").write_text(OVERFIT)
    (file.parent / "deep" / "notes.txt").write_text("nothing")
    code, out, err = sweep(capsys, "fit", "deep", "--json")
    assert (code, len(json.loads(out))) == (0, 1)
    assert "1 other file is no training log" in err
    (file.parent / "empty").mkdir()
    code, _, err = sweep(capsys, "fit", "empty")
    assert code == 2
    assert "the folder has no training log" in err


def test_fit_says_how_many_files_of_a_large_folder_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sweeps.reports import judged_histories

    monkeypatch.setattr(judged_histories, "MAX_SEARCHED", 2)
    (tmp_path / "a.csv").write_text("epoch,train_loss,val_loss\n1,0.9,0.8\n2,0.6,0.5\n3,0.4,0.7\n4,0.2,0.9\n")
    for name in ("b.txt", "c.csv", "d.csv", "e.png"):
        (tmp_path / name).write_text("no log")
    code, out, err = sweep(capsys, "fit", str(tmp_path))
    assert (code, "overfit" in out) == (0, True)
    assert "1 other file is no training log" in err
    assert "2 files were not looked at: a folder is searched up to 2 files" in err


def test_fit_lists_the_most_serious_first_and_writes_a_table_and_a_page(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "nan.csv").write_text("epoch,loss,val_loss\n1,0.5,0.5\n2,nan,nan\n")
    _, out, _ = sweep(capsys, "fit", "healthy.json", "overfit.csv", "nan.csv")
    assert out.index("nan.csv") < out.index("overfit.csv") < out.index("healthy.json")
    code, out, _ = sweep(capsys, "fit", "healthy.json", "overfit.csv", "--csv", "-", "--html", "new/page.html")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["verdict"] for row in rows] == ["overfit", "healthy"]
    page = (file.parent / "new/page.html").read_text(encoding="utf-8")
    assert page.index("overfit.csv") < page.index("healthy.json")
    assert page.count("<polyline") == 4
    assert "http" not in page, "the page loads nothing"


def test_fit_escapes_what_a_log_says(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "<b>x.csv").write_text("run,epoch,val_loss\n<i>a,1,1\n<i>a,2,0.9\nb,1,1\nb,2,0.9\n")
    assert sweep(capsys, "fit", "<b>x.csv", "--html", "new/page.html")[0] == 0
    page = (file.parent / "new/page.html").read_text(encoding="utf-8")
    assert "<b>x" not in page
    assert "<i>a" not in page


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_fit_draws_in_several_formats_and_sizes(
    file: Path, capsys: pytest.CaptureFixture[str], name: str, begins: bytes
) -> None:
    arguments = ("fit", "overfit.csv", "--plot", name, "--plot-size", "6x4", "--title", "A title", "--dpi", "72")
    assert sweep(capsys, *arguments)[0] == 0
    assert (file.parent / name).read_bytes().startswith(begins)


def test_fit_says_steps_where_steps_are_the_axis(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "steps.csv").write_text(OVERFIT.replace("epoch", "step"))
    _, out, _ = sweep(capsys, "fit", "steps.csv", "--json")
    [entry] = json.loads(out)
    assert entry["axis"] == "step"
    assert "epoch" not in entry["evidence"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["serve", "--help"],
        ["schema"],
        ["init", "new.yaml"],
        ["check", "pairs.yaml"],
        ["plan", "pairs.yaml"],
        ["fit", "overfit.csv"],
        ["schedule", "add", "pairs.yaml", "--cron", "0 2 * * *"],
        ["schedule", "list"],
    ],
)
def test_commands_that_start_no_sweep_load_no_heavy_library(file: Path, arguments: list[str]) -> None:
    script = (
        "import sys\nfrom sweeps.cli import main as cli\nsys.argv = ['sweep', *sys.argv[1:]]\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'transformers', 'peft', 'pandas', 'datasets', 'openai'}\n"
        "heavy |= {'fastapi', 'starlette', 'uvicorn', 'python_multipart', 'prometheus_client'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=file.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
