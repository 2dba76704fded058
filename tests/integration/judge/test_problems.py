"""What `sweep check` learns about a judge, for free and within seconds."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_host import KEY, LINES, Judged, JudgeHost
from scripted_host import error_response

from backends import credentials
from backends.metrics.checking import try_out

pytestmark = pytest.mark.integration


@pytest.fixture
def silent_host() -> Iterator[tuple[str, list[socket.socket]]]:
    """The address of a host that never answers, and its connections."""
    connections: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):  # the server is closed
            while True:
                connections.append(server.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1", connections
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in connections:
        connection.close()


@pytest.fixture
def closed_address() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def found(request: Any, folder: Path, lines: Sequence[dict[str, Any]] = LINES) -> list[str]:
    return [f"{problem.message} {problem.hint}".strip() for problem in try_out([request], lines, "", folder).problems]


def test_a_judge_in_reach_has_no_problem_and_is_not_paid(host: JudgeHost, judged: Judged, tmp_path: Path) -> None:
    check = try_out([judged()], LINES, "", tmp_path)
    assert check.problems == ()
    assert check.values == {}  # it costs money, so nobody tries it
    assert host.bodies == []
    assert not (tmp_path / "judge").exists()


def test_a_host_without_a_list_of_models_has_no_problem(host: JudgeHost, judged: Judged, tmp_path: Path) -> None:
    host.models = set()
    assert found(judged(), tmp_path) == []


def test_a_closed_port_is_one_sentence(judged: Judged, closed_address: str, tmp_path: Path) -> None:
    (problem,) = found(judged(host=closed_address), tmp_path)
    assert closed_address in problem
    assert "the host cannot be reached (Connection refused); check the address (`host` of the judge)" in problem


def test_a_host_that_does_not_answer_is_one_sentence_within_seconds(
    judged: Judged, silent_host: tuple[str, list[socket.socket]], tmp_path: Path
) -> None:
    address, connections = silent_host
    (problem,) = found(judged(host=address), tmp_path)
    assert "did not answer" in problem
    assert len(connections) == 1  # one attempt of 8 s, and no second one


def test_a_wrong_key_is_found(host: JudgeHost, judged: Judged, tmp_path: Path) -> None:
    host.key = "another-key-0123456789"
    credentials.use_secrets_from({"JUDGE_KEY": KEY})
    try:
        (problem,) = found(judged(api_key="JUDGE_KEY"), tmp_path)
    finally:
        credentials.use_secrets_from({})
    assert "Incorrect API key" in problem
    assert KEY not in problem


def test_a_missing_key_is_found(judged: Judged, tmp_path: Path) -> None:
    (problem,) = found(judged(api_key="NOBODY_SETS_THIS_KEY"), tmp_path)
    assert "NOBODY_SETS_THIS_KEY is not set" in problem


def test_an_unknown_model_is_found_at_a_host_that_lists_models(
    host: JudgeHost, judged: Judged, address: str, tmp_path: Path
) -> None:
    credentials.use_secrets_from({"OPENAI_API_KEY": KEY})
    try:
        (problem,) = found(judged(host="openai", base_url=address, model="judge-9"), tmp_path)
        assert found(judged(host="openai", base_url=address), tmp_path) == []
    finally:
        credentials.use_secrets_from({})
    assert "has no model 'judge-9'" in problem
    assert host.bodies == []


def test_a_host_with_a_problem_of_its_own_is_found(
    host: JudgeHost, judged: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "handle", lambda _request: error_response(503, "overloaded"))
    (problem,) = found(judged(), tmp_path)
    assert "overloaded (HTTP 503)" in problem


def test_missing_texts_to_compare_with_are_found(judged: Judged, tmp_path: Path) -> None:
    (problem,) = found(judged(pairwise="base"), tmp_path)
    assert "12 of 12 examples have no text in the column 'base'" in problem


def test_several_texts_to_compare_with_are_found(judged: Judged, tmp_path: Path) -> None:
    lines = [{**line, "row": {"good": ["a", "b"]}} for line in LINES]
    request = replace(judged(pairwise="reference"), reference="good")
    (problem,) = found(request, tmp_path, lines)
    assert "example 1 has several acceptable texts" in problem
    assert found(replace(judged(), reference="good"), tmp_path, lines) == []
