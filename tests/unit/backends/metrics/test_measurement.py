"""A set of metrics measures in one way: the texts that it compares, its numbers, its errors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from backends.contract import BackendError, FailureKind, MetricRequest
from backends.metrics import registry
from backends.metrics.checking import MetricProblem, try_out
from backends.metrics.contract import Answers, Metric, MetricDeclaration, Scores
from backends.metrics.cost import cost_bound
from backends.metrics.measurement import Measurement, MetricSet
from backends.metrics.references import prompt_text, reference_texts
from backends.metrics.requested_metric import prepared
from backends.metrics.waits import waiting

pytestmark = pytest.mark.unit

LINES = (
    {"prompt": "p1", "completion": " Paris END", "segments": [], "row": {"answer": ["Paris", "Lutetia"], "n": 4}},
    {"prompt": "p2", "completion": " Rome END", "segments": [], "row": {"answer": "Rome", "n": 2.5}},
)


def measure(requests: Sequence[MetricRequest], predictions: Sequence[str], folder: Path) -> Measurement:
    with MetricSet.open(requests, folder) as metrics:
        return metrics.measure(predictions, LINES, " END")


class FakeOptions(BaseModel):
    """Options of the metric below."""

    model_config = ConfigDict(extra="forbid")


class FakeMetric:
    """A metric whose scores, errors and costs a test chooses."""

    options_model = FakeOptions
    declaration = MetricDeclaration("maximize")
    result: Any = Scores(0.5)
    opened = 0

    @classmethod
    def prepare(cls, options: BaseModel, folder: Path) -> BaseModel:
        return options

    @classmethod
    def describe(cls, options: BaseModel) -> MetricDeclaration:
        return cls.declaration

    @classmethod
    def open(cls, options: BaseModel, workspace: Path) -> Metric:
        cls.opened += 1
        return cls()

    def problems(self, answers: Answers) -> Sequence[str]:
        return ()

    def score(self, answers: Answers) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def close(self) -> None:
        type(self).opened -= 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeMetric]:
    """The metric `fake`, beside the installed ones."""

    class Fake(FakeMetric):
        pass

    load = registry.load
    monkeypatch.setattr(registry, "load", lambda name: Fake if name == "fake" else load(name))
    return Fake


# -------------------------------------------------------------------------------- compared texts
@pytest.mark.parametrize(
    ("line", "column", "texts"),
    [
        ({"completion": " yes\n", "segments": []}, None, ("yes",)),
        ({"completion": " yes END", "segments": []}, None, ("yes",)),
        ({"completion": "\n two\nlines  END", "segments": []}, None, ("two\nlines",)),
        ({"completion": " END of END", "segments": []}, None, ("END of",)),
        (
            {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": " yes END"}]},
            None,
            ("yes",),
        ),
        ({"messages": [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}, None, ("ab",)),
        ({"completion": "x", "row": {"a": " yes "}}, "a", ("yes",)),
        ({"completion": "x", "row": {"a": ["yes", " y", 1]}}, "a", ("yes", "y", "1")),
        ({"completion": "x", "row": {"a": 42}}, "a", ("42",)),
        ({"completion": "x", "row": {"a": 2.5}}, "a", ("2.5",)),
        ({"completion": "x", "row": {"a": True}}, "a", ("true",)),
        ({"completion": "x", "row": {"a": {"ü": [1]}}}, "a", ('{"ü": [1]}',)),
        ({"messages": [{"content": None, "tool_calls": []}], "row": {"a": "f()"}}, "a", ("f()",)),
    ],
)
def test_reference_texts(line: Mapping[str, Any], column: str | None, texts: tuple[str, ...]) -> None:
    assert reference_texts(line, " END", column) == texts


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ({"completion": "x"}, "a", "has no value in the column 'a'"),
        ({"completion": "x", "row": {"a": None, "b": 1}}, "a", "has no value in the column 'a'"),
        ({"completion": "x", "row": {"a": []}}, "a", "has an empty list in the column 'a'"),
        ({"messages": [{"role": "assistant", "content": None}]}, None, "has no text in its last message"),
    ],
)
def test_lines_without_a_reference(line: Mapping[str, Any], column: str | None, message: str) -> None:
    with pytest.raises(BackendError, match=message) as raised:
        reference_texts(line, "", column)
    assert raised.value.failure.detail


def test_the_prompt_of_a_conversation() -> None:
    assert prompt_text({"prompt": "p ", "completion": "x"}) == "p"
    turn = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert prompt_text({"messages": turn}) == "Hi"
    assert prompt_text({"messages": [*turn, *turn]}) == "user: Hi\n\nassistant: Hello\n\nuser: Hi"


# ------------------------------------------------------------------------------------- measuring
def test_predictions_are_stripped_as_references_are(tmp_path: Path) -> None:
    requests = [
        MetricRequest("exact", "exact_match"),
        MetricRequest("city", "exact_match", {}, reference="answer"),
        MetricRequest("number", "numeric", {}, reference="n"),
        MetricRequest("overall", "bleu"),
    ]
    measured = measure(requests, [" Paris END", "\nLutetia "], tmp_path)
    assert measured.values == {
        "exact": 0.5,
        "city": 0.5,
        "number": 0,
        "number_found": 0,
        "overall": measured.values["overall"],
    }
    assert measured.per_example == {"exact": (1, 0), "city": (1, 0), "number": (0, 0)}
    assert (measured.usd, measured.tokens) == (0, 0)
    assert measured.notes.keys() == {"overall"}
    assert measured.scores_of(0) == {"exact": 1, "city": 1, "number": 0}
    assert measure(requests, ["Lutetia", "Rome"], tmp_path).values["city"] == 1


def test_the_declarations_are_by_name(tmp_path: Path) -> None:
    requests = [MetricRequest("a", "refusal_rate"), MetricRequest("b", "chrf", {"average": "corpus"})]
    with MetricSet.open(requests, tmp_path) as metrics:
        declared = metrics.declarations
    assert declared == {
        "a": MetricDeclaration("minimize"),
        "b": MetricDeclaration("maximize", 0, 100, is_mean=False),
    }


def test_costs_add_up_unless_one_is_unknown(fake: type[FakeMetric], tmp_path: Path) -> None:
    fake.result = Scores(0.5, (0, 1), {"x": 2}, "a note", usd=0.25, tokens=10)
    two = [MetricRequest("a", "fake"), MetricRequest("b", "fake"), MetricRequest("a_x", "exact_match")]
    measured = measure(two, ["Paris", "Rome"], tmp_path)
    assert (measured.usd, measured.tokens, measured.notes) == (0.5, 20, {"a": "a note", "b": "a note"})
    assert measured.values == {"a": 0.5, "a_x": 1, "b": 0.5, "b_x": 2}
    fake.result = Scores(0.5, usd=None)
    assert measure(two, ["Paris", "Rome"], tmp_path).usd is None


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        (Scores(math.nan), FailureKind.BUG, "`score` returned nan where it must return a finite number"),
        (Scores(0.5, (0.5, math.inf)), FailureKind.BUG, "`score` returned inf"),
        (Scores(0.5, (), {"x": math.nan}), FailureKind.BUG, "`score` returned 0 values for 2 examples"),
        (Scores(0.5, None, {"x": math.nan}), FailureKind.BUG, "`score` returned nan"),
        (Scores("1"), FailureKind.BUG, "`score` returned '1'"),  # type: ignore[arg-type]
        (0.5, FailureKind.BUG, "`score` returned float and no Scores"),
        (ValueError("what?"), FailureKind.BUG, "`score` of the metric raised ValueError: what?"),
        (SystemExit(1), FailureKind.BUG, "`score` of the metric raised SystemExit"),
        (MemoryError(), FailureKind.OUT_OF_MEMORY, "`score` of the metric ran out of memory"),
    ],
)
def test_a_failing_metric_is_named(
    fake: type[FakeMetric], tmp_path: Path, result: Any, kind: FailureKind, message: str
) -> None:
    fake.result = result
    with pytest.raises(BackendError) as raised:
        measure([MetricRequest("fine", "exact_match"), MetricRequest("mine", "fake")], ["a", "b"], tmp_path)
    assert raised.value.failure.kind is kind
    assert raised.value.failure.message.startswith(f"metric 'mine': {message}")
    assert fake.opened == 0


@pytest.mark.parametrize(
    ("request_", "message", "hint"),
    [
        (MetricRequest("m", "exct_match"), "there is no metric 'exct_match'", "Did you mean 'exact_match'?"),
        (MetricRequest("m", "regex", {}), "its option 'pattern' is wrong: Field required", ""),
        (MetricRequest("m", "chrf", {"averge": 1}), "its option 'averge' is wrong", ""),
        (MetricRequest("m", "python", {"function": "s.py:f"}), "s.py:f has not been read", ""),
    ],
)
def test_a_metric_that_does_not_open_is_named_and_the_others_are_closed(
    fake: type[FakeMetric], tmp_path: Path, request_: MetricRequest, message: str, hint: str
) -> None:
    with pytest.raises(BackendError) as raised:
        MetricSet.open([MetricRequest("first", "fake"), request_], tmp_path)
    assert raised.value.failure.kind is FailureKind.USER
    assert raised.value.failure.message.startswith(f"metric 'm': {message}")
    assert hint in raised.value.failure.detail
    assert fake.opened == 0


@pytest.mark.parametrize(
    "call",
    [lambda requests, _: cost_bound(requests, LINES, "", 9), waiting],
)
def test_an_unknown_metric_is_named_without_opening_it(
    call: Callable[[Sequence[MetricRequest], Path], object], tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match="metric 'm': there is no metric 'exct_match'"):
        call([MetricRequest("m", "exct_match")], tmp_path)


def test_a_line_without_a_reference_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="metric 'm': example 1 has no value in the column 'gold'"):
        measure([MetricRequest("m", "exact_match", {}, "gold")], ["a", "b"], tmp_path)


# -------------------------------------------------------------------------------------- checking
def test_a_good_set_of_metrics_has_no_problems(tmp_path: Path) -> None:
    (tmp_path / "scoring.py").write_text("def score(p, r, rows): return [left == right for left, right in zip(p, r)]\n")
    requests = [
        MetricRequest("exact", "exact_match"),
        MetricRequest("short", "refusal_rate"),
        prepared(MetricRequest("mine", "python", {"function": "scoring.py:score"}), tmp_path),
    ]
    checked = try_out(requests, LINES * 20, " END", tmp_path / "workspace")
    assert checked.problems == ()
    assert checked.values == {"exact": 1, "short": 0, "mine": 1}
    assert try_out(requests, [], "", tmp_path).problems == ()


def test_every_bad_metric_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "scoring.py").write_text(
        "import time\n"
        "def nan(p, r, rows): return float('nan')\n"
        "def hang(p, r, rows): time.sleep(10_000)\n"
        "def fail(p, r, rows): raise KeyError('gold')\n"
        "def end(p, r, rows): exit()\n"
        "def fine(p, r, rows): print('noise'); return 1\n"
    )
    mine = [
        prepared(MetricRequest(name, "python", {"function": f"scoring.py:{name}", "timeout_s": limit_s}), tmp_path)
        for name, limit_s in {"nan": 60, "hang": 1.5, "fail": 60, "end": 60, "fine": 60}.items()
    ]
    others = [
        MetricRequest("unknown", "exct_match"),
        MetricRequest("column", "exact_match", {}, "gold"),
        MetricRequest("fields", "json_fields"),
        MetricRequest("fine_too", "exact_match"),
    ]
    checked = try_out([*mine, *others], LINES * 3, " END", tmp_path / "workspace")
    found = [
        (problem.metric, problem.message.removeprefix(f"metric {problem.metric!r}: ")) for problem in checked.problems
    ]
    not_json = "is not JSON: Expecting value: line 1 column 1 (char 0)"
    assert found == [
        ("nan", "nan() of scoring.py returned nan; a score must be finite"),
        ("hang", "scoring.py did not answer within 1.5 s"),
        ("fail", "fail() of scoring.py raised KeyError: 'gold' (scoring.py:4)"),
        ("end", "end() of scoring.py called exit(None)"),
        ("unknown", "there is no metric 'exct_match'"),
        ("column", "6 of 6 examples cannot be scored; example 1 has no value in the column 'gold'"),
        ("fields", f"the reference of example 1 {not_json}"),
        ("fields", f"the reference of example 2 {not_json}"),
        ("fields", f"the reference of example 3 {not_json}"),
        ("fields", "3 more problems of this metric"),
    ]
    assert checked.values == {"fine": 1, "fine_too": 1}
    assert "scoring.py" in checked.problems[1].hint


def test_a_metric_that_costs_money_is_not_tried(fake: type[FakeMetric], tmp_path: Path) -> None:
    fake.declaration = MetricDeclaration("maximize", is_free=False)
    fake.result = AssertionError("tried")
    assert try_out([MetricRequest("judge", "fake")], LINES, " END", tmp_path) == try_out([], LINES, "", tmp_path)


def test_a_further_number_never_hides_the_value_of_a_metric_with_its_name(
    fake: type[FakeMetric], tmp_path: Path
) -> None:
    fake.result = Scores(0.5, None, {"x": 0.25})
    requests = [MetricRequest("a_x", "exact_match"), MetricRequest("a", "fake")]
    assert try_out(requests, LINES, " END", tmp_path).values == {"a_x": 1, "a": 0.5}


def test_problems_of_a_plugin_that_raises(fake: type[FakeMetric], tmp_path: Path) -> None:
    fake.problems = lambda self, answers: 1 / 0  # type: ignore[assignment, return-value]
    [problem] = try_out([MetricRequest("mine", "fake")], LINES, " END", tmp_path).problems
    assert isinstance(problem, MetricProblem)
    assert problem.message.startswith("metric 'mine': `problems` of the metric raised ZeroDivisionError")
    assert os.path.basename(__file__) in problem.message
