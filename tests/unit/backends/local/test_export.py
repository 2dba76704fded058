"""An exported model loads with the field's own libraries and answers as the kept model does."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.contract import BackendError, Dataset, FailureKind, Finished, Placement, PredictOptions, TrainingRequest
from backends.guarded_backend import open_guarded
from backends.local import LocalBackend
from backends.local.export import GGUF_CONVERTERS, GGUF_FILE
from backends.local.options import LocalOptions
from backends.model_export import SupportsExport
from backends.testing import drain

pytestmark = [pytest.mark.integration, pytest.mark.trains]

LORA = {"method": "lora", "lora_rank": 4}


def trained(model: Path, data: Dataset, workspace: Path, **point: Any) -> tuple[LocalBackend, str]:
    backend = LocalBackend.open(LocalOptions(model=str(model), device="cpu"), workspace, Placement())
    hyperparameters = {"n_epochs": 2, "batch_size": 4, "learning_rate": 0.01, **point}
    [*_, end] = drain(backend, backend.submit(TrainingRequest("run", "", data, hyperparameters, 7)), timeout_s=120)
    assert isinstance(end, Finished)
    return backend, end.model


def folder_in(path: Path) -> Path:
    path.mkdir()
    return path


def prompts(data: Dataset) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(data.valid.path).read_text(encoding="utf-8").splitlines()]


def label_logprobs(module: Any, tokenizer: Any, prompt: str, label: str) -> float:
    """Score a label with nothing but torch: the sum of the log-probabilities of its tokens."""
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = tokenizer(prompt + label, add_special_tokens=False)["input_ids"]
    assert ids[: len(start)] == start
    with torch.inference_mode():
        logprobs = module(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logprobs[position - 1, ids[position]]) for position in range(len(start), len(ids)))


def assert_same_answers(backend: LocalBackend, model: str, module: Any, tokenizer: Any, data: Dataset) -> None:
    lines = prompts(data)
    expected = backend.predict(model, lines, PredictOptions(labels=data.labels, stop=data.stop))
    found = [[label_logprobs(module, tokenizer, line["prompt"], label) for label in data.labels] for line in lines]
    for row, prediction in zip(found, expected, strict=True):
        assert prediction.label_logprobs is not None
        # the sums may differ by the token that ends an answer, which is the same for all labels
        offset = row[0] - prediction.label_logprobs[0]
        assert [value - offset for value in row] == pytest.approx(list(prediction.label_logprobs), abs=2e-2)
    best = [data.labels[max(range(len(row)), key=row.__getitem__)] for row in found]
    assert best == [prediction.text for prediction in expected]


@pytest.mark.parametrize("point", [LORA, {**LORA, "use_dora": True}, {**LORA, "use_rslora": True}, {"method": "full"}])
def test_merged_weights_load_in_transformers_and_answer_the_same(
    point: dict[str, Any], llama: Path, dataset: Dataset, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    backend, model = trained(llama, dataset, tmp_path / "workspace", **point)
    out = folder_in(tmp_path / "out")
    backend.export(model, "merged", out)
    assert not (out / "adapter_config.json").exists()
    module = AutoModelForCausalLM.from_pretrained(str(out)).eval()
    assert_same_answers(backend, model, module, AutoTokenizer.from_pretrained(str(out)), dataset)
    backend.close()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft calls an old name in transformers
@pytest.mark.parametrize("point", [LORA, {**LORA, "use_dora": True, "use_rslora": True}])
def test_an_adapter_loads_in_peft_and_equals_the_merged_model(
    point: dict[str, Any], llama: Path, dataset: Dataset, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    backend, model = trained(llama, dataset, tmp_path / "workspace", **point)
    adapter, merged = folder_in(tmp_path / "adapter"), folder_in(tmp_path / "merged")
    backend.export(model, "adapter", adapter)
    backend.export(model, "merged", merged)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert Path(config["base_model_name_or_path"]) == llama.resolve()
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    module = PeftModel.from_pretrained(base, str(adapter)).eval()
    assert_same_answers(backend, model, module, AutoTokenizer.from_pretrained(str(adapter)), dataset)
    ids = torch.arange(30)[None] % 40
    with torch.inference_mode():
        logits = [
            loaded(input_ids=ids).logits
            for loaded in (module, AutoModelForCausalLM.from_pretrained(str(merged)).eval())
        ]
    assert torch.allclose(*logits, atol=1e-4)
    backend.close()


def test_a_classifier_is_exported_with_its_head_and_labels(bert: Path, dataset: Dataset, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    backend, model = trained(bert, dataset, tmp_path / "workspace", **LORA)
    out = folder_in(tmp_path / "out")
    backend.export(model, "merged", out)
    module = AutoModelForSequenceClassification.from_pretrained(str(out)).eval()
    assert module.config.id2label == dict(enumerate(dataset.labels))
    tokenizer, lines = AutoTokenizer.from_pretrained(str(out)), prompts(dataset)
    expected = backend.predict(model, lines, PredictOptions(labels=dataset.labels, stop=dataset.stop))
    for line, prediction in zip(lines, expected, strict=True):
        with torch.inference_mode():
            # the tokenizer of the tests leaves the segment ids out unless it is asked
            inputs = tokenizer(*line["segments"], return_tensors="pt", return_token_type_ids=True)
            logprobs = module(**inputs).logits[0].log_softmax(-1)
        assert logprobs.tolist() == pytest.approx(list(prediction.label_logprobs or ()), abs=1e-3)
    with pytest.raises(BackendError, match="GGUF"):
        backend.export(model, "gguf", folder_in(tmp_path / "gguf"))
    backend.close()


# ---------------------------------------------------------------------------------------- bad input
def failure(backend: LocalBackend, model: str, file_format: Any, folder: Path) -> tuple[str, str]:
    with pytest.raises(BackendError) as raised:
        backend.export(model, file_format, folder)
    assert raised.value.failure.kind is FailureKind.USER
    return raised.value.failure.message, raised.value.failure.detail


def test_what_does_not_exist_is_one_clear_error(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend, model = trained(llama, dataset, tmp_path / "workspace", method="full")
    out = folder_in(tmp_path / "out")
    message, remedy = failure(backend, model, "adapter", out)
    assert "no adapter" in message
    assert "--format merged" in remedy
    message, _ = failure(backend, str(llama), "merged", out)
    assert "not a model that a run has kept" in message
    backend.close()


def converter(folder: Path, lines: Sequence[str]) -> None:
    """Put a program with the converter's name and command line on PATH."""
    folder.mkdir()
    program = folder / GGUF_CONVERTERS[1]
    program.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_gguf_needs_its_converter_and_gets_merged_weights(
    llama: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, model = trained(llama, dataset, tmp_path / "workspace", **LORA)
    monkeypatch.setenv("PATH", str(folder_in(tmp_path / "empty")))
    message, remedy = failure(backend, model, "gguf", folder_in(tmp_path / "none"))
    assert GGUF_CONVERTERS[0] in message
    assert "llama.cpp" in remedy
    # A stand-in for llama.cpp's program, which no test environment has: it checks what it is given.
    converter(tmp_path / "bin", ['test -s "$1/model.safetensors" && test ! -e "$1/adapter_config.json" || exit 1',
                                 'test "$2" = --outfile && cp "$1/config.json" "$3"'])  # fmt: skip
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    out = folder_in(tmp_path / "gguf")
    backend.export(model, "gguf", out)
    assert [path.name for path in out.iterdir()] == [GGUF_FILE]
    backend.close()


def test_a_converter_that_fails_is_quoted(
    llama: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, model = trained(llama, dataset, tmp_path / "workspace", **LORA)
    converter(tmp_path / "bin", ["echo Model LlamaForCausalLM is not supported >&2", "exit 3"])
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    message, _ = failure(backend, model, "gguf", folder_in(tmp_path / "out"))
    assert "is not supported" in message
    backend.close()


def test_the_guard_passes_exports_on(tmp_path: Path) -> None:
    assert isinstance(open_guarded(LocalBackend, LocalOptions(), tmp_path, Placement()), SupportsExport)
