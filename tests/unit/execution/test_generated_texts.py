"""A sweep by a task metric: what is recorded, what the finals decide, and what is found before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.contract import Backend, Decoding, Finished, Generated, Measured, Prediction, PredictOptions
from sweeps.errors import UserInputError
from sweeps.execution.finals_scoring import score_finals
from sweeps.execution.generated_texts import TextRecord, text_table
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.study.generated_texts import read_texts
from sweeps.study.study import Study, StudyDefinition
from sweeps.trials.trial import Spend, Trial, TrialState
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

FILE = """\
name: orders
data: {checks: quick, source: SOURCE, prompt: "{text}", completion: " {answer}", task: generation}
backend: {type: fake}
space: {n_epochs: [2, 3], learning_rate_multiplier: {low: 0.02, high: 0.2, log: true}}
search: {sampler: random, trials: 3, concurrency: 1, scheduler: none}
evaluation: {metrics: [exact_match, token_f1], generate: {examples: 12, max_tokens: 30}}
objective: {maximize: valid_exact_match}
finals: {candidates: 2, seeds: 2}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Questions whose answers are two words, and a column that is no part of the prompt."""
    path = tmp_path / "orders.jsonl"
    rows = [{"text": f"order {n}", "answer": f"{n} apples", "other": f"{n} pears"} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def planned(source: Path, *overrides: str) -> SweepPlan:
    document = with_overrides(parse(FILE.replace("SOURCE", str(source)), "f.yaml"), overrides)
    return make_plan(from_document(document), Workspace(source.parent / "w"), estimate=False)


def problems(source: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserInputError) as caught:
        planned(source, *overrides)
    return [f"{problem} {problem.hint}" for problem in caught.value.problems]


def run_one(plan: SweepPlan) -> Trial:
    """Run one trial of the fake backend in this process."""
    objectives = [spec.objective for spec in plan.spec.objectives]
    definition = StudyDefinition("orders", plan.fingerprint, plan.space, objectives, plan.spec.search, plan.base_model)
    plan.folder.mkdir(parents=True, exist_ok=True)
    study = Study.open(plan.folder / "study.journal", definition)
    backend = plan.open_backend()
    session = Session(plan, study, [TextRecord(plan.folder)], lambda: 1.0, backend)
    trial = session.next_trial()
    assert isinstance(trial, Trial)
    handle = backend.submit(plan.request(trial))
    events = backend.events(handle, 0)
    assert isinstance(events[-1], Finished)
    session.observe(trial.number, handle, 0, events)
    session.observe(trial.number, handle, 0, events)  # a resumed worker reports everything again
    session.trial_ended(trial.number, TrialEnd.ITSELF)
    backend.close()
    return study.trial(trial.number)


def test_a_trial_is_ranked_and_judged_by_its_task_metric_and_its_texts_are_kept(source: Path) -> None:
    plan = planned(source)
    trial = run_one(plan)
    measured = [evaluation.values["valid_exact_match"] for evaluation in trial.curve]
    assert trial.values == (max(measured[1:]),)
    assert measured[0] == 0.0 < measured[-1]
    assert trial.verdict is not None
    assert "exact match" in trial.verdict.evidence
    kept = read_texts(plan.folder, trial.key)
    assert [evaluation.epoch for evaluation in kept] == [evaluation.epoch for evaluation in trial.curve]
    assert all(len(evaluation.texts) == 12 for evaluation in kept)
    table = text_table(plan.folder, trial.key)
    assert table is not None
    content = json.loads(table())
    metrics = ["exact_match", "token_f1"]
    assert content["columns"] == ["example", "epoch", "text", "reference", "prompt", "truncated", *metrics]
    assert len(content["data"]) == 12 * len(kept)
    assert [row[:2] for row in content["data"]] == sorted(row[:2] for row in content["data"])


def test_texts_with_line_separators_of_unicode_are_read_back(source: Path) -> None:
    plan = planned(source)
    text = "a\u2028b\u0085c\nd"
    generated = Generated(1, 1.0, (_text(text),), 1)
    record = TextRecord(plan.folder)
    record.events_received(Trial(0, "key", "m", {}, 1), 0, [generated, Measured(1, 1.0, {}, "evaluation")])
    assert read_texts(plan.folder, "key") == (generated,)
    assert text_table(plan.folder, "another") is None


def _text(text: str) -> Any:
    from backends.contract import GeneratedText

    return GeneratedText(3, "p", "r", text, True, {"exact_match": 0.0})


# --------------------------------------------------------------------------------- before the sweep
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def score(p, r, rows):\n    raise KeyError('price')\n", "price"),
        ("def score(p, r, rows):\n    return float('nan')\n", "nan"),
        ("def score(p, r, rows):\n    return [1.0]\n", "1"),
        ("import time\ndef score(p, r, rows):\n    time.sleep(60)\n", "did not answer within 1 s"),
        ("def other(p, r, rows):\n    return 1.0\n", "score"),
        ("import sys\ndef score(p, r, rows):\n    sys.exit(3)\n", "3"),
    ],
)
def test_a_scorer_that_cannot_measure_is_found_before_the_sweep(
    source: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    (source.parent / "scoring.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(source.parent)
    scorer = "evaluation.metrics=[exact_match, {python: {function: 'scoring.py:score', timeout_s: 1}}]"
    [problem] = problems(source, scorer)
    assert problem.startswith("f.yaml:6")
    assert "'python'" in problem
    assert message in problem


def test_what_a_scorer_prints_changes_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "def score(p, r, rows):\n    print('noise')\n    return [float('pears' in row['other']) for row in rows]\n"
    (source.parent / "scoring.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(source.parent)
    plan = planned(source, "evaluation.metrics=[exact_match, {python: 'scoring.py:score'}]")
    assert run_one(plan).curve[0].values["valid_python"] == 1.0


def test_a_missing_reference_and_an_unmeasured_objective_are_found_before_the_sweep(source: Path) -> None:
    [missing] = problems(source, "evaluation.metrics=[{exact_match: {}, reference: nowhere}]")
    assert "'nowhere'" in missing
    assert "other" in missing
    [unmeasured] = problems(
        source, "evaluation.metrics=[length_ratio]", "objective={maximize: valid_length_ratio_nothing}"
    )
    assert "no metric measures `valid_length_ratio_nothing`" in unmeasured
    assert "valid_length_ratio" in unmeasured


def test_a_metric_that_the_correct_answers_miss_is_a_warning(source: Path) -> None:
    plan = planned(source, "evaluation.metrics=[exact_match, json_valid]")
    [finding] = [finding for finding in plan.findings if finding.code == "reference-scores-low"]
    assert "the correct answers themselves have only 0 in `json_valid`" in finding.message


def test_another_scorer_is_another_sweep_and_the_same_scorer_in_another_folder_is_not(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(source)
    assert planned(source).fingerprint == plan.fingerprint
    assert planned(source, "evaluation.metrics=[exact_match]").fingerprint != plan.fingerprint

    def with_scorer(folder: str, number: float) -> str:
        home = source.parent / folder
        home.mkdir()
        (home / "scoring.py").write_text(f"def score(p, r, rows):\n    return {number}\n", encoding="utf-8")
        monkeypatch.chdir(home)
        scorer = "{python: {function: 'scoring.py:score', low: 0, high: 2}}"
        return planned(source, f"evaluation.metrics=[exact_match, {scorer}]").fingerprint

    assert with_scorer("one", 1.0) == with_scorer("two", 1.0) != with_scorer("three", 2.0)


# ------------------------------------------------------------------------------------------- finals
class Answering:
    """A backend whose models answer right for a share of the examples that their name says."""

    def __init__(self, shares: Mapping[str, float], capabilities: Any) -> None:
        self._shares = shares
        self.capabilities = capabilities
        self.asked: list[tuple[str, int, float]] = []

    def predict(self, model: str, lines: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
        self.asked.append((model, len(lines), options.temperature))
        share = self._shares[model] - options.temperature
        right = round(share * len(lines))
        return [Prediction(line["completion"] if n < right else "wrong") for n, line in enumerate(lines)]


def searched(number: int, value: float, **more: Any) -> Trial:
    seed = more.pop("seed", 1)
    return Trial(
        number, f"k-{number}", "fake-small", {}, seed, state=TrialState.COMPLETE, values=(value,),
        spend=Spend(1.0, 100), **more,
    )  # fmt: skip


def test_the_finals_rank_by_the_metric_and_score_the_winner_on_the_test_split_once(source: Path) -> None:
    plan = planned(source)
    shares = {"a": 0.75, "b": 0.75, "c": 0.25, "d": 0.25}
    backend = Answering(shares, plan.spec.capabilities)
    repeats = [
        searched(10 + n, share, model=model, repeat_of=1 if share > 0.5 else 2, seed=n)
        for n, (model, share) in enumerate(shares.items())
    ]
    untyped: Any = backend
    typed: Backend = untyped
    result = score_finals(plan, [searched(1, 0.8), searched(2, 0.3)], repeats, typed)
    assert result is not None
    assert (result.winner, result.test_metric) == (1, "exact_match")
    assert result.test is not None
    assert result.test[0] == pytest.approx(0.75, abs=0.05)
    assert result.test[1] < result.test[0] < result.test[2]
    assert result.standings[0].low < 0.75 < result.standings[0].high  # from the examples: the seeds agree exactly
    assert sorted(backend.asked) == [
        ("a", 12, 0.0),
        ("a", 20, 0.0),
        ("b", 12, 0.0),
        ("b", 20, 0.0),
        ("c", 12, 0.0),
        ("d", 12, 0.0),
    ]
    backend.asked.clear()
    assert score_finals(plan, [searched(1, 0.8), searched(2, 0.3)], repeats, typed) == result
    assert backend.asked == []  # the answers are kept


def test_another_decoding_must_be_better_beyond_chance(source: Path) -> None:
    plan = planned(source, "decoding={temperature: [0, 0.5], max_tokens: [30, 60]}")
    backend: Any = Answering({"a": 0.75, "b": 0.75}, plan.spec.capabilities)
    repeats = [searched(10, 0.75, model="a", repeat_of=1), searched(11, 0.75, model="b", repeat_of=1)]
    result = score_finals(plan, [searched(1, 0.8)], repeats, backend)
    assert result is not None
    assert result.decodings[0][0] == Decoding(30)
    assert len(result.decodings) == 4
    assert dict(result.decodings)[Decoding(30, (), 0.5)] < dict(result.decodings)[Decoding(30)]
