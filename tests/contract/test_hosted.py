"""The hosted backend keeps the contract with a regular, an odd and a faulty host."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from scripted_host import KEY, ConnectionCutError, HostBehaviour, Response, ScriptedHost, error_response, serving

from backends import credentials
from backends.hosted import HostedBackend
from backends.testing import BackendContract

pytestmark = pytest.mark.contract


class HostedContract(BackendContract):
    backend_type = HostedBackend
    base_model = "base-chat"
    hyperparameters: ClassVar = {"n_epochs": 2, "batch_size": 8}
    timeout_s = 30
    behaviour: ClassVar = HostBehaviour(epochs_per_poll=0.5)
    address: ClassVar[str]
    host: ClassVar[ScriptedHost]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def serve(cls) -> Iterator[None]:
        cls.host = ScriptedHost(behaviour=cls.behaviour)
        cls.add_faults(cls.host)
        credentials.use_secrets_from({"OPENAI_API_KEY": KEY})
        with serving(cls.host) as cls.address:
            yield
        credentials.use_secrets_from({})

    @classmethod
    def add_faults(cls, host: ScriptedHost) -> None:
        pass

    def options(self) -> Mapping[str, Any]:
        return {
            "host": "openai",
            "base_url": getattr(self, "address", "http://127.0.0.1:9/v1"),
            "model": self.base_model,
            "poll_s": 0.005,
            "create_grace_s": 0.2,
            "price_per_million_tokens": 2.0,
            "patience_s": 60,
        }


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait milliseconds instead of seconds."""
    from backends.hosted import job_creation, profile, rate_limiter, reachability

    openai = profile.load("openai")
    without_settling = openai.model_copy(update={"jobs": openai.jobs.model_copy(update={"settle_s": 0.0})})
    monkeypatch.setattr(profile, "load", lambda name: without_settling)
    monkeypatch.setattr(job_creation, "RECHECK_S", 0.01)
    monkeypatch.setattr(reachability, "PAUSE_S", 0.01)
    monkeypatch.setattr(rate_limiter, "FIRST_BACKOFF_S", 0.002)
    monkeypatch.setattr(rate_limiter, "MAX_BACKOFF_S", 0.02)


class TestChat(HostedContract):
    pass


class TestCompletion(HostedContract):
    base_model = "babbage-002"


class TestOddBehaviour(HostedContract):
    """Small overlapping pages in any order, no `has_more`, models and files that take a moment."""

    behaviour: ClassVar = HostBehaviour(
        epochs_per_poll=0.5,
        page_items=3,
        shuffled_events=True,
        sends_has_more=False,
        repeats_events=True,
        file_polls=3,
        model_polls=3,
        filters_metadata=False,
        waiting="pending",
    )


class TestFaults(HostedContract):
    """One request in five fails, before or after the host carried it out."""

    @classmethod
    def add_faults(cls, host: ScriptedHost) -> None:
        chance = random.Random(5)

        def fault(operation: str, moment: str) -> Response | None:
            if chance.random() > 0.1:
                return None
            match chance.randrange(4):
                case 0:
                    raise ConnectionCutError("cut")
                case 1:
                    return error_response(500, "The server had an error")
                case 2 if moment == "before":
                    return error_response(429, "Too many requests", "rate_limit_exceeded", **{"retry-after-ms": "5"})
                case _:
                    return Response(200, b"<html>sign in</html>", {"content-type": "text/html"})

        host.fault = fault


def test_the_scripted_host_requires_the_key(tmp_path: Path) -> None:
    """Without the key nothing works, so the suite above proves that the backend sends it."""
    from backends.contract import BackendError, FailureKind, Placement

    with serving(ScriptedHost()) as address:
        options = HostedBackend.options_model.model_validate({"base_url": address, "model": "base-chat"})
        credentials.use_secrets_from({"OPENAI_API_KEY": "another"})
        backend = HostedBackend.open(options, tmp_path, Placement())
        with pytest.raises(BackendError) as raised:
            backend.predict("base-chat", [{"prompt": "x"}], _options())
        assert raised.value.failure.kind is FailureKind.USER
        assert "another" not in str(raised.value)
        backend.close()
        credentials.use_secrets_from({})


def _options() -> Any:
    from backends.contract import PredictOptions

    return PredictOptions()
