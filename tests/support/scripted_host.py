"""A host with the OpenAI fine-tuning protocol that trains nothing: each poll advances a job.

Faults happen on demand.

`ScriptedHost.handle` is the host. `InMemoryTransport` passes it the requests of the genuine client
without a network, `serving` over real sockets. It is written from the protocol, so that it
disagrees with the client where the client is wrong.
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


class ConnectionCutError(Exception):
    """The connection breaks without an answer."""


class ProcessKilled(BaseException):
    """The process that sent the request is dead."""


@dataclass(frozen=True)
class HostBehaviour:
    """How a host behaves where the protocol leaves it open, or where real hosts deviate from it.

    - `file_polls`, `model_polls`: polls until a file is processed, or a model has a name.
    - `waiting`: the status of a new job.
    """

    page_items: int = 100
    shuffled_events: bool = False
    sends_has_more: bool = True
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
    can_pause: bool = True
    top_logprobs: bool = True
    repeats_events: bool = False
    waiting: str = "validating_files"
    reports_trained_tokens: bool = True
    needs_deployment: bool = False


@dataclass
class Job:
    """A job and its progress. An epoch of -1 is a job that nobody has polled yet."""

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
    def hyperparameters(self) -> dict[str, Any]:
        """The values in use: the requested ones, and the host's choice for the others."""
        method = self.body.get("method") or {}
        given = (method.get("supervised") or {}).get("hyperparameters") or self.body.get("hyperparameters") or {}
        chosen = {"n_epochs": 3, "batch_size": max(1, self.examples // 8), "learning_rate_multiplier": 1.8}
        return {**chosen, **{name: value for name, value in given.items() if value != "auto"}}

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.examples / self.hyperparameters["batch_size"])

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.hyperparameters["n_epochs"]

    @property
    def step(self) -> int:
        return max(0, min(self.total_steps, math.floor(self.epoch * self.steps_per_epoch)))

    @property
    def ended(self) -> bool:
        return self.status in {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True)
class Request:
    """A request of a client. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    """An answer to a request."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(value: Any, status: int = 200, **headers: str) -> Response:
    return Response(status, json.dumps(value).encode(), {"content-type": "application/json", **headers})


def error_response(status: int, message: str, code: str | None = None, **headers: str) -> Response:
    return json_response(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}, status, **headers
    )


