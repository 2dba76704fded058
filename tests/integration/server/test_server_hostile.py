"""Clients and receivers that are hostile or broken, and connections that never end."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.integration

TIMEOUT_S = 60
JOBS = "/v1/fine_tuning/jobs"
JSON = {"Content-Type": "application/json"}


def ask(url: str, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, Any]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if "json" in (answer.getheader("content-type") or "") else text
    finally:
        connection.close()


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=TIMEOUT_S)


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionError:
        pass  # the server has closed it before it read everything
    return received


def raw(url: str, request: bytes) -> tuple[int, Any]:
    """Send bytes, and return the status and the JSON body of the answer."""
    with connect(url) as connection:
        connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            chunk = connection.recv(65536)
            assert chunk, received
            received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None, head
        while len(body) < int(length[1]):
            body += connection.recv(65536)
    return int(head.split()[1]), json.loads(body)


def assert_error(answer: tuple[int, Any], status: int, code: str | None = None) -> dict[str, Any]:
    assert answer[0] == status, answer
    error: dict[str, Any] = answer[1]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    if code is not None:
        assert error["code"] == code
    return error


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def url(shared: Any) -> str:
    return str(shared.api.base_url)


# --------------------------------------------------------------------------------- strings, numbers
HALF = "\ud800"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (JOBS, {"task": {"stop": HALF}}, "task.stop"),
        (JOBS, {"task": {"keep_metric": f"x{HALF}"}}, "task.keep_metric"),
        (JOBS, {"task": {"labels": [" a", f" {HALF}"]}}, "task.labels.1"),
        (JOBS, {"suffix": HALF}, "suffix"),
        (JOBS, {"metadata": {"a": HALF}}, "metadata.a"),
        (JOBS, {"metadata": {HALF: "a"}}, None),
        (JOBS, {"model": HALF}, "model"),
        (JOBS, {"training_file": HALF}, "training_file"),
        (JOBS, {"hyperparameters": {"schedule": HALF}}, "hyperparameters.schedule"),
        (JOBS, {"method": {"type": "supervised", "x": HALF}}, "method.x"),
        (JOBS, {HALF: 1}, None),
        ("/v1/uploads", {"bytes": 3, "filename": HALF, "mime_type": "a", "purpose": "fine-tune"}, "filename"),
        ("/v1/uploads", {"bytes": 3, "filename": "a", "mime_type": HALF, "purpose": "fine-tune"}, "mime_type"),
        ("/v1/completions", {"prompt": HALF}, "prompt"),
        ("/v1/completions", {"prompt": "a", "labels": [HALF]}, "labels.0"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": HALF}]}, "messages.0.content"),
    ],
)
def test_half_a_character_is_refused_wherever_it_enters(
    url: str, shared: Any, path: str, fields: dict[str, Any], param: str | None
) -> None:
    body = {"model": "fake-small", **fields}
    if path == JOBS:
        body = {"training_file": shared.upload(b'{"prompt": "a", "completion": "b"}\n'), **body}
    error = assert_error(ask(url, "POST", path, json.dumps(body), JSON), 400, "invalid_json")
    assert error["param"] == param
    assert "half a character" in error["message"]
    assert ask(url, "GET", JOBS)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"seed": NaN}',
        b'{"seed": -Infinity}',
        b'{"seed": 1e999}',
        b'{"seed": ' + b"9" * 30 + b"}",
        b'{"seed": ' + b"9" * 10_000 + b"}",
        b'{"metadata": {"a": "\xed\xa0\x80"}}',
        '{"model": "a"}'.encode("utf-16"),
        b'{"method": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"a":' * 50_000,
        b'{"model": "fake-small", "training_file": "a", "task": {"train_examples": 1e300}}',
        b'{"model": "fake-small", "training_file": "a", "task": {"stop": "' + b"x" * 2000 + b'"}}',
        b'{"model": "fake-small", "training_file": "a", "hyperparameters": {"n_epochs": 1e300}}',
    ],
)
@pytest.mark.parametrize("path", [JOBS, "/v1/completions", "/v1/uploads"])
def test_what_json_cannot_express_is_refused(url: str, path: str, body: bytes) -> None:
    assert_error(ask(url, "POST", path, body, JSON), 400)


def test_text_with_nul_and_unusual_characters_is_stored_and_shown(url: str, shared: Any) -> None:
    metadata = {"nul": "a\0b", "astral": "\U0001f600", "separator": "\u2028", "direction": "\u202e"}
    job = shared.create(metadata=metadata, suffix="\0\u202e")
    shown = ask(url, "GET", f"{JOBS}/{job.id}")[1]
    assert shown["metadata"] == metadata
    assert shown["user_provided_suffix"] == "\0\u202e"
    found = ask(url, "GET", f"{JOBS}?metadata[nul]=a%00b")[1]["data"]
    assert [found_job["id"] for found_job in found] == [job.id]


@pytest.mark.parametrize(
    "line", [r'{"prompt": "a", "completion": "\ud800"}', r'{"prompt": "\udfff", "completion": "b"}']
)
def test_half_a_character_in_a_file_fails_the_job_with_its_line(shared: Any, make_examples: Any, line: str) -> None:
    job = shared.wait(shared.create(make_examples(12) + line.encode() + b"\n", valid=None).id)
    assert job.status == "failed"
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert "line 13: it has half a character" in job.error.message
    assert shared.wait(shared.create().id).status == "succeeded", "the validator goes on"


def test_one_bad_stored_record_hides_no_other(serve: Any, make_client: Any, tmp_path: Path) -> None:
    """An earlier version stored half a character; another row is damaged altogether."""
    server = serve()
    client = make_client(server.client())
    jobs = [client.wait(client.create(metadata={"number": str(number)}).id).id for number in range(5)]
    server.stop()
    database = tmp_path / "root" / "server.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute(
            "UPDATE jobs SET task = ?, model = ? WHERE id = ?",
            (json.dumps({"stop": HALF, "keep_metric": HALF}), "fake-small", jobs[1]),
        )
        connection.execute(
            "UPDATE jobs SET error = ? WHERE id = ?", (json.dumps({"code": HALF, "message": ""}), jobs[2])
        )
        connection.execute("UPDATE jobs SET hyperparameters = '{' WHERE id = ?", (jobs[3],))
        connection.execute("UPDATE events SET level = 'loud' WHERE seq = (SELECT MIN(seq) FROM events)")
        connection.execute("UPDATE files SET bytes = 'many' WHERE seq = (SELECT MIN(seq) FROM files)")
    connection.close()
    contents = set((tmp_path / "root" / "files").iterdir())

    server = serve()
    client = make_client(server.client())
    shown = [jobs[4], jobs[2], jobs[1], jobs[0]]
    assert [job.id for job in client.api.fine_tuning.jobs.list(limit=1)] == shown, "page by page"
    listed = ask(server.url, "GET", JOBS)[1]["data"]
    assert [job["id"] for job in listed] == shown
    assert listed[2]["task"]["stop"] == "\ufffd"
    assert ask(server.url, "GET", f"{JOBS}/{jobs[1]}")[1]["task"]["keep_metric"] == "\ufffd"
    assert_error(ask(server.url, "GET", f"{JOBS}/{jobs[3]}"), 404)
    assert client.messages(jobs[0])[-1] == "The job has successfully completed"
    assert ask(server.url, "GET", "/v1/files")[0] == 200
    assert set((tmp_path / "root" / "files").iterdir()) == contents, "the content of a damaged record is kept"
    assert client.wait(client.create().id).status == "succeeded"
    server.stop()
    log = "".join(server.log)
    assert f"the record {jobs[3]} of the table jobs is damaged" in log
    assert log.count(jobs[3]) == 1, "it is reported once"
    assert "Traceback" not in log


# --------------------------------------------------------------------------------------------- HTTP
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/models HTTP/1.1\r\nHost: [\r\n\r\n", 400),
        (b"GET /v1/nothing HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: a\r\nOrigin: http://localhost\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.0\r\n\r\n", 403),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET //[/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET http://[/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nZ\r\n", 400),
        (
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nZ\r\n",
            400,
        ),
        (
            b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 2\r\n\r\n{}",
            400,
        ),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
    ],
)
def test_a_request_that_is_not_good_http_gets_an_answer_in_the_form_of_the_protocol(
    url: str, request_: bytes, status: int
) -> None:
    answer = raw(url, request_)
    if status == 200:
        assert answer[0] == 200
    else:
        assert_error(answer, status)
    assert ask(url, "GET", "/healthz")[0] == 200


def test_a_filter_with_thousands_of_conditions_is_refused(url: str) -> None:
    many = "&".join(f"metadata[{number}]=x" for number in range(1500))
    assert assert_error(ask(url, "GET", f"{JOBS}?{many}"), 400)["param"] == "metadata"


@pytest.mark.parametrize("path", [f"{JOBS}?limit={10**30}", f"{JOBS}?limit=-1", "/v1/files?limit=10001"])
def test_a_limit_outside_its_range_is_refused(url: str, path: str) -> None:
    assert_error(ask(url, "GET", path), 400)


@pytest.mark.parametrize("after", ["-1", "0", "%00", "%ED%A0%80", "..%2f..", "%27%20OR%201=1"])
@pytest.mark.parametrize("path", [JOBS, "/v1/files"])
def test_after_an_unknown_object_nothing_continues(url: str, path: str, after: str) -> None:
    assert assert_error(ask(url, "GET", f"{path}?after={after}"), 400)["param"] == "after"


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 65536):
        yield b"x" * 65536


def memory_mb(pid: int, field: str) -> float:
    match = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (JOBS, "multipart/form-data; boundary=b"),
        (JOBS, "application/json"),
        ("/v1/uploads", "Multipart/Form-Data"),
        ("/v1/completions", "text/plain"),
        (f"{JOBS}/x/cancel", "multipart/form-data; boundary=b"),
        ("/v1/nothing", "multipart/form-data; boundary=b"),
    ],
)
def test_every_body_is_limited_by_the_bytes_that_arrive(serve: Any, path: str, content_type: str) -> None:
    server = serve()
    assert ask(server.url, "GET", "/v1/models")[0] == 200
    before = memory_mb(server.process.pid, "VmRSS")
    headers = {"Content-Type": content_type}  # chunked: http.client does not know the length
    assert_error(ask(server.url, "POST", path, chunks(72 * 2**20), headers), 413, "body_too_large")
    assert memory_mb(server.process.pid, "VmHWM") - before < 64


def test_fields_that_never_end_are_refused(url: str) -> None:
    field = b'--b\r\nContent-Disposition: form-data; name="a%d"\r\n\r\nx\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (
        b"".join(field % number for number in range(100)),
        (field % 1) * 100,
        b"--b\r\nX-Long: " + b"x" * 2**20 + b"\r\n\r\n",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 2**20,
    ):
        status, answer = ask(url, "POST", "/v1/files", body, headers)
        assert status in (400, 413)
        assert answer["error"]["message"]


def test_a_body_that_breaks_off_has_no_effect(serve: Any, make_client: Any) -> None:
    """Even if what has arrived would be a complete request."""
    server = serve()
    client = make_client(server.client())
    body = json.dumps({"model": "fake-small", "training_file": client.upload(b"{}")}).encode()
    head = f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for framing, sent in (
        (f"Content-Length: {len(body) + 10}", body),
        ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n" % (len(body), body)),
    ):
        with connect(server.url) as connection:
            connection.sendall(f"{head}{framing}\r\n\r\n".encode() + sent)
            connection.shutdown(socket.SHUT_WR)
            assert read_to_end(connection) == b""
    assert list(client.api.fine_tuning.jobs.list()) == []
    server.stop()
    assert not any("Traceback" in line for line in server.log)


# -------------------------------------------------------------------------------------- connections
def test_half_open_connections_take_neither_descriptors_nor_places(serve: Any) -> None:
    """With 400 descriptors the server holds 40 connections; 150 clients never end their headers."""
    server = serve(open_files=400, constants={"sweeps.server.http_protocol.HEADER_TIMEOUT_S": 4.0})
    clients = []
    try:
        for _ in range(150):
            clients.append(connect(server.url))
            clients[-1].sendall(b"GET /v1/models HTTP/1.1\r\nHost: local")

        def is_served() -> bool:
            try:
                return ask(server.url, "GET", "/v1/models")[0] == 200
            except (ConnectionError, http.client.HTTPException):
                return False  # refused while all places are taken by connections that are new

        wait_until(is_served)
        assert len(sockets_of(server.process.pid)) <= 45
        answers = [read_to_end(client) for client in clients]
        assert not any(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        assert any(b"408" in answer[:12] for answer in answers), "the header timeout"
        assert any(b"503" in answer[:12] for answer in answers), "the limit of connections"
        wait_until(lambda: sockets_of(server.process.pid) == [])
    finally:
        for client in clients:
            client.close()
    server.stop()
    assert not any("Traceback" in line for line in server.log)


@pytest.mark.parametrize("path", [JOBS, "/v1/files", "/v1/completions"])
def test_a_body_that_stops_arriving_ends_the_request(serve: Any, tmp_path: Path, path: str) -> None:
    server = serve(constants={"sweeps.server.request_bodies.IDLE_TIMEOUT_S": 0.5})
    content_type = "multipart/form-data; boundary=b" if path == "/v1/files" else "application/json"
    begun = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc' if path == "/v1/files" else b"{"
    )
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: 1000\r\n\r\n"
    with connect(server.url) as connection:
        connection.sendall(head.encode() + begun)
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"request_timeout"' in answer
    assert list((tmp_path / "root" / "incoming").iterdir()) == []


def test_a_body_that_drips_ends_the_request(serve: Any) -> None:
    """Each byte comes in time, but all of them would take a day."""
    constants = {"GRACE_S": 1.0, "MIN_BYTES_PER_SECOND": 1000}
    server = serve(constants={f"sweeps.server.request_bodies.{name}": value for name, value in constants.items()})
    head = (
        f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    )
    with connect(server.url) as connection:
        connection.sendall(head.encode())
        connection.settimeout(0.05)
        received = b""
        deadline = time.monotonic() + TIMEOUT_S
        while b"408" not in received:
            assert time.monotonic() < deadline
            try:
                connection.sendall(b" ")
                received += connection.recv(65536)
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408")


def test_large_requests_share_a_limited_memory(serve: Any) -> None:
    server = serve(constants={"sweeps.server.request_bodies.MAX_BUFFERED_BYTES": 100_000})
    body = json.dumps({"model": "fake-small", "prompt": "x" * 60_000}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connect(server.url) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-10])

        def is_full() -> bool:
            answer = ask(server.url, "POST", "/v1/completions", body, JSON)
            if answer[0] == 200:
                return False  # the first body has not arrived yet
            assert_error(answer, 503, "overloaded")
            return True

        wait_until(is_full)
        connection.sendall(body[-10:])
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert ask(server.url, "POST", "/v1/completions", body, JSON)[0] == 200


def test_a_client_that_does_not_read_its_answer_is_cut_off(serve: Any, make_client: Any, tmp_path: Path) -> None:
    server = serve(constants={"sweeps.server.http_protocol.WRITE_TIMEOUT_S": 0.5})
    client = make_client(server.client())
    file_id = client.upload(b"x" * 2**25)
    content = tmp_path / "root" / "files" / file_id

    def open_files() -> list[Path]:
        links = Path(f"/proc/{server.process.pid}/fd").iterdir()
        return [link for link in links if os.path.realpath(link) == str(content)]

    with connect(server.url) as connection:
        connection.sendall(f"GET /v1/files/{file_id}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert len(open_files()) == 1
        client.api.close()
        wait_until(lambda: sockets_of(server.process.pid) == [] and open_files() == [])
    server.stop()
    assert not any("Traceback" in line for line in server.log)


def sockets_of(pid: int) -> list[str]:
    """Return the connections of a process, without its listening socket."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if match := re.fullmatch(r"socket:\[(\d+)\]", target):
            inodes.add(match[1])
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[9] in inodes and line.split()[3] != "0A"]


