"""The benchmark of generation compares equal work."""

from __future__ import annotations

import pytest

from backends.model_packages.text_generation import GeneratedAnswer
from benchmarks import generation, measure, report

pytestmark = [pytest.mark.unit, pytest.mark.trains]


@pytest.fixture(autouse=True)
def steady_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "calibrate", lambda: 100.0)


@pytest.mark.parametrize("may_end", [True, False])
def test_both_ways_write_the_same_texts(may_end: bool) -> None:
    result = generation.measure_model("builtin:tiny-lm", examples=6, max_tokens=5, rounds=2, may_end=may_end)
    assert result["equal_texts"] == 6
    tokens = result["tokens"]
    assert tokens[generation.OURS] == tokens[generation.ONE_BY_ONE]
    assert (tokens[generation.OURS] == 6 * 5) or may_end
    assert len(result["ratio"]["accepted"]) == 2
    assert [run["way"] for run in result["runs"]] == [generation.OURS, generation.ONE_BY_ONE] * 2
    head = {"cpus": 2, "cpu": "x", "memory_gib": 1, "system": "s", "python": "3", "packages": {}, "revision": "r"}
    machine = {**head, "load_before": 0.1}
    page = report.tables({"generation": {"date": "d", "machine": machine, "models": [result]}})
    assert "`builtin:tiny-lm`" in page
    assert "6 of 6" in page


def test_different_texts_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_one", lambda *_: GeneratedAnswer("other", 5, True))
    with pytest.raises(generation.DifferentTextsError, match="only 0 of 3"):
        generation.measure_model("builtin:tiny-lm", examples=3, max_tokens=5, rounds=1)
