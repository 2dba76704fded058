"""A hosted model in the registry: the entry holds address and name, asks the host, and never holds the key."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow import MlflowClient

from backends.contract import DataFile, Dataset
from backends.model_packages.package import hosted_package
from sweeps.errors import SweepError
from sweeps.tracking import default_uri
from sweeps.tracking.registry import Registry, ServedVersion, Version
from sweeps.tracking.served_card import Card

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEY = "sk-only-in-the-environment"
NOTHING = DataFile("none", 0, "")
DATA = Dataset(NOTHING, NOTHING, "completion", (" entailment\n", " neutral\n", " contradiction\n"), "\n")


class Host(BaseHTTPRequestHandler):
    """Says what the prompt names, in two tokens, with alternatives; `fails` requests are refused before."""

    asked: ClassVar[list[dict[str, Any]]] = []
    keys: ClassVar[set[str]] = set()
    fails: ClassVar[int] = 0
    tells: ClassVar[bool] = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Host.keys.add(self.headers["Authorization"])
        if Host.fails:
            Host.fails -= 1
            return self._send(503, {"error": {"message": "overloaded"}})
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self._send(401, {"error": {"message": f"no such key: {self.headers['Authorization']}"}})
        Host.asked.append(body)
        word = str(body["messages"][-1]["content"]).split("\n")[0].removeprefix("say ")
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": word},
        }
        if Host.tells:
            others = {"ent": 0.7, "neutral": 0.2, "contra": 0.1} | ({} if word.startswith("ent") else {word: 0.9})
            first = "ent" if word == "entailment" else word
            told = [{"token": token, "logprob": math.log(share)} for token, share in others.items()]
            content = [{"token": first, "logprob": math.log(others[first]), "top_logprobs": told}]
            if first == "ent":
                content.append(
                    {"token": "ailment", "logprob": 0.0, "top_logprobs": [{"token": "ailment", "logprob": 0.0}]}
                )
            choice["logprobs"] = {"content": content}
        self._send(200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})

    def _send(self, code: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def registered(host: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, Version, Path]:
    root = tmp_path_factory.mktemp("hosted")
    uri = default_uri(root)
    registry = Registry(uri)
    client = MlflowClient(uri, uri)
    run = client.create_run(client.create_experiment("hosted", artifact_location=(root / "artifacts").as_uri()))
    files = root / "files"
    files.mkdir()
    package = hosted_package(host, "ft:small:1", "HOST_KEY", DATA, system_message="Answer in one word.")
    card = Card.of(DATA, "say {word}\n", "\n")
    version = registry.register("hosted", run.info.run_id, package, files, card, [{"word": "neutral"}], {"a": "b"})
    return registry, version, root


@pytest.fixture
def model(registered: tuple[Registry, Version, Path], monkeypatch: pytest.MonkeyPatch) -> ServedVersion:
    monkeypatch.setenv("HOST_KEY", KEY)
    Host.asked.clear()
    Host.keys.clear()
    Host.fails, Host.tells = 0, True
    return registered[0].load(registered[1])


def test_a_hosted_entry_asks_the_host(model: ServedVersion) -> None:
    answers = model.predict([{"word": "entailment"}, {"word": "neutral"}, {"word": "contradiction"}])
    assert [answer["label"] for answer in answers] == ["entailment", "neutral", "contradiction"]
    assert answers[0]["probability"] == pytest.approx(0.7)
    assert answers[0]["probability.neutral"] == pytest.approx(0.2)
    assert answers[0]["probability.contradiction"] == pytest.approx(0.1)
    assert Host.keys == {f"Bearer {KEY}"}
    [first] = [each for each in Host.asked if "entailment" in each["messages"][-1]["content"]]
    assert first["model"] == "ft:small:1"
    assert first["messages"] == [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "say entailment\n"},
    ]
    assert (first["temperature"], first["logprobs"], first["top_logprobs"]) == (0.0, True, 20)


def test_a_host_that_tells_no_probabilities_still_answers(model: ServedVersion) -> None:
    Host.tells = False
    [answer, other] = model.predict([{"word": "neutral"}, {"word": "nonsense"}])
    assert (answer["label"], answer["probability"]) == ("neutral", None)
    assert (other["label"], other["probability"]) == ("nonsense", None), "a wrong answer stays visible"


def test_what_passes_is_tried_again(model: ServedVersion) -> None:
    Host.fails = 2
    assert model.predict([{"word": "neutral"}])[0]["label"] == "neutral"


def test_the_key_is_asked_for_by_its_name(
    model: ServedVersion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HOST_KEY")
    with pytest.raises(SweepError, match="set HOST_KEY, or HOST_KEY_FILE"):
        model.predict([{"word": "neutral"}])
    (tmp_path / "key").write_text(KEY + "\n")
    monkeypatch.setenv("HOST_KEY_FILE", str(tmp_path / "key"))
    assert model.predict([{"word": "neutral"}])[0]["label"] == "neutral"
    monkeypatch.setenv("HOST_KEY", "key-that-the-host-does-not-know")
    with pytest.raises(SweepError, match="401") as raised:
        model.predict([{"word": "neutral"}])
    assert "Bearer <key>" in raised.value.message, "the host quotes it"
    assert "key-that" not in raised.value.message


def test_the_key_is_nowhere_in_what_is_stored(model: ServedVersion, registered: tuple[Registry, Version, Path]) -> None:
    model.predict([{"word": "neutral"}])
    stored = [each for each in registered[2].rglob("*") if each.is_file()]
    assert any(each.name == "hosted_predictor.py" for each in stored)
    for each in stored:
        assert KEY.encode() not in each.read_bytes(), each
    [requirements] = [each for each in stored if each.name == "requirements.txt"]
    assert {each.partition("==")[0] for each in requirements.read_text().split()} == {"mlflow", "pandas", "openai"}


def test_a_team_shares_a_registry_on_a_server(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server alone reaches the artifacts; a second client loads what the first one has registered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", default_uri(tmp_path), "--artifacts-destination", str(tmp_path / "artifacts")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--workers", "1"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                registry = Registry(uri)
                break
            except SweepError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        client = MlflowClient(uri, uri)
        run = client.create_run(client.create_experiment("hosted"))
        files = tmp_path / "files"
        files.mkdir()
        package, card = hosted_package(host, "m", "HOST_KEY", DATA), Card.of(DATA, "say {word}\n", "\n")
        registry.register("shared", run.info.run_id, package, files, card, [{"word": "neutral"}], {})
        assert registry.champion("shared") is None
        [version] = Registry(uri).versions("shared")
        Registry(uri).promote(version)
        assert registry.champion("shared") == version
        assert registry.models() == ["shared"]

        monkeypatch.setenv("HOST_KEY", KEY)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "drafts"))
        (tmp_path / "drafts").mkdir()
        Host.fails, Host.tells = 0, True
        assert registry.load(version).predict([{"word": "neutral"}])[0]["label"] == "neutral"
        assert list((tmp_path / "drafts").iterdir()) == [], "what was fetched is not left behind"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
    with pytest.raises(SweepError, match=str(port)):
        Registry(uri)
