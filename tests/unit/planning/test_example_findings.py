"""What a plan says about the examples as the model reads them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from plans_by_hand import plan
from rich.console import Console

from backends.contract import Failure, FailureKind
from backends.example_report import ExampleNotice, ExampleReport, TokenLengths
from sweeps import api
from sweeps.cli import data_view, plan_view
from sweeps.data.findings import Finding
from sweeps.data.places import Places
from sweeps.errors import UserInputError
from sweeps.planning.decisions import BackendAnswers, complete_plan
from sweeps.planning.sweep_plan import SweepPlan

pytestmark = pytest.mark.unit

NOTICE = ExampleNotice("cut-prompts", "train", "/p/train.jsonl", "2 prompts are cut", "raise max_length", 2, (1, 2))


def lengths(prompt: float, completion: float | None = 2.0) -> ExampleReport:
    return ExampleReport((), {"train": TokenLengths(100, prompt, completion, 300)}, 512)


def completed(reports: dict[str, ExampleReport], space: str = "space={n_epochs: 2, batch_size: 8}") -> SweepPlan:
    return complete_plan(plan("backend={type: local, device: cpu}", space), BackendAnswers(reports=reports))


def weighty(weight: str, prompt: float, completion: float | None = 2.0) -> list[Finding]:
    space = f"space={{n_epochs: 2, batch_size: 8, prompt_loss_weight: {weight}}}"
    found = completed({"m": lengths(prompt, completion)}, space).findings
    return [finding for finding in found if finding.code == "prompt-weight"]


def test_a_notice_becomes_a_finding_with_its_places() -> None:
    (found,) = [f for f in completed({"m": ExampleReport((NOTICE,))}).findings if f.code == "cut-prompts"]
    assert (found.severity, found.count, found.place) == ("warning", 2, "/p/train.jsonl:1")
    assert found.places == ("/p/train.jsonl:1", "/p/train.jsonl:2")
    both = completed({"m": ExampleReport((NOTICE,)), "n": ExampleReport((NOTICE,))}).findings
    assert [f.message for f in both if f.code == "cut-prompts"] == [
        "with m: 2 prompts are cut", "with n: 2 prompts are cut",
    ]  # fmt: skip


def test_long_prompts_ask_for_a_lower_weight_where_even_the_lowest_is_too_high() -> None:
    (found,) = weighty("{low: 0.05, high: 1}", prompt=100)
    assert "a prompt has 50 times the tokens of its completion" in found.message
    assert "with the lowest value, 0.05, prompts make 71% of the loss" in found.message
    assert "below 0.02 completions weigh more than prompts" in found.hint
    (fixed,) = weighty("0.1", prompt=100)
    assert "the lowest value" not in fixed.message
    assert weighty("[0.01, 0.1, 1.0]", prompt=100) == []
    assert weighty("0.1", prompt=10) == []
    assert weighty("0", prompt=1000) == []
    assert weighty("0.1", prompt=1000, completion=None) == []


def test_the_plan_shows_the_lengths_in_tokens() -> None:
    console = Console(width=250, file=io.StringIO())
    console.print(plan_view.plan(completed({"m": lengths(34.4, 2.25)})))
    assert isinstance(console.file, io.StringIO)
    expected = "34 tokens a prompt, 2.2 a completion on average, the longest example has 300 of at most 512"
    assert expected in console.file.getvalue()


def test_the_embedded_model_is_called_a_demonstration_for_the_users_own_data() -> None:
    planned = completed({"m": lengths(34.4, 2.25)})
    assert "this model is a demonstration" in data_view.demonstration(planned)
    generated = replace(planned, data=replace(planned.data, name="builtin:nli"))
    assert data_view.demonstration(generated) == ""
    assert data_view.demonstration(replace(planned, base_model="builtin:minilm")) == ""


def test_a_refusal_names_the_lines_of_the_users_own_file() -> None:
    planned = plan("backend={type: local, device: cpu}", "space={n_epochs: 2, batch_size: 8}")
    from sweeps.data.examples import Example

    examples = [Example("p", "c", ("p",), "mine.csv", line) for line in (2, 9)]
    planned = replace(planned, data=replace(planned.data, places={"/p/train.jsonl": Places.of(examples)}))
    failure = Failure(FailureKind.USER, "1 completion is too long (/p/train.jsonl, line 2)")
    with pytest.raises(UserInputError, match=r"1 completion is too long \(mine\.csv:9\)"):
        complete_plan(planned, BackendAnswers((failure,)))


def test_check_tells_what_the_model_loses_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """42 of 43 prompts were cut without a word, because one completion was long."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"question {n} " * 5, "completion": f"answer {n}"} for n in range(60)]
    rows[17]["completion"] = "a long answer " * 60
    rows[30]["prompt"] = "a long question " * 300
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    Path("sweep.yaml").write_text(
        "name: s\ndata: {source: pairs.jsonl, validation: 0.1, test: 0, checks: quick}\n"
        "backend: {type: local, device: cpu}\n"
        "space: {n_epochs: 1, learning_rate_multiplier: 0.1}\nobjective: {minimize: valid_loss}\nbudget: {hours: 1}\n",
        encoding="utf-8",
    )
    planned = api.plan(Path("sweep.yaml"), root=tmp_path / "w", estimate=False)
    (cut,) = [finding for finding in planned.findings if finding.code == "cut-prompts"]
    assert cut.count == 2, "the long prompt, and the one of the long completion"
    assert set(cut.places) == {"pairs.jsonl:18", "pairs.jsonl:31"}
    assert planned.to_json()["token_lengths"]["train"]["examples"] == planned.data.dataset.train.examples
