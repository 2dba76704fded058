"""`sweep prepare`: what it shows, what it writes, what it refuses, and that twice is once."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import shlex
import sys
import zipfile
from collections import Counter
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeps.cli import main, prepare, terminal
from sweeps.data import DataSpec
from sweeps.data import prepare as prepare_sweep_data
from sweeps.data.findings import warning
from sweeps.data.inspection import inspect
from sweeps.data.repairs import REPAIRS, writing
from sweeps.data.repairs.advice import prepare_command

pytestmark = pytest.mark.unit

FILES = ("train.jsonl", "validation.jsonl", "test.jsonl")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sweep(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> tuple[int, str, str]:
        before, sys.argv = sys.argv, ["sweep", "prepare", *arguments]
        try:
            with pytest.raises(SystemExit) as exit_:
                main.main()
        finally:
            sys.argv = before
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return run


def write(name: str, rows: list[dict[str, object]]) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


SENTENCES = [
    f"{who} {does} {what} {where}"
    for who in ("The old gardener", "A young pilot", "My neighbour's cat", "Nobody")
    for does in ("paints", "forgets", "buys", "examines", "hides")
    for what in ("twelve violins", "the harbour wall", "cheap soup", "an atlas")
    for where in ("at dawn", "in Lisbon", "under the stairs", "for the jury", "twice a week")
]


def messy_rows(count: int = 120) -> list[dict[str, object]]:
    """Rows of two classes with every fault that a spreadsheet adds."""
    rows: list[dict[str, object]] = [
        {"id": number, "text": SENTENCES[(number * 37) % len(SENTENCES)], "label": ("calm", "busy")[number % 2]}
        for number in range(count)
    ]
    faults = [
        {"id": 900, "text": "   ", "label": "calm"},
        {"id": 901, "text": "An empty label", "label": ""},
        {"id": 902, "text": "A label of pandas", "label": "NaN"},
        {"id": 903, "text": f"{rows[3]['text']}  ", "label": "busy"},
        {"id": 904, "text": str(rows[4]["text"]).upper(), "label": "busy"},
        {"id": 905, "text": "One with caf\u00c3\u00a9", "label": " Calm"},
        {"id": 906, "text": "One with a typing error", "label": "bussy"},
    ]
    return [*rows, *faults]


def lines(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").split("\n") if line]


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def parts_of(folder: str) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name in FILES}


# ------------------------------------------------------------------------------------ what is done
def test_it_shows_every_repair_and_writes_nothing_when_nobody_can_be_asked(sweep):
    write("d.csv", messy_rows())
    code, out, err = sweep("d.csv", "--out", "ready")
    assert code == 2
    assert not Path("ready").exists()
    assert "nothing was written" in err
    assert "--yes makes the repairs above" in err
    for repair_code in ("mojibake", "whitespace", "null-value", "empty", "label-spelling", "conflicting-labels"):
        assert f"({repair_code})" in out
    assert "   - bussy\n   + busy" in out


def test_the_parts_are_clean_and_a_sweep_reads_them_without_templates(sweep):
    source = write("d.csv", messy_rows())
    before = source.read_bytes()
    code, _, err = sweep("d.csv", "--out", "ready", "--yes")
    assert (code, source.read_bytes()) == (0, before)
    assert "next: sweep" in err
    prepared = prepare_sweep_data(DataSpec(source="ready", checks="quick"), Path("workspace"))
    assert prepared.dataset.labels == (" busy\n", " calm\n")
    assert [finding.code for finding in prepared.findings if finding.code != "few-examples"] == []
    assert prepared.separator == "\n\n###\n\n"
    examples = [line for name in FILES for line in lines(f"ready/{name}")]
    assert len(examples) == 121  # 127 rows without 3 empty ones, one copy, and two that contradict each other
    assert {"prompt": "One with café\n\n###\n\n", "completion": " calm\n"} in examples
    assert all(set(example) == {"prompt", "completion"} for example in examples)


def test_the_manifest_counts_and_digests_and_the_list_of_changes_is_complete(sweep):
    source = write("d.csv", messy_rows())
    sweep("d.csv", "--out", "ready", "--yes", "--seed", "5")
    manifest = json.loads(Path("ready/manifest.json").read_text())
    assert manifest["input"] == {"d.csv": hashlib.sha256(source.read_bytes()).hexdigest()}
    assert manifest["options"]["seed"] == 5
    assert manifest["columns_left_out"] == ["id"]
    for part in manifest["parts"].values():
        content = Path("ready", part["file"]).read_bytes()
        assert (part["sha256"], part["examples"]) == (hashlib.sha256(content).hexdigest(), content.count(b"\n"))
    changes = lines("ready/changes.jsonl")
    counted = Counter(change["repair"] for change in changes)
    assert counted == {repair["code"]: repair["count"] for repair in manifest["repairs"]}
    assert {change["place"] for change in changes if change["repair"] == "empty"} == {"d.csv:122", "d.csv:123"}
    assert str(Path.cwd()) not in Path("ready/manifest.json").read_text() + Path("ready/changes.jsonl").read_text()


def test_the_manifest_digests_an_archive_or_the_records_and_names_no_folder(sweep):
    Path("deep").mkdir()
    write("d.csv", messy_rows())
    with zipfile.ZipFile("deep/d.zip", "w") as archive:
        archive.write("d.csv", "inside/d.csv")
    sweep("deep/d.zip", "--out", "ready", "--yes")
    digest = hashlib.sha256(Path("deep/d.zip").read_bytes()).hexdigest()
    assert json.loads(Path("ready/manifest.json").read_text())["input"] == {"d.zip": digest}
    sweep("builtin:nli", "--out", "nli", "--yes")
    assert list(json.loads(Path("nli/manifest.json").read_text())["input"]) == ["records"]


def test_preparing_again_gives_the_same_bytes_and_preparing_the_output_finds_nothing(sweep):
    write("d.csv", messy_rows())
    sweep("d.csv", "--out", "ready", "--yes")
    first = contents("ready")
    times = {path: path.stat().st_mtime_ns for path in Path("ready").iterdir()}
    _, _, err = sweep("d.csv", "--out", "ready", "--yes")
    assert "already has exactly these files" in err
    assert contents("ready") == first
    assert {path: path.stat().st_mtime_ns for path in Path("ready").iterdir()} == times
    _, out, _ = sweep("ready", "--out", "again", "--yes")
    assert "nothing to repair" in out
    assert parts_of("again") == parts_of("ready")
    assert Path("again/changes.jsonl").read_bytes() == b""


cells = st.text(st.sampled_from("aAbB \n.#-é\u00c3\u00a9ND"), max_size=8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(st.tuples(cells, st.sampled_from(["x", "X", "x ", "yes", "Yes.", "NaN", "", "no\n"])), max_size=40),
    test=st.lists(st.tuples(cells, st.sampled_from(["x", "yes", "other"])), max_size=6),
)
def test_any_rows_are_prepared_once_and_for_all(rows, test, sweep):
    write("in/train.jsonl", [{"prompt": prompt, "completion": completion} for prompt, completion in rows])
    write("in/test.jsonl", [{"prompt": prompt, "completion": completion} for prompt, completion in test])
    arguments = ("in", "--validation", "0.2", "--yes", "--force")
    code, _, err = sweep(*arguments, "--out", "ready")
    if code == 2:
        assert "error: " in err
        return
    assert code == 0
    code, out, _ = sweep("ready", "--out", "again", "--yes", "--force")
    assert code == 0
    assert "nothing to repair" in out
    assert parts_of("again") == parts_of("ready")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(turns=st.lists(st.tuples(cells, st.sampled_from(["x", "X", " x", "NaN", ""]), st.booleans()), max_size=30))
def test_any_conversations_are_prepared_once_and_for_all(turns, sweep):
    def conversation(question: str, answer: str, is_long: bool) -> dict[str, object]:
        first = [{"role": "user", "content": "and?"}, {"role": "assistant", "content": "ok"}] if is_long else []
        last = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"messages": [*first, *last]}

    write("in/train.jsonl", [conversation(*turn) for turn in turns])
    code, _, err = sweep("in", "--out", "ready", "--validation", "0.2", "--test", "0", "--yes", "--force")
    if code == 2:
        assert "error: " in err
        return
    code, out, _ = sweep("ready", "--out", "again", "--yes", "--force")
    assert code == 0
    assert "nothing to repair" in out
    assert parts_of("again") == parts_of("ready")


def test_delimiters_of_the_user_are_read_again_from_the_manifest(sweep):
    write("d.csv", messy_rows())
    sweep("d.csv", "--out", "ready", "--yes", "--separator", r"\n=>\n", "--stop", "<end>")
    assert all(line["prompt"].endswith("\n=>\n") for line in lines("ready/train.jsonl"))
    prepared = prepare_sweep_data(DataSpec(source="ready", checks="quick"), Path("workspace"))
    assert (prepared.separator, prepared.dataset.stop) == ("\n=>\n", "<end>")
    assert prepared.dataset.labels == (" busy<end>", " calm<end>")
    _, out, _ = sweep("ready", "--out", "again", "--yes")
    assert "nothing to repair" in out
    assert parts_of("again") == parts_of("ready")


def test_conversations_stay_conversations(sweep):
    conversations = [
        {"conversations": [{"from": "human", "value": f"  {text} "}, {"from": "gpt", "value": f"Yes: {text[::-1]}"}]}
        for text in SENTENCES[:60]
    ]
    write("d.jsonl", [*conversations, conversations[0]])
    code, out, _ = sweep("d.jsonl", "--out", "ready", "--yes")
    assert code == 0
    assert "(duplicate)" in out
    line = lines("ready/train.jsonl")[0]
    assert [message["role"] for message in line["messages"]] == ["user", "assistant"]
    assert line["messages"][0]["content"].strip() == line["messages"][0]["content"]
    assert prepare_sweep_data(DataSpec(source="ready"), Path("workspace")).dataset.layout == "chat"
    sweep("ready", "--out", "again", "--yes")
    assert parts_of("again") == parts_of("ready")


def test_a_first_sweep_file_for_the_output_still_sees_that_the_answers_are_numbers(sweep):
    rows = [{"question": text, "answer": f"Count them.\nThen add.\n#### {n}"} for n, text in enumerate(SENTENCES[:60])]
    write("d.jsonl", rows)
    sweep("d.jsonl", "--out", "ready", "--yes")
    assert lines("ready/train.jsonl")[0]["completion"].endswith(" END")
    assert inspect("ready").answer_kind == inspect("d.jsonl").answer_kind == "number"


# ----------------------------------------------------------------------------------------- options
def test_the_help_names_every_repair_that_an_option_can_choose():
    named = " ".join(str(prepare.prepare.help).split()).partition("The repairs: ")[2]
    usual, _, on_request = named.removesuffix(".").partition("; on request ")
    for names, mode in ((usual, "usual"), (on_request, "on request")):
        assert names.replace(" and ", ", ").split(", ") == [repair.code for repair in REPAIRS if repair.mode == mode]


def test_a_repair_on_request_is_made_when_it_is_the_only_one(sweep):
    rows = [*messy_rows(), {"id": 1, "text": f"{SENTENCES[0]} and so on", "label": "calm"}]
    write("d.csv", rows)
    _, out, _ = sweep("d.csv", "--out", "a", "--only", "near-duplicate", "--json", "--yes")
    assert "near-duplicate" in {repair["code"] for repair in json.loads(out)["repairs"]}


def test_groups_stay_together_and_all_parts_can_be_split_again(sweep):
    rows = [{"user": n // 4, "text": text, "label": "ab"[n % 2]} for n, text in enumerate(SENTENCES[:200])]
    write("in/train.jsonl", rows[:150])
    write("in/test.jsonl", rows[150:])
    code, _, _ = sweep("in", "--out", "ready", "--yes", "--split-again", "--group-by", "user", "--keep-columns")
    assert code == 0
    home: dict[object, set[str]] = {}
    for name in FILES:
        for line in lines(f"ready/{name}"):
            home.setdefault(line["user"], set()).add(name)
    assert sum(map(len, home.values())) == len(home) == 50
    assert len(lines("ready/train.jsonl")) < 170


def test_only_skip_and_also_choose_the_repairs(sweep):
    write("d.csv", messy_rows())
    _, out, _ = sweep("d.csv", "--out", "a", "--only", "whitespace", "--json", "--yes")
    assert {repair["code"] for repair in json.loads(out)["repairs"]} == {"whitespace", "empty"}
    _, out, _ = sweep("d.csv", "--out", "b", "--skip", "duplicate", "--max-characters", "45", "--json", "--yes")
    codes = {repair["code"] for repair in json.loads(out)["repairs"]}
    assert "duplicate" not in codes
    assert "long-example" in codes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "whitespaces"), "--only: unknown repair 'whitespaces'"),
        (("--skip", "empty"), "--skip: no sweep can use the data without the repair 'empty'"),
        (("--prompt", "text"), "--prompt: the template names no {column}"),
        (("--prompt", "{txt}", "--completion", "{label}"), "no record has the field 'txt'"),
        (("--group-by", "usr"), "no record has the field 'usr'"),
        (("--validation", "1.5"), "--validation: "),
        (("--validation", "nowhere.csv"), "nowhere.csv: does not exist"),
        (("--validation", "0.6", "--test", "0.5"), "--validation, --test: "),
        (("--encoding", "utf-88"), "--encoding: unknown encoding 'utf-88'"),
        (("--stop", "a"), "occurs inside this completion"),
    ],
)
def test_wrong_options_are_named(sweep, options, message):
    write("d.csv", messy_rows())
    code, _, err = sweep("d.csv", "--out", "ready", "--yes", *options)
    assert code == 2
    assert message in err
    assert not Path("ready").exists()


# --------------------------------------------------------------------------- the way to the command
SWEEP = """\
name: tickets
data: {source: d.csv, prompt: "{text}\\n\\n###\\n\\n", completion: " {label}", test: 0.2}
backend: {type: fake, model: fake-small}
space: {n_epochs: recommended}
objective: {maximize: valid_accuracy}
"""


def test_sweep_check_prints_the_command_and_it_mends_what_it_can(sweep, monkeypatch, capsys):
    def check() -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", "check", "tickets.yaml"])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        return int(exit_.value.code or 0), capsys.readouterr().err

    write("d.csv", messy_rows())
    Path("tickets.yaml").write_text(SWEEP)
    code, err = check()
    command = next(line for line in err.splitlines() if line.startswith("next: sweep prepare "))
    assert (code, "[empty-completion]" in err) == (2, True)
    assert sweep(*shlex.split(command)[3:], "--yes")[0] == 0
    assert len(lines("d-prepared/test.jsonl")) == 24
    Path("tickets.yaml").write_text(SWEEP.replace("d.csv, prompt", "d-prepared}\n#"))
    code, err = check()
    assert code == 0
    assert "sweep prepare" not in err


def test_warnings_that_a_repair_mends_name_the_command_and_others_do_not():
    spec = DataSpec(source="in/d.csv", seed=3, separator=" ->", completion="{a b}")
    spelled = [warning("imbalance", "", ""), warning("label-typo", "", "")]
    words = "sweep prepare in/d.csv --out d-prepared --completion '{a b}' --separator ' ->' --seed 3"
    assert prepare_command(spelled, spec) == words
    assert prepare_command(spelled, spec, Path("x/y.jsonl.gz")).startswith(
        "sweep prepare x/y.jsonl.gz --out y-prepared"
    )
    assert prepare_command([warning("imbalance", "", ""), warning("near-duplicate", "", "")], spec) == ""
    assert prepare_command(spelled, DataSpec(source="builtin:nli")) == ""
    assert prepare_command(spelled, DataSpec(source="snli"), Path("copy")) == ""


# ------------------------------------------------------------------------------------- bad input
def test_damaged_lines_are_left_out_and_counted_but_a_file_of_them_is_refused(sweep):
    path = write("d.jsonl", messy_rows(60))
    path.write_text(path.read_text() + '{"id": 1, "text": "cut\n' * 2 + '{"id": 7, "label": "calm"}\n')
    code, out, _ = sweep("d.jsonl", "--out", "ready", "--yes", "--prompt", "{text}", "--completion", "{label}")
    assert code == 0
    assert "Leave out lines that cannot be read: 3 lines (unreadable)" in out
    path.write_text('{"text": "a", "label": "b"}\n' + '{"cut\n' * 3)
    code, _, err = sweep("d.jsonl", "--out", "other", "--yes", "--prompt", "{text}", "--completion", "{label}")
    assert code == 2
    assert "3 of 4 lines cannot be used; the first: not valid JSON" in err


def test_an_unclosed_quote_is_refused_because_it_swallows_the_rest(sweep):
    path = write("d.csv", messy_rows(60))
    path.write_text(path.read_text() + '999,"never closed,calm\n' + "1,lost,calm\n" * 30)
    code, _, err = sweep("d.csv", "--out", "ready", "--yes")
    assert code == 2
    assert "never closed" in err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": " ", "completion": "x"}, {"prompt": "a", "completion": ""}],
            "no example is left after the repairs",
        ),
        ([{"prompt": "a", "completion": "x"}], "too few examples to hold some out"),
    ],
)
def test_too_little_to_train_on_is_refused(sweep, rows, message):
    write("d.jsonl", rows)
    code, _, err = sweep("d.jsonl", "--out", "ready", "--yes", "--prompt", "{prompt}")
    assert code == 2
    assert message in err


def test_the_folder_must_be_new_or_ours_and_not_around_the_input(sweep):
    write("d/d.csv", messy_rows())
    for out in ("d", ".", "d/below"):
        code, _, err = sweep("d" if out != "." else "d/d.csv", "--out", out, "--yes", "--force")
        assert code == 2
        assert "must not lie in each other" in err
    write("other/notes.txt", [{"a": 1}])
    code, _, err = sweep("d/d.csv", "--out", "other", "--yes")
    assert (code, "not empty" in err) == (2, True)
    assert sweep("d/d.csv", "--out", "other", "--yes", "--force")[0] == 0
    assert Path("other/notes.txt").exists()
    write("rival/train_2.csv", messy_rows())
    code, _, err = sweep("d/d.csv", "--out", "rival", "--yes", "--force")
    assert (code, "would be read as a part" in err) == (2, True)
    assert sweep("nowhere.csv", "--out", "new", "--yes")[0] == 2


def test_an_output_that_somebody_changed_is_not_overwritten(sweep):
    write("d.csv", messy_rows())
    sweep("d.csv", "--out", "ready", "--yes")
    with Path("ready/train.jsonl").open("a") as file:
        file.write('{"prompt": "my own row", "completion": " calm\\n"}\n')
    code, _, err = sweep("d.csv", "--out", "ready", "--yes")
    assert (code, "was changed after it was written" in err) == (2, True)
    assert sweep("d.csv", "--out", "ready", "--yes", "--force")[0] == 0
    assert "my own row" not in Path("ready/train.jsonl").read_text()


def test_an_output_whose_writing_was_killed_is_written_again(sweep):
    write("d.csv", messy_rows())
    sweep("d.csv", "--out", "ready", "--yes")
    first = contents("ready")
    Path("ready/manifest.json").unlink()
    Path("ready/train.jsonl").write_text("half")
    Path("ready/.writing-abc").mkdir()
    assert sweep("d.csv", "--out", "ready", "--yes")[0] == 0
    assert contents("ready") == first


def test_a_part_that_is_no_longer_made_is_removed(sweep):
    write("d.csv", messy_rows())
    sweep("d.csv", "--out", "ready", "--yes")
    sweep("d.csv", "--out", "ready", "--yes", "--test", "0")
    assert set(contents("ready")) == {"train.jsonl", "validation.jsonl", "changes.jsonl", "manifest.json"}
    _, out, _ = sweep("ready", "--out", "again", "--yes", "--json")
    assert set(json.loads(out)["parts"]) == {"train", "valid"}


def test_a_full_disk_leaves_no_file_behind(sweep, monkeypatch):
    write("d.csv", messy_rows())
    original = writing._write

    def full(path: Path, content):
        if path.name == "validation.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return original(path, content)

    monkeypatch.setattr(writing, "_write", full)
    code, _, err = sweep("d.csv", "--out", "ready", "--yes")
    assert (code, "No space left on device" in err) == (1, True)
    assert not Path("ready").exists()


# -------------------------------------------------------------------------------------- questions
def answering(monkeypatch: pytest.MonkeyPatch, *answers: bool) -> list[str]:
    """Answer the questions as somebody at a terminal would; return what was asked."""
    asked: list[str] = []
    given = iter(answers)

    def confirm(question: str, default: bool, err: bool) -> bool:
        asked.append(question)
        return next(given, default)

    monkeypatch.setattr(click, "confirm", confirm)
    monkeypatch.setattr(prepare, "_can_ask", lambda: True)
    return asked


def test_a_repair_that_was_declined_is_not_made_and_is_recorded(sweep, monkeypatch):
    write("d.csv", messy_rows())
    asked = answering(monkeypatch, False, False)
    code, out, _ = sweep("d.csv", "--out", "ready")
    assert code == 0
    assert asked[0] == "Make this repair?"
    manifest = json.loads(Path("ready/manifest.json").read_text())
    assert {repair["code"] for repair in manifest["declined"]} == {"mojibake", "whitespace", "near-duplicate"}
    assert "not made: remove stray spaces" in out
    assert any("caf\u00c3" in line["prompt"] for name in FILES for line in lines(f"ready/{name}"))


def test_declining_a_repair_that_every_sweep_needs_ends_the_command(sweep, monkeypatch):
    write("d.csv", [*messy_rows(60)[:60], {"id": 1, "text": "a", "label": ""}])
    answering(monkeypatch, False)
    code, _, err = sweep("d.csv", "--out", "ready")
    assert (code, "nothing was written" in err) == (2, True)
    assert not Path("ready").exists()


def test_the_diff_is_coloured_and_fits_the_screen():
    from rich.console import Console

    from sweeps.cli import change_view
    from sweeps.data.repairs import REPAIRS, Change

    spaces = next(repair for repair in REPAIRS if repair.code == "whitespace")
    changes = [Change("d.csv:2", "word " * 60 + "\x1b[2J ", "word " * 60 + "\x1b[2J"), Change("d.csv:3", " b", "b")]
    console = Console(width=80, force_terminal=True, color_system="standard", record=True, file=io.StringIO())
    console.print(change_view.repair(1, spaces, changes, width=80, is_made=True))
    coloured = console.export_text(styles=True, clear=False)
    assert "\x1b[1;4;31m" in coloured
    plain = console.export_text()
    assert "\x1b" not in plain
    assert all(len(line) <= 80 for line in plain.splitlines())
    assert "...d word word" in plain or "...word" in plain or "... word" in plain or "...rd word" in plain


def test_the_console_is_left_as_it_was():
    assert terminal.out.width >= 80
