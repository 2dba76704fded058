"""A packaged model of a task without labels writes what the backend got from the host."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from scripted_host import KEY, ScriptedHost, serving

from backends.contract import (
    Dataset,
    Decoding,
    EvaluationSettings,
    Finished,
    GenerationSettings,
    PredictOptions,
    TrainingRequest,
)
from backends.hosted import HostedBackend
from backends.model_packages import hosted_predictor
from backends.testing import drain, write_jsonl

pytestmark = pytest.mark.integration

DECODING = Decoding(max_tokens=7, stop=("#", "1", "2", "3", "4"), temperature=0.5, top_p=0.9)


class Host(ScriptedHost):
    """A host with an address."""

    address = ""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("SWEEP_SERVER_KEY", KEY)
    host = Host()
    with serving(host) as host.address:
        yield host


def ask_both(host: Host, folder: Path, format_: str, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Train, and ask the model through the backend and through its package. Returns the texts.

    All requests of both are the same.
    """
    values = {"host": "local", "base_url": host.address, "model": "base-chat", "format": format_}
    options = HostedBackend.options_model.model_validate({**values, "poll_s": 0, "system_message": "Be brief."})
    pairs = [{"prompt": f"thing {n}", "completion": f" is {n} END"} for n in range(12)]
    train, valid = write_jsonl(folder / "train.jsonl", pairs), write_jsonl(folder / "valid.jsonl", pairs[:4])
    dataset = Dataset(train, valid, "completion", stop=" END")
    generation = GenerationSettings(decoding=DECODING)
    request = TrainingRequest("k", "base-chat", dataset, {"n_epochs": 1}, 1, EvaluationSettings(generation=generation))
    with closing(HostedBackend(options, folder / "workspace", {"SWEEP_SERVER_KEY": KEY})) as backend:
        end = drain(backend, backend.submit(request), 60)[-1]
        assert isinstance(end, Finished)
        host.prediction_requests.clear()
        asked = [
            backend.predict(end.model, [line], PredictOptions.generate(DECODING, dataset.stop))[0].text
            for line in lines
        ]
        requests = list(host.prediction_requests)
        host.prediction_requests.clear()
        package = backend.package(end.model, dataset, folder)
    settings = json.loads(json.dumps(package.settings))
    model = hosted_predictor.load(str(folder), settings)
    answers = [model.predict([line])[0] for line in lines]
    assert [logprobs for _, logprobs in answers] == [None] * len(lines)
    assert [text for text, _ in answers] == asked
    assert sorted(map(sent, host.prediction_requests)) == sorted(map(sent, requests))
    return asked


def sent(request: Mapping[str, Any]) -> str:
    """Return a request as text. `sweep serve` needs to be told that there are no labels."""
    return json.dumps({name: value for name, value in request.items() if value != []}, sort_keys=True)


def test_a_completion_model(host: Host, tmp_path: Path) -> None:
    host.write = lambda model, body: {"content": f" {body['prompt']} # and more"}
    texts = ask_both(host, tmp_path, "completion", [{"prompt": "a"}, {"prompt": "b END c"}])
    assert texts == [" a ", " b"]
    (request, _) = host.prediction_requests
    assert request["stop"] == [" END", "#", "1", "2"], "the protocol allows four"
    assert (request["temperature"], request["top_p"], request["seed"], request["max_tokens"]) == (0.5, 0.9, 0, 7)


def test_a_chat_model_with_tools_and_a_refusal(host: Host, tmp_path: Path) -> None:
    function = {"name": "price", "arguments": "{}"}

    def write(model: str, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("tools"):
            return {"tool_calls": [{"id": "1", "type": "function", "function": function}]}
        return {"refusal": "I would rather not."}

    host.write = write
    tools = [{"type": "function", "function": {"name": "price"}}]
    messages = [
        {"role": "user", "content": "price?"},
        {"role": "assistant", "content": "Of what?", "weight": 0},
        {"role": "user", "content": "An apple."},
        {"role": "assistant", "content": "ignored"},
    ]
    texts = ask_both(host, tmp_path, "chat", [{"messages": messages, "tools": tools}, {"prompt": "a"}])
    assert json.loads(texts[0]) == [function]
    assert texts[1] == "I would rather not."
    with_tools, plain = host.prediction_requests
    assert with_tools["messages"] == [messages[0], {"role": "assistant", "content": "Of what?"}, messages[2]]
    assert plain["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_package_of_an_earlier_version_says_what_is_wrong(host: Host, tmp_path: Path) -> None:
    settings = {"labels": [], "stop": "", "chat": False, "model": "m", "base_url": "x", "needs_key": False}
    settings |= {"key_name": "SWEEP_SERVER_KEY", "extra_headers": {}, "extra_body": {}, "alternatives": 0}
    with pytest.raises(RuntimeError, match="a version that could not generate"):
        hosted_predictor.load(str(tmp_path), settings).predict([{"prompt": "a"}])
