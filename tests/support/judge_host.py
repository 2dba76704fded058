"""A chat endpoint that judges by a fixed rule, counts questions, and misbehaves on demand."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from scripted_host import ConnectionCutError, Request, Response, error_response, json_response

from backends import codec
from backends.contract import MetricRequest
from backends.metrics.measurement import Measurement

KEY = "key-of-the-judge-0123456789"
Measure: TypeAlias = Callable[..., Measurement]
"""The fixture that measures twelve answers, or fewer."""

Judged: TypeAlias = Callable[..., MetricRequest]
"""The fixture that returns the request for the judge, with other options on demand."""

REMINDER = "nothing else."
PRICE = {"input": 1.0, "output": 4.0}

LINES: list[dict[str, Any]] = [
    {"prompt": f"Question {n}?", "completion": "c" * (n % 7 + 1), "row": {"number": n, "base_model": "b" * (n % 4 + 1)}}
    for n in range(12)
]
PREDICTIONS = ["p" * (n % 9 + 1) for n in range(12)]


_PROGRAM = """
import json, sys
from pathlib import Path
from backends import codec
from backends.contract import MetricRequest
from backends.metrics.measurement import MetricSet
request, predictions, lines, workspace = json.loads(sys.argv[1])
with MetricSet.open([codec.from_json(MetricRequest, request)], Path(workspace)) as metrics:
    result = metrics.measure(predictions, lines)
print(json.dumps([result.values, result.usd]))
"""


def command_that_measures(request: MetricRequest, workspace: Path, before: str = "") -> list[str]:
    """Return a command that measures the twelve answers, and prints the values and the cost.

    It runs the Python code `before` first.
    """
    argument = json.dumps([codec.to_json(request), PREDICTIONS, LINES, str(workspace)])
    return [sys.executable, "-c", before + _PROGRAM, argument]


def part(user: str, name: str) -> str:
    """Return a part of a question, such as `answer to grade`."""
    return next(iter(parts(user, name)), "")


def parts(user: str, name: str) -> list[str]:
    """Return all parts of a question with this name."""
    found = re.finditer(rf"--- begin {name} (\w+)\n(.*?)\n--- end {name} \1", user, re.DOTALL)
    return [match[2] for match in found]


class JudgeHost:
    """The endpoint. Serve it with `scripted_host.serving`.

    `rule(user)` returns the reply to the text of a question. `fault(number, body)` is called for
    each request before it is answered, with its number from 1; it may return another response,
    raise ConnectionCutError, or wait. `after(number, body)` is called when the answer is complete,
    and may raise. `answered` counts the answers by the text of the question, also those that the
    client never received.
    """

    base = "/v1"

    def __init__(self, rule: Callable[[str], str] | None = None) -> None:
        self.rule = rule or grade_by_length
        self.fault: Callable[[int, dict[str, Any]], Response | None] = lambda _number, _body: None
        self.after: Callable[[int, dict[str, Any]], None] = lambda _number, _body: None
        self.key: str | None = None
        self.models = {"judge-1"}
        self.reports_usage = True
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()
        self.operations: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def handle(self, request: Request) -> Response:
        """Answer one request. Several threads call it at once."""
        with self._lock:
            self.operations.append(f"{request.method} {request.path}")
            self.headers.append(dict(request.headers))
        authorization = request.headers.get("authorization", "")
        if self.key is not None and authorization != f"Bearer {self.key}":
            return error_response(401, f"Incorrect API key provided: {authorization}", "invalid_api_key")
        if request.method == "GET" and request.path.startswith("/v1/models/"):
            name = request.path.removeprefix("/v1/models/")
            if name not in self.models:
                return error_response(404, f"The model '{name}' does not exist", "model_not_found")
            return json_response({"id": name, "object": "model", "created": 0, "owned_by": "x"})
        if (request.method, request.path) != ("POST", "/v1/chat/completions"):
            return error_response(404, f"no route {request.path}")
        body = json.loads(request.body)
        with self._lock:
            self.bodies.append(body)
            number = len(self.bodies)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if (instead := self.fault(number, body)) is not None:
                return instead
            user = body["messages"][-1]["content"]
            reply = self.rule(user)
            with self._lock:
                self.answered[user] += 1
            self.after(number, body)
        finally:
            with self._lock:
                self._at_once -= 1
        return self._completion(body, reply)

    def _completion(self, body: dict[str, Any], reply: str) -> Response:
        message = {"role": "assistant", "content": reply}
        value: dict[str, Any] = {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        if self.reports_usage:
            value["usage"] = usage_of(body, reply)
        return json_response(value)


def usage_of(body: dict[str, Any], reply: str) -> dict[str, int]:
    """Return the usage that the host reports: a token for four bytes."""
    read = sum(len(message["content"].encode()) for message in body["messages"]) // 4
    written = max(1, len(reply) // 4)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def cost_of(bodies: Iterable[dict[str, Any]], rule: Callable[[str], str]) -> float:
    """Return what the host charges for answers to these requests, in USD at `PRICE`."""
    usages = [usage_of(body, rule(body["messages"][-1]["content"])) for body in bodies]
    return (
        sum(usage["prompt_tokens"] * PRICE["input"] + usage["completion_tokens"] * PRICE["output"] for usage in usages)
        / 1e6
    )


def grade_by_length(user: str) -> str:
    """Give the grade 1 + (length of the answer) mod 5."""
    grade = 1 + len(part(user, "answer to grade")) % 5
    return json.dumps({"reason": "by its length", "grade": grade})


def prefer_longer(user: str) -> str:
    """Prefer the longer answer, whatever its position."""
    first, second = len(part(user, "answer A")), len(part(user, "answer B"))
    return json.dumps({"better": "tie" if first == second else "A" if first > second else "B"})


def cut(_number: int, _body: dict[str, Any]) -> None:
    """A fault: the connection breaks."""
    raise ConnectionCutError
