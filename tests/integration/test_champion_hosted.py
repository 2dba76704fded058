"""A hosted model in the registry: it holds the address and the name, and never the API key."""

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
from mlflow_warnings import MLFLOW_WARNINGS

from backends.contract import DataFile, Dataset
from backends.model_packages.package import HostedPredictorSettings, hosted_package
from sweeps.errors import SweepError
from sweeps.tracking import default_uri
from sweeps.tracking.model_files import LoadedVersion, PackagedModel
from sweeps.tracking.registry import RegisteredVersion, Registry
from sweeps.tracking.served_card import ServedCard

pytestmark = [
    pytest.mark.integration,
    *MLFLOW_WARNINGS,
]

KEY = "sk-only-in-the-environment"
NOTHING = DataFile("none", 0, "")
DATA = Dataset(NOTHING, NOTHING, "completion", (" entailment\n", " neutral\n", " contradiction\n"), "\n")


class Host(BaseHTTPRequestHandler):
    """Answers with the word that the prompt names, in two tokens, with alternatives.

    It refuses the first `fails` requests, and reports log-probabilities if `reports_logprobs`.
    """

    requests: ClassVar[list[dict[str, Any]]] = []
    keys: ClassVar[set[str]] = set()
    fails: ClassVar[int] = 0
    reports_logprobs: ClassVar[bool] = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Host.keys.add(self.headers["Authorization"])
        if Host.fails:
            Host.fails -= 1
            return self._send(503, {"error": {"message": "overloaded"}})
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self._send(401, {"error": {"message": f"no such key: {self.headers['Authorization']}"}})
        Host.requests.append(body)
        word = str(body["messages"][-1]["content"]).split("\n")[0].removeprefix("say ")
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": word},
        }
        if Host.reports_logprobs:
            others = {"ent": 0.7, "neutral": 0.2, "contra": 0.1} | ({} if word.startswith("ent") else {word: 0.9})
            first = "ent" if word == "entailment" else word
            alternatives = [{"token": token, "logprob": math.log(share)} for token, share in others.items()]
            content = [{"token": first, "logprob": math.log(others[first]), "top_logprobs": alternatives}]
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
def registered(host: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, RegisteredVersion, Path]:
    root = tmp_path_factory.mktemp("hosted")
    uri = default_uri(root)
    registry = Registry(uri)
    client = MlflowClient(uri, uri)
    run = client.create_run(client.create_experiment("hosted", artifact_location=(root / "artifacts").as_uri()))
    files = root / "files"
    files.mkdir()
    settings = HostedPredictorSettings(host, "ft:small:1", "HOST_KEY", system_message="Answer in one word.")
    package = hosted_package(settings, DATA)
    card = ServedCard.for_dataset(DATA, "say {word}\n", "\n")
    packaged = PackagedModel(package, files, card, [{"word": "neutral"}])
    version = registry.register("hosted", run.info.run_id, packaged, {"a": "b"})
    return registry, version, root


@pytest.fixture
def model(registered: tuple[Registry, RegisteredVersion, Path], monkeypatch: pytest.MonkeyPatch) -> LoadedVersion:
    monkeypatch.setenv("HOST_KEY", KEY)
    Host.requests.clear()
    Host.keys.clear()
    Host.fails, Host.reports_logprobs = 0, True
    return registered[0].load(registered[1])


def test_a_hosted_model_predicts_through_the_host(model: LoadedVersion) -> None:
    answers = model.predict([{"word": "entailment"}, {"word": "neutral"}, {"word": "contradiction"}])
    assert [answer["label"] for answer in answers] == ["entailment", "neutral", "contradiction"]
    assert answers[0]["probability"] == pytest.approx(0.7)
    assert answers[0]["probability.neutral"] == pytest.approx(0.2)
    assert answers[0]["probability.contradiction"] == pytest.approx(0.1)
    assert Host.keys == {f"Bearer {KEY}"}
    [first] = [request for request in Host.requests if "entailment" in request["messages"][-1]["content"]]
    assert first["model"] == "ft:small:1"
    assert first["messages"] == [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "say entailment\n"},
    ]
    assert (first["temperature"], first["logprobs"], first["top_logprobs"]) == (0.0, True, 20)


def test_a_host_without_log_probabilities_still_predicts(model: LoadedVersion) -> None:
    Host.reports_logprobs = False
    [answer, other] = model.predict([{"word": "neutral"}, {"word": "nonsense"}])
    assert (answer["label"], answer["probability"]) == ("neutral", None)
    assert (other["label"], other["probability"]) == ("nonsense", None), "a text that is not a label must stay visible"


def test_a_temporary_failure_is_retried(model: LoadedVersion) -> None:
    Host.fails = 2
    assert model.predict([{"word": "neutral"}])[0]["label"] == "neutral"


def test_a_missing_or_wrong_key_is_an_error_that_names_its_variable(
    model: LoadedVersion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HOST_KEY")
    with pytest.raises(SweepError, match="set HOST_KEY, or set HOST_KEY_FILE"):
        model.predict([{"word": "neutral"}])
    (tmp_path / "key").write_text(KEY + "\n")
    monkeypatch.setenv("HOST_KEY_FILE", str(tmp_path / "key"))
    assert model.predict([{"word": "neutral"}])[0]["label"] == "neutral"
    monkeypatch.setenv("HOST_KEY", "key-that-the-host-does-not-know")
    with pytest.raises(SweepError, match="401") as raised:
        model.predict([{"word": "neutral"}])
    assert "Bearer <key>" in raised.value.message, "the host quotes the key, and the message hides it"
    assert "key-that" not in raised.value.message


def test_the_key_is_in_no_stored_file(
    model: LoadedVersion, registered: tuple[Registry, RegisteredVersion, Path]
) -> None:
    model.predict([{"word": "neutral"}])
    stored = [file for file in registered[2].rglob("*") if file.is_file()]
    assert any(file.name == "hosted_predictor.py" for file in stored)
    for file in stored:
        assert KEY.encode() not in file.read_bytes(), file
    [requirements] = [file for file in stored if file.name == "requirements.txt"]
    names = {requirement.partition("==")[0] for requirement in requirements.read_text().split()}
    assert names == {"mlflow", "pandas", "openai"}


def test_a_team_shares_a_registry_on_a_server(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the server reaches the artifacts. A second client loads the version of the first one."""
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
        package = hosted_package(HostedPredictorSettings(host, "m", "HOST_KEY"), DATA)
        card = ServedCard.for_dataset(DATA, "say {word}\n", "\n")
        packaged = PackagedModel(package, files, card, [{"word": "neutral"}])
        registry.register("shared", run.info.run_id, packaged, {})
        assert registry.champion("shared") is None
        [version] = Registry(uri).versions("shared")
        Registry(uri).promote(version)
        assert registry.champion("shared") == version
        assert registry.model_names() == ["shared"]

        monkeypatch.setenv("HOST_KEY", KEY)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "drafts"))
        (tmp_path / "drafts").mkdir()
        Host.fails, Host.reports_logprobs = 0, True
        assert registry.load(version).predict([{"word": "neutral"}])[0]["label"] == "neutral"
        assert list((tmp_path / "drafts").iterdir()) == [], "downloaded files are left behind"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
    with pytest.raises(SweepError, match=str(port)):
        Registry(uri)
