"""`Asker`: asks the judge in parallel, each question once for all processes of a workspace."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from backends.contract import BackendError, Failure
from backends.hosted.failures import HostError
from backends.hosted.host_client import HostClient
from backends.hosted.rate_limiter import RateLimiter
from backends.judge.answer_store import AnswerStore, StoredReply
from backends.judge.options import JudgeOptions
from backends.judge.questions import Question
from backends.judge.replies import CONTENT_FILTER
from backends.judge.spending import Spending
from backends.notices import notice

_LOG = logging.getLogger("backends.judge")

TAKEN_POLL_S = 0.2
"""How often to look for the answer to a question that another process is asking."""

TOLD_AFTER_S = 5.0
"""A shorter wait is not worth a message."""


class _StoppedError(Exception):
    """The measurement has failed elsewhere, or somebody has interrupted it."""


class Asker:
    """Asks one judge. The store keeps every reply, and what it has cost.

    A request that fails is repeated by the rules of the hosted backend, within the patience of the
    options. If a reply holds no rating, the question is asked once more.
    """

    def __init__(self, options: JudgeOptions, key: str | None, store: AnswerStore) -> None:
        self._options, self._store = options, store
        self._hosted = options.hosted_options()
        self._client = HostClient(self._hosted, key)
        self._limiter = RateLimiter(
            options.patience_s, options.requests_per_minute, time.monotonic, self._pause, self._tell_of_pause
        )
        self._stopping = threading.Event()
        self._told_until = 0.0
        self._spending = Spending(0.0, None)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def question_id(self, question: Question) -> str:
        """Return the digest of everything that decides about the reply."""
        options = self._options
        identity = [self._hosted.account, question.messages(), options.model, options.max_tokens, options.extra_body]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def replies(self, questions: Sequence[Question]) -> dict[Question, StoredReply]:
        """Return the reply to each question. Known ones cost nothing.

        Raises BackendError if the judge does not answer, or if the limit of the options is reached.
        The replies until then are kept.
        """
        by_id = {self.question_id(question): question for question in questions}
        found = {name: reply for name in by_id if (reply := self._store.final_reply(name)) is not None}
        self._spending = Spending(self._store.unreported(list(by_id)).usd or 0.0, self._options.max_usd)
        self._stopping.clear()
        began, told = time.monotonic(), False
        while missing := [name for name in by_id if name not in found]:
            new = self._ask_all({name: by_id[name] for name in missing})
            found |= new
            if not new:
                if not told and time.monotonic() - began > TOLD_AFTER_S:
                    told = True
                    _say(f"waiting for another process that asks the judge the same {len(missing)} questions")
                time.sleep(TAKEN_POLL_S)
        return {by_id[name]: reply for name, reply in found.items()}

    def _ask_all(self, questions: dict[str, Question]) -> dict[str, StoredReply]:
        """Ask each question by its id, unless another process is asking it. Raises BackendError."""
        concurrency = self._options.concurrency or self._hosted.profile.inference.concurrency
        errors: list[BackendError] = []
        replies: dict[str, StoredReply] = {}
        with ThreadPoolExecutor(min(concurrency, len(questions)), thread_name_prefix="judge") as pool:
            futures: list[tuple[str, Future[StoredReply | None]]] = [
                (name, pool.submit(self._ask, name, question)) for name, question in questions.items()
            ]
            try:
                for name, future in futures:
                    with suppress(_StoppedError):
                        try:
                            reply = future.result()
                        except BackendError as error:
                            errors.append(error)
                        else:
                            if reply is not None:
                                replies[name] = reply
            finally:
                self._stopping.set()
                pool.shutdown(wait=True, cancel_futures=True)
                self._stopping.clear()
        if errors:
            raise errors[0]
        return replies

    def _ask(self, name: str, question: Question) -> StoredReply | None:
        """Return the final reply; None if another process is asking."""
        try:
            return self._ask_if_free(name, question)
        except BackendError:
            self._stopping.set()  # the others need not wait for a judge that does not answer
            raise

    def _ask_if_free(self, name: str, question: Question) -> StoredReply | None:
        if self._stopping.is_set():
            raise _StoppedError
        claim = self._store.claim(name)
        if claim.state != "ours":
            return claim.reply
        try:
            reply = claim.reply or self._request(name, question, repeated=False)
            return reply if reply.is_final else self._request(name, question, repeated=True)
        finally:
            self._store.release(name)

    def _request(self, name: str, question: Question, *, repeated: bool) -> StoredReply:
        options, price = self._options, self._options.price_per_million_tokens
        max_input_tokens = question.max_input_tokens(repeated=repeated)
        max_usd = None if price is None else price.usd(max_input_tokens, options.max_tokens)
        max_tokens = max_input_tokens + options.max_tokens
        fields = self._fields(question, repeated=repeated)

        def send() -> StoredReply:
            if self._stopping.is_set():
                raise _StoppedError
            self._spending.reserve(max_usd or 0.0)
            spent = max_usd or 0.0
            try:
                self._store.sending(name, max_tokens, max_usd)
                try:
                    answer = self._client.chat(fields, options.timeout_s)
                except HostError as error:
                    # A host charges for no error that it reports. It may charge for a lost answer.
                    may_cost = error.status is None and not error.unsent
                    spent = spent if may_cost else 0.0
                    self._store.failed(name, may_cost=may_cost)
                    if error.code == CONTENT_FILTER:
                        rejected = StoredReply("", CONTENT_FILTER, is_final=True)
                        self._store.answered(name, rejected, 0, 0.0)
                        return rejected
                    raise
                tokens, usd = self._cost(answer, max_input_tokens)
                spent = usd or 0.0
                text, finish = _content(answer)
                reply = StoredReply(text, finish, repeated or question.verdict(text) is not None)
                self._store.answered(name, reply, tokens, usd)
            finally:
                self._spending.settle(max_usd or 0.0, spent)
            return reply

        try:
            return self._limiter.with_retries(send)
        except HostError as error:
            failure = error.failure
            message = f"the judge {options.model} at {self._hosted.address}: {failure.message}"
            raise BackendError(Failure(failure.kind, message, options.remedy(failure.detail))) from None

    def _fields(self, question: Question, *, repeated: bool) -> dict[str, Any]:
        options = self._options
        limit = options.token_limit_field or self._hosted.profile.inference.token_limit_field
        fields: dict[str, Any] = {
            "model": options.model,
            "messages": question.messages(repeated=repeated),
            "temperature": 0.0,
            limit: options.max_tokens,
        }
        return {**fields, "extra_body": dict(options.extra_body)} if options.extra_body else fields

    def _cost(self, answer: Any, max_input_tokens: int) -> tuple[int, float | None]:
        """Return the tokens of an answer and their price; without a usage, the most possible."""
        usage, price = answer.get("usage") or {}, self._options.price_per_million_tokens
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not isinstance(read, int) or not isinstance(written, int):
            read, written = max_input_tokens, self._options.max_tokens
        return read + written, None if price is None else price.usd(read, written)

    def _pause(self, duration_s: float) -> None:
        if self._stopping.wait(duration_s):
            raise _StoppedError

    def _tell_of_pause(self, pause_s: float, error: HostError) -> None:
        now = time.monotonic()
        if pause_s >= TOLD_AFTER_S and now >= self._told_until:
            self._told_until = now + pause_s
            reason = f"the judge at {self._hosted.address} does not answer: {error.failure.message}"
            _say(f"waiting {pause_s:.0f} s, because {reason}")
            self._store.waits(reason, time.time() + pause_s)


def _content(answer: Any) -> tuple[str, str]:
    """Return the text of an answer, and why it ended."""
    choice = answer["choices"][0]
    message = choice.get("message") or {}
    return str(message.get("content") or message.get("refusal") or ""), str(choice.get("finish_reason") or "")


def _say(text: str) -> None:
    _LOG.warning("%s", text)
    notice(text)