class ScriptedHost:
    """The host.

    The host calls `fault(operation, moment)` before and after each operation; it may raise, or
    return another response. `operation` looks like `POST fine_tuning/jobs`. `moment` is `before`
    (nothing has happened) or `after` (the operation is complete). `operations` lists everything
    that clients requested. `create_delay` returns after how many seconds the host accepts a job
    whose client got no answer. `write(model, request)`, if it is set, returns the parts of the
    answer to a request without labels and log-probabilities: its `content`, `finish_reason`, ...
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, behaviour: HostBehaviour = HostBehaviour(), base: str = "/v1"
    ) -> None:
        self.clock, self.behaviour, self.base = clock, behaviour, base
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.parts: dict[str, bytes] = {}
        self.jobs: dict[str, Job] = {}
        self.models: set[str] = {"base-chat", "babbage-002", "gpt-4o-mini-2024-07-18"}
        self.deleted: list[str] = []
        self.operations: list[str] = []
        self.request_headers: list[Mapping[str, str]] = []
        self.prediction_requests: list[dict[str, Any]] = []
        self.fault: Callable[[str, str], Response | None] = lambda operation, moment: None
        self.create_delay: Callable[[], float | None] = lambda: None
        self.write: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None
        self.scheduled: list[tuple[float, Callable[[], object]]] = []
        self.deployments: dict[str, dict[str, Any]] = {}
        self.deployment_polls = 0
        self.key = KEY
        self._count = 0
        self._lock = threading.RLock()

    # ------------------------------------------------------------------------------------- dispatch
    def handle(self, request: Request) -> Response:
        with self._lock:
            return self._handle(request)

    def _handle(self, request: Request) -> Response:
        """Answer one request. Subclasses override it."""
        for due, action in list(self.scheduled):
            if self.clock() >= due:
                self.scheduled.remove((due, action))
                action()
        path = unquote(request.path)
        operation = f"{request.method} {_operation_path(path.removeprefix(self.base).strip('/'))}"
        self.operations.append(operation)
        self.request_headers.append(request.headers)
        if path.startswith("/subscriptions/"):
            return self._control_plane(request, path)
        key = request.headers.get("authorization", "").removeprefix("Bearer ") or request.headers.get("api-key", "")
        if key != self.key:
            return error_response(401, f"Incorrect API key provided: {key}", "invalid_api_key")
        if not path.startswith(self.base + "/"):
            return error_response(404, f"no route {path}")
        if (early := self.fault(operation, "before")) is not None:
            return early
        result = self.perform(request, path.removeprefix(self.base).strip("/").split("/"))
        if (instead := self.fault(operation, "after")) is not None:
            return instead
        return result

    def perform(self, request: Request, parts: list[str]) -> Response:
        match request.method, parts:
            case "POST", ["files"]:
                return self._upload(request)
            case "POST", ["uploads", *_]:
                return self._upload_in_parts(request, parts[1:])
            case "GET", ["files"]:
                return self._page(request, list(self.files.values()))
            case "GET", ["files", id_]:
                return self._file(id_)
            case "GET", ["files", id_, "content"]:
                return self._content(id_)
            case "DELETE", ["files", id_]:
                return self._delete_file(id_)
            case "POST", ["fine_tuning", "jobs"]:
                return self._create(json.loads(request.body))
            case "GET", ["fine_tuning", "jobs"]:
                return self._list_jobs(request)
            case "GET", ["fine_tuning", "jobs", id_] if id_ in self.jobs:
                self._advance(self.jobs[id_])
                return json_response(self.job_json(self.jobs[id_]))
            case "POST", ["fine_tuning", "jobs", id_, "cancel"] if id_ in self.jobs:
                return self._cancel(self.jobs[id_])
            case "POST", ["fine_tuning", "jobs", id_, "pause"] if id_ in self.jobs:
                return self._pause(self.jobs[id_])
            case "GET", ["fine_tuning", "jobs", id_, "events"] if id_ in self.jobs:
                events = self.events(self.jobs[id_])
                if self.behaviour.shuffled_events:
                    random.Random(f"{id_} {len(events)}").shuffle(events)
                return self._page(request, events)
            case "GET", ["fine_tuning", "jobs", id_, "checkpoints"] if id_ in self.jobs:
                return self._page(request, self.checkpoints(self.jobs[id_]))
            case "GET", ["models", *name]:
                model = "/".join(name)
                if model not in self.models:
                    return error_response(404, f"The model '{model}' does not exist", "model_not_found")
                return json_response({"id": model, "object": "model", "created": 0, "owned_by": "x"})
            case "DELETE", ["models", *name]:
                return self._delete_model("/".join(name))
            case "POST", ["chat", "completions"] | ["completions"]:
                return self._complete(json.loads(request.body), chat=parts[0] == "chat")
        return error_response(404, f"no such route: {'/'.join(parts)}")

    def _page(self, request: Request, newest_first: list[dict[str, Any]]) -> Response:
        limit = min(self.behaviour.page_items, int(request.query.get("limit", ["20"])[0]))
        start = 0
        if after := request.query.get("after"):
            ids = [item["id"] for item in newest_first]
            start = ids.index(after[0]) + 1 if after[0] in ids else len(ids)
        data = newest_first[start : start + limit]
        if self.behaviour.repeats_events and start and data:
            data = [newest_first[start - 1], *data][:limit] if limit > 1 else data
        body: dict[str, Any] = {"object": "list", "data": data}
        if self.behaviour.sends_has_more:
            body["has_more"] = start + limit < len(newest_first)
        return json_response(body)

    def _id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count:06d}"

    # ---------------------------------------------------------------------------------------- files
    def _upload(self, request: Request) -> Response:
        fields = _form(request)
        purpose = fields["purpose"].get_payload(decode=True).decode()
        return json_response(
            self._store(fields["file"].get_payload(decode=True), fields["file"].get_filename(), purpose)
        )

    def _upload_in_parts(self, request: Request, parts: list[str]) -> Response:
        match parts:
            case []:
                wanted = json.loads(request.body)
                id_ = self._id("upload_")
                self.uploads[id_] = {
                    **{name: wanted[name] for name in ("bytes", "filename", "purpose")},
                    **{"id": id_, "object": "upload", "status": "pending", "file": None},
                    **{"created_at": int(self.clock()), "expires_at": int(self.clock()) + 3600},
                }
                return json_response(self.uploads[id_])
            case [id_, "parts"] if self.uploads[id_]["status"] == "pending":
                part = self._id("part_")
                self.parts[part] = _form(request)["data"].get_payload(decode=True)
                return json_response({"id": part, "object": "upload.part", "created_at": 0, "upload_id": id_})
            case [id_, "complete"] if self.uploads[id_]["status"] == "pending":
                upload = self.uploads[id_]
                content = b"".join(self.parts[part_id] for part_id in json.loads(request.body)["part_ids"])
                if len(content) != upload["bytes"]:
                    return error_response(400, "the parts do not have the announced length")
                file = self._store(content, upload["filename"], upload["purpose"])
                upload |= {"status": "completed", "file": file}
                return json_response(upload)
        return error_response(404, "no such upload")

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
                "status": "processed" if self.behaviour.file_polls == 0 else "pending",
                "polls": 0,
            },
            **self.files,
        }
        return self.files[id_]

    def _file(self, id_: str) -> Response:
        if id_ not in self.files:
            return error_response(404, f"No such File object: {id_}")
        file = self.files[id_]
        file["polls"] += 1
        if file["polls"] >= self.behaviour.file_polls and file["status"] == "pending":
            file["status"] = "processed"
        return json_response(file)

    def _content(self, id_: str) -> Response:
        if id_ not in self.contents:
            return error_response(404, f"No such File object: {id_}")
        return Response(200, self.contents[id_], {"content-type": "application/octet-stream"})

    def _delete_file(self, id_: str) -> Response:
        if self.files.pop(id_, None) is None:
            return error_response(404, f"No such File object: {id_}")
        self.contents.pop(id_)
        return json_response({"id": id_, "object": "file", "deleted": True})

    # ----------------------------------------------------------------------------------------- jobs
    def _create(self, body: dict[str, Any]) -> Response:
        for name in ("training_file", "validation_file"):
            if body.get(name) not in self.files:
                return error_response(400, f"no file {body.get(name)}", "invalid_file")
            if self.files[body[name]]["status"] != "processed":
                return error_response(400, "the file is not ready", "file_not_ready")
        if (delay := self.create_delay()) is not None:  # the host accepts it long after the client has given up
            self.scheduled.append((self.clock() + delay, lambda: self.accept(body)))
            raise TimeoutError
        return json_response(self.job_json(self.accept(body)))

    def accept(self, body: dict[str, Any]) -> Job:
        content = self.contents[body["training_file"]].decode("utf-8-sig")
        examples = len(content.splitlines())
        job = Job(self._id("ftjob-"), int(self.clock()), body, examples, status=self.behaviour.waiting)
        self.jobs[job.id] = job
        return job

    def job_json(self, job: Job) -> dict[str, Any]:
        running = job.status in {"running", "paused", "succeeded"}
        values = (
            job.hyperparameters
            if running
            else dict.fromkeys(("n_epochs", "batch_size", "learning_rate_multiplier"), "auto")
        )
        has_model = job.status == "succeeded" and job.succeeded_polls >= self.behaviour.model_polls
        metadata = job.body.get("metadata") if self.behaviour.keeps_metadata else None
        return {
            "id": job.id,
            "object": "fine_tuning.job",
            "created_at": job.created_at,
            "finished_at": None,
            "model": job.body["model"],
            "fine_tuned_model": self.final_model(job) if has_model else None,
            "organization_id": None,
            "result_files": [f"result-{job.id}"] if job.status == "succeeded" else [],
            "status": job.status,
            "training_file": job.body["training_file"],
            "validation_file": job.body["validation_file"],
            "hyperparameters": values,
            "method": {"type": "supervised", "supervised": {"hyperparameters": values}},
            "trained_tokens": self.trained_tokens(job) if job.ended and self.behaviour.reports_trained_tokens else None,
            "error": job.error or ({} if self.behaviour.empty_error else None),
            "seed": job.body.get("seed", 0),
            "metadata": metadata,
            "user_provided_suffix": job.body.get("suffix") if self.behaviour.keeps_suffix else None,
        }

    def trained_tokens(self, job: Job) -> int:
        return 10 * job.examples * math.floor(max(0.0, min(job.epoch, job.hyperparameters["n_epochs"])))

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
        job.epoch = min(float(job.hyperparameters["n_epochs"]), job.epoch + self.behaviour.epochs_per_poll)
        if job.epoch >= job.hyperparameters["n_epochs"]:
            job.status = "succeeded"
            self.models.add(self.final_model(job))
            self._write_results(job)
        checkpoints = self.checkpoints(job, even_unlisted=True)
        self.models.update(checkpoint["fine_tuned_model_checkpoint"] for checkpoint in checkpoints)

    def metrics(self, job: Job, step: int) -> dict[str, float]:
        chance = random.Random(f"{job.body.get('seed')} {sorted(job.hyperparameters.items())} {step}")
        loss = 2.0 * math.exp(-step / max(1, job.total_steps)) + chance.random() / 100
        values = {"train_loss": loss, "train_mean_token_accuracy": 1 - loss / 3, "valid_loss": loss + 0.1}
        if step % job.steps_per_epoch == 0:
            values |= {"full_valid_loss": loss + 0.2, "full_valid_mean_token_accuracy": 1 - (loss + 0.2) / 3}
        return values

    def events(self, job: Job) -> list[dict[str, Any]]:
        """Return the job's log, the newest entry first."""

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
        if self.behaviour.metrics_in_events:
            for step in range(1, job.step + 1):
                data = {"step": step, "total_steps": job.total_steps, **self.metrics(job, step)}
                log.append(
                    event(10 + step, f"Step {step}/{job.total_steps}: training loss={data['train_loss']:.2f}", data)
                )
        return [*job.extra_events, *reversed(log)]

    def checkpoints(self, job: Job, *, even_unlisted: bool = False) -> list[dict[str, Any]]:
        if not (self.behaviour.checkpoints_while_training or job.ended or job.status == "paused" or even_unlisted):
            return []
        checkpoints = [
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
            checkpoint
            for checkpoint in checkpoints[max(0, len(checkpoints) - self.behaviour.kept_checkpoints) :]
            if checkpoint["fine_tuned_model_checkpoint"] not in self.deleted
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
        self.contents[id_] = base64.b64encode(content) if self.behaviour.base64_results else content
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

    def _list_jobs(self, request: Request) -> Response:
        wanted = {name[9:-1]: values[0] for name, values in request.query.items() if name.startswith("metadata[")}
        if not (self.behaviour.filters_metadata and self.behaviour.keeps_metadata):
            wanted = {}
        jobs = [
            self.job_json(job)
            for job in reversed(self.jobs.values())
            if all((job.body.get("metadata") or {}).get(name) == value for name, value in wanted.items())
        ]
        return self._page(request, jobs)

    def _cancel(self, job: Job) -> Response:
        if job.ended:
            return error_response(400, f"Job has already completed: {job.id}")
        job.status = "cancelled"
        return json_response(self.job_json(job))

    def _pause(self, job: Job) -> Response:
        if not self.behaviour.can_pause or job.status != "running" or job.step < 1:
            return error_response(400, "only a running job can be paused")
        job.status = "paused"
        return json_response(self.job_json(job))

    # --------------------------------------------------------------------------------------- models
    def _delete_model(self, name: str) -> Response:
        if name not in self.models:
            return error_response(404, f"The model '{name}' does not exist", "model_not_found")
        self.models.remove(name)
        self.deleted.append(name)
        return json_response({"id": name, "object": "model", "deleted": True})

    def label_logprobs(self, model: str, prompt: str) -> dict[str, float]:
        """Return the log-probabilities of the words red, green and blue: single tokens here."""
        job = next((job for job in self.jobs.values() if job.id in model), None)
        trained = model if job is None else f"{job.body.get('seed')} {sorted(job.hyperparameters.items())}"
        chance = random.Random(f"{trained} {prompt}")
        weights = {word: chance.random() for word in ("red", "green", "blue")}
        total = sum(weights.values()) / 0.97
        return {word: math.log(weight / total) for word, weight in weights.items()}

    def _complete(self, body: dict[str, Any], *, chat: bool) -> Response:
        self.prediction_requests.append(body)
        name = body["model"]
        known = set(self.deployments) | (set() if self.behaviour.needs_deployment else self.models)
        if name not in known:
            return error_response(404, f"The model '{name}' does not exist", "model_not_found")
        if chat:
            return json_response(
                {
                    "id": "c",
                    "object": "chat.completion",
                    "created": 0,
                    "model": name,
                    "choices": [self._chat_choice(name, body)],
                }
            )
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        choices = [self._text_choice(name, index, prompt, body) for index, prompt in enumerate(prompts)]
        return json_response(
            {"id": "c", "object": "text_completion", "created": 0, "model": name, "choices": choices[::-1]}
        )

    def _chat_choice(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        scores = self.label_logprobs(name, json.dumps(body["messages"]))
        best = max(scores, key=lambda word: scores[word])
        logprobs = None
        if body.get("logprobs") and self.behaviour.top_logprobs:
            top = [{"token": word, "logprob": logprob, "bytes": None} for word, logprob in scores.items()]
            logprobs = {"content": [{"token": best, "logprob": scores[best], "bytes": None, "top_logprobs": top}]}
        message = {"role": "assistant", "content": best}
        finish = "stop"
        if self.write is not None and not body.get("logprobs"):
            written = {"finish_reason": "stop", **self.write(name, body)}
            finish = written.pop("finish_reason")
            message = {"role": "assistant", "content": None, **written}
        return {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def _text_choice(self, name: str, index: int, prompt: str, body: dict[str, Any]) -> dict[str, Any]:
        scores = {f" {word}": logprob for word, logprob in self.label_logprobs(name, prompt).items()}
        best = max(scores, key=lambda word: scores[word])
        logprobs = None
        if self.write is not None and body.get("logprobs") is None:
            written = self.write(name, {**body, "prompt": prompt})
            finish = written.get("finish_reason", "stop")
            return {"index": index, "text": written["content"], "logprobs": None, "finish_reason": finish}
        if body.get("logprobs") is not None and self.behaviour.top_logprobs:
            logprobs = {
                "tokens": [best],
                "token_logprobs": [scores[best]],
                "top_logprobs": [scores],
                "text_offset": [len(prompt)],
            }
        return {"index": index, "text": best, "logprobs": logprobs, "finish_reason": "stop"}

    # ------------------------------------------------------------------------ Azure's control plane
    def _control_plane(self, request: Request, path: str) -> Response:
        if request.headers.get("authorization") != "Bearer management-token-0123456789":
            return json_response({"error": {"code": "InvalidAuthenticationToken", "message": "token"}}, 401)
        if (early := self.fault(f"{request.method} deployment", "before")) is not None:
            return early
        name = path.rsplit("/", 1)[1]
        if request.method == "PUT":
            wanted = json.loads(request.body)
            if wanted["properties"]["model"]["name"] not in self.models:
                return json_response(
                    {"error": {"code": "DeploymentModelNotSupported", "message": "no such model"}}, 400
                )
            self.deployments[name] = {**wanted, "polls": 0}
        if request.method == "DELETE":
            return json_response({}, 200) if self.deployments.pop(name, None) else json_response({}, 204)
        deployment = self.deployments.get(name)
        if deployment is None:
            return json_response({"error": {"code": "DeploymentNotFound", "message": "none"}}, 404)
        deployment["polls"] += 1
        state = "Succeeded" if deployment["polls"] > self.deployment_polls else "Creating"
        return json_response({"name": name, "properties": {**deployment["properties"], "provisioningState": state}})


def _form(request: Request) -> dict[Any, Any]:
    """Return the fields of a multipart body."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    return {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}


def _operation_path(path: str) -> str:
    parts = path.split("/")
    return "/".join(
        "*" if part.startswith(("ftjob-", "file-", "result-", "ft:", "upload_")) else part for part in parts
    )


# ----------------------------------------------------------------------------------------- carriers
class InMemoryTransport(httpx2.BaseTransport):
    """Passes requests of the genuine client to a host in this process."""

    def __init__(self, host: ScriptedHost) -> None:
        self.host = host

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        received = Request(
            request.method,
            request.url.path,
            parse_qs(request.url.query.decode(), keep_blank_values=True),
            {name.lower(): value for name, value in request.headers.items()},
            request.read(),
        )
        try:
            response = self.host.handle(received)
        except ConnectionCutError as error:
            raise httpx2.ReadError(str(error), request=request) from error
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error), request=request) from error
        return httpx2.Response(response.status, headers=dict(response.headers), content=response.body, request=request)


@contextlib.contextmanager
def serving(host: ScriptedHost) -> Iterator[str]:
    """Serve a host on a free port of 127.0.0.1. Yields the address of its API."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body travel in two packets, and the second would wait

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
            request = Request(self.command, parts.path, parse_qs(parts.query, keep_blank_values=True), headers, body)
            try:
                response = host.handle(request)
            except (ConnectionCutError, TimeoutError):
                self.close_connection = True
                return
            self.send_response(response.status)
            for name, value in {**response.headers, "content-length": str(len(response.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # the client may be dead
                self.wfile.write(response.body)

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


def change_behaviour(host: ScriptedHost, **changes: Any) -> None:
    """Change some settings of a host's behaviour."""
    host.behaviour = replace(host.behaviour, **changes)
