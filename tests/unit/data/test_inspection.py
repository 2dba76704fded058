"""What a data set is about: the text, the answer and the task, found out from names and content."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sweeps.data.inspection import Inspection, inspect
from sweeps.errors import UserInputError

pytestmark = pytest.mark.unit

WORDS = ["please", "call", "winner", "home", "later", "prize", "today", "claim", "dinner", "free"]


def sentence(number: int) -> str:
    return " ".join(WORDS[(number * step) % 10] for step in (1, 3, 7, 9)) + f" {number}"


def of_rows(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]], name: str = "data.csv") -> Inspection:
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return inspect(str(folder / name))


def of_records(folder: Path, records: Sequence[dict[str, Any]], name: str = "data.jsonl") -> Inspection:
    text = json.dumps(records) if name.endswith(".json") else "\n".join(map(json.dumps, records))
    (folder / name).write_text(text, encoding="utf-8")
    return inspect(str(folder / name))


def test_a_label_is_recognised_by_its_values_not_by_its_name(tmp_path: Path) -> None:
    """The columns of the SMS spam collection: v1 is the label, v2 the text. They were swapped."""
    rows = [("spam" if n % 7 == 0 else "ham", sentence(n), "", "") for n in range(70)]
    found = of_rows(tmp_path, ("v1", "v2", "", ""), rows)
    assert (found.prompt, found.completion, found.answer_kind) == ("{v2}", " {v1}", "label")
    assert found.labels == {"ham": 60, "spam": 10}
    assert found.imbalance == 6


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    lines = "\n".join(f"{sentence(n)},{'yes' if n % 2 else 'no'}" for n in range(30))
    (tmp_path / "bom.csv").write_text(f"\ufefftext,label\n{lines}\n", encoding="utf-8")
    assert inspect(str(tmp_path / "bom.csv")).prompt == "{text}"


def test_lists_folders_and_compressed_files_are_read(tmp_path: Path) -> None:
    records = [{"question": sentence(n), "answer": f"it is {sentence(n + 1)}"} for n in range(30)]
    assert of_records(tmp_path, records, "list.json").prompt == "{question}"
    folder = tmp_path / "parts"
    folder.mkdir()
    of_records(folder, records, "train.jsonl")
    of_records(folder, records[:3], "test.jsonl")
    assert inspect(str(folder)).parts == ("train", "test")
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress((folder / "train.jsonl").read_bytes()))
    assert inspect(str(tmp_path / "packed.jsonl.gz")).answer_column == "answer"


@pytest.mark.parametrize("header", [None, ("ham", "call me later please home today 1")])
def test_a_file_without_header_is_refused_with_the_remedy(tmp_path: Path, header: Sequence[str] | None) -> None:
    rows = [("spam" if n % 3 == 0 else "ham", sentence(n)) for n in range(30)]
    with pytest.raises(UserInputError) as raised:
        of_rows(tmp_path, header or rows[0], rows)
    (problem,) = raised.value.problems
    assert "looks like an example" in problem.message
    assert problem.place.endswith("data.csv:1")
    assert "write the column names into the first line" in problem.hint


def test_prepared_pairs_need_no_templates_and_get_no_second_separator(tmp_path: Path) -> None:
    records = [{"prompt": f"{sentence(n)}\n\n###\n\n", "completion": f" {n % 2} END"} for n in range(30)]
    found = of_records(tmp_path, records)
    assert (found.prompt, found.completion, found.has_separator, found.stop) == (None, None, True, None)
    renamed = [{"text": record["prompt"], "label": record["completion"]} for record in records]
    found = of_records(tmp_path, renamed)
    assert (found.prompt, found.completion, found.has_separator) == ("{text}", "{label}", True)


def test_pairs_of_texts_and_their_context_are_kept_together(tmp_path: Path) -> None:
    rows = [(n, sentence(n), sentence(n + 1), ("same", "other", "neither")[n % 3]) for n in range(30)]
    found = of_rows(tmp_path, ("pairID", "sentence1", "sentence2", "verdict"), rows)
    assert (found.prompt, found.completion) == ("{sentence1}\n{sentence2}", " {verdict}")
    rows = [(f"story {sentence(n)} " * 5, f"what {sentence(n)}?", f"answer {sentence(n + 3)}") for n in range(30)]
    found = of_rows(tmp_path, ("context", "question", "answers"), rows)
    assert (found.prompt, found.answer_kind) == ("{context}\n{question}", "text")


def test_a_context_that_some_records_lack_is_left_out(tmp_path: Path) -> None:
    records = [
        {"context": sentence(n) if n % 3 else None, "question": f"{sentence(n)}?", "answer": f"it is {sentence(n)}"}
        for n in range(30)
    ]
    found = of_records(tmp_path, records)
    assert (found.prompt, found.other_columns) == ("{question}", ("context",))
    assert of_records(tmp_path, [{**record, "context": record["context"] or ""} for record in records]).prompt == (
        "{context}\n{question}"
    )


def test_identifiers_dates_and_constant_columns_are_not_texts(tmp_path: Path) -> None:
    rows = [(f"u-{n:04}", "en", f"2024-01-{n % 28 + 1:02}", sentence(n), n % 5 + 1) for n in range(60)]
    found = of_rows(tmp_path, ("user_id", "lang", "date", "body", "stars"), rows)
    assert (found.prompt, found.completion) == ("{body}", " {stars}")
    assert "lang" not in found.other_columns
    assert set(found.other_columns) == {"user_id", "date"}


def test_nested_records_are_reached_by_their_path(tmp_path: Path) -> None:
    records = [
        {"id": f"task_{n}", "instruction": sentence(n), "instances": [{"input": "", "output": sentence(n + 5)}],
         "is_classification": n % 4 == 0}
        for n in range(40)
    ]  # fmt: skip
    found = of_records(tmp_path, records)
    assert (found.prompt, found.completion) == ("{instruction}", " {instances.0.output}")
    assert found.answer_kind == "text"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("It is {n}.\n#### {n}", "number"),
        ("{n}", "number"),
        ('{{"total": {n}}}', "json"),
        ("about {n}", "short text"),
        ("the answer to this question is {n}", "text"),
    ],
)
def test_the_kind_of_free_answers_is_told(tmp_path: Path, answer: str, kind: str) -> None:
    records = [{"question": sentence(n), "answer": answer.format(n=n)} for n in range(30)]
    found = of_records(tmp_path, records)
    assert found.answer_kind == kind
    assert found.stop == (" END" if "\n" in answer else None)


def test_conversations_need_no_templates(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    found = of_records(tmp_path, [{"messages": turns}] * 5)
    assert (found.prompt, found.layout) == (None, "OpenAI chat")
    asked = [
        [{"role": "user", "content": sentence(n)}, {"role": "assistant", "content": "ab"[n % 2]}] for n in range(30)
    ]
    found = of_records(tmp_path, [{"messages": turns} for turns in asked])
    assert (found.answer_kind, found.labels) == ("label", {"a": 15, "b": 15})
    found = of_records(tmp_path, [{"messages": [*turns, *turns]} for turns in asked])
    assert found.answer_kind == "text"
    with pytest.raises(UserInputError, match="there is no message of the assistant"):
        of_records(tmp_path, [{"messages": [{"role": "user", "content": "hi"}]}])


def test_the_encoding_of_windows_is_found_out(tmp_path: Path) -> None:
    lines = [f"{sentence(n)} \u00a3{n},{'yes' if n % 2 else 'no'}" for n in range(30)]
    content = "\n".join(["text,label", *lines])
    (tmp_path / "windows.csv").write_bytes(content.encode("cp1252"))
    assert inspect(str(tmp_path / "windows.csv")).encoding == "cp1252"
    (tmp_path / "unicode.csv").write_text(content, encoding="utf-8")
    assert inspect(str(tmp_path / "unicode.csv")).encoding == "utf-8"


def test_truth_values_are_written_as_the_templates_write_them(tmp_path: Path) -> None:
    found = of_records(tmp_path, [{"text": sentence(n), "is_spam": n % 3 == 0} for n in range(30)])
    assert found.labels == {"false": 20, "true": 10}


def test_nothing_to_learn_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="fewer than two columns hold different values"):
        of_rows(tmp_path, ("text", "lang"), [(sentence(n), "en") for n in range(30)])
    with pytest.raises(UserInputError, match="does not exist"):
        inspect(str(tmp_path / "gone.csv"))
