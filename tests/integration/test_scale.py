"""`sweep scale` over the fake backend: shared runs, interruptions, budgets, failed points.

All but the last test run without Ray and MLflow, in this process.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import inline_engine
import pytest
from killed_sweep import service_runs
from mlflow_warnings import MLFLOW_WARNINGS

from backends.contract import Event
from sweeps.api.environment import environment
from sweeps.errors import SweepError, SweepInterruptedError, UserInputError
from sweeps.execution.observers import ProgressObserver
from sweeps.execution.session import Session
from sweeps.scaling.plan import ScalePlan, plan_scale
from sweeps.scaling.request import read_request
from sweeps.scaling.result import ScaleResult, write_files
from sweeps.scaling.running import require_budget, run_scale
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.trials.trial import Trial
from sweeps.workspace import Workspace

pytestmark = [
    pytest.mark.integration,
    *MLFLOW_WARNINGS,
]

FILE = """\
name: pairs
data: {source: pairs.csv, prompt: "{question}", completion: " {label}", checks: quick}
backend: {type: fake, model: fake-small, price_usd_per_token: 0.00001, events_per_poll: 4}
space:
  n_epochs: [2, 3]
  batch_size: {low: 1%, high: 8%}
search: {sampler: random, scheduler: none, trials: 4, concurrency: 2, seed: 7}
objective: {maximize: valid_accuracy, target: 0.1}
"""
PAIRS = "question,label\n" + "".join(f"what is number {number} of all,{'abc'[number % 3]}\n" for number in range(300))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SWEEP_STORAGE", "MLFLOW_TRACKING_URI", "SWEEP_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text(PAIRS)
    (tmp_path / "pairs.yaml").write_text(FILE)
    return tmp_path


@pytest.fixture
def without_ray() -> Iterator[None]:
    with inline_engine.instead_of_ray(), inline_engine.without_mlflow():
        yield


def planned(folder: Path, sizes="30,60", models="fake-small,big=fake-large", *overrides: str, **options) -> ScalePlan:
    seeds, searches = options.pop("seeds", 3), options.pop("searches", False)
    request = read_request(sizes, [models], seeds, searches=searches)
    document = with_overrides(parse(FILE, "pairs.yaml"), overrides)
    return plan_scale(document, request, Workspace(folder / "ws"), estimate=False, **options)


def scaled(folder: Path, *arguments, progress=ProgressObserver, messages: list[str] | None = None, **options):
    plan = planned(folder, *arguments, **options)
    said = [] if messages is None else messages
    return run_scale(
        plan, environment(Workspace(folder / "ws")), progress, said.append, fresh=options.get("fresh", False)
    )


def trained(folder: Path) -> dict[str, int]:
    """Return how many runs each point has submitted to its service."""
    sweeps = sorted((folder / "ws" / "sweeps").glob("*/fake-service.sqlite"))
    counts = {file.parent.name: len(service_runs(file.parent)) for file in sweeps}
    return {name: count for name, count in counts.items() if count}


def values(result: ScaleResult) -> dict[tuple[str, int], tuple[float, ...]]:
    return {(curve.label, point.size): point.values for curve in result.curves for point in curve.points}


POINTS = {f"pairs-scale-{label}-{size}": 3 for label in ("big", "fake-small") for size in (30, 60)}


@pytest.mark.usefixtures("without_ray")
def test_points_are_trained_once_and_shared_with_other_sizes_models_and_seeds(folder: Path) -> None:
    first = scaled(folder)
    assert trained(folder) == POINTS
    assert {len(found) for found in values(first).values()} == {3}
    assert all(len(set(found)) == 3 for found in values(first).values()), "each seed is another run"
    assert first.end == ""

    messages: list[str] = []
    again = scaled(folder, messages=messages)
    assert values(again) == values(first)
    assert "all 4 points are trained already" in messages

    more = scaled(folder, "30,60,120", "fake-small", messages=messages)
    assert "2 of 3 points are trained already" in messages
    assert trained(folder) == {**POINTS, "pairs-scale-fake-small-120": 3}
    assert values(more)["fake-small", 30] == values(first)["fake-small", 30]

    five = scaled(folder, "30,60", "fake-small", seeds=5)
    assert trained(folder)["pairs-scale-fake-small-30"] == 5, "only the two new seeds are trained"
    assert values(five)["fake-small", 30][:3] == values(first)["fake-small", 30]
    assert values(scaled(folder)) == values(first), "fewer seeds use the same runs as before"


@pytest.mark.usefixtures("without_ray")
def test_the_subsets_are_nested_and_share_validation_and_test(folder: Path) -> None:
    plan = planned(folder, "30,60,120,200", "fake-small")
    data = [point.plan.data for point in plan.points]
    lines = [set(Path(each.dataset.train.path).read_text().splitlines()) for each in data]
    assert [len(each) for each in lines] == [30, 60, 120, 200]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(lines))
    assert len({(each.digests["valid"], each.digests["test"]) for each in data}) == 1
    assert not lines[-1] & set(Path(data[0].dataset.valid.path).read_text().splitlines())


class InterruptsAfter(ProgressObserver):
    """Ends the sweep as Ctrl-C does, once this many trials have ended in all sweeps."""

    ended = 0

    def __init__(self, count: int) -> None:
        self._count, self._session = count, None

    def sweep_started(self, session: Session) -> None:
        self._session = session

    def events_received(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        if type(self).ended == self._count and trial.curve and self._session is not None:
            self._session.interrupt()

    def trial_ended(self, trial: Trial) -> None:
        type(self).ended += 1


@pytest.mark.usefixtures("without_ray")
def test_an_interrupted_run_continues_and_trains_nothing_twice(folder: Path) -> None:
    whole = scaled(folder / "whole")
    InterruptsAfter.ended = 0
    for count in (1, 7):
        with pytest.raises(SweepInterruptedError) as raised:
            scaled(folder, progress=lambda count=count: InterruptsAfter(count))
        assert "of 4 points; every result is saved" in raised.value.message
        assert "run the same command again" in raised.value.hint
    assert values(scaled(folder)) == values(whole)
    assert trained(folder) == POINTS


@pytest.mark.usefixtures("without_ray")
def test_the_budget_holds_over_all_points_and_all_commands(folder: Path) -> None:
    full = planned(folder, "30,60", "fake-small,big=fake-large", "budget.usd=100")
    cost = sum(point.required.usd for point in full.points)
    too_small, enough = f"budget.usd={cost * 0.9}", f"budget.usd={cost}"
    where = environment(Workspace(folder / "ws"))
    with pytest.raises(UserInputError, match="does not cover all points: up to") as raised:
        require_budget(planned(folder, "30,60", "fake-small,big=fake-large", too_small), where)
    assert "leave out sizes, models or seeds" in raised.value.problems[0].hint
    assert trained(folder) == {}, "nothing was started"
    result = scaled(folder, "30,60", "fake-small,big=fake-large", enough)
    assert trained(folder) == POINTS
    spent = sum(point.usd or 0.0 for curve in result.curves for point in curve.points)
    assert spent == pytest.approx(cost)
    with pytest.raises(UserInputError, match="does not cover all points"):
        scaled(folder, "60,120", "fake-small", enough)  # what the other sizes took counts, too
    assert trained(folder) == POINTS


@pytest.mark.usefixtures("without_ray")
def test_a_used_up_time_limit_leaves_points_out_and_says_so(folder: Path) -> None:
    scaled(folder, "30,60", "fake-small")
    result = scaled(folder, "30,60,120", "fake-small", "budget.hours=0.0000001")
    assert result.end == "the budget was used up before"
    assert [len(point.values) for point in result.curves[0].points] == [3, 3, 0]
    assert "the budget was used up" in result.curves[0].points[2].missing


@pytest.mark.usefixtures("without_ray")
def test_a_failed_point_is_missing_with_its_reason_and_the_others_go_on(folder: Path) -> None:
    fault = {"on": "train", "kind": "out_of_memory", "times": None, "match": {"batch_size": 3}}
    result = scaled(folder, "30,60,120", "fake-small", f"backend.faults=[{json.dumps(fault)}]")
    points = {point.size: point for point in result.curves[0].points}
    failed = [size for size, point in points.items() if point.hyperparameters.get("batch_size") == 3]
    assert failed == [60]
    assert points[60].values == ()
    assert "out_of_memory" in points[60].missing
    assert len(points[120].values) == 3


@pytest.mark.usefixtures("without_ray")
def test_a_search_at_each_size_counts_the_repetitions_of_its_winner(folder: Path) -> None:
    result = scaled(folder, "30,60", "fake-small", searches=True)
    assert trained(folder) == {f"pairs-scale-fake-small-{size}-swept": 4 + 3 for size in (30, 60)}
    assert [len(point.values) for point in result.curves[0].points] == [3, 3]


@pytest.mark.usefixtures("without_ray")
def test_another_space_needs_a_fresh_start(folder: Path) -> None:
    scaled(folder, "30,60", "fake-small")
    change = "space.n_epochs=[3, 4]"
    with pytest.raises(UserInputError, match="so its trials could not be compared"):
        planned(folder, "30,60", "fake-small", change)
    fresh = scaled(folder, "30,60", "fake-small", change, fresh=True)
    assert {point.hyperparameters["n_epochs"] for point in fresh.curves[0].points} == {3}
    assert (folder / "ws" / "sweeps" / "pairs-scale-fake-small-30.1").is_dir()


@pytest.mark.parametrize(
    ("sizes", "models", "override", "words"),
    [
        ("30,999", "fake-small", "", "999 is above the 240 training examples of pairs.csv"),
        ("30,60", "nope,fake-small", "", "--models nope: the fake service has no model 'nope'"),
        ("30,60", "fake-small,x=nope", "", "--models x: the fake service has no model 'nope'"),
        ("30,60", "fake-small", "search.sampler=tp", "did you mean `tpe`"),
        ("30,60", "fake-small", "name=" + "n" * 90, "is longer than 100 characters"),
    ],
)
def test_a_mistake_is_found_before_anything_starts(
    folder: Path, sizes: str, models: str, override: str, words: str
) -> None:
    with pytest.raises(UserInputError) as raised:
        planned(folder, sizes, models, *([override] if override else []))
    assert words in str(raised.value) + "".join(problem.hint for problem in raised.value.problems)
    assert not trained(folder)


def test_generated_data_whose_noise_changes_with_the_size_are_refused(folder: Path) -> None:
    with pytest.raises(SweepError, match="do not contain the 30"):
        planned(folder, "30,60", "fake-small", "data={source: 'builtin:nli', checks: quick, label_noise: 0.5}")


@pytest.mark.usefixtures("without_ray")
def test_the_files_hold_every_run_and_a_figure(folder: Path) -> None:
    result = scaled(folder, "30,60", "fake-small")
    written = {file.name: file for file in write_files(result, folder / "out")}
    rows = written["scale.csv"].read_text().splitlines()
    assert rows[0] == "model,train_examples,run,valid_accuracy,sweep"
    assert len(rows) == 1 + 6
    stored = json.loads(written["scale.json"].read_text())
    assert [point["size"] for point in stored["curves"][0]["points"]] == [30, 60]
    assert stored["sentences"] == list(result.sentences)
    figure = written["scale.svg"].read_text()
    assert ">fake-small<" in figure
    assert ">training examples (log scale)<" in figure
    assert write_files(result, folder / "again")[2].read_bytes() == written["scale.svg"].read_bytes()


@pytest.mark.trains
@pytest.mark.usefixtures("without_ray")
def test_the_local_backend_trains_the_points(folder: Path) -> None:
    local = 'backend={type: local, model: "builtin:tiny-lm", device: cpu}'
    space = "space={n_epochs: 1, batch_size: 8, learning_rate_multiplier: 0.5}"
    result = scaled(folder, "24,48", "tiny=builtin:tiny-lm", local, space, seeds=1)
    points = result.curves[0].points
    assert [len(point.values) for point in points] == [1, 1]
    assert all(0 <= point.mean <= 1 for point in points)
    assert points[1].tokens > 1.5 * points[0].tokens, "the larger set was larger"
    assert "it takes at least 4 sizes" in result.sentences[0]


@pytest.mark.slow
def test_a_killed_command_continues_with_one_ray(folder: Path) -> None:
    """With real processes, Ray and MLflow: killed within the second point, then run again."""
    command = [sys.executable, "-m", "sweeps.cli", "--root", "ws", "scale", "pairs.yaml", "--sizes", "30,60"]
    command += ["--set", "backend={type: fake, model: fake-small, seconds_per_epoch: 0.5}"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while "pairs-scale-fake-small-60" not in trained(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    done = subprocess.run([*command, "--json"], cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 points are trained already" in done.stderr
    assert done.stderr.count("starting Ray") == 1
    assert trained(folder) == {f"pairs-scale-fake-small-{size}": 3 for size in (30, 60)}
    [curve] = json.loads(done.stdout)["curves"]
    assert [len(point["values"]) for point in curve["points"]] == [3, 3]
    assert not (folder / "ws" / "sweeps" / "pairs-scale" / "ray.json").exists()
