"""A host that speaks the OpenAI fine-tuning protocol and trains nothing: state, progress by polls, faults on demand.

`ScriptedHost.answer` is the host; `InMemory` carries the genuine client's requests to it without a network, `listening`
through real sockets. Written from the protocol, so that it disagrees with the client where the client is wrong.
"""

from __future__ import annotations

import base64
import contextlib
import email.parser
import email.policy
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx2

KEY = "key-of-the-scripted-host-0123456789"


class Cut(Exception):  # noqa: N818
    """The connection breaks off without an answer."""


class Killed(BaseException):
    """The process that asked is dead."""


@dataclass(frozen=True)
class Manners:
    """How a host behaves where the protocol leaves it open, or where real ones deviate from it."""

    page: int = 100
    shuffled: bool = False
    says_has_more: bool = True
    filters_metadata: bool = True
    keeps_metadata: bool = True
    keeps_suffix: bool = True
    empty_error: bool = True
    file_polls: int = 0
    model_polls: int = 0
    checkpoints_while_training: bool = True
    kept_checkpoints: int = 3
    base64_results: bool = False
    metrics_in_events: bool = True
    epochs_per_poll: float = 1.0
    pauses: bool = True
    top_logprobs: bool = True
    repeats_events: bool = False
    waiting: str = "validating_files"
    says_trained_tokens: bool = True
    needs_deployment: bool = False


@dataclass
class Job:
    """A job and how far it has got."""

    id: str
    created_at: int
    body: dict[str, Any]
    examples: int
    epoch: float = -1.0
    status: str = "validating_files"
    error: dict[str, Any] | None = None
    succeeded_polls: int = 0
    extra_events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def values(self) -> dict[str, Any]:
        method = self.body.get("method") or {}
        given = (method.get("supervised") or {}).get("hyperparameters") or self.body.get("hyperparameters") or {}
        chosen = {"n_epochs": 3, "batch_size": max(1, self.examples // 8), "learning_rate_multiplier": 1.8}
        return {**chosen, **{name: each for name, each in given.items() if each != "auto"}}

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.examples / self.values["batch_size"])

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.values["n_epochs"]

    @property
    def step(self) -> int:
        return max(0, min(self.total_steps, math.floor(self.epoch * self.steps_per_epoch)))

    @property
    def ended(self) -> bool:
        return self.status in {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True)
class Asked:
    """A request that arrived."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Said:
    """An answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def said(value: Any, status: int = 200, **headers: str) -> Said:
    return Said(status, json.dumps(value).encode(), {"content-type": "application/json", **headers})


def refused(status: int, message: str, code: str | None = None, **headers: str) -> Said:
    return said(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}, status, **headers
    )


