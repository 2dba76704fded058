"""Preference data is refused, and what its remedy says trains the chosen answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from sweeps.data import DataSpec, prepare
from sweeps.data.store import read_lines
from sweeps.errors import Problem, UserInputError

pytestmark = pytest.mark.unit

USER, GOOD, BAD = ({"role": "user", "content": "q"}, *({"role": "assistant", "content": text} for text in ("a", "b")))


def problem_of(folder, record, **keys) -> Problem:
    records = [json.dumps(record).replace('"q"', f'"q{number}"').replace('"a"', f'"a{number}"') for number in range(20)]
    (folder / "d.jsonl").write_text("\n".join(records))
    with pytest.raises(UserInputError) as raised:
        prepare(DataSpec(source=str(folder / "d.jsonl"), **keys), folder)
    (problem,) = raised.value.problems
    return problem


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"question": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": [GOOD], "rejected": [BAD]},
    ],
)
def test_the_templates_of_the_remedy_train_the_chosen_answers(tmp_path, record):
    problem = problem_of(tmp_path, record)
    assert problem.place == f"{tmp_path}/d.jsonl:1"
    assert "TRL's DPO" in problem.hint
    written = re.search('prompt: "(.*?)" and completion: "(.*?)"', problem.hint)
    assert written is not None
    spec = DataSpec(source=str(tmp_path / "d.jsonl"), prompt=written[1], completion=written[2], checks="quick")
    lines = read_lines(prepare(spec, tmp_path).dataset.train)
    assert all(line["segments"][0][0] == "q" and line["completion"].startswith(" a") for line in lines)


@pytest.mark.parametrize(
    "record",
    [
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_command_of_the_remedy_makes_conversations(tmp_path, record):
    hint = problem_of(tmp_path, record).hint
    command = re.search("jq -c .*?out.jsonl", hint)
    assert command is not None
    subprocess.run(command[0].replace("in.jsonl", "d.jsonl"), shell=True, check=True, cwd=tmp_path)
    prepared = prepare(DataSpec(source=str(tmp_path / "out.jsonl"), checks="quick"), tmp_path)
    assert read_lines(prepared.dataset.train)[0]["messages"][0]["content"].startswith("q")


def test_texts_that_hold_prompt_and_answer_must_be_split(tmp_path):
    record = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    assert "split each into a prompt and a completion" in problem_of(tmp_path, record).hint


def test_marks_of_good_and_bad_are_not_ignored(tmp_path):
    problem = problem_of(tmp_path, {"prompt": "q", "completion": "a", "label": False})
    assert "both would be trained" in problem.message
    spec = DataSpec(source=str(tmp_path / "d.jsonl"), prompt="{prompt}", completion=" {label}", checks="quick")
    with pytest.raises(UserInputError, match="all 20 completions"):
        prepare(spec, tmp_path)
