"""The report on a data set: self-contained, escaped, deterministic, and complete without extras."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_page import Parsed

from sweeps.data.findings import Finding
from sweeps.data.prepare import prepare
from sweeps.data.prepared_data import PreparedData
from sweeps.data.profile import Histogram
from sweeps.data.spec import DataSpec
from sweeps.reports.data_charts import histogram_svg
from sweeps.reports.data_report import data_report

pytestmark = pytest.mark.unit

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    file = tmp_path / "mails.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label"])
        writer.writerow([f"{SCRIPT} qwertz", "spam & <b>"])
        for number in range(60):
            writer.writerow(
                [
                    f"mail number {number} about {'lunch' if number % 3 else 'money'}",
                    ("ham", "spam & <b>")[number % 3 == 0],
                ]
            )
    spec = DataSpec(source=str(file), prompt="{text}", completion=" {label}", validation=0.2, test=0.2)
    return prepare(spec, tmp_path / "workspace")


def text_of(html: str) -> str:
    # <rect>, <line> and <path> close themselves
    return Parsed(re.sub(r"<(rect|line|path)([^>]*)/>", "", html)).text


def test_it_shows_findings_baselines_labels_lengths_and_oddities(data: PreparedData) -> None:
    text = text_of(data_report(data, data.findings, "mails"))
    for heading in ("Findings", "What the task gives away", "Labels", "Lengths and drift", "The strangest examples"):
        assert heading in text
    assert "few-examples" in text
    assert "TF-IDF + logistic regression" in text
    assert "words that no training example has" in text
    assert "characters of the completion" in text


def test_it_loads_nothing_and_escapes_the_data(data: PreparedData) -> None:
    marked = Finding("warning", "duplicate", f"repeated {SCRIPT}", "mails.csv:3")
    html = data_report(data, [*data.findings, marked], "mails")
    assert SCRIPT not in html
    assert "spam & <b>" not in html
    assert SCRIPT in text_of(html)  # the strangest example, and the finding
    assert Parsed(re.sub(r"<(rect|line|path)([^>]*)/>", "", html)).loaded == []
    assert "http" not in html


def test_places_are_grouped_by_file_and_files_lose_their_folders(data: PreparedData) -> None:
    places = ("/some/where/a.csv:3", "/some/where/a.csv:9", "/other/b.csv:2")
    found = Finding("warning", "near-overlap", "3 examples, first /some/where/a.csv:3", places[0], "", 12, places)
    text = text_of(data_report(data, [found], "mails"))
    assert "a.csv: lines 3, 9; b.csv: lines 2, …" in text
    assert "/some/where" not in text
    same = [Finding("warning", "duplicate", "m", place) for place in ("/some/where/a.csv:3", "/other/a.csv:3")]
    assert "/some/where/a.csv" in text_of(data_report(data, same, "mails"))


def test_the_same_data_give_the_same_page(data: PreparedData) -> None:
    assert data_report(data, data.findings, "mails") == data_report(data, data.findings, "mails")


def test_without_an_examination_the_page_has_the_rest(data: PreparedData) -> None:
    text = text_of(data_report(replace(data, examination=None), (), "mails"))
    assert "The checks found nothing." in text
    assert "Labels" in text
    assert "strangest" not in text


def test_generated_text_has_no_labels_and_a_page(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    lines = [{"prompt": f"say {n} twice", "completion": f"{n} {n}"} for n in range(40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    prepared = prepare(DataSpec(source=str(file)), tmp_path / "workspace")
    text = text_of(data_report(prepared, prepared.findings, "tasks"))
    assert "Labels" not in text
    assert "nearest training example" in text


def test_a_histogram_of_one_length_can_be_drawn() -> None:
    assert "<rect" in histogram_svg(Histogram((5, 6), {"train": (10,), "valid": (2,)}), "characters")
    assert histogram_svg(Histogram((5, 6), {"train": (0,)}), "characters") == ""
