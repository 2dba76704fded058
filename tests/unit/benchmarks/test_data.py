"""The benchmark of the data checks: faults are injected where it says, and it can tell a miss."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from benchmarks.data.detection import checked, outcome
from benchmarks.data.faults import FAULTS, NotApplicableError
from benchmarks.data.pairs import alarms, copies
from benchmarks.data.report import markdown
from benchmarks.data.sets import DataSet, generated_sets
from sweeps.data.checks.catalogue import CHECKS

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def sets() -> dict[str, DataSet]:
    return {data.name: data for data in generated_sets()}


def test_every_fault_changes_a_set_at_the_places_that_it_names(sets: dict[str, DataSet]) -> None:
    for fault in FAULTS:
        assert fault.code in CHECKS
        for data in sets.values():
            if not fault.fits(data):
                continue
            try:
                parts, places = fault.inject(data, Random(1))
            except NotApplicableError:
                continue
            before = data.copy()
            differing = {
                (part, index)
                for part, rows in parts.items()
                for index, row in enumerate(rows)
                if index >= len(before[part]) or before[part][index] != row
            }
            if fault.structure == "lines" or fault.code == "group-overlap":
                continue
            assert set(places) == differing if places else parts != before, fault.name


@pytest.mark.parametrize("code", ["empty-completion", "overlap", "near-overlap", "label-typo"])
def test_faults_are_found_at_their_places(sets: dict[str, DataSet], code: str) -> None:
    data = sets["builtin:nli"]
    fault = next(fault for fault in FAULTS if fault.code == code)
    found = outcome(fault, data, checked(data), seed=2)
    assert (found.found, found.found_places) == (True, found.injected)
    unchanged = replace(fault, inject=lambda data, random: (data.copy(), [("train", 500)]))
    missed = outcome(unchanged, data, checked(data), seed=2)
    assert (missed.found_places, missed.injected) == (0, 1)


def test_edited_copies_are_near_duplicates_and_generated_sentences_are_none(sets: dict[str, DataSet]) -> None:
    found = list(copies(sets["builtin:sums"]))
    assert sum(row.found for row in found) >= 0.95 * sum(row.copies for row in found)
    assert alarms(sets["builtin:sums"]).alarms <= 5


def test_the_report_names_what_was_missed() -> None:
    row = {"fault": "a", "code": "b", "kind": "structural", "found": False, "injected": 10, "found_places": 4}
    noise = {"data": "s", "share": 0.05, "examples": 100, "wrong": 5, "suspects": 5, "hits": 4}
    results = {
        "outcomes": [{**row, "data": "set", "further": 2}],
        "clean": [{"data": "set", "rows": 9, "codes": {}}],
        "copies": [{"data": "set", "edit": "e", "copies": 10, "found": 9}],
        "alarms": [{"data": "set", "examples": 100, "alarms": 1, "shown": [("x", "y")]}],
        "noise": [noise],
        "speed": [],
    }
    text = markdown(results)
    assert "| a | `b` | 1 | 0 | 4 of 10 | 2 | set |" in text
    assert "| s | 5% | 80% | 80% | 1.1% |" in text
