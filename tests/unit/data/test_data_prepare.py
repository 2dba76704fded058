"""prepare: files in; prepared files, findings and digests out; all errors at once; the fallback."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from backends.contract import DataFile
from sweeps.data import DataSpec, PreparedData, prepare
from sweeps.data.example_store import ExampleStore
from sweeps.errors import UserInputError

pytestmark = pytest.mark.unit

PAIR = {"prompt": "{text}", "completion": " {label}"}


def rows(count: int, start: int = 0) -> list[dict]:
    return [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(start, start + count)]


def write(path: Path, records: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def lines(file: DataFile | None) -> list[dict]:
    assert file is not None
    content = Path(file.path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == file.sha256
    found = [json.loads(line) for line in content.decode().splitlines()]
    assert len(found) == file.examples
    return found


def errors_of(spec: DataSpec, tmp_path: Path, data_path: Path | None = None) -> list[tuple[str, str, str]]:
    with pytest.raises(UserInputError) as raised:
        prepare(spec, tmp_path / "workspace", data_path)
    assert not (tmp_path / "workspace").exists()
    return [
        (problem.place.removeprefix(f"{tmp_path}/"), problem.message.removeprefix(f"{tmp_path}/"), problem.hint)
        for problem in raised.value.problems
    ]


def codes(prepared: PreparedData) -> list[str]:
    return [finding.code for finding in prepared.findings]


# ----------------------------------------------------------------------------------- what comes out
def test_one_file_is_split_and_every_part_is_written_the_same_way(tmp_path):
    source = write(tmp_path / "d.jsonl", rows(200))
    prepared = prepare(DataSpec(source=str(source), **PAIR), tmp_path)
    parts = [lines(prepared.dataset.train), lines(prepared.dataset.valid), lines(prepared.test)]
    assert [len(part) for part in parts] == [160, 20, 20]
    for line in [line for part in parts for line in part]:
        assert line["prompt"] == f"{line['segments'][0]}\n\n###\n\n"
        assert line["completion"] in prepared.dataset.labels == (" a\n", " b\n")
    assert sorted(line["segments"][0] for part in parts for line in part) == sorted(f"text {n}" for n in range(200))
    assert [Counter(line["completion"] for line in part) for part in parts] == [
        {" a\n": half, " b\n": half} for half in (80, 10, 10)
    ]
    assert prepared.label_counts["valid"] == {" a\n": 10, " b\n": 10}
    assert (prepared.task, prepared.dataset.layout, prepared.dataset.stop, prepared.separator) == (
        "classification",
        "completion",
        "\n",
        "\n\n###\n\n",
    )
    assert (prepared.name, prepared.source, prepared.fallback_from) == ("d.jsonl", str(source), None)
    assert prepared.origins["valid"] == "0.1 of the training examples of d.jsonl, stratified, seed 7"
    assert prepared.lengths["train"].completion_max == 3
    assert prepared.findings == ()


def test_the_same_input_gives_the_same_bytes_and_leaves_correct_files_untouched(tmp_path):
    spec = DataSpec(source=str(write(tmp_path / "d.jsonl", rows(200))), **PAIR)
    first = prepare(spec, tmp_path)
    path = Path(first.dataset.train.path)
    assert path.parent == tmp_path / "data" / first.fingerprint
    before = path.stat()
    assert prepare(spec, tmp_path) == first
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    elsewhere = prepare(spec, tmp_path / "other")
    assert (elsewhere.digests, elsewhere.fingerprint) == (first.digests, first.fingerprint)
    assert Path(elsewhere.dataset.train.path).read_bytes() == path.read_bytes()
    assert [folder.name for folder in (tmp_path / "data").iterdir()] == [first.fingerprint]


def test_a_prepared_file_that_was_changed_is_replaced(tmp_path):
    spec = DataSpec(source=str(write(tmp_path / "d.jsonl", rows(200))), **PAIR)
    path = Path(prepare(spec, tmp_path).dataset.valid.path)
    path.write_text("spoiled")
    assert len(lines(prepare(spec, tmp_path).dataset.valid)) == 20


def test_seed_template_and_data_change_the_fingerprint_but_the_order_of_the_file_does_not_change_the_parts(tmp_path):
    source = write(tmp_path / "d.jsonl", rows(200))
    spec = DataSpec(source=str(source), **PAIR)
    first = prepare(spec, tmp_path)
    others = [
        prepare(spec.model_copy(update=change), tmp_path)
        for change in ({"seed": 8}, {"prompt": "{text}\n##\n"}, {"stop": " END"}, {"train_examples": 50})
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5
    write(source, rows(200)[::-1])
    reversed_order = prepare(spec, tmp_path)
    assert lines(reversed_order.dataset.valid) == lines(first.dataset.valid)[::-1]


def test_a_limited_number_of_examples_is_stratified_and_named_in_the_origin(tmp_path):
    spec = DataSpec(source=str(write(tmp_path / "d.jsonl", rows(400))), train_examples=100, valid_examples=10, **PAIR)
    prepared = prepare(spec, tmp_path)
    assert prepared.label_counts["train"] == {" a\n": 50, " b\n": 50}
    assert prepared.label_counts["valid"] == {" a\n": 5, " b\n": 5}
    assert prepared.origins["train"].endswith("d.jsonl, 100 of 320, stratified, seed 7")


def test_the_files_of_a_directory_are_the_parts(tmp_path):
    write(tmp_path / "d" / "train.jsonl.gz", rows(120))
    write(tmp_path / "d" / "dev.jsonl", rows(20, start=1000))
    (tmp_path / "d" / "test.csv").write_text('text,label\n"two\nlines",a\nlast,b\n')
    prepared = prepare(DataSpec(source=str(tmp_path / "d"), **PAIR), tmp_path)
    assert [prepared.dataset.train.examples, prepared.dataset.valid.examples] == [120, 20]
    assert [line["segments"] for line in lines(prepared.test)] == [["two\nlines"], ["last"]]


def test_a_part_may_come_from_a_file_or_be_left_out(tmp_path):
    source, held_out = write(tmp_path / "d.jsonl", rows(200)), write(tmp_path / "v.jsonl", rows(10, start=900))
    prepared = prepare(DataSpec(source=str(source), validation=str(held_out), test=0, **PAIR), tmp_path)
    assert (prepared.dataset.train.examples, prepared.dataset.valid.examples, prepared.test) == (200, 10, None)
    prepared = prepare(DataSpec(source=str(source), validation=0.25, test=0.05, **PAIR), tmp_path)
    assert list(prepared.label_counts) == ["train", "valid", "test"]
    assert [sum(counts.values()) for counts in prepared.label_counts.values()] == [140, 50, 10]


def test_repeated_prompts_of_one_file_stay_in_one_part(tmp_path):
    source = write(tmp_path / "d.jsonl", rows(60) * 3)
    prepared = prepare(DataSpec(source=str(source), **PAIR), tmp_path)
    parts = [lines(file) for file in (prepared.dataset.train, prepared.dataset.valid, prepared.test)]
    prompts = [{line["prompt"] for line in part} for part in parts]
    assert sum(map(len, prompts)) == 60
    assert codes(prepared) == ["duplicate"]


def test_labels_keep_the_written_order_with_or_without_the_leading_space(tmp_path):
    spec = DataSpec(source=str(write(tmp_path / "d.jsonl", rows(200))), labels=["b", "a"], **PAIR)
    assert prepare(spec, tmp_path).dataset.labels == (" b\n", " a\n")
    plain = [{"prompt": f"p {number}", "completion": [" x", " y"][number % 2]} for number in range(100)]
    spec = DataSpec(source=str(write(tmp_path / "p.jsonl", plain)), labels=["y", "x"])
    assert prepare(spec, tmp_path).dataset.labels == (" y\n", " x\n")


def test_numbers_can_be_labels(tmp_path):
    records = [{"text": f"t {number}", "label": number % 2} for number in range(200)]
    spec = DataSpec(source=str(write(tmp_path / "d.jsonl", records)), labels=[0, 1], **PAIR)
    assert prepare(spec, tmp_path).dataset.labels == (" 0\n", " 1\n")


def test_conversations_are_text_generation(tmp_path):
    records = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"here: {n}"}]}
        for n in range(150)
    ]
    prepared = prepare(DataSpec(source=str(write(tmp_path / "d.jsonl", records))), tmp_path)
    assert (prepared.task, prepared.dataset.layout, prepared.dataset.labels, prepared.dataset.stop) == (
        "generation",
        "chat",
        (),
        "",
    )
    assert {json.dumps(line) for line in lines(prepared.dataset.valid)} < {json.dumps(record) for record in records}


# ------------------------------------------------------------------------------------------- errors
def test_all_errors_come_at_once_with_their_lines(tmp_path):
    records = [*rows(5), '{"text": ', {"text": "x"}, {"text": " ", "label": "a"}, {"text": "x", "label": ""}, *rows(1)]
    source = write(tmp_path / "d.jsonl.gz", records)
    valid = write(tmp_path / "v.jsonl", [*rows(2), {"text": "new", "label": "c"}, "[]"])
    spec = DataSpec(source=str(source), validation=str(valid), task="classification", **PAIR)
    found = errors_of(spec, tmp_path)
    assert sorted(place for place, _, _ in found) == sorted(
        [
            "d.jsonl.gz:6",  # not JSON
            "d.jsonl.gz:7",  # no label
            "d.jsonl.gz:8",  # empty prompt
            "d.jsonl.gz:9",  # empty completion
            "v.jsonl:1",  # also in train
            "v.jsonl:2",  # also in train
            "v.jsonl:3",  # a label without training examples
            "v.jsonl:4",  # not an object
        ]
    )
    assert ("v.jsonl:2", f"this valid example is also in train, at {source}:2") in [problem[:2] for problem in found]


def test_csv_errors_have_the_right_line_after_cells_of_several_lines(tmp_path):
    (tmp_path / "d.csv").write_text('text,label\n"a\nb\nc",x\nlonely\n" ",y\n"open,x\n')
    assert [place for place, _, _ in errors_of(DataSpec(source=str(tmp_path / "d.csv"), **PAIR), tmp_path)] == [
        "d.csv:5",
        "d.csv:6",
        "d.csv:7",
    ]


def test_a_wrong_column_is_one_error_with_the_nearest_name(tmp_path):
    source = write(tmp_path / "d.jsonl", rows(300))
    spec = DataSpec(source=str(source), prompt="{txt}", completion=" {label}")
    message = f"no record of {source} has the field 'txt'"
    assert errors_of(spec, tmp_path) == [("data.prompt", message, "did you mean 'text'?")]


def test_more_than_ten_errors_of_a_kind_are_counted(tmp_path):
    source = write(tmp_path / "d.jsonl", [*rows(200), *[{"text": None, "label": "a"}] * 47])
    found = errors_of(DataSpec(source=str(source), **PAIR), tmp_path)
    assert [place for place, _, _ in found] == [*(f"d.jsonl:{line}" for line in range(201, 211)), "d.jsonl"]
    assert found[-1][1] == "and 37 more of the same kind (field)"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "the train part has no examples"),
        (["{", "{"], "the objects are written over several lines"),
        (rows(1), "too few examples to hold some out as the valid part"),
        ([{"text": f"t {n}", "label": "same"} for n in range(9)], "all 9 completions are ' same\\n'"),
        ([{"text": "same", "label": "ab"[n % 2]} for n in range(9)], "all 9 prompts are identical"),
    ],
)
def test_data_from_which_a_model_can_learn_nothing_is_an_error(tmp_path, records, message):
    found = errors_of(DataSpec(source=str(write(tmp_path / "d.jsonl", records)), **PAIR), tmp_path)
    assert any(text.startswith(message) for _, text, _ in found)


def test_an_empty_validation_file_is_an_error(tmp_path):
    source, valid = write(tmp_path / "d.jsonl", rows(200)), write(tmp_path / "v.jsonl", [])
    spec = DataSpec(source=str(source), validation=str(valid), **PAIR)
    assert errors_of(spec, tmp_path) == [("v.jsonl", "the valid part has no examples", "")]


def test_missing_part_files_are_reported_together(tmp_path):
    source = write(tmp_path / "d.jsonl", rows(20))
    spec = DataSpec(source=str(source), validation="v.jsonl", test="t.jsonl", **PAIR)
    assert [place for place, _, _ in errors_of(spec, tmp_path)] == ["data.validation", "data.test"]


def test_the_spam_data_set_as_people_export_it(tmp_path):
    text = 'v1,v2,,,\r\nham,"Ok, lar... \xa35",,,\r\nspam,"WIN "now"",,,\r\nham,Hi, lost,,\r\n'.replace(
        '"now"', '""now""'
    )
    (tmp_path / "spam.csv").write_bytes(text.encode("latin-1") + b"ham,x,,,\r\nspam,y,,,\r\n" * 3)
    template = {"prompt": "{v2}", "completion": " {v1}"}
    recognised = prepare(DataSpec(source=str(tmp_path / "spam.csv"), **template), tmp_path)
    assert "encoding" in codes(recognised)
    prepared = prepare(DataSpec(source=str(tmp_path / "spam.csv"), encoding="cp1252", **template), tmp_path)
    assert prepared.digests == recognised.digests
    assert {"unnamed-column", "duplicate", "few-examples"} <= set(codes(prepared))
    assert "encoding" not in codes(prepared)
    everything = [*lines(prepared.dataset.train), *lines(prepared.dataset.valid), *lines(prepared.test)]
    assert ["Ok, lar... £5"] in [line["segments"] for line in everything]


# ------------------------------------------------------------------------- sources and the fallback
def snli_line(sentence: str, label: str) -> dict:
    return {"sentence1": f"{sentence}.", "sentence2": f"{sentence}?", "gold_label": label, "pairID": "1"}


def snli(directory: Path, ending: str = ".jsonl") -> Path:
    labels = ["entailment", "neutral", "contradiction"]
    for part, size in (("train", 120), ("dev", 6), ("test", 6)):
        pairs = [snli_line(f"{part} {number}", labels[number % 3]) for number in range(size)]
        write(directory / f"snli_1.0_{part}{ending}", [*pairs, snli_line(f"{part} none", "-")])
    return directory


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_the_official_snli_files(tmp_path, ending):
    directory = snli(tmp_path / "official", ending)
    prepared = prepare(DataSpec(source="snli", fallback="builtin:nli", checks="quick"), tmp_path, directory)
    assert (prepared.name, prepared.source) == ("snli", f"snli (official files in {directory})")
    assert prepared.fallback_from is None
    assert prepared.dataset.labels == (" contradiction\n", " entailment\n", " neutral\n")
    assert [sum(counts.values()) for counts in prepared.label_counts.values()] == [120, 6, 6]
    assert lines(prepared.dataset.train)[0] == {
        "prompt": "train 0.\ntrain 0?\n\n###\n\n",
        "completion": " entailment\n",
        "segments": ["train 0.", "train 0?"],
    }
    assert codes(prepared) == ["no-gold-label"] * 3
    assert prepared.findings[0].place == f"{directory}/snli_1.0_train{ending}:121"
    by_path = prepare(DataSpec(source=str(directory), checks="quick"), tmp_path)
    assert (by_path.name, by_path.fingerprint) == ("snli", prepared.fingerprint)


def test_a_broken_official_file_is_an_error_and_never_a_reason_for_the_fallback(tmp_path):
    directory = snli(tmp_path / "official")
    with (directory / "snli_1.0_train.jsonl").open("a") as file:
        file.write('{"sentence1": "a", "sentence2": "b", "gold_label": "neutrall"}\n')
        file.write('{"sentence1": "a", "sentense2": "b", "gold_label": "neutral"}\n')
    with (directory / "snli_1.0_dev.jsonl").open("a") as file:
        file.write(json.dumps(snli_line("train 0", "entailment")) + "\n")
    found = errors_of(DataSpec(source="snli", fallback="builtin:nli"), tmp_path, directory)
    assert [(place, hint) for place, _, hint in found] == [
        ("official/snli_1.0_train.jsonl:122", "did you mean 'neutral'?"),
        ("official/snli_1.0_train.jsonl:123", "did you mean 'sentense2'?"),
    ]


def test_a_benchmark_that_repeats_itself_is_warned_about(tmp_path):
    directory = snli(tmp_path / "official")
    with (directory / "snli_1.0_dev.jsonl").open("a") as file:
        file.write(json.dumps(snli_line("train 0", "entailment")) + "\n")
    prepared = prepare(DataSpec(source="snli"), tmp_path, directory)
    assert [finding.place for finding in prepared.findings if finding.code == "overlap"] == [
        f"{directory}/snli_1.0_dev.jsonl:8"
    ]


@pytest.mark.parametrize("present", [[], ["snli_1.0_dev.jsonl"], ["train.jsonl"]])
def test_a_directory_that_is_not_snli_is_an_error_when_snli_was_asked_for(tmp_path, present):
    (tmp_path / "d").mkdir()
    for name in present:
        write(tmp_path / "d" / name, rows(3))
    found = errors_of(DataSpec(source="snli", fallback="builtin:nli"), tmp_path, tmp_path / "d")
    assert [place for place, _, _ in found] == ["d"]


def test_a_place_that_does_not_exist_is_an_error_when_it_was_given_on_the_command_line(tmp_path):
    found = errors_of(DataSpec(source="snli", fallback="builtin:nli"), tmp_path, tmp_path / "nowhere")
    assert found == [("--data", "nowhere does not exist", "pass the file or the folder with the data")]


def test_the_fallback_is_used_for_an_absent_file_and_said(tmp_path):
    missing = tmp_path / "missing.jsonl"
    spec = DataSpec(
        source=str(missing), fallback="builtin:nli", train_examples=120, valid_examples=30, test_examples=30
    )
    prepared = prepare(spec, tmp_path)
    assert (prepared.name, prepared.source, prepared.fallback_from) == ("builtin:nli", "builtin:nli", str(missing))
    (fallback,) = (finding for finding in prepared.findings if finding.code == "fallback")
    assert fallback.message == (
        f"{missing} is unavailable (no such file or folder in {tmp_path}). "
        f"Using builtin:nli instead; results are not {missing} results."
    )
    assert [sum(counts.values()) for counts in prepared.label_counts.values()] == [120, 30, 30]
    assert prepare(spec.model_copy(update={"source": "builtin:nli"}), tmp_path).fingerprint == prepared.fingerprint


def test_the_fallback_is_not_used_for_a_broken_file_or_an_unknown_name(tmp_path):
    (tmp_path / "broken.jsonl").write_text("{\n")
    spec = DataSpec(source=str(tmp_path / "broken.jsonl"), fallback="builtin:nli", **PAIR)
    assert errors_of(spec, tmp_path)[0][0] == "broken.jsonl:1"
    (tmp_path / "empty").mkdir()
    assert errors_of(DataSpec(source=str(tmp_path / "empty"), fallback="builtin:nli"), tmp_path)[0][0] == "empty"
    assert errors_of(DataSpec(source="snil", fallback="builtin:nli"), tmp_path) == [
        ("data.source", "unknown source 'snil'", "did you mean 'snli'?")
    ]


def test_an_absent_source_without_a_fallback_or_with_an_absent_one(tmp_path):
    (found,) = errors_of(DataSpec(source=str(tmp_path / "a.csv")), tmp_path)
    assert "builtin:nli" in found[2]
    both = errors_of(DataSpec(source=str(tmp_path / "a.csv"), fallback=str(tmp_path / "b.csv")), tmp_path)
    assert [place for place, _, _ in both] == ["data.source", "data.fallback"]


def test_label_noise_is_in_the_training_labels_only(tmp_path):
    spec = DataSpec(source="builtin:nli", train_examples=300, valid_examples=60, test=0)
    clean, noisy = prepare(spec, tmp_path), prepare(spec.model_copy(update={"label_noise": 0.5}), tmp_path)
    assert clean.digests["valid"] == noisy.digests["valid"]
    different = [
        before["completion"] != after["completion"]
        for before, after in zip(lines(clean.dataset.train), lines(noisy.dataset.train), strict=True)
    ]
    assert sum(different) == pytest.approx(150, abs=30)


def test_two_files_for_one_part_are_ambiguous(tmp_path):
    write(tmp_path / "d" / "train.jsonl", rows(3))
    write(tmp_path / "d" / "training.jsonl", rows(3))
    (found,) = errors_of(DataSpec(source=str(tmp_path / "d"), **PAIR), tmp_path)
    assert found[1] == "several files for one part: train.jsonl, training.jsonl"


def test_importing_and_preparing_local_files_loads_nothing_heavy(tmp_path):
    source = write(tmp_path / "d.jsonl", rows(40))
    script = (
        "import sys, pathlib; from sweeps.data import DataSpec, prepare\n"
        f"spec = DataSpec(source={str(source)!r}, prompt='{{text}}', completion=' {{label}}', checks='quick')\n"
        f"prepare(spec, pathlib.Path({str(tmp_path)!r}))\n"
        "print(sorted({'torch', 'datasets', 'pandas', 'sklearn', 'ray', 'mlflow'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_what_is_neither_a_file_nor_a_folder_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jsonl"))
    expected = {
        "/dev/null": "a device",
        "pipe.jsonl": "a pipe",
        "socket.jsonl": "a socket",
        "loop.jsonl": "symbolic links",
        "x" * 300: "too long",
    }
    for name, words in expected.items():
        path = tmp_path / name
        for key in ("source", "validation", "test"):
            spec = DataSpec.model_validate({"source": "builtin:nli", key: str(path)})
            ((_, message, hint),) = errors_of(spec, tmp_path)
            assert words in message.lower()
            assert hint
        ((_, message, _),) = errors_of(DataSpec(source="x"), tmp_path, path)
        assert words in message.lower()
    spec = DataSpec(source="builtin:nli", validation=str(tmp_path / "folder.jsonl"))
    ((_, message, _),) = errors_of(spec, tmp_path)
    assert "a directory, not a file" in message


def test_an_unreadable_folder_is_one_problem(tmp_path: Path) -> None:
    write(tmp_path / "own" / "train.jsonl", rows(30))
    program = """
