"""What the local backend says about all examples: what is cut, unknown to the tokenizer, dropped by
the chat template.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from chat_templates import CHATML

from backends.contract import (
    Dataset,
    Decoding,
    EvaluationSettings,
    GenerationSettings,
    MetricRequest,
    Placement,
    PredictOptions,
    TrainingRequest,
)
from backends.example_report import ExampleNotice, ExampleReport, SupportsExampleReport
from backends.local import LocalBackend, model_source
from backends.local.dropped_messages import dropped_messages
from backends.local.model import load_tokenizer
from backends.local.options import LocalOptions
from backends.local.request_resolution import resolve
from backends.local.run_setup import set_up_run, values_in_use
from backends.testing import write_jsonl

pytestmark = pytest.mark.unit

TINY = "builtin:tiny-lm"


def report(
    folder: Path,
    lines: list[dict[str, Any]],
    test: list[dict[str, Any]] | None = None,
    *,
    model: str = TINY,
    labels: tuple[str, ...] = (),
    stop: str = "|",
    evaluation: EvaluationSettings | None = None,
    **options: Any,
) -> ExampleReport:
    layout: Literal["chat", "completion"] = "chat" if "messages" in lines[0] else "completion"
    train, valid = write_jsonl(folder / "train.jsonl", lines), write_jsonl(folder / "valid.jsonl", lines[:1])
    dataset = Dataset(train, valid, layout, labels, "" if layout == "chat" else stop, "all")
    hyperparameters = {"n_epochs": 1, "learning_rate": 1e-3}
    request = TrainingRequest("key", model, dataset, hyperparameters, 7, evaluation or EvaluationSettings())
    backend = LocalBackend.open(LocalOptions(model=model, device="cpu", **options), folder / "w", Placement(1.0, 0.0))
    assert isinstance(backend, SupportsExampleReport)
    try:
        assert not backend.check(request)
        return backend.report_examples(request, write_jsonl(folder / "test.jsonl", test) if test else None)
    finally:
        backend.close()


def only(found: ExampleReport, code: str) -> ExampleNotice:
    (notice,) = [notice for notice in found.notices if notice.code == code]
    return notice


def test_what_is_cut_is_counted_in_each_part_with_its_lines(tmp_path: Path) -> None:
    short, long = {"prompt": "ab##", "completion": " x|"}, {"prompt": "word " * 60 + "##", "completion": " y|"}
    labels = (" x|", " y|")
    found = report(tmp_path, [short, long, short, long], [long, short], labels=labels, max_length=40)
    train, test = [notice for notice in found.notices if notice.code == "cut-prompts"]
    assert (train.part, train.count, train.examples) == ("train", 2, (2, 4))
    assert train.path == str(tmp_path / "train.jsonl")
    assert train.message.startswith("2 of 4 training prompts lose their beginning to fit into 40 tokens; ")
    assert train.hint == "raise backend.max_length, or leave them out with long_prompts: drop"
    assert (test.part, test.count, test.examples) == ("test", 1, (1,))
    assert found.lengths["train"].examples == 4
    assert found.lengths["train"].longest == 40
    assert found.max_length == 40


def test_completions_that_are_cut_and_examples_that_are_dropped_are_counted(tmp_path: Path) -> None:
    short, long = {"prompt": "ab##", "completion": " x|"}, {"prompt": "ab##", "completion": "1 2 3 " * 30 + "|"}
    found = report(tmp_path, [short, long], [long], max_length=40, long_completions="cut")
    assert only(found, "cut-completions").examples == (2,)
    assert "does not learn to end there" in only(found, "cut-completions").hint
    found = report(tmp_path, [short, long], [long], max_length=40, long_completions="drop")
    assert only(found, "dropped-examples").examples == (2,)
    assert {notice.part for notice in found.notices} == {"train"}, "the winner writes for every test prompt"


def test_a_limit_of_the_model_cannot_be_raised(tmp_path: Path) -> None:
    lines = [{"prompt": "word " * 600 + "##", "completion": " x|"}]
    (notice,) = [notice for notice in report(tmp_path, lines).notices if notice.part == "train"]
    assert notice.hint == "choose a model that reads longer texts, or leave them out with long_prompts: drop"


def test_an_encoder_loses_the_end_of_a_text(tmp_path: Path, bert: Path) -> None:
    lines = [{"prompt": "ab" * 20, "completion": "yes"}, {"prompt": "ab", "completion": "no"}]
    found = report(tmp_path, lines, model=str(bert), labels=("yes", "no"), stop="", max_length=16)
    assert "1 of 2 training prompts lose their end to fit into 16 tokens" in only_train(found, "cut-prompts").message
    assert found.lengths["train"].prompt_share is None


def only_train(found: ExampleReport, code: str) -> ExampleNotice:
    (notice,) = [notice for notice in found.notices if notice.code == code and notice.part == "train"]
    return notice


def test_text_that_the_tokenizer_does_not_know_is_reported(tmp_path: Path, bert: Path) -> None:
    known = {"prompt": "abc", "completion": "yes"}
    found = report(tmp_path, [known, {"prompt": "日本語", "completion": "no"}], model=str(bert), labels=("yes", "no"))
    notice = only(found, "unknown-tokens")
    assert notice.examples == (2,)
    assert notice.message.startswith("1 of 2 training examples have text that the tokenizer does not know: 3 of 10")
    clean = report(tmp_path, [known, {"prompt": "abd", "completion": "no"}], model=str(bert), labels=("yes", "no"))
    assert clean.notices == ()


def test_outliers_are_reported_where_they_are_few(tmp_path: Path) -> None:
    short, long = {"prompt": "ab##", "completion": " x|"}, {"prompt": "word " * 100 + "##", "completion": " x|"}
    assert only(report(tmp_path, [*[short] * 99, long]), "token-outliers").examples == (100,)
    assert report(tmp_path, [short, long] * 20).notices == ()


def test_prompts_that_are_cut_only_to_generate_are_counted(tmp_path: Path) -> None:
    lines = [{"prompt": "word " * 20 + "##", "completion": " x|"}]
    metrics = (MetricRequest("exact_match", "exact_match"),)
    evaluation = EvaluationSettings(metrics=metrics, generation=GenerationSettings(examples=1, decoding=Decoding(8)))
    whole = report(tmp_path, lines).lengths["valid"].longest
    found = report(tmp_path, lines, [*lines, *lines], evaluation=evaluation, max_length=whole + 4)
    assert {notice.code for notice in found.notices} == {"cut-generation-prompts"}, "training cuts nothing"
    assert [(notice.part, notice.count) for notice in found.notices] == [("valid", 1), ("test", 2)]


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four"},
]
LOSSY = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_chat_template_that_drops_messages_is_found_out() -> None:
    tokenizer = load_tokenizer(model_source.find(TINY))
    tokenizer.chat_template = CHATML
    lines = [{"messages": TALK}, {"messages": TALK[1:3]}, {"messages": TALK}]
    assert dropped_messages(tokenizer, lines) == {}
    tokenizer.chat_template = LOSSY
    assert dropped_messages(tokenizer, lines) == {"messages of the role system": [1, 3]}
    with_tools = [{"messages": TALK, "tools": [{"type": "function", "function": {"name": "add"}}]}]
    assert dropped_messages(tokenizer, with_tools)["the list of tools"] == [1]
    last_question = "{% for m in messages[-2:] %}{{ m['content'] }}<|im_end|>{% endfor %}"
    tokenizer.chat_template = last_question
    assert set(dropped_messages(tokenizer, lines)) == {"messages of the role system", "earlier answers"}
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert dropped_messages(tokenizer, lines) == {}


def test_predictions_say_whether_the_model_read_the_whole_prompt(tmp_path: Path) -> None:
    prompts = [{"prompt": "ab"}, {"prompt": "ab" * 200}]
    backend = LocalBackend.open(LocalOptions(model=TINY, device="cpu", max_length=40), tmp_path, Placement(1.0, 0.0))
    try:
        for options in (PredictOptions((" yes", " no")), PredictOptions(max_tokens=4)):
            predictions = backend.predict(TINY, prompts, options)
            assert [prediction.prompt_cut for prediction in predictions] == [False, True]
    finally:
        backend.close()


def test_a_run_records_what_it_lost(tmp_path: Path) -> None:
    lines = [{"prompt": "ab##", "completion": " x|"}, {"prompt": "word " * 60 + "##", "completion": " x|"}]
    lines.append({"prompt": "ab##", "completion": "1 2 3 " * 30 + "|"})
    train, valid = write_jsonl(tmp_path / "train.jsonl", lines), write_jsonl(tmp_path / "valid.jsonl", lines[:1])
    request = TrainingRequest("k", TINY, Dataset(train, valid, "completion", stop="|"), {"n_epochs": 1}, 7)
    options = LocalOptions(device="cpu", max_length=40, long_completions="drop")
    resolved = resolve(request, options)
    plan, trainable = set_up_run(request, resolved, options, Placement(1.0, 0.0))
    try:
        values = values_in_use(request, resolved, plan, trainable)
    finally:
        trainable.release()
    assert (values["training_examples"], values["truncated_examples"], values["dropped_examples"]) == (2, 1, 1)
    assert values["lost_tokens"] == plan.train.truncation.lost_tokens > 0
    assert "cut_completions" not in values
