"""The YAML reader: YAML 1.2 scalars, the line of every key, and all mistakes at once."""

from __future__ import annotations

import os
import socket
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.errors import UserInputError
from sweeps.spec.yaml_source import Document, from_mapping, parse, read, with_overrides

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("3.", 3.0),
        ("1_000", 1000),
        ("-7", -7),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("12:30", "12:30"),
        ("2024-10-06", "2024-10-06"),
        ("'5'", "5"),
        ("0.5%", "0.5%"),
        ("5.1.2", "5.1.2"),
    ],
)
def test_a_scalar_has_its_yaml_1_2_type(written: str, value: object) -> None:
    read_value = parse(f"key: {written}", "f").value["key"]
    assert read_value == value
    assert type(read_value) is type(value)


@given(st.floats(allow_nan=False))
def test_every_float_that_python_writes_is_read_back(number: float) -> None:
    written = {float("inf"): ".inf", float("-inf"): "-.inf"}.get(number, repr(number))
    assert parse(f"key: {written}", "f").value["key"] == number


def test_the_place_of_a_key_is_its_line_and_the_place_of_a_missing_key_is_its_parent() -> None:
    document = parse("a: 1\nb:\n  c: [1,\n   2]\n", "f.yaml")
    assert document.place(("a",)) == "f.yaml:1"
    assert document.place(("b", "c", 1)) == "f.yaml:4"
    assert document.place(("b", "absent", "deeper")) == "f.yaml:2"


def test_all_mistakes_of_a_file_are_reported_together() -> None:
    with pytest.raises(UserInputError) as caught:
        parse("a: 1\na: 2\nb: !!python/name:os.system x\nc: !secret y\n[1, 2]: z\n", "f.yaml")
    places = [problem.place for problem in caught.value.problems]
    assert "f.yaml:2" in places  # given twice
    assert "f.yaml:3" in places  # a tag that would run code
    assert "f.yaml:4" in places  # a custom tag
    assert "f.yaml:5" in places  # a key that is not text


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1", "- 1\n- 2", "", "just text"])
def test_text_that_is_not_a_mapping_is_an_input_error(text: str) -> None:
    with pytest.raises(UserInputError) as caught:
        parse(text, "f.yaml")
    assert caught.value.problems[0].place.startswith("f.yaml")
    assert caught.value.exit_code == 2


def test_the_error_for_a_missing_file_lists_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "snli.yaml").write_text("a: 1")
    with pytest.raises(UserInputError) as caught:
        read(tmp_path / "sni.yaml")
    assert "snli.yaml" in caught.value.problems[0].hint


def test_overrides_are_yaml_and_do_not_change_the_document() -> None:
    document = parse("search: {trials: 3}\n", "f.yaml")
    changed = with_overrides(document, ["search.trials=8", "budget.hours=1e-1", "space.x=[1, 2]", "a.b.c="])
    assert changed.value == {
        "search": {"trials": 8},
        "budget": {"hours": 0.1},
        "space": {"x": [1, 2]},
        "a": {"b": {"c": None}},
    }
    assert document.value == {"search": {"trials": 3}}
    assert changed.place(("search", "trials")) == "--set search.trials"


@pytest.mark.parametrize("bad", ["no-equals", "=1", "a..b=1", "a=[1"])
def test_a_malformed_override_is_an_input_error(bad: str) -> None:
    with pytest.raises(UserInputError):
        with_overrides(Document("f", {}, {}), [bad])


def problem_of(text: str) -> tuple[str, str]:
    """Return the place and the message of the only problem of a text."""
    with pytest.raises(UserInputError) as caught:
        parse(text, "f.yaml")
    (problem,) = caught.value.problems
    assert caught.value.exit_code == 2
    return problem.place, problem.message


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("b: 1\nname: &a [*a]", 2, "contains itself"),
        ("b: 1\nspace: &a {n: {m: *a}}", 2, "contains itself"),
        ("b: 1\nc: " + "[" * 5000 + "]" * 5000, 2, "nested"),
        ("b: 1\nc: " + "{a: " * 3000 + "1" + "}" * 3000, 2, "nested"),
        ("b: 1\n" + "".join("  " * level + "a:\n" for level in range(200)), 42, "nested"),
        ("b: 1\nc: " + "9" * 5000, 2, "too large"),
        ("b: 1\nc: 9223372036854775808", 2, "too large"),
        ("b: 1\nc: -1e400", 2, "too large"),
        ("b: 1\nc: 1e-400", 2, "too small"),
        ('b: 1\nc: "a\\0b"', 2, "U+0000"),
        ('b: 1\nc: "\\ud800"', 2, "U+D800"),
        ('b: 1\n"\\0": 2', 2, "U+0000"),
        ("b: 1\nc: a\x07b", 2, "U+0007"),
        ("b: 1\nc: {<<: {a: 1}}", 2, "merge key"),
        ("b: 1\nc: !!python/object:os.x {a: 1}", 2, "tag !!python/object:os.x"),
        ("b: 1\nc: !!str 5", 2, "tag !!str"),
        ("b: 1\n? [a, b]\n: 2", 2, "a key must be plain text"),
        ("b: 1\n---\nb: 2", 2, "another document"),
        ("b: 1\nc: *nope", 2, "undefined alias"),
    ],
)
def test_a_hostile_text_is_one_problem_with_its_line(text: str, line: int, words: str) -> None:
    place, message = problem_of(text)
    assert (place, words in message) == (f"f.yaml:{line}", True), message


