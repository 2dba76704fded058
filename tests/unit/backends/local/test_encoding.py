"""Encoding of lines into token ids, and grouping of examples into batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from backends.contract import BackendError, DataFile, Dataset, FailureKind
from backends.local import encoded_data, encoding, model, model_source
from backends.local.truncation import LengthRule, Truncation

pytestmark = pytest.mark.unit

NO_FILE = DataFile("", 0, "")
PLAIN = Dataset(NO_FILE, NO_FILE, "completion", stop="|")
CHAT = Dataset(NO_FILE, NO_FILE, "chat")
CHAT_TEMPLATE = (
    "{% for m in messages %}#{{ m['role'] }}:{{ m['content'] }}|{% endfor %}"
    "{% if add_generation_prompt %}#assistant:{% endif %}"
)
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=200).map(lambda values: np.array(values, dtype=np.int64))


@pytest.fixture
def tokenizer(llama: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = model.load_tokenizer(model_source.find(str(llama)))
    return loaded


@pytest.fixture
def encoder_tokenizer(bert: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = model.load_tokenizer(model_source.find(str(bert)))
    return loaded


def text(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode([int(token) for token in ids]))


# ----------------------------------------------------------------------------------------- examples
def test_completion_starts_points_at_the_first_token_of_the_completion(tokenizer: PreTrainedTokenizerBase) -> None:
    data = encoding.encode_causal(tokenizer, [{"prompt": "ab##", "completion": " yes|"}], PLAIN, LengthRule(64))
    assert text(tokenizer, data.ids[0][: data.completion_starts[0]]) == "ab##"
    assert text(tokenizer, data.ids[0][data.completion_starts[0] :]) == " yes|"


def test_a_completion_without_a_stop_sequence_ends_with_end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> None:
    without_stop = dataclasses.replace(PLAIN, stop="")
    data = encoding.encode_causal(tokenizer, [{"prompt": "ab", "completion": " yes"}], without_stop, LengthRule(64))
    assert data.ids[0][-1] == tokenizer.eos_token_id


def test_a_long_prompt_loses_its_beginning_and_no_completion_is_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    lines = [{"prompt": "abcdefghij", "completion": " yes|"}, {"prompt": "ab", "completion": "x|"}]
    data = encoding.encode_causal(tokenizer, lines, PLAIN, LengthRule(8))
    assert data.truncation.cut_prompts == (1,)
    assert text(tokenizer, data.ids[0]) == "hij yes|"
    assert text(tokenizer, data.ids[1]) == "abx|"
    assert data.truncation == Truncation(2, tokens=19, lost_tokens=7, cut_prompts=(1,))


def test_one_long_completion_cuts_no_prompt_of_another_example(tokenizer: PreTrainedTokenizerBase) -> None:
    """42 of 43 prompts lost their beginning to one long completion in another example."""
    lines = [{"prompt": "abcdefghij", "completion": " yes|"}] * 42 + [{"prompt": "ab", "completion": "x" * 26 + "|"}]
    data = encoding.encode_causal(tokenizer, lines, PLAIN, LengthRule(29))
    assert data.truncation == Truncation(43, tokens=42 * 15 + 29)
    assert all(text(tokenizer, ids) == "abcdefghij yes|" for ids in data.ids[:42])


LONG_ANSWERS = [
    {"prompt": "abc", "completion": " yes|"},
    {"prompt": "abcdefgh", "completion": "0123456789|"},
    {"prompt": "ab", "completion": "0123456789|"},
]


def test_completions_that_leave_no_room_for_a_prompt_are_refused_with_their_lines(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    with pytest.raises(BackendError) as raised:
        encoding.encode_causal(tokenizer, LONG_ANSWERS, PLAIN, LengthRule(10), "/secret/train.jsonl")
    assert raised.value.failure.message == (
        "2 completions have too many tokens: up to 11, but prompt and completion together may have at most 10 "
        "(train.jsonl, lines 2, 3)"
    )
    assert "backend.long_completions to drop or cut" in raised.value.failure.detail


def test_completions_that_leave_no_room_for_a_prompt_are_dropped_or_cut_on_request(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    data = encoding.encode_causal(tokenizer, LONG_ANSWERS, PLAIN, LengthRule(10, completions="drop"))
    assert [text(tokenizer, ids) for ids in data.ids] == ["abc yes|"]
    assert data.truncation == Truncation(3, tokens=8, dropped=(2, 3))
    data = encoding.encode_causal(tokenizer, LONG_ANSWERS, PLAIN, LengthRule(10, completions="cut"))
    assert [text(tokenizer, ids) for ids in data.ids] == ["abc yes|", "defgh01234", "ab01234567"]
    lost = 3 + 6 + 3
    assert data.truncation == Truncation(3, 8 + 19 + 13, lost, cut_prompts=(2,), cut_completions=(2, 3))
    with pytest.raises(BackendError, match="no example of x fits into 10 tokens"):
        encoding.encode_causal(tokenizer, LONG_ANSWERS[1:], PLAIN, LengthRule(10, completions="drop"), "x")


def test_prompts_that_do_not_fit_are_dropped_or_refused_on_request(tokenizer: PreTrainedTokenizerBase) -> None:
    lines = [{"prompt": "abcdefghij", "completion": " yes|"}, {"prompt": "ab", "completion": "x|"}]
    data = encoding.encode_causal(tokenizer, lines, PLAIN, LengthRule(8, prompts="drop"))
    assert [text(tokenizer, ids) for ids in data.ids] == ["abx|"]
    assert data.truncation == Truncation(2, tokens=4, dropped=(1,))
    with pytest.raises(BackendError, match=r"1 prompt does not fit beside the completion into 8 tokens \(example 1\)"):
        encoding.encode_causal(tokenizer, lines, PLAIN, LengthRule(8, prompts="error"))


def test_a_long_answer_of_a_conversation_follows_the_same_rule(tokenizer: PreTrainedTokenizerBase) -> None:
    question = {"role": "user", "content": "is it 1"}
    lines = [
        {"messages": [question, {"role": "assistant", "content": "yes"}]},
        {"messages": [question, {"role": "assistant", "content": "a" * 60}]},
    ]
    with pytest.raises(BackendError, match=r"1 completion has too many tokens: up to 62, .* 40 \(example 2\)"):
        encoding.encode_causal(tokenizer, lines, CHAT, LengthRule(40))
    data = encoding.encode_causal(tokenizer, lines, CHAT, LengthRule(40, completions="drop"))
    assert (len(data.ids), data.truncation.dropped, data.answers.trained) == (1, (2,), 1)
    data = encoding.encode_causal(tokenizer, lines, CHAT, LengthRule(40, completions="cut"))
    assert data.truncation.cut_completions == (2,)
    assert data.truncation.cut_prompts == (2,)
    assert text(tokenizer, data.ids[1]) == ": is it 1\nassistant: " + "a" * 19
    roomy = encoding.encode_causal(tokenizer, lines, CHAT, LengthRule(60, completions="cut"))
    assert roomy.truncation.cut_prompts == ()
    assert text(tokenizer, roomy.ids[1]) == "user: is it 1\nassistant: " + "a" * 35
    assert roomy.truncation.lost_tokens == 62 - 36


def test_every_label_fits_after_a_truncated_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    labelled = dataclasses.replace(PLAIN, labels=("a|", " perhaps|"))
    data = encoding.encode_causal(tokenizer, [{"prompt": "abcdefghij", "completion": "a|"}], labelled, LengthRule(12))
    assert data.label_ids is not None
    assert data.completion_starts[0] + max(map(len, data.label_ids)) <= 12


def test_an_empty_prompt_gets_one_token_that_predicts_the_first(tokenizer: PreTrainedTokenizerBase) -> None:
    data = encoding.encode_causal(tokenizer, [{"prompt": "", "completion": "x|"}], PLAIN, LengthRule(64))
    assert data.completion_starts[0] == 1


@pytest.mark.parametrize(
    ("line", "match"),
    [({"prompt": "a", "completion": ""}, "empty completion"), ({"prompt": "a", "completion": "other|"}, "labels")],
)
def test_an_unusable_completion_is_a_user_error(
    tokenizer: PreTrainedTokenizerBase, line: dict[str, str], match: str
) -> None:
    labels = ("yes|",) if match == "labels" else ()
    with pytest.raises(BackendError, match=match) as raised:
        encoding.encode_causal(tokenizer, [line], dataclasses.replace(PLAIN, labels=labels), LengthRule(64))
    assert raised.value.failure.kind is FailureKind.USER


CONVERSATION = {
    "messages": [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "is it 1"},
        {"role": "assistant", "content": "yes"},
    ]
}


def test_a_chat_without_a_template_becomes_plain_text(tokenizer: PreTrainedTokenizerBase) -> None:
    data = encoding.encode_causal(tokenizer, [CONVERSATION], CHAT, LengthRule(64))
    assert text(tokenizer, data.ids[0][: data.completion_starts[0]]) == "system: be short\nuser: is it 1\nassistant:"
    assert text(tokenizer, data.ids[0][data.completion_starts[0] : -1]) == " yes"
    assert data.ids[0][-1] == tokenizer.eos_token_id


def test_a_chat_uses_the_tokenizers_template(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE
    data = encoding.encode_causal(tokenizer, [CONVERSATION], CHAT, LengthRule(64))
    assert text(tokenizer, data.ids[0][: data.completion_starts[0]]) == "#system:be short|#user:is it 1|#assistant:"
    assert text(tokenizer, data.ids[0][data.completion_starts[0] :]) == "yes|"


def test_the_labels_of_a_chat_are_rendered_like_its_completions(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE
    data = encoding.encode_causal(
        tokenizer, [CONVERSATION], dataclasses.replace(CHAT, labels=("no", "yes")), LengthRule(64)
    )
    assert data.label_ids is not None
    assert [text(tokenizer, label) for label in data.label_ids] == ["no|", "yes|"]
    assert data.labels is not None
    assert data.labels.tolist() == [1]


def test_an_encoder_sees_two_segments_as_a_pair(encoder_tokenizer: PreTrainedTokenizerBase) -> None:
    labelled = dataclasses.replace(PLAIN, labels=("x", "y"))
    lines = [{"prompt": "", "completion": "y", "segments": ["ab", "c"]}, {"prompt": "abc", "completion": "x"}]
    data = encoding.encode_classes(encoder_tokenizer, lines, labelled, LengthRule(64), with_segment_ids=True)
    assert text(encoder_tokenizer, data.ids[0]) == "[CLS]ab[SEP]c[SEP]"
    assert data.segments is not None
    assert data.segments[0].tolist() == [0, 0, 0, 0, 1, 1]
    assert text(encoder_tokenizer, data.ids[1]) == "[CLS]abc[SEP]"
    assert data.labels.tolist() == [1, 0]
    assert (
        encoding.encode_classes(encoder_tokenizer, lines, labelled, LengthRule(64), with_segment_ids=False).segments
        is None
    )
    assert encoding.encode_classes(
        encoder_tokenizer, lines, labelled, LengthRule(5), with_segment_ids=True
    ).truncation.cut_prompts == (1,)


PAIRS = st.tuples(st.text("abc", max_size=30), st.text("xyz", min_size=1, max_size=30))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    texts=st.lists(
        st.tuples(st.text("abc", max_size=30), st.text("xyz", min_size=1, max_size=30)), min_size=1, max_size=6
    ),
    max_length=st.integers(4, 40),
    prompts=st.sampled_from(["cut", "drop", "error"]),
    completions=st.sampled_from(["cut", "drop", "error"]),
)
def test_every_rule_counts_what_it_takes(
    tokenizer: PreTrainedTokenizerBase, texts: list[tuple[str, str]], max_length: int, prompts: Any, completions: Any
) -> None:
    lines = [{"prompt": prompt, "completion": completion} for prompt, completion in texts]
    rule = LengthRule(max_length, prompts, completions)
    sizes = [(max(len(prompt), 1), len(completion)) for prompt, completion in texts]
    try:
        data = encoding.encode_causal(tokenizer, lines, dataclasses.replace(PLAIN, stop="z"), rule)
    except BackendError:
        refused_prompt = prompts == "error" and any(sum(size) > max_length > size[1] for size in sizes)
        refused_completion = completions == "error" and any(size[1] >= max_length for size in sizes)
        cut_prompt = prompts == "error" and any(size[1] >= max_length and size[0] > max_length // 2 for size in sizes)
        all_dropped = "drop" in (prompts, completions)
        assert refused_prompt or refused_completion or cut_prompt or all_dropped
        return
    taken = data.truncation
    kept = [number for number in range(1, len(lines) + 1) if number not in taken.dropped]
    assert len(data.ids) == len(kept) > 0
    assert int(data.lengths.max()) <= max_length
    assert taken.tokens == sum(sum(sizes[number - 1]) for number in kept)
    assert taken.lost_tokens == taken.tokens - int(data.lengths.sum())
    for number, ids, start in zip(kept, data.ids, data.completion_starts, strict=True):
        prompt, completion = texts[number - 1]
        written = text(tokenizer, ids[start:])
        assert completion.startswith(written)
        assert (written != completion) == (number in taken.cut_completions)
        assert (int(start) < sizes[number - 1][0]) == (number in taken.cut_prompts)
        assert not prompt or prompt.endswith(text(tokenizer, ids[:start]))


def test_a_malformed_file_is_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    for content in ("", "{", "\n\n"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(BackendError, match=r"data\.jsonl"):
            encoding.read_lines(str(path))
    with pytest.raises(BackendError, match="gone"):
        encoding.read_lines(str(tmp_path / "gone"))


# ------------------------------------------------------------------------------------------ batches
@given(LENGTHS, st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_contains_each_example_once(lengths: encoded_data.Ids, size: int, seed: int, epoch: int) -> None:
    batches = encoding.epoch_batches(lengths, size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)
    again = encoding.epoch_batches(lengths, size, seed, epoch)
    assert all((one == other).all() for one, other in zip(batches, again, strict=True))


@given(LENGTHS, st.integers(1, 300))
def test_token_batches_contain_each_example_once_and_respect_the_limit(lengths: encoded_data.Ids, limit: int) -> None:
    batches = encoding.token_batches(lengths, limit)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= limit for batch in batches)


def test_different_seeds_and_epochs_give_different_orders() -> None:
    lengths = np.arange(1, 101)
    orders = {
        tuple(np.concatenate(encoding.epoch_batches(lengths, 4, seed, epoch))) for seed in (1, 2) for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_batches_group_similar_lengths_but_come_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(10, 60, 2000)
    batches = encoding.epoch_batches(lengths, 8, 0, 0)
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert padded < 1.06 * lengths.sum()
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.15


def test_the_position_in_the_epoch_does_not_depend_on_the_length() -> None:
    lengths = np.array([50] + [10] * 63)
    positions = []
    for seed in range(400):
        batches = encoding.epoch_batches(lengths, 4, seed, 0)
        positions.append(next(n for n, batch in enumerate(batches) if 0 in batch))
    counts = np.bincount(positions, minlength=16)
    assert counts.min() > 8  # 25 are expected for each position
    assert counts.max() < 50


def test_rows_are_padded_on_the_right() -> None:
    rows = [np.array([1, 2]), np.array([3])]
    assert encoding.pad(rows, 0).tolist() == [[1, 2], [3, 0]]