class ScriptedHost:
    """The host. `fault(operation, moment)` is asked before and after each operation: it may raise, or give an answer.

    `operation` is like `POST fine_tuning/jobs`, `moment` is `before` (nothing is done) or `after` (it is done).
    """

    def __init__(self, clock: Callable[[], float] = time.time, manners: Manners = Manners(), base: str = "/v1") -> None:
        self.clock, self.manners, self.base = clock, manners, base
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.parts: dict[str, bytes] = {}
        self.jobs: dict[str, Job] = {}
        self.models: set[str] = {"base-chat", "babbage-002", "gpt-4o-mini-2024-07-18"}
        self.deleted: list[str] = []
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.questions: list[dict[str, Any]] = []
        self.fault: Callable[[str, str], Said | None] = lambda operation, moment: None
        self.create_delay: Callable[[], float | None] = lambda: None
        self.later: list[tuple[float, Callable[[], object]]] = []
        self.deployments: dict[str, dict[str, Any]] = {}
        self.deployment_polls = 0
        self.key = KEY
        self._count = 0
        self._lock = threading.RLock()

    # --------------------------------------------------------------------------------------------------------- dispatch
    def answer(self, asked: Asked) -> Said:
        with self._lock:
            return self._answer(asked)

    def _answer(self, asked: Asked) -> Said:
        for due, action in list(self.later):
            if self.clock() >= due:
                self.later.remove((due, action))
                action()
        path = unquote(asked.path)
        operation = f"{asked.method} {_pattern(path.removeprefix(self.base).strip('/'))}"
        self.asked.append(operation)
        self.headers.append(asked.headers)
        if path.startswith("/subscriptions/"):
            return self._control_plane(asked, path)
        key = asked.headers.get("authorization", "").removeprefix("Bearer ") or asked.headers.get("api-key", "")
        if key != self.key:
            return refused(401, f"Incorrect API key provided: {key}", "invalid_api_key")
        if not path.startswith(self.base + "/"):
            return refused(404, f"no route {path}")
        if (early := self.fault(operation, "before")) is not None:
            return early
        result = self.carry_out(asked, path.removeprefix(self.base).strip("/").split("/"))
        if (instead := self.fault(operation, "after")) is not None:
            return instead
        return result

    def carry_out(self, asked: Asked, parts: list[str]) -> Said:
        match asked.method, parts:
            case "POST", ["files"]:
                return self._upload(asked)
            case "POST", ["uploads", *_]:
                return self._upload_in_parts(asked, parts[1:])
            case "GET", ["files"]:
                return self._page(asked, list(self.files.values()))
            case "GET", ["files", id_]:
                return self._file(id_)
            case "GET", ["files", id_, "content"]:
                return self._content(id_)
            case "DELETE", ["files", id_]:
                return self._delete_file(id_)
            case "POST", ["fine_tuning", "jobs"]:
                return self._create(json.loads(asked.body))
            case "GET", ["fine_tuning", "jobs"]:
                return self._list_jobs(asked)
            case "GET", ["fine_tuning", "jobs", id_] if id_ in self.jobs:
                self._advance(self.jobs[id_])
                return said(self.shown(self.jobs[id_]))
            case "POST", ["fine_tuning", "jobs", id_, "cancel"] if id_ in self.jobs:
                return self._cancel(self.jobs[id_])
            case "POST", ["fine_tuning", "jobs", id_, "pause"] if id_ in self.jobs:
                return self._pause(self.jobs[id_])
            case "GET", ["fine_tuning", "jobs", id_, "events"] if id_ in self.jobs:
                events = self.events(self.jobs[id_])
                if self.manners.shuffled:
                    random.Random(f"{id_} {len(events)}").shuffle(events)
                return self._page(asked, events)
            case "GET", ["fine_tuning", "jobs", id_, "checkpoints"] if id_ in self.jobs:
                return self._page(asked, self.checkpoints(self.jobs[id_]))
            case "GET", ["models", *name]:
                known = "/".join(name) in self.models
                return (
                    said({"id": "/".join(name), "object": "model", "created": 0, "owned_by": "x"})
                    if known
                    else (refused(404, f"The model '{'/'.join(name)}' does not exist", "model_not_found"))
                )
            case "DELETE", ["models", *name]:
                return self._delete_model("/".join(name))
            case "POST", ["chat", "completions"] | ["completions"]:
                return self._complete(json.loads(asked.body), chat=parts[0] == "chat")
        return refused(404, f"no such thing: {'/'.join(parts)}")

    def _page(self, asked: Asked, newest_first: list[dict[str, Any]]) -> Said:
        limit = min(self.manners.page, int(asked.query.get("limit", ["20"])[0]))
        start = 0
        if after := asked.query.get("after"):
            ids = [each["id"] for each in newest_first]
            start = ids.index(after[0]) + 1 if after[0] in ids else len(ids)
        data = newest_first[start : start + limit]
        if self.manners.repeats_events and start and data:
            data = [newest_first[start - 1], *data][:limit] if limit > 1 else data
        body: dict[str, Any] = {"object": "list", "data": data}
        if self.manners.says_has_more:
            body["has_more"] = start + limit < len(newest_first)
        return said(body)

    def _id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count:06d}"

    # ------------------------------------------------------------------------------------------------------------ files
    def _upload(self, asked: Asked) -> Said:
        fields = _form(asked)
        purpose = fields["purpose"].get_payload(decode=True).decode()
        return said(self._store(fields["file"].get_payload(decode=True), fields["file"].get_filename(), purpose))

    def _upload_in_parts(self, asked: Asked, parts: list[str]) -> Said:
        match parts:
            case []:
                wanted = json.loads(asked.body)
                id_ = self._id("upload_")
                self.uploads[id_] = {
                    **{name: wanted[name] for name in ("bytes", "filename", "purpose")},
                    **{"id": id_, "object": "upload", "status": "pending", "file": None},
                    **{"created_at": int(self.clock()), "expires_at": int(self.clock()) + 3600},
                }
                return said(self.uploads[id_])
            case [id_, "parts"] if self.uploads[id_]["status"] == "pending":
                part = self._id("part_")
                self.parts[part] = _form(asked)["data"].get_payload(decode=True)
                return said({"id": part, "object": "upload.part", "created_at": 0, "upload_id": id_})
            case [id_, "complete"] if self.uploads[id_]["status"] == "pending":
                upload = self.uploads[id_]
                content = b"".join(self.parts[each] for each in json.loads(asked.body)["part_ids"])
                if len(content) != upload["bytes"]:
                    return refused(400, "the parts are not as long as was said")
                file = self._store(content, upload["filename"], upload["purpose"])
                upload |= {"status": "completed", "file": file}
                return said(upload)
        return refused(404, "no such upload")

    def _store(self, content: bytes, name: str, purpose: str) -> dict[str, Any]:
        id_ = self._id("file-")
        self.contents[id_] = content
        self.files = {
            id_: {
                "id": id_,
                "object": "file",
                "bytes": len(content),
                "created_at": int(self.clock()),
                "filename": name,
                "purpose": purpose,
                "status": "processed" if self.manners.file_polls == 0 else "pending",
                "polls": 0,
            },
            **self.files,
        }
        return self.files[id_]

    def _file(self, id_: str) -> Said:
        if id_ not in self.files:
            return refused(404, f"No such File object: {id_}")
        file = self.files[id_]
        file["polls"] += 1
        if file["polls"] >= self.manners.file_polls and file["status"] == "pending":
            file["status"] = "processed"
        return said(file)

    def _content(self, id_: str) -> Said:
        if id_ not in self.contents:
            return refused(404, f"No such File object: {id_}")
        return Said(200, self.contents[id_], {"content-type": "application/octet-stream"})

    def _delete_file(self, id_: str) -> Said:
        if self.files.pop(id_, None) is None:
            return refused(404, f"No such File object: {id_}")
        self.contents.pop(id_)
        return said({"id": id_, "object": "file", "deleted": True})

    # ------------------------------------------------------------------------------------------------------------- jobs
    def _create(self, body: dict[str, Any]) -> Said:
        for name in ("training_file", "validation_file"):
            if body.get(name) not in self.files:
                return refused(400, f"no file {body.get(name)}", "invalid_file")
            if self.files[body[name]]["status"] != "processed":
                return refused(400, "the file is not ready", "file_not_ready")
        if (delay := self.create_delay()) is not None:  # accepted long after the client has given up
            self.later.append((self.clock() + delay, lambda: self.accept(body)))
            raise TimeoutError
        return said(self.shown(self.accept(body)))

    def accept(self, body: dict[str, Any]) -> Job:
        content = self.contents[body["training_file"]].decode("utf-8-sig")
        examples = len(content.splitlines())
        job = Job(self._id("ftjob-"), int(self.clock()), body, examples, status=self.manners.waiting)
        self.jobs[job.id] = job
        return job

    def shown(self, job: Job) -> dict[str, Any]:
        running = job.status in {"running", "paused", "succeeded"}
        values = (
            job.values if running else dict.fromkeys(("n_epochs", "batch_size", "learning_rate_multiplier"), "auto")
        )
        over = job.status == "succeeded" and job.succeeded_polls >= self.manners.model_polls
        metadata = job.body.get("metadata") if self.manners.keeps_metadata else None
        return {
            "id": job.id,
            "object": "fine_tuning.job",
            "created_at": job.created_at,
            "finished_at": None,
            "model": job.body["model"],
            "fine_tuned_model": self.final_model(job) if over else None,
            "organization_id": None,
            "result_files": [f"result-{job.id}"] if job.status == "succeeded" else [],
            "status": job.status,
            "training_file": job.body["training_file"],
            "validation_file": job.body["validation_file"],
            "hyperparameters": values,
            "method": {"type": "supervised", "supervised": {"hyperparameters": values}},
            "trained_tokens": self.trained_tokens(job) if job.ended and self.manners.says_trained_tokens else None,
            "error": job.error or ({} if self.manners.empty_error else None),
            "seed": job.body.get("seed", 0),
            "metadata": metadata,
            "user_provided_suffix": job.body.get("suffix") if self.manners.keeps_suffix else None,
        }

    def trained_tokens(self, job: Job) -> int:
        return 10 * job.examples * math.floor(max(0.0, min(job.epoch, job.values["n_epochs"])))

    def final_model(self, job: Job) -> str:
        return f"ft:{job.body['model']}:org::{job.id}"

    def _advance(self, job: Job) -> None:
        if job.status == "succeeded":
            job.succeeded_polls += 1
            return
        if job.ended or job.status == "paused":
            return
        if job.epoch < 0:
            job.status = "queued" if job.epoch == -1.0 else "running"
            job.epoch = -0.5 if job.epoch == -1.0 else 0.0
            return
        job.epoch = min(float(job.values["n_epochs"]), job.epoch + self.manners.epochs_per_poll)
        if job.epoch >= job.values["n_epochs"]:
            job.status = "succeeded"
            self.models.add(self.final_model(job))
            self._write_results(job)
        self.models.update(each["fine_tuned_model_checkpoint"] for each in self.checkpoints(job, everything=True))

    def metrics(self, job: Job, step: int) -> dict[str, float]:
        chance = random.Random(f"{job.body.get('seed')} {sorted(job.values.items())} {step}")
        loss = 2.0 * math.exp(-step / max(1, job.total_steps)) + chance.random() / 100
        found = {"train_loss": loss, "train_mean_token_accuracy": 1 - loss / 3, "valid_loss": loss + 0.1}
        if step % job.steps_per_epoch == 0:
            found |= {"full_valid_loss": loss + 0.2, "full_valid_mean_token_accuracy": 1 - (loss + 0.2) / 3}
        return found

    def events(self, job: Job) -> list[dict[str, Any]]:
        """The job's log, the newest line first."""

        def event(n: int, message: str, data: Any = None, level: str = "info") -> dict[str, Any]:
            return {
                "id": f"ftevent-{job.id}-{n:05d}",
                "object": "fine_tuning.job.event",
                "created_at": job.created_at + n,
                "level": level,
                "message": message,
                "type": "metrics" if data else "message",
                "data": data,
            }

        log = [event(0, f"Created fine-tuning job: {job.id}"), event(1, "Validating training file")]
        if self.manners.metrics_in_events:
            for step in range(1, job.step + 1):
                data = {"step": step, "total_steps": job.total_steps, **self.metrics(job, step)}
                log.append(
                    event(10 + step, f"Step {step}/{job.total_steps}: training loss={data['train_loss']:.2f}", data)
                )
        return [*job.extra_events, *reversed(log)]

    def checkpoints(self, job: Job, *, everything: bool = False) -> list[dict[str, Any]]:
        if not (self.manners.checkpoints_while_training or job.ended or job.status == "paused" or everything):
            return []
        found = [
            {
                "id": f"ftckpt-{job.id}-{step}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": job.created_at + step,
                "fine_tuned_model_checkpoint": f"{self.final_model(job)}:ckpt-step-{step}",
                "fine_tuning_job_id": job.id,
                "metrics": {"step": step, **self.metrics(job, step)},
                "step_number": step,
            }
            for step in range(job.steps_per_epoch, job.step + 1, job.steps_per_epoch)
        ]
        return [
            each
            for each in found[max(0, len(found) - self.manners.kept_checkpoints) :]
            if each["fine_tuned_model_checkpoint"] not in self.deleted
        ][::-1]

    def _write_results(self, job: Job) -> None:
        names = ["train_loss", "train_accuracy", "valid_loss", "full_valid_loss", "full_valid_mean_token_accuracy"]
        rows = [",".join(["step", *names])]
        for step in range(1, job.total_steps + 1):
            values = {**self.metrics(job, step)}
            values["train_accuracy"] = values.pop("train_mean_token_accuracy")
            rows.append(",".join([str(step), *(str(values.get(name, "")) for name in names)]))
        content = ("\n".join(rows) + "\n").encode()
        id_ = f"result-{job.id}"
        self.contents[id_] = base64.b64encode(content) if self.manners.base64_results else content
        self.files[id_] = {
            "id": id_,
            "object": "file",
            "bytes": len(content),
            "created_at": 0,
            "filename": "r.csv",
            "purpose": "fine-tune-results",
            "status": "processed",
            "polls": 0,
        }

    def _list_jobs(self, asked: Asked) -> Said:
        wanted = {name[9:-1]: each[0] for name, each in asked.query.items() if name.startswith("metadata[")}
        if not (self.manners.filters_metadata and self.manners.keeps_metadata):
            wanted = {}
        found = [
            self.shown(each)
            for each in reversed(self.jobs.values())
            if all((each.body.get("metadata") or {}).get(name) == value for name, value in wanted.items())
        ]
        return self._page(asked, found)

    def _cancel(self, job: Job) -> Said:
        if job.ended:
            return refused(400, f"Job has already completed: {job.id}")
        job.status = "cancelled"
        return said(self.shown(job))

    def _pause(self, job: Job) -> Said:
        if not self.manners.pauses or job.status != "running" or job.step < 1:
            return refused(400, "only a running job can be paused")
        job.status = "paused"
        return said(self.shown(job))

    # ----------------------------------------------------------------------------------------------------------- models
    def _delete_model(self, name: str) -> Said:
        if name not in self.models:
            return refused(404, f"The model '{name}' does not exist", "model_not_found")
        self.models.remove(name)
        self.deleted.append(name)
        return said({"id": name, "object": "model", "deleted": True})

    def opinion(self, model: str, prompt: str) -> dict[str, float]:
        """Log-probabilities of the words red, green and blue, which are single tokens here."""
        job = next((each for each in self.jobs.values() if each.id in model), None)
        trained = model if job is None else f"{job.body.get('seed')} {sorted(job.values.items())}"
        chance = random.Random(f"{trained} {prompt}")
        raw = {word: chance.random() for word in ("red", "green", "blue")}
        total = sum(raw.values()) / 0.97
        return {word: math.log(each / total) for word, each in raw.items()}

    def _complete(self, body: dict[str, Any], *, chat: bool) -> Said:
        self.questions.append(body)
        name = body["model"]
        known = set(self.deployments) | (set() if self.manners.needs_deployment else self.models)
        if name not in known:
            return refused(404, f"The model '{name}' does not exist", "model_not_found")
        if chat:
            return said(
                {
                    "id": "c",
                    "object": "chat.completion",
                    "created": 0,
                    "model": name,
                    "choices": [self._chat_choice(name, body)],
                }
            )
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        choices = [self._text_choice(name, n, each, body) for n, each in enumerate(prompts)]
        return said({"id": "c", "object": "text_completion", "created": 0, "model": name, "choices": choices[::-1]})

    def _chat_choice(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        scores = self.opinion(name, json.dumps(body["messages"]))
        best = max(scores, key=lambda each: scores[each])
        logprobs = None
        if body.get("logprobs") and self.manners.top_logprobs:
            top = [{"token": word, "logprob": each, "bytes": None} for word, each in scores.items()]
            logprobs = {"content": [{"token": best, "logprob": scores[best], "bytes": None, "top_logprobs": top}]}
        message = {"role": "assistant", "content": best}
        return {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}

    def _text_choice(self, name: str, index: int, prompt: str, body: dict[str, Any]) -> dict[str, Any]:
        scores = {f" {word}": each for word, each in self.opinion(name, prompt).items()}
        best = max(scores, key=lambda each: scores[each])
        logprobs = None
        if body.get("logprobs") is not None and self.manners.top_logprobs:
            logprobs = {
                "tokens": [best],
                "token_logprobs": [scores[best]],
                "top_logprobs": [scores],
                "text_offset": [len(prompt)],
            }
        return {"index": index, "text": best, "logprobs": logprobs, "finish_reason": "stop"}

    # -------------------------------------------------------------------------------------------- Azure's control plane
    def _control_plane(self, asked: Asked, path: str) -> Said:
        if asked.headers.get("authorization") != "Bearer management-token-0123456789":
            return said({"error": {"code": "InvalidAuthenticationToken", "message": "token"}}, 401)
        if (early := self.fault(f"{asked.method} deployment", "before")) is not None:
            return early
        name = path.rsplit("/", 1)[1]
        if asked.method == "PUT":
            wanted = json.loads(asked.body)
            if wanted["properties"]["model"]["name"] not in self.models:
                return said({"error": {"code": "DeploymentModelNotSupported", "message": "no such model"}}, 400)
            self.deployments[name] = {**wanted, "polls": 0}
        if asked.method == "DELETE":
            return said({}, 200) if self.deployments.pop(name, None) else said({}, 204)
        found = self.deployments.get(name)
        if found is None:
            return said({"error": {"code": "DeploymentNotFound", "message": "none"}}, 404)
        found["polls"] += 1
        state = "Succeeded" if found["polls"] > self.deployment_polls else "Creating"
        return said({"name": name, "properties": {**found["properties"], "provisioningState": state}})


def _form(asked: Asked) -> dict[Any, Any]:
    """Return the fields of a multipart body."""
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + asked.body)
    return {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}


