"""Task metrics in the sweep file: how they are written, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from backends.contract import Decoding
from sweeps.errors import UserInputError
from sweeps.spec.loading import from_document
from sweeps.spec.sweep_file import DecodingSpec
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.spec.yaml_source import parse

pytestmark = pytest.mark.unit

FILE = """\
name: orders
data: {checks: quick, source: orders.jsonl, prompt: "{text}", completion: " {json}"}
backend: {type: fake}
space: {n_epochs: 2}
evaluation:
  metrics: METRICS
  generate: {examples: 20, stop: "###"}
objective: OBJECTIVE
"""


def spec(metrics: str, objective: str = "{maximize: valid_exact_match}") -> SweepSpec:
    return from_document(parse(FILE.replace("METRICS", metrics).replace("OBJECTIVE", objective), "f.yaml"))


def problems(metrics: str, objective: str = "{minimize: valid_loss}") -> list[str]:
    with pytest.raises(UserInputError) as caught:
        spec(metrics, objective)
    return [f"{problem} {problem.hint}" for problem in caught.value.problems]


def test_a_metric_is_a_name_or_a_name_with_options_and_may_be_renamed() -> None:
    read = spec('[exact_match, {regex: {pattern: "(x)"}, name: marked}, {contains: {}, reference: answer}]')
    requests = [metric.request for metric in read.task_metrics]
    assert [(request.type, request.name, request.reference) for request in requests] == [
        ("exact_match", "exact_match", None),
        ("regex", "marked", None),
        ("contains", "contains", "answer"),
    ]
    assert requests[1].options["pattern"] == "(x)"
    assert read.task_metrics[1].reported_name == "valid_marked"
    assert read.evaluation.generate.decoding == Decoding(256, ("###",))


def test_the_file_with_complete_metrics_is_the_same_sweep_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scoring.py").write_text("def score(predictions, references, rows):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    here = spec('[{python: "scoring.py:score"}]', "{maximize: valid_python}")
    document = here.portable_document
    monkeypatch.chdir("/")
    assert "return 1.0" in str(document["evaluation"]["metrics"])
    stored = yaml.safe_dump(document, sort_keys=False)
    assert from_document(parse(stored, "s.yaml")).task_metrics == here.task_metrics


@pytest.mark.parametrize(
    ("metrics", "message", "hint"),
    [
        ("[exact_mach]", "there is no metric 'exact_mach'", "Did you mean 'exact_match'?"),
        ("[{exact_match: {ignor: [case]}}]", "unknown key `evaluation.metrics.0.exact_match.ignor`", "ignore"),
        ("[exact_match, exact_match]", "two metrics are called `exact_match`", "another `name:`"),
        ("[{regex: {pattern: x}, contains: {}}]", "exactly one type", ""),
        ("[{name: only}]", "exactly one type", ""),
        ("[{exact_match: {}, name: accuracy}]", "the backend itself measures a `valid_accuracy`", "another `name:`"),
        ("[{exact_match: {}, name: 'a b'}]", "evaluation.metrics.0.name", ""),
        ("[{python: 'nowhere.py:score'}]", "nowhere.py", ""),
        ("[7]", "write the name of a metric", ""),
    ],
)
def test_each_mistake_is_one_problem_with_its_line_and_a_remedy(metrics: str, message: str, hint: str) -> None:
    [problem] = problems(metrics)
    assert message in problem
    assert hint in problem
    assert problem.startswith("f.yaml:6")


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("{minimize: valid_exact_match}", "`minimize: valid_exact_match` searches for the worst model"),
        ("{maximize: valid_exact_mach}", "does not measure metric `valid_exact_mach`"),
        ("{maximize: valid_chrf}", "add `evaluation: {metrics: [chrf]}`"),
        ("{maximize: rouge_l}", "add `evaluation: {metrics: [rouge_l]}`, and write `valid_rouge_l` here"),
    ],
)
def test_an_objective_that_is_never_measured_or_points_the_wrong_way_is_refused(objective: str, message: str) -> None:
    [problem] = problems("[exact_match]", objective)
    assert message in problem


def test_the_direction_of_a_metric_whose_name_begins_with_that_of_another_is_checked() -> None:
    two = "[exact_match, {exact_match: {ignore: [case]}, name: exact_match_relaxed}]"
    [problem] = problems(two, "{minimize: valid_exact_match_relaxed}")
    assert "searches for the worst model" in problem


def test_a_metric_that_cannot_be_read_is_one_problem_although_it_is_the_objective() -> None:
    [problem] = problems("[{python: 'nowhere.py:score'}]", "{maximize: valid_python}")
    assert "nowhere.py" in problem


def test_an_objective_may_be_a_further_number_of_a_metric() -> None:
    assert spec("[json_fields]", "{maximize: valid_json_fields_price}").objective.metric == "valid_json_fields_price"


def test_generate_without_metrics_and_a_count_that_does_not_divide_are_refused() -> None:
    assert "`generate` has no effect without `metrics`" in problems("[]")[0]
    text = FILE.replace("METRICS", "[exact_match]").replace("OBJECTIVE", "{minimize: valid_loss}")
    document = parse(text.replace("{examples: 20", "{per_epoch: 2, examples: 20"), "f.yaml")
    with pytest.raises(UserInputError, match="must divide per_epoch"):
        from_document(document)


def test_the_decodings_to_try_are_every_combination_and_the_default_comes_first() -> None:
    default = Decoding(64, ("!",))
    tried = DecodingSpec.model_validate({"temperature": [0, 0.5], "max_tokens": 32}).settings(default)
    assert tried == (default, Decoding(32, ("!",)), Decoding(32, ("!",), 0.5))
    assert DecodingSpec().settings(default) == (default,)
