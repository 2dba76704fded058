"""Hosts that are out of reach: one clear error while a person waits, and patience in trials."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hosted_world import HostedWorld
from scripted_host import KEY, ConnectionCutError, Response, error_response

from backends import notices
from backends.contract import Failure, FailureKind, Finished
from backends.hosted import HostedBackend, reachability

pytestmark = pytest.mark.integration

FILE = """\
name: far
data: {checks: quick, source: "builtin:nli", train_examples: 50}
backend: {type: hosted, host: compatible, model: m, base_url: "http://127.0.0.1:9/v1"}
space: {n_epochs: 1}
objective: {minimize: valid_loss}
"""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Shorten every time limit; collect what a waiting person reads."""
    for name, seconds in {
        "CONNECT_TIMEOUT_S": 0.4,
        "ATTEMPT_S": 1.0,
        "ANNOUNCED_AFTER_S": 0.2,
        "PAUSE_S": 0.01,
    }.items():
        monkeypatch.setattr(reachability, name, seconds)
    messages: list[str] = []
    notices.listen(messages.append)
    yield messages
    notices.listen(lambda text: None)


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None], backlog: int = 16) -> Iterator[str]:
    """Serve each connection with `answer` in a thread. Yields host and port."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(backlog)
    connections: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                connections.append(connection)
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{server.getsockname()[1]}"
    server.close()
    for connection in connections:
        connection.close()


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Yield the address of a socket whose queue is full: Linux drops further packets to it."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"127.0.0.1:{server.getsockname()[1]}"


def silent(connection: socket.socket) -> None:
    """Accept, and never answer."""


def dripping(connection: socket.socket) -> None:
    """Send one byte now and then, which no read timeout notices."""
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n")
        while True:
            connection.sendall(b" ")
            threading.Event().wait(0.05)


def page(status: str, body: str = "<html>no</html>", headers: str = "") -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(65536)
            head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\n{headers}Content-Length: {len(body)}\r\n"
            connection.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
            connection.close()

    return answer


def check(folder: Path, base_url: str, host: str = "compatible") -> Failure:
    world = HostedWorld(folder)
    options = HostedBackend.options_model.model_validate({"host": host, "model": "m", "base_url": base_url})
    backend = HostedBackend(options, folder / "workspace", {"OPENAI_API_KEY": KEY, "SWEEP_SERVER_KEY": KEY})
    try:
        (failure,) = backend.check(world.request(model="m"))
    finally:
        backend.close()
    assert base_url in failure.message
    assert failure.detail
    return failure


@pytest.mark.parametrize("host", ["compatible", "local"])
def test_a_host_that_refuses_connections_is_one_failure(tmp_path: Path, said: list[str], host: str) -> None:
    with socket.socket() as reserved:  # bound and not listening: connections are refused
        reserved.bind(("127.0.0.1", 0))
        failure = check(tmp_path, f"http://127.0.0.1:{reserved.getsockname()[1]}/v1", host)
    assert "cannot be reached (Connection refused)" in failure.message
    assert "base_url" in failure.detail
    assert failure.kind is FailureKind.TRANSIENT


def test_a_black_hole_is_one_failure_with_a_line_for_each_attempt(tmp_path: Path, said: list[str]) -> None:
    with black_hole() as address:
        failure = check(tmp_path, f"http://{address}/v1")
    assert "no connection in time" in failure.message
    assert said == [f"waiting for http://{address}/v1 (attempt {number} of 5)" for number in range(1, 6)]


def test_an_unknown_name_is_one_failure(tmp_path: Path, said: list[str]) -> None:
    assert "cannot be reached" in check(tmp_path, "http://no-such-host.invalid/v1").message


@pytest.mark.parametrize("answer", [silent, dripping])
def test_a_host_that_never_answers_is_one_failure(
    tmp_path: Path, said: list[str], answer: Callable[[socket.socket], None]
) -> None:
    with listening(answer) as address:
        failure = check(tmp_path, f"http://{address}/v1")
    assert "did not answer" in failure.message
    assert len(said) >= 2


def test_no_safe_connection_is_a_failure_at_once(tmp_path: Path, said: list[str]) -> None:
    asked: list[int] = []

    def count_and_close(connection: socket.socket) -> None:
        asked.append(1)
        page("200 OK")(connection)

    with listening(count_and_close) as address:
        assert "certificate" in check(tmp_path, f"https://{address}/v1").detail
        assert len(asked) == 1
        assert "not a JSON object" in check(tmp_path, f"http://{address}/v1").message
        assert len(asked) == 1 + reachability.ATTEMPTS, "a proxy's page may be gone in a moment"


@pytest.mark.parametrize(
    ("status", "headers", "kind", "attempts"),
    [
        ("404 Not Found", "", FailureKind.USER, 1),
        ("401 Unauthorized", "", FailureKind.USER, 1),
        ("503 Service Unavailable", "", FailureKind.TRANSIENT, 5),
        ("429 Too Many Requests", "Retry-After: 3600\r\n", FailureKind.QUOTA, 1),
    ],
)
def test_an_answer_is_repeated_only_if_that_can_help(
    tmp_path: Path, said: list[str], status: str, headers: str, kind: FailureKind, attempts: int
) -> None:
    asked: list[int] = []

    def count_and_answer(connection: socket.socket) -> None:
        asked.append(1)
        page(status, '{"error": {"message": "no"}}', headers)(connection)

    with listening(count_and_answer) as address:
        failure = check(tmp_path, f"http://{address}/v1")
    assert (failure.kind, len(asked)) == (kind, attempts)


def test_the_commands_end_with_one_error_and_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeps.cli.main import cli
    from sweeps.errors import SweepError

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("SWEEP_SERVER_KEY", KEY)
    (tmp_path / "far.yaml").write_text(FILE)
    with black_hole() as address:
        command = ["--root", str(tmp_path / "w"), "check", str(tmp_path / "far.yaml")]
        result = CliRunner().invoke(cli, [*command, "--set", f"backend.base_url=http://{address}/v1"])
    assert isinstance(result.exception, SweepError)
    assert result.exception.exit_code == 1
    assert f"http://{address}/v1" in result.exception.message
    assert "waiting for" in result.stderr


def test_many_small_errors_slow_a_trial_down_only_a_little(world: HostedWorld) -> None:
    """A third of all requests fail, and the host is well: no pause grows."""
    unlucky = random.Random(3)

    def fault(operation: str, moment: str) -> Response | None:
        if moment == "before" and unlucky.random() < 1 / 3:
            if unlucky.random() < 0.5:
                raise ConnectionCutError
            return error_response(503, "busy")
        return None

    backend = world.open()
    pauses = []
    for number in range(6):
        began = world.now
        world.host.fault = fault
        handle = backend.submit(world.request(f"key {number}", n_epochs=8))
        assert isinstance(world.drain(backend, handle)[-1], Finished)
        pauses.append(world.now - began)
    assert len(world.host.jobs) == 6
    assert max(pauses) < 600, pauses


def test_answers_that_arrived_beside_an_error_are_kept(world: HostedWorld) -> None:
    backend = world.open(host="local")
    handle = backend.submit(world.request())
    finished = world.drain(backend, handle)[-1]
    assert isinstance(finished, Finished)
    asked: list[str] = []
    errors = itertools.count()

    def fault(operation: str, moment: str) -> Response | None:
        if "completions" in operation and moment == "before":
            asked.append(operation)
            return error_response(503, "busy") if next(errors) % 2 == 0 else None
        return None

    world.host.fault = fault
    from backends.contract import PredictOptions

    predictions = backend.predict(finished.model, world.prompts, PredictOptions(max_tokens=4))
    assert len(predictions) == len(world.prompts)