import os, sys
from pathlib import Path
from sweeps.data import DataSpec, prepare
from sweeps.errors import UserInputError
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    prepare(DataSpec(source=sys.argv[1]), Path(sys.argv[2]))
except UserInputError as error:
    print(*error.problems, sep="\\n")
"""
    (tmp_path / "own").chmod(0)
    command = [sys.executable, "-c", program, str(tmp_path / "own"), str(tmp_path / "workspace")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    (tmp_path / "own").chmod(0o755)
    assert "cannot be read: Permission denied" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1


def test_a_set_larger_than_the_memory_limit_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "pairs.jsonl", rows(60))
    spec = DataSpec(source=str(file), train_examples=30, checks="quick", **PAIR)
    in_memory = prepare(spec, tmp_path / "memory")
    monkeypatch.setattr(ExampleStore.__init__, "__defaults__", (100,))
    on_disk = prepare(spec, tmp_path / "disk")
    assert on_disk.digests == in_memory.digests
    assert on_disk.findings == in_memory.findings
    assert [path.name for path in (tmp_path / "disk" / "data").iterdir()] == [on_disk.fingerprint]


def test_examples_of_one_group_stay_in_one_part(tmp_path: Path) -> None:
    records = [row | {"user": number // 5} for number, row in enumerate(rows(100))]
    file = write(tmp_path / "pairs.jsonl", records)
    data = prepare(DataSpec(source=str(file), group_by="user", test=0.2, checks="quick", **PAIR), tmp_path / "work")
    parts: dict[int, set[str]] = {}
    for part, prepared in (("train", data.dataset.train), ("valid", data.dataset.valid), ("test", data.test)):
        for line in lines(prepared):
            parts.setdefault(int(line["segments"][0].split()[1]) // 5, set()).add(part)
    assert len(parts) == 20
    assert all(len(names) == 1 for names in parts.values())
    assert data.test is not None
    assert data.test.examples == 20


def test_a_group_column_that_does_not_exist_is_one_error_at_its_key(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.jsonl", [row | {"user": "a"} for row in rows(20)])
    spec = DataSpec(source=str(file), group_by="usr", **PAIR)
    assert errors_of(spec, tmp_path) == [
        ("data.group_by", f"no record of {file} has the field 'usr'", "did you mean 'user'?")
    ]
