"""The mask of trained tokens, token by token, with the templates of well-known model families.

The expected text of a sequence is written out, with its targets in ⟦brackets⟧. The flags
of the tokens come from there by the positions of the tokens in the whole text, which the tokenizer
reports: another way than that of the code, which tokenizes piece by piece.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import chat_templates
import numpy as np
import pytest
import torch
from chat_templates import CHATML, GEMMA, LLAMA_3, MISTRAL, THINKING
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from backends.contract import BackendError, DataFile, Dataset
from backends.local import encoded_data, encoding, loss, model_evaluation, model_source
from backends.local.encoded_data import CausalData
from backends.local.example_template import ExampleTemplate
from backends.local.model import LoadedModel, ModelSpec, load_model, load_tokenizer
from backends.local.special_tokens import end_ids
from backends.local.truncation import LengthRule
from backends.model_packages.chat_text import turn_end

pytestmark = pytest.mark.unit

NO_FILE = DataFile("", 0, "")
EMBEDDED = "backends/local/models/tiny_lm"
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"},
]
CALL = {"id": "call00001", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL_TURNS = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "2", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "It is 2"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]

FAMILIES = {
    "chatml": (CHATML, chat_templates.CHATML_TOKENS, None, "<|end|>"),
    "thinking": (THINKING, chat_templates.CHATML_TOKENS, None, "<|end|>"),
    "llama": (LLAMA_3, chat_templates.LLAMA_3_TOKENS, "<|begin_of_text|>", "<|end_of_text|>"),
    "mistral": (MISTRAL, chat_templates.MISTRAL_TOKENS, "<s>", "</s>"),
    "gemma": (GEMMA, chat_templates.GEMMA_TOKENS, "<bos>", "<eos>"),
}


def tokenizer_of(family: str) -> Any:
    """The embedded tokenizer with the template and the special tokens of a family."""
    loaded: Any = load_tokenizer(model_source.find(EMBEDDED))
    if family == "none":
        return loaded
    template, tokens, bos, eos = FAMILIES[family]
    loaded.add_special_tokens({"additional_special_tokens": [token for token in tokens if token not in (bos, eos)]})
    loaded.add_special_tokens({"eos_token": eos, **({} if bos is None else {"bos_token": bos})})
    loaded.chat_template = template
    if family == "llama":  # it never splits "\n\n", as the embedded tokenizer does before a letter
        split = pre_tokenizers.Split(Regex(r"\p{N}{1,3}|\s*[\r\n]+|\s+(?!\S)|\s+| ?[^\s\p{N}]+"), "isolated")
        loaded.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    return loaded


def encoded(
    family: str,
    messages: Sequence[dict[str, Any]],
    train_on: Literal["all", "last"] = "all",
    tools: Sequence[dict[str, Any]] = (),
    max_length: int = 4096,
) -> tuple[Any, CausalData]:
    tokenizer = tokenizer_of(family)
    line = {"messages": list(messages), **({"tools": list(tools)} if tools else {})}
    dataset = Dataset(NO_FILE, NO_FILE, "chat", train_on=train_on)
    return tokenizer, encoding.encode_causal(tokenizer, [line], dataset, LengthRule(max_length))


def assert_sequence(tokenizer: Any, data: CausalData, number: int, expected: str) -> None:
    """Check ids and flags of a sequence against a text with its targets in ⟦brackets⟧."""
    text, spans = "", []
    for part in re.split("(⟦.*?⟧)", expected, flags=re.DOTALL):
        plain = part.strip("⟦⟧")
        if part.startswith("⟦"):
            spans.append((len(text), len(text) + len(plain)))
        text += plain
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert tokenizer.decode(data.ids[number].tolist()) == text
    assert data.ids[number].tolist() == whole["input_ids"]
    flags = [any(begin <= start < end for begin, end in spans) for start, _ in whole["offset_mapping"]]
    assert data.targets[number].tolist() == flags


def prefix(family: str) -> str:
    return {
        "chatml": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
        "thinking": "",
        "llama": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>",
        "mistral": "<s>",
        "gemma": "<bos>",
        "none": "",
    }[family]


TWO_ANSWERS = {
    "chatml": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦hello<|im_end|>\n⟧"
    "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦2<|im_end|>\n⟧",
    "llama": "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦hello<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\n1+1?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦2<|eot_id|>⟧",
    "mistral": "[INST] hi[/INST]⟦ hello</s>⟧[INST] 1+1?[/INST]⟦ 2</s>⟧",
    "gemma": "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n⟦hello<end_of_turn>\n⟧"
    "<start_of_turn>user\n1+1?<end_of_turn>\n<start_of_turn>model\n⟦2<end_of_turn>\n⟧",
    "none": "user: hi\nassistant:⟦ hello<|end|>⟧\nuser: 1+1?\nassistant:⟦ 2<|end|>⟧",
}


# -------------------------------------------------------------------------------------- the targets
@pytest.mark.parametrize("family", TWO_ANSWERS)
def test_every_answer_and_the_end_of_its_turn_are_targets_and_nothing_else(family: str) -> None:
    tokenizer, data = encoded(family, TURNS)
    assert len(data.ids) == 1
    assert_sequence(tokenizer, data, 0, prefix(family) + TWO_ANSWERS[family])
    assert data.answers == encoded_data.AnswerCounts(2)


def only_the_last(expected: str) -> str:
    return expected.replace("⟦", "", 1).replace("⟧", "", 1)


@pytest.mark.parametrize("family", TWO_ANSWERS)
def test_only_the_last_answer_is_a_target_if_the_data_say_so(family: str) -> None:
    tokenizer, data = encoded(family, TURNS, "last")
    assert_sequence(tokenizer, data, 0, prefix(family) + only_the_last(TWO_ANSWERS[family]))


@pytest.mark.parametrize("family", TWO_ANSWERS)
def test_an_answer_of_weight_0_is_no_target(family: str) -> None:
    weighted = [{**message, "weight": 0} if message["content"] == "hello" else message for message in TURNS]
    tokenizer, data = encoded(family, weighted)
    assert_sequence(tokenizer, data, 0, prefix(family) + only_the_last(TWO_ANSWERS[family]))
    weighted = [{**message, "weight": int(message["content"] == "hello")} for message in TURNS]
    tokenizer, data = encoded(family, weighted)
    first = TWO_ANSWERS[family].index("⟧") + 1
    assert_sequence(tokenizer, data, 0, prefix(family) + TWO_ANSWERS[family][:first])
    with pytest.raises(BackendError, match="example 1 has no answer to train"):
        encoded(family, weighted, "last")


def test_system_prompts_are_context() -> None:
    expected = {
        "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n" + TWO_ANSWERS["chatml"],
        "llama": prefix("llama").removesuffix("<|eot_id|>") + "Be brief.<|eot_id|>" + TWO_ANSWERS["llama"],
        "none": "system: Be brief.\n" + TWO_ANSWERS["none"],
    }
    for family, text in expected.items():
        tokenizer, data = encoded(family, [SYSTEM, *TURNS])
        assert_sequence(tokenizer, data, 0, text)
    with pytest.raises(BackendError, match=r"example 1: .* \(system, user, assistant, user.*System role not supported"):
        encoded("gemma", [SYSTEM, *TURNS])


def test_tool_calls_are_targets_and_their_results_are_not() -> None:
    tool = json.dumps(TOOLS[0])
    expected = {
        "chatml": "<|im_start|>system\nYou are a helpful assistant.\n\n# Tools\n<tools>\n" + tool + "\n</tools>"
        "<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
        '⟦<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n⟧'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        "⟦It is 2<|im_end|>\n⟧",
        "llama": prefix("llama").replace("\n\nCutting", "\n\nEnvironment: ipython\nCutting")
        + "<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, call one.\n\n"
        + tool
        + '\n\n1+1?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦{"name": "add", "parameters": '
        '{"a": 1}}<|eot_id|>⟧<|start_header_id|>ipython<|end_header_id|>\n\n"2"<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦It is 2<|eot_id|>⟧",
        "mistral": "<s>[AVAILABLE_TOOLS] [" + tool + "][/AVAILABLE_TOOLS][INST] 1+1?[/INST]"
        '⟦[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "call00001"}]</s>⟧'
        '[TOOL_RESULTS] {"content": 2, "call_id": "call00001"}[/TOOL_RESULTS]⟦ It is 2</s>⟧',
        "none": f"tools: [{tool}]\nuser: 1+1?\nassistant:"
        '⟦ [{"name": "add", "arguments": {"a": 1}}]<|end|>⟧\ntool: 2\nassistant:⟦ It is 2<|end|>⟧',
    }
    for family, text in expected.items():
        tokenizer, data = encoded(family, TOOL_TURNS, tools=TOOLS)
        assert_sequence(tokenizer, data, 0, text)


def test_an_answer_before_the_last_question_keeps_the_text_in_which_it_was_asked() -> None:
    """Mistral lists the tools before the last question only, so one sequence cannot hold both."""
    later = [*TOOL_TURNS, {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes"}]
    tokenizer, data = encoded("mistral", later, tools=TOOLS)
    tools = "[AVAILABLE_TOOLS] [" + json.dumps(TOOLS[0]) + "][/AVAILABLE_TOOLS]"
    called = '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "call00001"}]</s>'
    result = '[TOOL_RESULTS] {"content": 2, "call_id": "call00001"}[/TOOL_RESULTS]'
    assert len(data.ids) == 2
    assert_sequence(tokenizer, data, 0, f"<s>{tools}[INST] 1+1?[/INST]⟦{called}⟧{result}⟦ It is 2</s>⟧")
    assert_sequence(
        tokenizer, data, 1, f"<s>[INST] 1+1?[/INST]{called}{result} It is 2</s>{tools}[INST] sure?[/INST]⟦ yes</s>⟧"
    )
    assert data.answers == encoded_data.AnswerCounts(3, split=1)


def test_a_template_that_removes_earlier_reasoning_trains_each_answer_as_it_is_asked() -> None:
    thoughtful = [dict(message) for message in TURNS]
    thoughtful[1]["content"] = "<think>\npolite\n</think>\n\nhello"
    tokenizer, data = encoded("thinking", thoughtful)
    question = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    second = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert len(data.ids) == 2
    assert_sequence(tokenizer, data, 0, question + "⟦<think>\npolite\n</think>\n\nhello<|im_end|>\n⟧")
    assert_sequence(tokenizer, data, 1, f"{question}hello<|im_end|>\n{second}⟦<think>\n\n</think>\n\n2<|im_end|>\n⟧")
    # With only the last answer trained there is one sequence, as ever.
    _, last = encoded("thinking", thoughtful, "last")
    assert [ids.tolist() for ids in last.ids] == [data.ids[1].tolist()]


@pytest.mark.parametrize(
    "template",
    [
        # ends only the last turn
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token if loop.last else '' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        # begins an answer in another way than it asks for one
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: <think>{% endif %}",
        # shows the number of messages
        "{{ messages | length }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        # ends no turn at all
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        # shows the last question only
        "{% for m in messages[-1:] %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    ],
)
def test_a_template_that_changes_earlier_turns_gives_no_wrong_target(template: str) -> None:
    tokenizer = tokenizer_of("none")
    tokenizer.chat_template = template
    dataset = Dataset(NO_FILE, NO_FILE, "chat", train_on="all")
    data = encoding.encode_causal(tokenizer, [{"messages": TURNS}], dataset, LengthRule(4096))
    assert len(data.ids) == 2
    for ids, flags, asked, answer in zip(data.ids, data.targets, (TURNS[:1], TURNS[:3]), ("hello", "2"), strict=True):
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(ids[~flags].tolist()) == prompt
        assert tokenizer.decode(ids[flags].tolist()) == answer + "<|end|>"
    assert data.answers == encoded_data.AnswerCounts(2, split=1)


def test_an_answer_that_the_template_cannot_be_asked_for_is_counted_as_lost() -> None:
    tokenizer = tokenizer_of("none")
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' and messages | length < 3 %}{{ raise_exception('no question') }}{% endif %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    line = {"messages": [SYSTEM, {"role": "assistant", "content": "welcome"}, *TURNS[:2]]}
    data = encoding.encode_causal(
        tokenizer, [line], Dataset(NO_FILE, NO_FILE, "chat", train_on="all"), LengthRule(4096)
    )
    assert tokenizer.decode(data.ids[0][data.targets[0]].tolist()) == "hello<|end|>"
    assert data.answers == encoded_data.AnswerCounts(1, lost=1)


def test_the_date_of_a_template_is_the_same_on_every_day() -> None:
    tokenizer = tokenizer_of("none")
    tokenizer.chat_template = (
        "\n{{ strftime_now('%Y-%m-%d, %d %B %y') }}{% for m in messages %}{{ m.content }}|{% endfor %}"
    )
    template = ExampleTemplate(tokenizer, "chat", "")
    assert template.prompt({"messages": TURNS[:1]}) == "\n2024-07-26, 26 July 24hi|"


@pytest.mark.parametrize("family", ["chatml", "thinking", "llama", "gemma", "mistral"])
def test_generation_ends_at_the_end_of_the_families_turns(family: str) -> None:
    """Only Mistral's is the tokenizer's end of sequence."""
    tokenizer = tokenizer_of(family)
    ends = {"llama": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral": "</s>"}
    end = ends.get(family, "<|im_end|>")
    assert turn_end(tokenizer).strip() == end
    model = load_model(_spec(), load_tokenizer(model_source.find(EMBEDDED)))
    assert tokenizer.convert_tokens_to_ids(end) in end_ids(tokenizer, model.module)


def test_a_template_that_is_set_later_counts() -> None:
    tokenizer = tokenizer_of("none")
    assert turn_end(tokenizer) == ""
    tokenizer.chat_template = CHATML
    assert turn_end(tokenizer) == "<|im_end|>\n"


def test_a_turn_that_begins_otherwise_than_its_prompt_ends_as_the_template_says() -> None:
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    data = encoding.encode_causal(
        tokenizer, [{"messages": TURNS[:2]}], Dataset(NO_FILE, NO_FILE, "chat"), LengthRule(4096)
    )
    asked = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert_sequence(tokenizer, data, 0, asked + "⟦hello<|im_end|>\n⟧")


# ------------------------------------------------------------------------------------------ lengths
LONG = [
    SYSTEM,
    *(
        {"role": role, "content": f"{text} {n}"}
        for n in range(6)
        for role, text in (("user", "what is"), ("assistant", "it is"))
    ),
]


@pytest.mark.parametrize("family", ["chatml", "none"])
@pytest.mark.parametrize("train_on", ["all", "last"])
def test_a_long_conversation_loses_whole_early_exchanges_and_keeps_its_system_prompt(
    family: str, train_on: Literal["all", "last"]
) -> None:
    tokenizer, whole = encoded(family, LONG, train_on)
    _, shortest = encoded(family, [SYSTEM, *LONG[-2:]], train_on)
    least, most = len(shortest.ids[0]), len(whole.ids[0])
    seen = set()
    for max_length in range(least + 1, most + 1):
        _, data = encoded(family, LONG, train_on, max_length=max_length)
        (ids,) = data.ids
        lost = next(n for n in range(6) if f"what is {n}" in tokenizer.decode(ids.tolist()))
        _, expected = encoded(family, [SYSTEM, *LONG[1 + 2 * lost :]], train_on)
        assert ids.tolist() == expected.ids[0].tolist()
        assert data.targets[0].tolist() == expected.targets[0].tolist()
        assert len(ids) <= max_length
        assert data.truncation.cut_prompts == ((1,) if lost else ())
        answers = 6 - lost if train_on == "all" else 1
        assert data.answers == encoded_data.AnswerCounts(answers, lost if train_on == "all" else 0)
        if lost:  # one exchange more would be too long
            _, longer = encoded(family, [SYSTEM, *LONG[2 * lost - 1 :]], train_on)
            assert len(longer.ids[0]) > max_length
        seen.add(lost)
    assert seen == set(range(6))


def test_a_single_exchange_that_is_too_long_loses_the_beginning_of_its_prompt_and_no_answer() -> None:
    tokenizer, whole = encoded("chatml", TURNS[:2])
    _, data = encoded("chatml", TURNS[:2], max_length=len(whole.ids[0]) - 5)
    assert data.ids[0].tolist() == whole.ids[0][5:].tolist()
    assert data.targets[0].tolist() == whole.targets[0][5:].tolist()
    assert data.truncation.cut_prompts == (1,)
    # Several answers to one question: the last one is trained whole, the others are lost.
    _, whole = encoded("chatml", TOOL_TURNS, tools=TOOLS)
    _, data = encoded("chatml", TOOL_TURNS, tools=TOOLS, max_length=60)
    assert tokenizer.decode(data.ids[0][data.targets[0]].tolist()) == "It is 2<|im_end|>\n"
    assert (len(data.ids[0]), data.answers) == (60, encoded_data.AnswerCounts(1, lost=1))


def test_an_answer_without_room_for_a_prompt_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"1 completion has too many tokens: up to [0-9]+,"):
        encoded("chatml", [TURNS[0], {"role": "assistant", "content": "word " * 60}], max_length=50)


def test_a_prompt_for_generation_loses_whole_exchanges_too() -> None:
    tokenizer = tokenizer_of("chatml")
    template = ExampleTemplate(tokenizer, "chat", "")
    asked = {"messages": LONG[:-1]}
    ((whole,), _) = template.tokenize_prompts([asked], 10_000)
    ((cut,), (is_cut,)) = template.tokenize_prompts([asked], len(whole) - 1)
    ((shorter,), _) = template.tokenize_prompts([{"messages": [SYSTEM, *LONG[3:-1]]}], 10_000)
    assert (cut, is_cut) == (shorter, True)
    ((tiny,), _) = template.tokenize_prompts([asked], 4)
    assert tiny == whole[-4:]


# ---------------------------------------------------------------------------- as it was and is used
WORD = st.text("abc xyz.\n", min_size=1, max_size=30)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.booleans(), WORD, WORD), min_size=1, max_size=6),
    st.sampled_from(["chatml", "none"]),
    st.sampled_from(["all", "last"]),
    st.integers(40, 90),
)
def test_single_answers_have_the_tensors_that_they_always_had(
    texts: list[tuple[bool, str, str]], family: str, train_on: Literal["all", "last"], max_length: int
) -> None:
    """Prompt and completion are tokenized apart; each prompt leaves room for its own answer."""
    tokenizer = tokenizer_of(family)
    lines, prompts, completions = [], [], []
    for with_system, question, answer in texts:
        messages = [*([SYSTEM] if with_system else []), {"role": "user", "content": question}]
        lines.append({"messages": [*messages, {"role": "assistant", "content": answer}]})
        if family == "none":
            prompt = "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"
            completion, end = f" {answer}", [tokenizer.eos_token_id]
        else:
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            completion, end = f"{answer}<|im_end|>\n", []
        prompts.append(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        anchored = tokenizer("\n" + completion, add_special_tokens=False)["input_ids"]
        alone = tokenizer(completion, add_special_tokens=False)["input_ids"]
        newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
        completions.append((anchored[1:] if anchored[:1] == newline else alone) + end)
    rooms = [max_length - len(completion) for completion in completions]
    dataset = Dataset(NO_FILE, NO_FILE, "chat", train_on=train_on)
    data = encoding.encode_causal(tokenizer, lines, dataset, LengthRule(max_length))
    expected = [prompt[max(len(prompt) - room, 0) :] for prompt, room in zip(prompts, rooms, strict=True)]
    assert [ids.tolist() for ids in data.ids] == [p + c for p, c in zip(expected, completions, strict=True)]
    assert data.completion_starts.tolist() == [len(prompt) for prompt in expected]
    assert all(flags[start:].all() for flags, start in zip(data.targets, data.completion_starts, strict=True))
    cut = [n for n, (prompt, room) in enumerate(zip(prompts, rooms, strict=True), 1) if len(prompt) > room]
    assert data.truncation.cut_prompts == tuple(cut)
    assert data.truncation.lost_tokens == sum(map(len, prompts)) - sum(map(len, expected))


def _spec() -> ModelSpec:
    return ModelSpec(model_source.find(EMBEDDED), "causal-lm", torch.device("cpu"), torch.float32, torch.float32)


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return load_model(_spec(), load_tokenizer(model_source.find(EMBEDDED)))


@pytest.mark.parametrize("prompt_loss_weight", [0.0, 0.25])
def test_loss_and_metrics_are_over_all_targets(embedded: LoadedModel, prompt_loss_weight: float) -> None:
    dataset = Dataset(NO_FILE, NO_FILE, "chat", train_on="all")
    lines = [{"messages": TURNS}, {"messages": LONG}, {"messages": TURNS[:2]}]
    data = encoding.encode_causal(embedded.tokenizer, lines, dataset, LengthRule(512))
    embedded.module.eval()
    expected = weights = nll_of_targets = 0.0
    targets = correct = 0
    for ids, flags in zip(data.ids, data.targets, strict=True):
        with torch.no_grad():
            logprobs = embedded.module(input_ids=torch.from_numpy(ids)[None]).logits[0].log_softmax(dim=-1)
        for at in range(1, len(ids)):
            nll, weight = -float(logprobs[at - 1, ids[at]]), 1.0 if flags[at] else prompt_loss_weight
            expected, weights = expected + weight * nll, weights + weight
            if flags[at]:
                nll_of_targets, targets = nll_of_targets + nll, targets + 1
                correct += int(logprobs[at - 1].argmax()) == ids[at]
    batch = np.arange(3)
    assert loss.total_weight(data, batch, prompt_loss_weight) == pytest.approx(weights)
    assert loss.summed_loss(embedded, data, batch, prompt_loss_weight).item() == pytest.approx(expected, rel=1e-4)
    values = model_evaluation.evaluate(embedded, data, "valid")
    assert values["valid_loss"] == pytest.approx(nll_of_targets / targets, rel=1e-4)
    assert values["valid_token_accuracy"] == pytest.approx(correct / targets)
    assert targets < sum(map(len, data.ids)) - 3


def test_labels_stay_the_last_message() -> None:
    tokenizer = tokenizer_of("chatml")
    labelled = Dataset(NO_FILE, NO_FILE, "chat", labels=("2", "3"), train_on="all")
    data = encoding.encode_causal(tokenizer, [{"messages": TURNS}], labelled, LengthRule(512))
    assert_sequence(tokenizer, data, 0, prefix("chatml") + only_the_last(TWO_ANSWERS["chatml"]))
