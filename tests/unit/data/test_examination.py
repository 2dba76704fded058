"""The examination of a data set: made once, and remembered beside the prepared files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeps.data import examination
from sweeps.data.findings import FaultyDataError, Finding, error, warning
from sweeps.data.prepare import prepare
from sweeps.data.prepared_data import PreparedData
from sweeps.data.spec import DataSpec

pytestmark = pytest.mark.unit


def records(count: int = 60) -> list[dict[str, str]]:
    return [{"text": f"the {('red', 'blue')[n % 2]} car {n}", "label": ("warm", "cold")[n % 2]} for n in range(count)]


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    file = tmp_path / "cars.jsonl"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records()), encoding="utf-8")
    return file


def prepared(file: Path, workspace: Path, **keys: object) -> PreparedData:
    spec = DataSpec.model_validate({"source": str(file), "prompt": "{text}", "completion": " {label}", **keys})
    return prepare(spec, workspace)


def stored(data: PreparedData) -> list[Path]:
    return sorted(Path(data.dataset.train.path).parent.glob("examination-*.json"))


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the examinations that are made, and not read."""
    made: list[str] = []
    measure = examination.measure

    def counted(*arguments: object) -> object:
        made.append("")
        return measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(examination, "measure", counted)
    return made


def test_the_second_preparation_reads_it(data_file: Path, tmp_path: Path, examined: list[str]) -> None:
    first, second = prepared(data_file, tmp_path / "w"), prepared(data_file, tmp_path / "w")
    assert len(examined) == 1
    assert first.examination == second.examination
    assert first.findings == second.findings
    assert first.baselines is not None
    assert first.baselines.model("tfidf").values["valid"]["accuracy"] == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"findings": 3}', "\0\0", '{"findings": [{"code": 1}]}'])
def test_a_damaged_file_is_made_anew(data_file: Path, tmp_path: Path, examined: list[str], content: str) -> None:
    first = prepared(data_file, tmp_path / "w")
    (file,) = stored(first)
    file.write_text(content, encoding="utf-8")
    assert prepared(data_file, tmp_path / "w").examination == first.examination
    assert len(examined) == 2
    assert prepared(data_file, tmp_path / "w").examination == first.examination
    assert len(examined) == 2


def test_other_places_of_the_same_content_are_examined_again(
    data_file: Path, tmp_path: Path, examined: list[str]
) -> None:
    """A finding names the line of an example, which an empty line above moves."""
    first = prepared(data_file, tmp_path / "w")
    data_file.write_text("\n" + data_file.read_text(encoding="utf-8"), encoding="utf-8")
    second = prepared(data_file, tmp_path / "w")
    assert first.fingerprint == second.fingerprint
    assert len(examined) == 2
    assert first.examination is not None
    assert second.examination is not None
    assert first.examination.profile is not None
    assert second.examination.profile is not None
    places = [{example.place for example in data.profile.strangest} for data in (first.examination, second.examination)]  # type: ignore[union-attr]
    assert places[0] != places[1]


def test_other_code_makes_it_anew(
    data_file: Path, tmp_path: Path, examined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(data_file, tmp_path / "w")
    monkeypatch.setattr(examination, "_code_digest", lambda: b"a newer version")
    data = prepared(data_file, tmp_path / "w")
    assert len(examined) == 2
    assert len(stored(data)) == 2


def test_quick_checks_do_without(data_file: Path, tmp_path: Path, examined: list[str]) -> None:
    data = prepared(data_file, tmp_path / "w", checks="quick")
    assert data.examination is None
    assert data.baselines is None
    assert not examined


def test_a_full_disk_costs_the_memory_and_not_the_result(
    data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(examination, "write_text", full)
    data = prepared(data_file, tmp_path / "w")
    assert data.baselines is not None
    assert stored(data) == []


def test_findings_are_shown_and_errors_stop(data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warns(view: object) -> list[Finding]:
        return [warning("near-duplicate", "cars.jsonl:3", "nearly the same")]

    def refuses(view: object) -> list[Finding]:
        return [error("secret", "cars.jsonl:4", "a private key")]

    monkeypatch.setattr(examination, "THOROUGH", (warns,))
    data = prepared(data_file, tmp_path / "w")
    assert "near-duplicate" in [finding.code for finding in data.findings]
    monkeypatch.setattr(examination, "THOROUGH", (warns, refuses))
    monkeypatch.setattr(examination, "_code_digest", lambda: b"another version")
    with pytest.raises(FaultyDataError) as refused:
        prepared(data_file, tmp_path / "w")
    assert [(problem.place, problem.code) for problem in refused.value.problems] == [("cars.jsonl:4", "secret")]
    assert {"secret", "near-duplicate"} <= {finding.code for finding in refused.value.findings}


def test_the_shape_of_the_data(data_file: Path, tmp_path: Path) -> None:
    lines = data_file.read_text(encoding="utf-8").splitlines()
    lines[20] = json.dumps({"text": "zyzzyva quux flibbertigibbet", "label": "warm"})
    data_file.write_text("\n".join(lines), encoding="utf-8")
    shape = prepared(data_file, tmp_path / "w", validation=0.2, test=0).examination.profile  # type: ignore[union-attr]
    assert shape is not None
    for histogram in (shape.prompts, shape.completions):
        assert {part: sum(counts) for part, counts in histogram.counts.items()} == {"train": 48, "valid": 12}
        assert list(histogram.edges) == sorted(set(histogram.edges))
    assert shape.strangest[0].prompt == "zyzzyva quux flibbertigibbet"
    assert shape.strangest[0].place == f"{data_file}:21"
    assert 0 < shape.unseen_words["valid"] < 0.5  # the numbers of the cars


def test_the_same_data_give_the_same_bytes(data_file: Path, tmp_path: Path) -> None:
    one, other = prepared(data_file, tmp_path / "a"), prepared(data_file, tmp_path / "b")
    assert stored(one)[0].read_bytes() == stored(other)[0].read_bytes()
