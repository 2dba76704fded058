"""A program with placeholders: every fault of its definition, and the calls that it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backends.command.backend import CommandBackend
from backends.command.launchers import RankGroup
from backends.command.options import CommandOptions
from backends.command.program import Program
from backends.command.run_folder import RunFolder
from backends.contract import BackendError, DataFile, Dataset, Placement, Scalar, TrainingRequest

pytestmark = pytest.mark.unit

HYPERPARAMETERS = {"lr": {"low": 1e-6, "high": 1e-2, "log": True}, "rank": {"choices": [8, 16]}}


def program(**options: Any) -> Program:
    written = {"run": "sh train.sh {lr} {rank} {output}", "hyperparameters": HYPERPARAMETERS, **options}
    return Program.of(CommandOptions.model_validate(written))


def messages(**options: Any) -> list[str]:
    return [failure.message for failure in program(**options).failures()]


def call(tmp_path: Path, hyperparameters: dict[str, Scalar], **options: Any) -> Any:
    run = RunFolder(tmp_path, "run")
    nothing = DataFile("", 0, "")
    request = TrainingRequest("key", "", Dataset(nothing, nothing, "completion"), hyperparameters, 5)
    checkpoint = options.pop("checkpoint", None)
    return program(**options).call(request, run, Placement(2.0), RankGroup(port=21000), checkpoint)


def test_a_program_without_a_fault_has_none() -> None:
    assert messages() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"run": ""}, "`run` is missing"),
        ({"run": "sh {lr} {output}"}, "the hyperparameter `rank` is used nowhere"),
        ({"run": "sh {lr} {rnk} {rank} {output}"}, "no hyperparameter fills the placeholder {rnk}"),
        ({"run": "sh {lr} {rank}"}, "all trials would write to the same place"),
        ({"run": "sh {lr} {rank} {output} {checkpoint}"}, "{checkpoint} has no value at the start"),
        ({"run": "sh {lr} {rank} {output} {config}"}, "{config} has no value without a configuration file"),
        ({"config": {"set": {"a": 1}}}, "the program never gets the configuration file"),
        ({"run": "sh --lr {lr} --lr {rank} {output}"}, "`run` gives --lr 2 times"),
        (
            {"run": "no-such-program {lr} {rank} {output}"},
            "the program no-such-program was not found",
        ),
        ({"run": "sh no_such_file.py {lr} {rank} {output}"}, "the file no_such_file.py was not found"),
        ({"metrics": ["tensorbord"]}, "there is no kind of log 'tensorbord'"),
        ({"run": "sh {config} {lr} {rank} {output}", "config": {"template": "gone.yml"}}, "gone.yml does not exist"),
    ],
)
def test_each_fault_of_the_definition_is_named(options: dict[str, Any], words: str) -> None:
    assert any(words in message for message in messages(**options)), messages(**options)


def test_a_program_in_the_folder_of_its_trial_writes_where_its_logs_are_looked_for(tmp_path: Path) -> None:
    made = call(tmp_path, {"lr": 1e-3, "rank": 8}, run="sh t.sh {lr} {rank}", working_folder="trial")
    assert made.working_folder == str(RunFolder(tmp_path, "run").output)


def test_a_key_that_resembles_one_of_the_template_is_a_fault(tmp_path: Path) -> None:
    template = tmp_path / "c.yml"
    template.write_text("learning_rate: 1\nother: 2\n")
    run = "sh {config} {output}"
    for key, count in (("learning_rte", 1), ("learning_rate", 0), ("something_else", 0)):
        config = {"template": str(template), "set": {key: "{lr}", "x": "{rank}"}}
        assert len(messages(run=run, config=config)) == count, key
    twice = {"template": str(template), "set": {"nested": {"key": "{lr}"}, "nested.key": "{rank}"}}
    assert messages(run=run, config=twice) == ["config: `nested.key` is set 2 times"]


def test_an_unknown_preset_is_named_with_the_nearest() -> None:
    with pytest.raises(BackendError) as raised:
        program(preset="plian")
    assert "plian" in raised.value.failure.message
    assert "plain" in raised.value.failure.detail


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"low": 2, "high": 1}, "above high"),
        ({"low": 0, "high": 1, "log": True}, "needs a range above 0"),
        ({"choices": [1], "low": 1}, "not both"),
        ({"type": "str", "low": 1}, "has no range"),
    ],
)
def test_a_wrong_declaration_is_an_error(written: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        program(hyperparameters={"lr": written})


@pytest.mark.parametrize("name", ["output", "a-b", "1a", ""])
def test_a_name_that_cannot_be_a_placeholder_is_an_error(name: str) -> None:
    with pytest.raises(ValidationError):
        program(hyperparameters={name: {"choices": [1]}})


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ({"low": 1, "high": 3}, "int"),
        ({"low": 1, "high": 3.5}, "float"),
        ({"low": 1, "high": 3, "type": "float"}, "float"),
        ({"choices": ["a", "b"]}, "str"),
        ({"choices": [True, False]}, "bool"),
        ({"choices": [8, 16]}, "int"),
        ({}, "float"),
    ],
)
def test_the_type_follows_from_the_values(written: dict[str, Any], kind: str) -> None:
    assert program(hyperparameters={"lr": written}).options.hyperparameters["lr"].kind == kind


def test_a_call_has_typed_values_and_leaves_out_what_is_absent(tmp_path: Path) -> None:
    made = call(
        tmp_path,
        {"lr": 1e-5},
        run="sh --lr {lr} --rank {rank} --config {config} --out {output} --seed {seed}",
        config={"set": {"lr": "{lr}", "lora": {"r": "{rank}"}, "name": "{key}"}, "name": "c.json"},
        environment={"RANK_OF_LORA": "{rank}", "RATE": "{lr}"},
    )
    folder = tmp_path / "run"
    options = ["--lr", "1e-05", "--config", f"{folder / 'c.json'}", "--out", f"{folder / 'output'}", "--seed", "5"]
    assert list(made.arguments) == ["sh", *options]
    assert made.config == '{\n  "lr": 1e-05,\n  "name": "key"\n}\n'
    assert made.environment["RATE"] == "1e-05"
    assert "RANK_OF_LORA" not in made.environment
    assert (made.environment["OMP_NUM_THREADS"], made.environment["MASTER_PORT"]) == ("2", "21000")


def test_a_call_that_resumes_names_the_checkpoint(tmp_path: Path) -> None:
    made = call(tmp_path, {"lr": 1, "rank": 8}, resume="--from {checkpoint}", checkpoint="/c/3")
    assert made.arguments[-2:] == ("--from", "/c/3")
    assert call(tmp_path, {"lr": 1, "rank": 8}, resume="--from {checkpoint}").arguments[-1].endswith("output")


@pytest.mark.parametrize("resume", [None, "--from {checkpoint}"])
def test_an_interrupted_program_keeps_its_progress_only_if_it_can_resume(resume: str | None) -> None:
    written = {"run": "sh train.sh {lr} {rank}", "hyperparameters": HYPERPARAMETERS, "resume": resume}
    declared = CommandBackend.describe(CommandOptions.model_validate(written))
    assert declared.keeps_progress == (resume is not None)


def test_a_shell_gets_the_whole_line(tmp_path: Path) -> None:
    made = call(tmp_path, {"lr": 1, "rank": 8}, run="echo ${HOME} {lr} {rank} > {output}/x", shell=True)
    assert made.arguments == ("/bin/sh", "-c", f"echo ${{HOME}} 1 8 > {tmp_path / 'run' / 'output'}/x")
