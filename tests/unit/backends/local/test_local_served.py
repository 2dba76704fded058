"""A packaged model answers as the backend does, with every kind of model, and imports nothing of this product."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import backends.served
from backends.contract import BackendError, DataFile, Dataset, Finished, Placement, PredictOptions, TrainingRequest
from backends.local import LocalBackend
from backends.local.options import LocalOptions
from backends.served import Package, Packager, local_predictor
from backends.testing import drain

pytestmark = pytest.mark.integration

SERVED = Path(backends.served.__file__).parent
WriteFile = Callable[[Path, Sequence[Mapping[str, Any]]], DataFile]


def trained(model: Path, data: Dataset, workspace: Path, **point: Any) -> tuple[LocalBackend, str]:
    backend = LocalBackend.open(LocalOptions(model=str(model), device="cpu"), workspace, Placement())
    hyperparameters = {"n_epochs": 2, "batch_size": 4, "learning_rate": 0.01, **point}
    [*_, end] = drain(backend, backend.submit(TrainingRequest("run", "", data, hyperparameters, 7)), timeout_s=60)
    assert isinstance(end, Finished)
    return backend, end.model


def packaged(backend: LocalBackend, model: str, data: Dataset, folder: Path) -> tuple[Package, Any]:
    folder.mkdir()
    package = backend.package(model, data, folder)
    assert json.loads(json.dumps(package.facts)) == package.facts
    spec = importlib.util.spec_from_file_location("answers_under_test", package.code)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return package, module.load(str(folder), package.facts)


def same(answers: Any, backend: LocalBackend, model: str, lines: list[dict[str, Any]], data: Dataset) -> None:
    expected = backend.predict(model, lines, PredictOptions(labels=data.labels, stop=data.stop))
    found = answers.answer(lines)
    assert [text for text, _ in found] == [each.text for each in expected]
    for (_, logprobs), each in zip(found, expected, strict=True):
        assert logprobs == pytest.approx(each.label_logprobs, abs=1e-4)
    assert len({str(logprobs) for _, logprobs in found}) > 1, "a model that always says the same shows nothing"


def lines_of(file: DataFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file.path).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_packaged_model_answers_as_the_backend_does(
    name: str, method: str, request: pytest.FixtureRequest, dataset: Dataset, tmp_path: Path
) -> None:
    backend, model = trained(request.getfixturevalue(name), dataset, tmp_path / "work", method=method)
    package, answers = packaged(backend, model, dataset, tmp_path / "package")
    lines = [*lines_of(dataset.valid), *lines_of(dataset.train)]
    long = {"prompt": "a b " * 60 + "##", "segments": ["a b " * 60, "c"]}
    same(answers, backend, model, [*lines, long], dataset)
    assert answers.answer([]) == []
    assert ("peft" in package.requirements) == (method == "lora")
    assert str(tmp_path) not in json.dumps(package.facts), "nothing of this machine goes along"
    backend.close()


@pytest.mark.parametrize("template", [None, "{% for m in messages %}<{{ m.role }}>{{ m.content }}|{% endfor %}"])
def test_a_packaged_chat_model_answers_as_the_backend_does(
    template: str | None, llama: Path, tmp_path: Path, write: WriteFile
) -> None:
    model = tmp_path / "llama"
    model.mkdir()
    for each in llama.iterdir():
        (model / each.name).write_bytes(each.read_bytes())
    if template is not None:
        (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    said = [(f"is {n} odd", "yes" if n % 2 else "no") for n in range(16)]
    chats = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in said
    ]
    data = Dataset(write(tmp_path / "t", chats), write(tmp_path / "v", chats[:4]), "chat", ("no", "yes"))
    backend, kept = trained(model, data, tmp_path / "work", n_epochs=6)
    _, answers = packaged(backend, kept, data, tmp_path / "package")
    same(answers, backend, kept, chats, data)
    backend.close()


def test_what_no_run_has_kept_is_not_packaged(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = LocalBackend.open(LocalOptions(model=str(llama)), tmp_path, Placement())
    assert isinstance(backend, Packager)
    with pytest.raises(BackendError, match="no model that a run has kept"):
        backend.package(str(llama), dataset, tmp_path)


@pytest.mark.parametrize("module", sorted(each.name for each in SERVED.glob("*_predictor.py")))
def test_what_travels_with_a_model_imports_only_what_is_declared(module: str) -> None:
    imported = set()
    for node in ast.walk(ast.parse((SERVED / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    allowed = {"local_predictor.py": {"torch", "transformers", "peft"}, "hosted_predictor.py": {"openai"}}[module]
    assert imported - sys.stdlib_module_names <= allowed


def test_batches_hold_every_row_once_and_no_more_tokens_than_allowed() -> None:
    lengths = [5, 1, 9, 3, 3, 20, 2]
    batches = list(local_predictor._batches(lengths, 12))
    assert sorted(n for batch in batches for n in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[n] for n in batch) <= 12 for batch in batches)