# ----------------------------------------------------------------------------------------- webhooks
class OddReceiver:
    """Answers webhooks with one odd answer after the other, then accepts all of them."""

    def __init__(self, answers: list[bytes | None]) -> None:
        self._answers = answers
        self.accepted: list[str] = []
        self.attempts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(TIMEOUT_S)
                received = b""
                while b"\r\n\r\n" not in received:
                    if not (chunk := connection.recv(65536)):
                        break
                    received += chunk
                else:
                    self._answer(connection, received)
                    continue
                if received == b"":
                    return  # closed by `close`

    def _answer(self, connection: socket.socket, received: bytes) -> None:
        self.attempts += 1
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None
        while len(body) < int(length[1]):
            body += connection.recv(65536)
        answer = self._answers.pop(0) if self._answers else b"HTTP/1.1 204 No Content\r\n\r\n"
        if answer is None:  # never answers: one byte of a header now and then
            try:
                for _ in range(1000):
                    connection.sendall(b"x")
                    time.sleep(0.05)
            except OSError:
                return
        else:
            if answer.startswith(b"HTTP/1.1 204"):
                self.accepted.append(json.loads(body)["data"]["id"])
            connection.sendall(answer)

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._thread.join()
        self._listener.close()


ODD_ANSWERS: list[bytes | None] = [
    b"\x00\xff not HTTP at all\r\n\r\n",
    b"",
    b"HTTP/1.1 999999999999 Odd\r\n\r\n",
    b"HTTP/9.9\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
    b"HTTP/1.1 500 No\r\nContent-Length: 10\r\n\r\nab",
    None,
]


