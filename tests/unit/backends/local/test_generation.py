"""Generated texts: the same as one by one, whatever the batch, the memory and the stop texts."""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from backends.contract import BackendError, Decoding, FailureKind, PredictOptions
from backends.local import generation, model_source, prediction
from backends.local.example_template import ExampleTemplate
from backends.local.failures import is_out_of_memory
from backends.local.model import LoadedModel, ModelSpec, load_model, load_tokenizer
from backends.local.special_tokens import end_ids
from backends.model_packages import text_generation
from backends.model_packages.text_generation import GeneratedAnswer, GenerationSettings, drawn_token, text_of
from tests.unit.backends.local.conftest import LLAMA_SHAPE, save_tokenizer

pytestmark = [pytest.mark.unit, pytest.mark.trains]

TEXT = "the cat sat on a mat and once upon a time there was a little girl who liked to play in the park"
WORDS = TEXT.split()


def loaded(name: str | Path) -> LoadedModel:
    source = model_source.find(str(name))
    spec = ModelSpec(source, "causal-lm", torch.device("cpu"), torch.float32, torch.float32)
    return load_model(spec, load_tokenizer(source))


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return loaded("builtin:tiny-lm")


def prompts_of(model: LoadedModel, count: int, longest: int = 40) -> list[list[int]]:
    draw = random.Random(0)
    texts = [" ".join(draw.choice(WORDS) for _ in range(draw.randint(1, longest))) for _ in range(count)]
    encoded: list[list[int]] = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return encoded


def settings(model: LoadedModel, max_tokens: int, **changes: Any) -> GenerationSettings:
    end_tokens = end_ids(model.tokenizer, model.module)
    return GenerationSettings(**{"max_tokens": max_tokens, "max_length": 512, "end_tokens": end_tokens, **changes})


def generate(model: LoadedModel, prompts: Sequence[Sequence[int]], how: GenerationSettings) -> list[GeneratedAnswer]:
    return text_generation.generate(model, prompts, how, is_out_of_memory)


