"""The HTML report: it shows the results, escapes users' texts, and needs no other file."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_page import ACCURACY, NOW, PLAN, TRIALS, Parsed, state, trial

from backends.contract import Generated, GeneratedText, Handle
from sweeps.reports.overview import costs, front, overview_svg
from sweeps.reports.page import page
from sweeps.spec.objective import Objective
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import CandidateScore, FinalsResult
from sweeps.study.steering import Change
from sweeps.trials.trial import Spend, Trial, TrialState

pytestmark = pytest.mark.unit


def test_the_page_shows_the_best_trial_its_verdict_and_the_advice() -> None:
    text = Parsed(page(state(), NOW)).text
    assert "Trial 1: valid_accuracy 0.8 at epoch 1; base model: 0.33 healthy" in text
    assert "validation accuracy went from 0.33 to 0.8" in text
    assert "trials 0 and 2 are underfit: raise n_epochs from 2 to 3" in text
    assert "failed: no memory" in text
    assert "The results are not snli results" in text
    assert "3 of 3 trials" in text


def test_changes_and_finals_are_shown_if_there_are_any() -> None:
    bare = page(state(), NOW)
    assert "How steering changed" not in bare
    assert "Finals" not in bare
    change = Change("n_epochs", (2.0, 4.0), 2.0, 6.0, "two trials underfitted at 4", (0, 2), 3)
    standing = CandidateScore(1, 0.79, 0.77, 0.81, 0.0, 0.0, 1000.0, (0.78, 0.8))
    finals = FinalsResult("valid_accuracy", (standing,), 1, "trial 1 has the best mean", 0.8, (0.75, 0.72, 0.78))
    text = Parsed(page(state(changes=(change,), finals=finals), NOW)).text
    assert "n_epochs 2 .. 4 -> 2 .. 6: two trials underfitted at 4 (trials 0, 2; after 3 trials)" in text
    assert "trial 1 has the best mean" in text
    assert "accuracy 0.75 (0.72 .. 0.78)" in text


def test_what_the_best_model_writes_is_shown_beside_what_it_wrote_first() -> None:
    assert "What the best model writes" not in page(state(), NOW)

    def written(epoch: float, text: str, score: float) -> Generated:
        shown = GeneratedText(3, "2 + 2 <b>", "4", text, truncated=True, scores={"exact_match": score})
        return Generated(step=int(epoch * 9), epoch=epoch, texts=(shown,), examples=20)

    texts = (written(0.0, "what?", 0.0), written(1.0, "four & 4", 1.0), written(2.0, "later", 0.5))
    source = page(state(best_texts=texts), NOW)
    text = Parsed(source).text
    assert "1 of 20 texts that it generated at epoch 1." in text
    assert "what?" in text
    assert "four & 4" in text
    assert "later" not in text, "the best epoch is 1"
    assert "(cut at max_tokens)" in text
    assert "2 + 2 &lt;b&gt;" in source


def test_a_backend_with_data_of_its_own_has_no_counts() -> None:
    data = {**PLAN["data"], "name": "own data", "fallback_from": None, "digests": {}, "origins": {}}
    counts = {f"{part}_examples": 0 for part in ("training", "validation", "test")}
    text = Parsed(page(state(plan={**PLAN, "data": {**data, **counts}}), NOW)).text
    assert "own data · builtin:tiny-lm" in text


def test_after_the_finals_the_best_trial_is_a_repetition_of_the_winner() -> None:
    standings = tuple(CandidateScore(number, 0.7, 0.6, 0.8, 0.0, 0.0, 1000.0, (0.7, 0.7)) for number in (0, 1))
    finals = FinalsResult("valid_accuracy", standings, 0, "the cheaper one", 0.6)
    repeats = (trial(3, 0.70, repeat_of=0, model="m3"), trial(4, 0.72, repeat_of=0, model="m4"))
    repeats += (trial(5, 0.9, repeat_of=1, model="m5"),)
    decided = state(finals=finals, repeats=repeats)
    assert decided.best is not None
    assert decided.best.number == 4
    assert decided.to_json()["best"]["number"] == 4
    shown = Parsed(page(decided, NOW)).text
    assert "Trial 0: valid_accuracy 0.7 (0.6 .. 0.8), the mean of 2 seeds" in shown
    assert "trial 4, trial 0 again in the finals: valid_accuracy 0.72" in shown
    assert state(repeats=repeats).best == TRIALS[1]


def test_a_test_score_far_below_the_validation_score_is_a_warning() -> None:
    standings = (CandidateScore(1, 0.7, 0.65, 0.75, 0.0, 0.0, 1000.0, (0.7, 0.7)),)
    for test, is_told in (((0.5, 0.4, 0.6), True), ((0.68, 0.6, 0.75), False)):
        finals = FinalsResult("valid_accuracy", standings, 1, "the best", 0.8, test)
        assert ("clearly worse than the validation score" in Parsed(page(state(finals=finals), NOW)).text) is is_told


def test_every_trial_with_a_curve_has_it_in_its_row() -> None:
    source = page(state(), NOW)
    assert source.count('<svg class="curve"') == len(state().trials)
    assert 'aria-label="learning curve of trial 1"' in source


def test_a_trial_that_no_process_runs_is_not_called_running() -> None:
    waiting = trial(3, None, state=TrialState.RUNNING, curve=(), verdict=None)
    assert state(trials=(*TRIALS, waiting)).counts["waiting"] == 1, "a trial without a worker is waiting"
    trials = (*TRIALS, replace(waiting, handle=Handle("local", "k3")))
    assert state(trials=trials).counts["running"] == 1
    assert "running" in Parsed(page(state(trials=trials), NOW)).text
    interrupted = state(trials=trials, is_running=False)
    assert (interrupted.counts["running"], interrupted.counts["interrupted"]) == (0, 1)
    assert "interrupted" in Parsed(page(interrupted, NOW)).text


def test_the_page_loads_no_other_file_and_is_well_formed() -> None:
    parsed = Parsed(page(state(), NOW))
    assert parsed.loaded
    assert all(url.startswith(("data:image/png;base64,", "#")) for url in parsed.loaded)
    assert parsed.open == []


def test_texts_of_users_are_escaped() -> None:
    script = "<script>alert(1)</script>"
    trials = (trial(0, 0.6, hyperparameters={script: script}, reason=script),)
    html = page(state(name=script, trials=trials), NOW)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize("trials", [(), (trial(0, None, state=TrialState.RUNNING, curve=(), verdict=None),)])
def test_a_sweep_without_a_result_has_a_page(trials: tuple[Trial, ...]) -> None:
    text = Parsed(page(state(trials=trials), NOW)).text
    assert "No trial has a result yet." in text


def test_the_same_trials_give_the_same_plot() -> None:
    assert overview_svg(TRIALS, ACCURACY) == overview_svg(TRIALS, ACCURACY) != ""


def test_text_hyperparameters_and_non_finite_values_can_be_drawn() -> None:
    trials = (
        trial(0, 0.5, hyperparameters={"method": "lora"}),
        trial(1, 0.6, hyperparameters={"method": "full", "rank": 4}),
        trial(2, float("nan")),
    )
    svg = overview_svg(trials, ACCURACY)
    assert "lora" in svg
    assert "full" in svg


def test_all_trials_have_the_same_unit_of_cost() -> None:
    priced = trial(0, 0.5, spend=Spend(10.0, 500, 2.0))
    assert costs([priced]) == ([2.0], "dollars")
    assert costs([priced, trial(1, 0.5)]) == ([500.0, 2000.0], "tokens")
    assert costs([priced, trial(1, 0.5, spend=Spend(20.0))]) == ([10.0, 20.0], "seconds")


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=12), st.booleans())
def test_no_trial_on_the_front_is_beaten_by_one_that_costs_no_more(
    costs_and_values: list[tuple[int, int]], maximize: bool
) -> None:
    objective = Objective("m", "maximize" if maximize else "minimize")
    trials = [trial(i, float(value), spend=Spend(1.0, tokens)) for i, (tokens, value) in enumerate(costs_and_values)]
    trade_offs = front(trials, objective)
    points = [(float(tokens), float(value)) for tokens, value in costs_and_values]
    expected = {
        (tokens, value)
        for tokens, value in points
        if not any(t <= tokens and objective.better(v, value) for t, v in points)
        and not any(t < tokens and v == value for t, v in points)
    }
    assert set(trade_offs) == expected
    assert trade_offs == sorted(trade_offs)


@pytest.mark.parametrize("promoted", [True, False])
def test_the_challenge_is_shown_with_its_reason_and_numbers(promoted: bool) -> None:
    decision = ChampionDecision(promoted, "<better> by 2 %", 0.82, 0.8, -0.01, 0.05, "snli", "3")
    html = page(state(champion=decision), NOW)
    assert ("<strong>became the champion</strong>" in html) is promoted
    assert ("<strong>did not become the champion</strong>" in html) is not promoted
    for text in (
        "Version 3 of snli",
        "&lt;better&gt; by 2 %",
        "the opponent: the previous champion, or a baseline",
        "0.82",
        "+0.02 (-0.01 .. +0.05)",
    ):
        assert text in html


def test_a_future_challenge_is_announced_and_one_without_a_comparison_has_no_numbers() -> None:
    plan = {**PLAN, "champion": {"model": "pairs"}, "finals": None}
    assert "The winner challenges the champion of pairs after the search." in page(state(plan=plan), NOW)
    html = page(state(champion=ChampionDecision(False, "it cannot be loaded", 0.8, None, None, None, "snli", "3")), NOW)
    assert "it cannot be loaded" in html
    assert "the opponent: the previous champion, or a baseline" not in html
