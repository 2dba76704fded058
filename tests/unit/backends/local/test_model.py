"""The loss against its formula, scoring against a reference, and the reset of a model's weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from backends.contract import BackendError, DataFile, Dataset, FailureKind
from backends.local import encoded_data, encoding, loss, model, model_evaluation, model_source
from backends.local.hyperparameters import LoraSettings
from backends.local.model import LoadedModel
from backends.local.options import Task
from backends.local.trainable_weights import TrainableWeights, lora_layers
from backends.local.training import initial_micro_batch_size
from backends.local.truncation import LengthRule, Truncation

pytestmark = [pytest.mark.unit, pytest.mark.trains]

CPU = torch.device("cpu")
LORA = LoraSettings(rank=2, alpha=4.0, dropout=0.0, target="all-linear")


def load(directory: Path, task: Task = "causal-lm", labels: tuple[str, ...] = ()) -> LoadedModel:
    source = model_source.find(str(directory))
    spec = model.ModelSpec(source, task, CPU, torch.float32, torch.float32, labels)
    return model.load_model(spec, model.load_tokenizer(source))


def causal_data(count: int = 6, labels: bool = False) -> encoded_data.CausalData:
    random = np.random.default_rng(3)
    prompts = [random.integers(4, 40, int(random.integers(1, 9))) for _ in range(count)]
    options = tuple(random.integers(4, 40, length) for length in (2, 1, 3))
    chosen = random.integers(0, 3, count)
    ids = tuple(np.concatenate([prompt, options[n]]) for prompt, n in zip(prompts, chosen, strict=True))
    targets = tuple(np.arange(len(row)) >= len(prompt) for row, prompt in zip(ids, prompts, strict=True))
    answers = encoded_data.AnswerCounts(count)
    return encoded_data.CausalData(
        ids, targets, chosen if labels else None, options if labels else None, Truncation(count), answers
    )


def by_formula(
    loaded: LoadedModel, data: encoded_data.CausalData, batch: list[int], prompt_loss_weight: float
) -> float:
    """Return the loss by its definition, token by token: sum of w * nll over sum of w."""
    total = weights = 0.0
    for n in batch:
        ids = torch.from_numpy(data.ids[n])[None]
        with torch.no_grad():
            logprobs = loaded.module(ids).logits[0].log_softmax(-1)
        for at in range(1, ids.shape[1]):
            weight = 1.0 if at >= data.completion_starts[n] else prompt_loss_weight
            total -= weight * float(logprobs[at - 1, ids[0, at]])
            weights += weight
    return total / weights


# --------------------------------------------------------------------------------------------- loss
@pytest.mark.parametrize("prompt_loss_weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_loss_is_its_formula(
    name: str, split: bool, prompt_loss_weight: float, request: pytest.FixtureRequest
) -> None:
    loaded, data = load(request.getfixturevalue(name)), causal_data()
    assert loaded.separate_head
    loaded.separate_head = split
    loaded.module.eval()
    batch = np.array([4, 0, 5, 1])
    value = loss.summed_loss(loaded, data, batch, prompt_loss_weight).item()
    value /= loss.total_weight(data, batch, prompt_loss_weight)
    assert value == pytest.approx(by_formula(loaded, data, batch.tolist(), prompt_loss_weight), rel=1e-5)


def test_unweighted_prompt_tokens_are_never_targets(llama: Path) -> None:
    loaded, data = load(llama), causal_data(1)
    requested_positions: list[int] = []
    states = loaded.states

    def watch(ids: torch.Tensor, positions: torch.Tensor, *rest: torch.Tensor | None) -> torch.Tensor:
        requested_positions.append(len(positions))
        return states(ids, positions, *rest)

    loaded.states = watch  # type: ignore[method-assign]
    for weight in (0.0, 0.5):
        loss.summed_loss(loaded, data, np.array([0]), weight)
    completion = len(data.ids[0]) - int(data.completion_starts[0])
    assert requested_positions == [completion, len(data.ids[0]) - 1]


def test_the_loss_of_a_classifier_is_the_mean_over_examples(bert: Path, dataset: Dataset) -> None:
    loaded = load(bert, "sequence-classification", dataset.labels)
    lines = encoding.read_lines(dataset.train.path)
    data = encoding.encode_classes(loaded.tokenizer, lines, dataset, LengthRule(64), with_segment_ids=True)
    loaded.module.eval()
    batch = np.array([0, 3, 7])
    value = loss.summed_loss(loaded, data, batch, 0.0).item() / loss.total_weight(data, batch, 0.0)
    alone = []
    for n in batch:
        pair = loaded.tokenizer(*lines[n]["segments"], return_tensors="pt", return_token_type_ids=True)
        logits = loaded.module(**pair).logits[0]
        alone.append(-float(logits.log_softmax(-1)[data.labels[n]].detach()))
    assert value == pytest.approx(np.mean(alone), rel=1e-5)


# ------------------------------------------------------------------------------------------ scoring
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_shared_prompts_give_the_scores_of_separate_rows(name: str, request: pytest.FixtureRequest) -> None:
    loaded, data = load(request.getfixturevalue(name)), causal_data(9, labels=True)
    assert data.label_ids is not None
    prompts = [ids[:start] for ids, start in zip(data.ids, data.completion_starts, strict=True)]
    loaded.module.train()  # the mode in which a training loop leaves it
    shared = model_evaluation.score_continuations(loaded, prompts, [data.label_ids] * 9)
    assert loaded.can_share_prompts is True
    loaded.can_share_prompts = False
    separate = model_evaluation.score_continuations(loaded, prompts, [data.label_ids] * 9)
    assert shared.logprobs == pytest.approx(separate.logprobs, abs=1e-4)
    assert (shared.correct_tokens == separate.correct_tokens).all()
    for n, prompt in enumerate(prompts):
        for k, label in enumerate(data.label_ids):
            with torch.no_grad():
                logits = loaded.module(torch.from_numpy(np.concatenate([prompt, label]))[None]).logits[0]
            rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            expected = rows[torch.arange(len(label)), torch.from_numpy(label)].sum()
            assert shared.logprobs[n, k] == pytest.approx(float(expected), abs=1e-4)
            assert shared.correct_tokens[n, k] == int((rows.argmax(-1).numpy() == label).sum())


def test_a_model_that_ignores_the_mask_gets_separate_rows(llama: Path) -> None:
    loaded = load(llama)
    states = loaded.states

    def unmasked(ids: torch.Tensor, positions: torch.Tensor, *_: torch.Tensor | None) -> torch.Tensor:
        return states(ids, positions)

    loaded.states = unmasked  # type: ignore[method-assign]
    data = causal_data(3, labels=True)
    assert data.label_ids is not None
    model_evaluation.score_continuations(loaded, [ids[:2] for ids in data.ids], [data.label_ids] * 3)
    assert loaded.can_share_prompts is False


def test_the_validation_loss_is_per_completion_token(llama: Path) -> None:
    loaded = load(llama)
    for labels in (False, True):
        data = causal_data(labels=labels)
        values = model_evaluation.evaluate(loaded, data, "valid")
        assert values["valid_loss"] == pytest.approx(by_formula(loaded, data, list(range(6)), 0.0), rel=1e-5)
        assert ("valid_accuracy" in values) == labels


def test_evaluation_survives_a_shortage_of_memory(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, data = load(llama), causal_data()
    expected = model_evaluation.evaluate(loaded, data, "valid")
    states = loaded.states

    def limited(ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if ids.shape[0] > limit:
            raise torch.OutOfMemoryError("injected")
        return states(ids, *rest)

    limit = 2
    loaded.states = limited  # type: ignore[method-assign]
    assert model_evaluation.evaluate(loaded, data, "valid") == pytest.approx(expected, rel=1e-5)
    limit = 0
    with pytest.raises(BackendError) as raised:
        model_evaluation.evaluate(loaded, data, "valid")
    assert raised.value.failure.kind is FailureKind.OUT_OF_MEMORY


def test_metrics_equal_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for classes, occurring in ((2, 2), (5, 5), (5, 3)):
        truth, logprobs = random.integers(0, occurring, 40), random.normal(size=(40, classes))
        logprobs[:, occurring:] = -9
        predicted = logprobs.argmax(axis=1)
        values = model_evaluation.label_metrics(truth, logprobs)
        assert values["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
        expected = f1_score(truth, predicted, labels=range(classes), average="macro", zero_division=0)
        assert values["macro_f1"] == pytest.approx(expected)


def test_a_class_that_the_validation_set_lacks_does_not_give_a_perfect_macro_f1() -> None:
    values = model_evaluation.label_metrics(np.array([0, 1]), np.log(np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])))
    assert values == {"accuracy": 1.0, "macro_f1": pytest.approx(2 / 3)}


def test_logits_computed_in_portions_give_the_same_metrics(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, data = load(llama), causal_data(labels=True)
    expected = model_evaluation.evaluate(loaded, data, "valid")
    monkeypatch.setattr(model_evaluation, "_MAX_LOGITS", 100)
    assert model_evaluation.evaluate(loaded, data, "valid") == pytest.approx(expected, rel=1e-6)


# -------------------------------------------------------------------------------- trainable weights
def weights(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in loaded.module.named_parameters()}


def add_one(trainable: TrainableWeights) -> None:
    with torch.no_grad():
        for parameter in trainable.parameters.values():
            parameter.add_(1.0)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_the_next_run_gets_the_original_weights(
    name: str, lora: LoraSettings | None, request: pytest.FixtureRequest
) -> None:
    task: Task = "causal-lm" if name == "llama" else "sequence-classification"
    loaded = load(request.getfixturevalue(name), task, ("a", "b", "c") if name == "bert" else ())
    before = weights(loaded)
    first = TrainableWeights(loaded, lora, seed=1)
    start = first.state()
    assert start.keys() == first.parameters.keys()
    add_one(first)
    first.release()
    second = TrainableWeights(loaded, lora, seed=1)
    assert all(torch.equal(start[name], parameter) for name, parameter in second.parameters.items())
    add_one(second)
    second.release()
    TrainableWeights(loaded, None, seed=1).release()
    after = weights(loaded)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before if name not in loaded.new_parameters)


def test_a_new_head_is_drawn_from_the_seed(bert: Path) -> None:
    loaded = load(bert, "sequence-classification", ("a", "b", "c"))
    assert set(loaded.new_parameters) == {"classifier.weight", "classifier.bias"}
    heads = []
    for seed in (1, 2, 1):
        trainable = TrainableWeights(loaded, None, seed)
        heads.append(trainable.state()["classifier.weight"])
        trainable.release()
    assert torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[1])


@pytest.mark.parametrize(("width", "tokens"), [(64, 2**14), (2**12, 512)])
def test_a_cpu_computes_as_many_tokens_as_its_caches_hold(llama: Path, width: int, tokens: int) -> None:
    loaded = load(llama)
    loaded.module.model.layers[0].mlp.up_proj = torch.nn.Linear(32, width, bias=False)
    assert loaded.max_tokens_in_cache == tokens
    rows, targets = tuple(np.full(32, 4) for _ in range(4)), tuple(np.arange(32) >= 2 for _ in range(4))
    long = encoded_data.CausalData(rows, targets, None, None, Truncation(4), encoded_data.AnswerCounts(4))
    assert initial_micro_batch_size(long, 600, loaded) == min(tokens, 4096) // 32
    loaded.device = torch.device("meta")
    assert loaded.max_tokens_in_cache > 2**40


def test_new_adapters_change_no_prediction_and_train_only_adapter_weights(llama: Path) -> None:
    loaded, data = load(llama), causal_data()
    before = model_evaluation.evaluate(loaded, data, "valid")
    trainable = TrainableWeights(loaded, LORA, seed=1)
    assert model_evaluation.evaluate(loaded, data, "valid") == pytest.approx(before, rel=1e-6)
    assert all("lora_" in name for name in trainable.parameters)
    trainable.release()
    everything = sum(parameter.numel() for parameter in loaded.module.parameters())
    assert not any("lora_" in name for name, _ in loaded.module.named_parameters())
    assert everything > 0
    assert loaded.source.adapter_parameters(2) >= 2 * 32


@pytest.mark.parametrize(
    ("name", "target", "last"),
    [
        ("llama", "attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("llama", "query-value", {"q_proj", "v_proj"}),
        ("llama", "all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("gpt2", "attention", {"c_attn", "c_proj"}),
        ("gpt2", "query-value", {"c_attn"}),
        ("bert", "attention", {"query", "key", "value", "dense"}),
        ("bert", "query-value", {"query", "value"}),
    ],
)
def test_adapters_are_attached_to_the_targeted_layers(
    name: str, target: str, last: set[str], request: pytest.FixtureRequest
) -> None:
    task: Task = "sequence-classification" if name == "bert" else "causal-lm"
    loaded = load(request.getfixturevalue(name), task, ("a", "b"))
    layers = lora_layers(loaded, target)
    assert {layer.rsplit(".", 1)[-1] for layer in layers} == last
    trainable = TrainableWeights(loaded, dataclasses.replace(LORA, target=target), seed=1)
    assert all(any(name.startswith(layer) for name in trainable.parameters) for layer in layers)
    trainable.release()


def test_a_damaged_model_file_is_a_user_error(llama: Path, tmp_path: Path) -> None:
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x10" + b"\x00" * 30)
    with pytest.raises(BackendError, match="loading the model") as raised:
        load(tmp_path)
    assert raised.value.failure.kind is FailureKind.USER
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BackendError, match="tokenizer"):
        load(tmp_path)


def test_each_data_file_is_encoded_once(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    from backends.local.model_cache import ModelCache

    cache, source = ModelCache(), model_source.find(str(llama))
    first = cache.encoded_data(source, "causal-lm", dataset, "train", LengthRule(64))
    assert cache.encoded_data(source, "causal-lm", dataset, "train", LengthRule(64)) is first
    assert cache.encoded_data(source, "causal-lm", dataset, "train", LengthRule(48)) is not first
    other = dataclasses.replace(dataset, train=DataFile(dataset.valid.path, 12, dataset.valid.sha256))
    assert len(cache.encoded_data(source, "causal-lm", other, "train", LengthRule(64)).ids) == 12