def one_by_one(model: LoadedModel, prompts: Sequence[Sequence[int]], how: GenerationSettings) -> list[GeneratedAnswer]:
    """Generate with the library's own loop, one prompt after the other."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        with torch.inference_mode():
            whole = model.module.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=how.max_tokens,
                eos_token_id=sorted(how.end_tokens),
                pad_token_id=0,
            )[0]
        tokens = whole[len(prompt) :].tolist()
        has_ended = tokens[-1] in how.end_tokens
        tokens = tokens[:-1] if has_ended else tokens
        answers.append(GeneratedAnswer(text_of(model.tokenizer, prompt, tokens), len(tokens), not has_ended))
    return answers


# ------------------------------------------------------------------------------ equality
def test_the_texts_are_those_of_the_library_one_by_one(embedded: LoadedModel) -> None:
    prompts = prompts_of(embedded, 36)
    how = settings(embedded, 48)
    answers = generate(embedded, prompts, how)
    assert answers == one_by_one(embedded, prompts, how)
    assert len({len(prompt) for prompt in prompts}) > 15, "prompts of different lengths"
    assert {answer.truncated for answer in answers} == {True, False}, "some end by themselves and some do not"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_other_models_generate_as_the_library_does(name: str, request: pytest.FixtureRequest) -> None:
    model = loaded(request.getfixturevalue(name))
    prompts = [model.tokenizer(" ".join(WORDS[:n]))["input_ids"] for n in range(1, 9)]
    how = settings(model, 40, max_length=96)
    assert generate(model, prompts, how) == one_by_one(model, prompts, how)


def test_a_sliding_window_changes_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MistralConfig(vocab_size=save_tokenizer(tmp_path), sliding_window=8, **LLAMA_SHAPE)
    MistralForCausalLM(config).save_pretrained(tmp_path)
    model = loaded(tmp_path)
    prompts = [model.tokenizer("abcdefghijklmnopqrstuvwxyz"[:n])["input_ids"] for n in (3, 7, 12, 20)]
    how = settings(model, 30, max_length=128)
    assert generate(model, prompts, how) == one_by_one(model, prompts, how)


def test_a_model_without_attention_generates_as_the_library_does(tmp_path: Path) -> None:
    """Its state is no cache of keys and values, and padding on the left may change it."""
    torch.manual_seed(0)
    size = save_tokenizer(tmp_path)
    MambaForCausalLM(
        MambaConfig(
            vocab_size=size, hidden_size=16, num_hidden_layers=2, state_size=4, eos_token_id=3, initializer_range=0.4
        )
    ).save_pretrained(tmp_path)
    model = loaded(tmp_path)
    prompts = [model.tokenizer("abcdefghijklmnopqrstuvwxyz"[:n])["input_ids"] for n in (3, 7, 7, 12, 20)]
    how = settings(model, 20, max_length=128)
    answers = generate(model, prompts, how)
    assert answers == one_by_one(model, prompts, how)
    assert len({answer.text for answer in answers}) > 1


def test_a_model_that_returns_no_cache_computes_the_whole_texts(
    embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, how = prompts_of(embedded, 8, longest=12), settings(embedded, 16)
    expected = generate(embedded, prompts, how)
    forward = embedded.module.forward

    def forgetful(**inputs: Any) -> Any:
        output = forward(**{**inputs, "use_cache": False})
        output.past_key_values = None
        return output

    forgetful.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(embedded.module, "forward", forgetful)
    assert generate(embedded, prompts, how) == expected


def test_half_precision_generates() -> None:
    source = model_source.find("builtin:tiny-lm")
    spec = ModelSpec(source, "causal-lm", torch.device("cpu"), torch.bfloat16, torch.bfloat16)
    model = load_model(spec, load_tokenizer(source))
    prompts, how = prompts_of(model, 10), settings(model, 16)
    answers = generate(model, prompts, how)
    alone = [generate(model, [prompt], how)[0] for prompt in prompts]
    first_words = [
        (answer.text.split()[:1], other.text.split()[:1]) for answer, other in zip(answers, alone, strict=True)
    ]
    assert sum(one == other for one, other in first_words) >= 8, "rounding changes few texts"


def test_no_prompt_is_no_text(embedded: LoadedModel) -> None:
    assert generate(embedded, [], settings(embedded, 5)) == []


# ------------------------------------------------------------------------------ batches
@pytest.fixture
def forward_sizes(embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return the shapes of all forward passes of the embedded model."""
    shapes: list[tuple[int, int]] = []
    forward = embedded.module.forward

    def recording(*arguments: Any, **inputs: Any) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return forward(*arguments, **inputs)

    recording.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(embedded.module, "forward", recording)
    return shapes


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_the_size_of_the_batches_changes_no_text(
    embedded: LoadedModel, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, how = prompts_of(embedded, 14), settings(embedded, 24)
    together = generate(embedded, prompts, how)
    monkeypatch.setitem(text_generation.MAX_ROWS, "cpu", rows)
    assert generate(embedded, prompts, how) == together


def test_batches_respect_their_limits_and_hold_each_prompt_once(
    embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(1)
    lengths = [draw.randint(1, 300) for _ in range(150)]
    how = settings(embedded, 100)
    monkeypatch.setitem(text_generation.MAX_ROWS, "cpu", 20)
    monkeypatch.setitem(text_generation.MAX_PROMPT_TOKENS, "cpu", 2000)
    token_bytes = text_generation.cache_bytes_per_token(embedded.module.config, torch.float32)
    assert token_bytes == 2 * 4 * 4 * 32 * 4, "keys and values, layers, heads, width, bytes"
    monkeypatch.setitem(text_generation.MAX_CACHE_BYTES, "cpu", 3000 * token_bytes)
    batches = text_generation.batches(embedded, lengths, how)
    assert sorted(n for batch in batches for n in batch) == list(range(150))
    for batch in batches:
        longest = max(lengths[n] for n in batch)
        assert len(batch) <= 20
        assert len(batch) == 1 or (len(batch) * longest <= 2000 and len(batch) * (longest + 100) <= 3000)
    monkeypatch.setitem(text_generation.MAX_CACHE_BYTES, "cpu", 1)
    assert len(text_generation.batches(embedded, lengths, how)) == 150, "one prompt a batch is the least"


def test_rows_that_have_ended_leave_the_batch(embedded: LoadedModel, forward_sizes: list[tuple[int, int]]) -> None:
    prompts, how = prompts_of(embedded, 24), settings(embedded, 64)
    answers = generate(embedded, prompts, how)
    steps = [rows for rows, width in forward_sizes[-max(answer.tokens for answer in answers) :] if width == 1]
    assert steps == sorted(steps, reverse=True)
    for step, rows in enumerate(steps, start=1):
        unfinished = sum(answer.tokens >= step + (not answer.truncated) for answer in answers)
        assert rows <= unfinished * 8 / 7 + 1, "less than an eighth of the rows is computed for nothing"
    assert steps[-1] < steps[0] / 2


def test_prompts_are_computed_with_little_padding(embedded: LoadedModel, forward_sizes: list[tuple[int, int]]) -> None:
    prompts = prompts_of(embedded, 30)
    generate(embedded, prompts, settings(embedded, 2))
    shapes = [(rows, width) for rows, width in forward_sizes if width > 1]
    computed = sum(rows * width for rows, width in shapes)
    assert computed <= 1.2 * sum(map(len, prompts)) + 50, "the test of padding computes a few tokens, too"
    assert len(shapes) < len(prompts) / 2


def test_a_shortage_of_memory_halves_the_batch(
    embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch, forward_sizes: list[tuple[int, int]]
) -> None:
    prompts, how = [prompt[-4:] for prompt in prompts_of(embedded, 18) if len(prompt) >= 4][:12], settings(embedded, 16)
    assert len(prompts) == 12
    plenty = generate(embedded, prompts, how)
    forward_sizes.clear()
    recording = embedded.module.forward

    def limited(*arguments: Any, **inputs: Any) -> Any:
        output = recording(*arguments, **inputs)
        # the cache grows, so that memory runs out in the middle of a text, too
        if inputs["input_ids"].shape[0] > 3 and (inputs["past_key_values"] is not None or len(prompts) < 12):
            raise torch.OutOfMemoryError("injected")
        return output

    limited.__signature__ = recording.__signature__  # type: ignore[attr-defined]
    monkeypatch.setattr(embedded.module, "forward", limited)
    assert generate(embedded, prompts, how) == plenty
    prompt_passes = [rows for rows, width in forward_sizes if width > 1]
    assert prompt_passes[-7:] == [12, 6, 3, 3, 6, 3, 3]


def test_one_text_that_does_not_fit_is_an_error_with_a_remedy(
    embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    template = ExampleTemplate(embedded.tokenizer, "completion", "")
    monkeypatch.setattr(embedded.module, "forward", full)
    with pytest.raises(BackendError, match="does not fit into memory") as caught:
        generation.generate(embedded, template, [{"prompt": "the cat"}] * 2, Decoding(max_tokens=4), 512)
    assert caught.value.failure.kind is FailureKind.OUT_OF_MEMORY
    assert "max_tokens" in caught.value.failure.detail


# ------------------------------------------------------------------------------ lengths
def test_prompt_and_text_fit_into_the_length_of_the_model(gpt2: Path) -> None:
    model = loaded(gpt2)  # 96 positions
    template = ExampleTemplate(model.tokenizer, "completion", "")
    lines = [{"prompt": "a b " * 40}, {"prompt": "c"}]
    answers = generation.generate(model, template, lines, Decoding(max_tokens=90), 96)
    reference = one_by_one(model, [model.tokenizer("a b " * 40)["input_ids"][-48:]], settings(model, 48))
    assert answers[0].tokens <= 48, "the prompt keeps half of the length"
    assert answers[0] == reference[0]
    assert answers[1].tokens <= 90


# ------------------------------------------------------------------------------ end of a text
def writing(model: LoadedModel, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model write `text` after every prompt of one token, and then only spaces."""
    tokens = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    forward = model.module.forward

    def scripted(*arguments: Any, **inputs: Any) -> Any:
        output = forward(*arguments, **inputs)
        logits = torch.zeros(output.logits.shape[0], 1, output.logits.shape[-1])
        filler = model.tokenizer(" ", add_special_tokens=False)["input_ids"][-1]
        for row, position in enumerate(inputs["position_ids"][:, -1].tolist()):
            logits[row, 0, tokens[position] if position < len(tokens) else filler] = 1.0
        output.logits = logits
        return output

    scripted.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(model.module, "forward", scripted)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        (" the cat sat\n\n###\n\n on the mat", ("\n\n###\n\n",), " the cat sat"),
        (" the cat END sat", ("END",), " the cat "),
        (" the cat sat", (" sat", " cat"), " the"),
        (" naïve café 東京 stop", ("東京",), " naïve café "),
        (" naïve café 東京 stop", ("京",), " naïve café 東"),
        ("###", ("###",), ""),
    ],
)
def test_a_stop_text_of_several_tokens_ends_the_text(
    embedded: LoadedModel, text: str, stops: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_tokens = [embedded.tokenizer(stop, add_special_tokens=False)["input_ids"] for stop in stops]
    writing(embedded, text, monkeypatch)
    prompt = embedded.tokenizer("a", add_special_tokens=False)["input_ids"][:1]
    (answer,) = generate(embedded, [prompt], settings(embedded, 60, stops=stops))
    assert answer.text == expected
    assert not answer.truncated
    assert answer.tokens < 60, f"generation ends at the stop text, whose tokens are {stop_tokens}"


def test_a_text_that_nothing_ends_is_marked(embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    writing(embedded, " the cat sat on the mat", monkeypatch)
    prompt = embedded.tokenizer("a", add_special_tokens=False)["input_ids"][:1]
    (answer,) = generate(embedded, [prompt], settings(embedded, 3, stops=("###",)))
    assert answer.truncated
    assert answer.tokens == 3


def test_the_cost_of_finding_stop_texts_does_not_grow_with_the_text(
    embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = embedded.tokenizer.decode
    monkeypatch.setattr(
        embedded.tokenizer, "decode", lambda tokens, **options: decoded.append(len(tokens)) or decode(tokens, **options)
    )
    writing(embedded, "#" * 400, monkeypatch)
    prompt = embedded.tokenizer("a", add_special_tokens=False)["input_ids"][:1]
    (answer,) = generate(embedded, [prompt], settings(embedded, 200, stops=("x##x",)))
    assert answer.truncated
    assert len(decoded) < 4 * 200
    assert sorted(decoded)[-3] <= 8 + 4 * len("x##x") + 8, "only the end of the text is decoded, but at the last token"


# ------------------------------------------------------------------------------ sampling
def test_a_sampled_text_depends_only_on_the_seed_and_the_prompt(embedded: LoadedModel) -> None:
    prompts = prompts_of(embedded, 12)
    how = settings(embedded, 24, temperature=0.8, top_p=0.9, seed=3)
    together = generate(embedded, prompts, how)
    for n, prompt in enumerate(prompts):
        assert generate(embedded, [prompt], how) == [together[n]]
    assert generate(embedded, prompts[::-1], how) == together[::-1]
    other_seed = generate(embedded, prompts, settings(embedded, 24, temperature=0.8, top_p=0.9, seed=4))
    assert sum(mine.text != other.text for mine, other in zip(together, other_seed, strict=True)) > 8
    state = torch.get_rng_state()
    generate(embedded, prompts[:2], how)
    assert torch.equal(state, torch.get_rng_state()), "training draws from this generator"


def test_a_temperature_near_zero_gives_the_most_probable_text(embedded: LoadedModel) -> None:
    prompts = prompts_of(embedded, 6)
    sampled = generate(embedded, prompts, settings(embedded, 24, temperature=1e-4))
    assert sampled == generate(embedded, prompts, settings(embedded, 24))


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.75, 1.0])
def test_tokens_are_drawn_by_their_probability_among_the_most_probable_ones(top_p: float) -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.05, 0.3, 0.05], dtype=torch.float64)
    allowed = {0.05: [1], 0.3: [1], 0.75: [1, 3], 1.0: [0, 1, 2, 3, 4]}[top_p]
    draws = [(n + 0.5) / 2000 for n in range(2000)]
    tokens = [drawn_token(probabilities, draw, top_p) for draw in draws]
    mass = float(probabilities[allowed].sum())
    for token in range(5):
        expected = float(probabilities[token]) / mass if token in allowed else 0.0
        assert tokens.count(token) / 2000 == pytest.approx(expected, abs=1e-3)


def test_a_flat_distribution_over_many_tokens_is_drawn_from_completely() -> None:
    size = 4 * 1024
    probabilities = torch.full((size,), 1 / size, dtype=torch.float64)
    drawn = {drawn_token(probabilities, n / 64, 0.9) for n in range(64)}
    assert len(drawn) == 64
    assert max(drawn) < 0.9 * size + 1


# ------------------------------------------------------------------------------ prediction
def test_predict_decodes_with_all_options(embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = prediction.Predictor(embedded, "completion", (), "", 512)
    lines = [{"prompt": " ".join(WORDS[:n])} for n in (3, 9)]
    decoding = Decoding(max_tokens=12, temperature=0.9, top_p=0.8)
    options = PredictOptions.generate(decoding, "", seed=5)
    assert prediction.predict(predictor, lines, options) == prediction.predict(predictor, lines, options)
    other = prediction.predict(predictor, lines, PredictOptions.generate(decoding, "", seed=6))
    assert other != prediction.predict(predictor, lines, options)
    writing(embedded, " the cat END sat STOP", monkeypatch)
    options = PredictOptions.generate(Decoding(stop=("STOP", "END")), "")
    (only,) = prediction.predict(predictor, [{"prompt": ""}], options)
    assert (only.text, only.truncated) == (" the cat ", False)
