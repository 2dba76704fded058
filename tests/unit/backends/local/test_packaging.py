"""A packaged model predicts as the backend does and imports nothing of this product."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import backends.model_packages
from backends.contract import (
    BackendError,
    DataFile,
    Dataset,
    Decoding,
    Finished,
    Placement,
    PredictOptions,
    TrainingRequest,
)
from backends.local import LocalBackend
from backends.local.options import LocalOptions
from backends.model_packages import ModelPackage, SupportsPackaging, local_predictor
from backends.testing import drain

pytestmark = [pytest.mark.integration, pytest.mark.trains]

PREDICTORS = Path(backends.model_packages.__file__).parent
WriteFile = Callable[[Path, Sequence[Mapping[str, Any]]], DataFile]


def trained(model: Path, data: Dataset, workspace: Path, **point: Any) -> tuple[LocalBackend, str]:
    backend = LocalBackend.open(LocalOptions(model=str(model), device="cpu"), workspace, Placement())
    hyperparameters = {"n_epochs": 2, "batch_size": 4, "learning_rate": 0.01, **point}
    [*_, end] = drain(backend, backend.submit(TrainingRequest("run", "", data, hyperparameters, 7)), timeout_s=60)
    assert isinstance(end, Finished)
    return backend, end.model


def packaged(backend: LocalBackend, model: str, data: Dataset, folder: Path) -> tuple[ModelPackage, Any]:
    folder.mkdir()
    package = backend.package(model, data, folder)
    assert json.loads(json.dumps(package.settings)) == package.settings
    spec = importlib.util.spec_from_file_location("answers_under_test", package.code)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return package, module.load(str(folder), package.settings)


def same(answers: Any, backend: LocalBackend, model: str, lines: list[dict[str, Any]], data: Dataset) -> None:
    expected = backend.predict(model, lines, PredictOptions(labels=data.labels, stop=data.stop))
    predicted = answers.predict(lines)
    assert [text for text, _ in predicted] == [prediction.text for prediction in expected]
    for (_, logprobs), prediction in zip(predicted, expected, strict=True):
        assert logprobs == pytest.approx(prediction.label_logprobs, abs=1e-4)
    assert len({str(logprobs) for _, logprobs in predicted}) > 1, "a model with one constant answer proves nothing"


def lines_of(file: DataFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file.path).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_packaged_model_predicts_as_the_backend_does(
    name: str, method: str, request: pytest.FixtureRequest, dataset: Dataset, tmp_path: Path
) -> None:
    backend, model = trained(request.getfixturevalue(name), dataset, tmp_path / "work", method=method)
    package, answers = packaged(backend, model, dataset, tmp_path / "package")
    lines = [*lines_of(dataset.valid), *lines_of(dataset.train)]
    long = {"prompt": "a b " * 60 + "##", "segments": ["a b " * 60, "c"]}
    same(answers, backend, model, [*lines, long], dataset)
    assert answers.predict([]) == []
    assert ("peft" in package.requirements) == (method == "lora")
    assert str(tmp_path) not in json.dumps(package.settings), "the package contains no path of this machine"
    backend.close()


@pytest.mark.parametrize("template", [None, "{% for m in messages %}<{{ m.role }}>{{ m.content }}|{% endfor %}"])
def test_a_packaged_chat_model_predicts_as_the_backend_does(
    template: str | None, llama: Path, tmp_path: Path, write: WriteFile
) -> None:
    model = tmp_path / "llama"
    model.mkdir()
    for file in llama.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    if template is not None:
        (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    dialogues = [(f"is {n} odd", "yes" if n % 2 else "no") for n in range(16)]
    chats = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in dialogues
    ]
    data = Dataset(write(tmp_path / "t", chats), write(tmp_path / "v", chats[:4]), "chat", ("no", "yes"))
    backend, kept = trained(model, data, tmp_path / "work", n_epochs=6)
    package, answers = packaged(backend, kept, data, tmp_path / "package")
    same(answers, backend, kept, chats, data)
    # Earlier turns end as they do in training, early exchanges make room, and tools are read.
    system = [{"role": "system", "content": "odd"}]
    talks: list[dict[str, Any]] = [
        {"messages": [*system, *chats[0]["messages"] * n, *chats[1]["messages"]]} for n in range(8)
    ]
    talks[1]["tools"] = [{"type": "function", "function": {"name": "odd"}}]
    same(answers, backend, kept, talks, data)
    assert "jinja2" in " ".join(package.requirements)
    backend.close()


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("layout", ["completion", "chat"])
def test_a_packaged_model_writes_what_the_backend_writes(
    layout: str, method: str, llama: Path, tmp_path: Path, write: WriteFile
) -> None:
    lines: list[dict[str, Any]] = [{"prompt": f"{n} a#", "completion": f" {n % 7}{n % 3} b|"} for n in range(24)]
    if layout == "chat":
        lines = [
            {"messages": [{"role": "user", "content": line["prompt"]}, {"role": "assistant", "content": answer}]}
            for line, answer in zip(lines, ["yes", "no", "perhaps"] * 8, strict=True)
        ]
    stop = "|" if layout == "completion" else ""
    data = Dataset(write(tmp_path / "t", lines), write(tmp_path / "v", lines[:4]), layout, (), stop)  # type: ignore[arg-type]
    backend, model = trained(llama, data, tmp_path / "work", method=method, n_epochs=1, learning_rate=1e-5)
    _, answers = packaged(backend, model, data, tmp_path / "package")
    options = PredictOptions.generate(Decoding(), stop)
    expected = [prediction.text for prediction in backend.predict(model, lines, options)]
    assert answers.predict(lines) == [(text, None) for text in expected]
    assert len(set(expected)) > 1
    backend.close()


def test_only_a_kept_model_can_be_packaged(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = LocalBackend.open(LocalOptions(model=str(llama)), tmp_path, Placement())
    assert isinstance(backend, SupportsPackaging)
    with pytest.raises(BackendError, match="not a model that a run has kept"):
        backend.package(str(llama), dataset, tmp_path)


@pytest.mark.parametrize("module", ["chat_text.py", *sorted(path.name for path in PREDICTORS.glob("*_predictor.py"))])
def test_a_packaged_predictor_imports_only_declared_libraries(module: str) -> None:
    imported = set()
    for node in ast.walk(ast.parse((PREDICTORS / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    allowed = {
        "local_predictor.py": {"torch", "transformers", "peft"},
        "hosted_predictor.py": {"openai"},
        "chat_text.py": {"jinja2"},
    }[module]
    assert imported - sys.stdlib_module_names <= allowed


def test_batches_contain_every_row_once_and_respect_the_token_limit() -> None:
    lengths = [5, 1, 9, 3, 3, 20, 2]
    batches = list(local_predictor._batches(lengths, 12))
    assert sorted(n for batch in batches for n in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[n] for n in batch) <= 12 for batch in batches)