def _pattern(path: str) -> str:
    parts = path.split("/")
    return "/".join(
        "*" if part.startswith(("ftjob-", "file-", "result-", "ft:", "upload_")) else part for part in parts
    )


# ------------------------------------------------------------------------------------------------------------- carriers
class InMemory(httpx2.BaseTransport):
    """Carries requests of the genuine client to a host in this process."""

    def __init__(self, host: ScriptedHost) -> None:
        self.host = host

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        asked = Asked(
            request.method,
            request.url.path,
            parse_qs(request.url.query.decode(), keep_blank_values=True),
            {name.lower(): value for name, value in request.headers.items()},
            request.read(),
        )
        try:
            found = self.host.answer(asked)
        except Cut as error:
            raise httpx2.ReadError(str(error), request=request) from error
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error), request=request) from error
        return httpx2.Response(found.status, headers=dict(found.headers), content=found.body, request=request)


@contextlib.contextmanager
def listening(host: ScriptedHost) -> Iterator[str]:
    """Serve a host on a free port of 127.0.0.1; the value is the address of its API."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body go as two packets, and the second would wait

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, parts.path, parse_qs(parts.query, keep_blank_values=True), headers, body)
            try:
                found = host.answer(asked)
            except (Cut, TimeoutError):
                self.close_connection = True
                return
            self.send_response(found.status)
            for name, value in {**found.headers, "content-length": str(len(found.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # whoever asked may be dead
                self.wfile.write(found.body)

        do_GET = do_POST = do_DELETE = do_PUT = _serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{host.base}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_manners(host: ScriptedHost, **changes: Any) -> None:
    host.manners = replace(host.manners, **changes)