def test_no_answer_of_a_receiver_ends_the_deliveries(serve: Any, make_client: Any) -> None:
    receiver = OddReceiver(list(ODD_ANSWERS))
    constants = {"FIRST_PAUSE_S": 0.000001, "TIMEOUT_S": 1.0}
    try:
        server = serve(
            "--webhook", f"http://127.0.0.1:{receiver.port}/",
            environment={"SWEEP_WEBHOOK_SECRET": "a"},
            constants={f"sweeps.server.webhooks.{name}": value for name, value in constants.items()},
        )  # fmt: skip
        client = make_client(server.client())
        jobs = {client.wait(client.create().id).id for _ in range(2)}
        wait_until(lambda: set(receiver.accepted) == jobs)
        assert receiver.attempts == len(ODD_ANSWERS) + 2
        server.stop()
        assert not any("Traceback" in line for line in server.log)
    finally:
        receiver.close()


def test_attempts_and_pauses_survive_a_restart_and_a_wrong_clock(serve: Any, make_client: Any, tmp_path: Path) -> None:
    receiver = OddReceiver([b"?"])
    options = ("--webhook", f"http://127.0.0.1:{receiver.port}/")
    database = tmp_path / "root" / "server.sqlite"

    def delivery() -> list[tuple[int, float]]:
        connection = sqlite3.connect(database)
        try:
            return connection.execute("SELECT attempts, due_at FROM deliveries").fetchall()
        finally:
            connection.close()

    try:
        long_pause = {"sweeps.server.webhooks.FIRST_PAUSE_S": 3000.0}
        server = serve(*options, environment={"SWEEP_WEBHOOK_SECRET": "a"}, constants=long_pause)
        client = make_client(server.client())
        job_id = client.wait(client.create().id).id
        wait_until(lambda: [attempts for attempts, _ in delivery()] == [1])
        server.stop()
        ((_, due_at),) = delivery()
        assert due_at > time.time() + 2000
        server = serve(*options, environment={"SWEEP_WEBHOOK_SECRET": "a"})
        client = make_client(server.client())
        other = client.wait(client.create().id).id
        wait_until(lambda: receiver.accepted == [other])
        # The server forgets the other delivery a moment after the receiver has accepted it.
        wait_until(lambda: delivery() == [(1, due_at)])
        server.stop()
        with sqlite3.connect(database) as connection:  # as if the clock had been years ahead
            connection.execute("UPDATE deliveries SET due_at = due_at + 1e9")
        connection.close()
        serve(*options, environment={"SWEEP_WEBHOOK_SECRET": "a"})
        wait_until(lambda: receiver.accepted == [other, job_id])
    finally:
        receiver.close()
