"""The key appears nowhere: not in the workspace, in logs, in errors."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator

import pytest
from hosted_world import HostedWorld
from scripted_host import KEY, Response, error_response

from backends.contract import BackendError, Failed, PredictOptions
from backends.hosted import failures

pytestmark = pytest.mark.integration


def texts_of_quoting_jobs(world: HostedWorld) -> Iterator[str]:
    """Yield what the user sees of jobs at a host that quotes the key in every text.

    The jobs fail in every known way, and one succeeds.
    """
    kinds = set()
    for code in (*failures.RULES_BY_JOB_CODE, None, "a code of tomorrow"):
        backend = world.open(f"job {code}", ask_labels=False)
        handle = backend.submit(world.request(f"job {code}"))
        job = list(world.host.jobs.values())[-1]
        job.status = "failed"
        job.error = {} if code is None else {"code": code, "message": f"refused {KEY} " * 60, "param": KEY}
        last = {
            "id": f"e-{code}",
            "object": "fine_tuning.job.event",
            "created_at": 9,
            "level": "error",
            "data": {KEY: KEY},
        }
        job.extra_events.append({**last, "type": "message", "message": f"moderation: {KEY}"})
        events = backend.events(handle, 0)
        world.now += 60.0
        if (waiting := backend.waiting(handle)) is not None:
            yield waiting.reason
            kinds.add("quota")
        else:
            (*_, end) = events = world.drain(backend, handle)
            assert isinstance(end, Failed), code
            assert "<key>" in end.failure.message
            kinds.add(end.failure.kind.value)
        yield repr(events)
        backend.close()
        world.now += 2 * 3600  # the wait of the account is over
    assert kinds == {"user", "quota", "bug", "transient", "lost", "out_of_memory", "diverged"}
    backend = world.open("succeeds")
    answer = world.host._chat_choice
    world.host._chat_choice = lambda name, body: {  # type: ignore[method-assign]
        **answer(name, body), "logprobs": None, "message": {"role": "assistant", "content": KEY}
    }  # fmt: skip
    yield repr(world.complete(backend, key="succeeds"))
    yield repr(backend.predict("base-chat", world.prompts, PredictOptions()))
    del world.host._chat_choice  # type: ignore[method-assign]
    broken = world.open("broken file")
    store = world.host._store
    world.host._store = lambda *file: store(*file) | {"status": "error", "status_details": f"{KEY} is bad"}  # type: ignore
    world.host.files.clear()
    with pytest.raises(BackendError) as raised:
        world.complete(broken, key="broken file")
    assert "<key> is bad" in raised.value.failure.message
    del world.host._store  # type: ignore[method-assign]


def test_the_key_appears_nowhere(world: HostedWorld, caplog: pytest.LogCaptureFixture) -> None:
    """After every kind of failure, neither the workspace nor logs nor failures contain the key."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []

    def echoing(status: int) -> Callable[[str, str], Response | None]:
        return lambda operation, moment: error_response(status, f"bad key {KEY}, headers: Bearer {KEY}")

    for status in (400, 401, 403, 404, 409, 422, 429, 500):
        backend = world.open(f"w{status}", patience_s=1.0)
        world.host.fault = echoing(status)
        try:
            world.drain(backend, backend.submit(world.request()), hours=0.2)
        except (BackendError, AssertionError) as error:
            texts.append(f"{error!r} {error.__cause__!r} {getattr(error, 'failure', '')}")
        try:
            backend.predict("base-chat", world.prompts, PredictOptions())
        except BackendError as error:
            texts.append(f"{error!r} {error.__cause__!r} {error.failure}")
        world.host.fault = lambda operation, moment: None
        backend.close()
    assert len(texts) > 8
    texts += list(texts_of_quoting_jobs(world))
    for file in world.folder.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file
    assert KEY not in " ".join(texts)
    assert KEY not in caplog.text
    assert sqlite3.connect(world.folder / "w500" / "hosted" / "journal.sqlite").execute("SELECT 1").fetchone()