def test_aliases_cannot_multiply_without_limit() -> None:
    names = "abcdefgh"
    text = 'a: &a ["lol", "lol", "lol", "lol", "lol", "lol", "lol", "lol"]\n' + "".join(
        f"{after}: &{after} [{', '.join([f'*{before}'] * 8)}]\n" for before, after in pairwise(names)
    )
    assert "values" in problem_of(text)[1]


def test_an_alias_is_a_copy_with_the_lines_of_its_anchor() -> None:
    document = parse("a: &x {low: 1,\n  high: 2}\nb: *x\nc: [*x, *x]\n", "f.yaml")
    assert document.value == {"a": {"low": 1, "high": 2}, "b": {"low": 1, "high": 2}, "c": [{"low": 1, "high": 2}] * 2}
    assert document.place(("b", "high")) == "f.yaml:2"
    document.value["a"]["low"] = 9
    assert document.value["b"]["low"] == 1


@pytest.mark.parametrize(
    "text", ["\ufeffa: 1\nb: x\n", "a: 1\r\nb: x\r\n", "# c\n\na: 1\nb: x", "%FOO bar\n---\na: 1\nb: x"]
)
def test_marks_line_ends_and_comments_do_not_matter(text: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(text.encode())
    assert read(file).value == {"a": 1, "b": "x"}


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("a: b\nc: caf\xe9\n".encode("latin-1"), ":2", "0xe9 is not UTF-8"),
        ("a: b\n".encode("utf-16"), "", "UTF-16"),
        (b"a: b\n\0\n", ":2", "U+0000"),
        (b"a: " + b"x" * 10_000_000, "", "larger than 256 KiB"),
        (b"", "", "must be a mapping"),
        (b"\xff\xfe\xfd", "", "UTF-16"),
    ],
)
def test_a_file_that_is_no_sweep_file_is_one_problem(content: bytes, line: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    with pytest.raises(UserInputError) as caught:
        read(file)
    (problem,) = caught.value.problems
    assert problem.place == f"{file}{line}"
    assert words in problem.message
    assert problem.hint


def test_what_is_not_a_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    kinds = {"pipe": "a pipe", "folder": "a directory", "socket": "a socket", "loop": "symbolic links"}
    for path, words in ((Path("/dev/zero"), "a device"), *((tmp_path / name, kind) for name, kind in kinds.items())):
        with pytest.raises(UserInputError) as caught:
            read(path)
        assert words in caught.value.problems[0].message


def test_a_pipe_that_the_shell_writes_is_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a: 1\n")
    os.close(writer)
    try:
        assert read(Path(f"/dev/fd/{reader}")).value == {"a": 1}
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    "bad",
    [
        "a=&x [*x]",
        "a=!!str x",
        "a=1e400",
        'a="\\0"',
        "a=a: b: c",
        "a=1\n---\n2",
        "a=\udcff",
        "\udcff=1",
        "a=[" + "[" * 999,
    ],
)
def test_a_hostile_override_is_one_problem_that_names_it(bad: str) -> None:
    with pytest.raises(UserInputError) as caught:
        with_overrides(Document("f", {}, {}), [bad])
    (problem,) = caught.value.problems
    assert problem.place.startswith("--set ")
    assert "\n" not in problem.message


def test_a_mapping_holds_what_a_file_could_hold() -> None:
    document = from_mapping({"data": {"source": Path("a/b.jsonl")}, "n": [1, 2.5, None, True]})
    assert document.value == {"data": {"source": "a/b.jsonl"}, "n": [1, 2.5, None, True]}
    circular: dict[str, object] = {}
    circular["self"] = circular
    for wrong in (circular, {"a": object()}, {"a": {1, 2}}, {"a": "\0"}, {"\ud800": 1}):
        with pytest.raises(UserInputError):
            from_mapping(wrong)
