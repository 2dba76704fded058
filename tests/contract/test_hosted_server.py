"""The hosted backend keeps the contract with `sweep serve`, a real process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from backends.hosted import HostedBackend
from backends.testing import BackendContract

pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait milliseconds instead of seconds."""
    from backends.hosted import job_creation, rate_limiter

    monkeypatch.setattr(job_creation, "RECHECK_S", 0.05)
    monkeypatch.setattr(rate_limiter, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(rate_limiter, "MAX_BACKOFF_S", 0.1)


class ServedContract(BackendContract):
    backend_type = HostedBackend
    base_model = "fake-small"
    hyperparameters: ClassVar = {"n_epochs": 2, "batch_size": 8}
    timeout_s = 60
    serving: ClassVar[tuple[str, ...]] = ("--backend", "fake")
    address: ClassVar[str] = "http://127.0.0.1:9/v1"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def serve(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        root = tmp_path_factory.mktemp("server")
        command = [sys.executable, "-m", "sweeps.cli", "serve", "--port", "0", "--root", str(root), *cls.serving]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("SWEEP_")}
        with subprocess.Popen(
            command,
            env={**environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            log: list[str] = []
            for line in process.stderr:
                log.append(line)
                if match := re.search(r"listening on (http://\S+)", line):
                    cls.address = match[1]
                    break
            else:
                pytest.fail(f"the server did not start: {''.join(log)}")
            reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
            reader.start()
            yield
            process.send_signal(signal.SIGINT)
            process.wait(30)
            reader.join()

    def options(self) -> Mapping[str, Any]:
        return {
            "host": "local",
            "base_url": self.address,
            "model": self.base_model,
            "poll_s": 0.02,
            "create_grace_s": 0.5,
            "patience_s": 60,
        }


class ServedFakeContract(ServedContract):
    """What a model of the fake backend answers depends on its name."""

    deterministic_texts: ClassVar = False


class TestServer(ServedFakeContract):
    serving: ClassVar = ("--backend", "fake", "--max-jobs", "4", "--set", "seconds_per_epoch=0.05")


class TestServerWithFaults(ServedFakeContract):
    """The server does not answer every accepted request, and not every answer is true."""

    faults: ClassVar = (
        "connection_cut=0.05,server_error=0.05,rate_limit=0.05:0,lost_answer=0.3,error_after_accept=0.3,"
        "slow_files=0.5:0.2,pending,empty_error,null_fields,late_model=0.5:0.3,base64_results,seed=5"
    )
    serving: ClassVar = ("--backend", "fake", "--max-jobs", "4", "--set", "seconds_per_epoch=0.05", "--faults", faults)


@pytest.mark.slow
@pytest.mark.trains
class TestServerThatTrains(ServedContract):
    """The server trains with the local trainer, so the models are real."""

    base_model = "tiny-lm"
    timeout_s = 120
    serving: ClassVar = ("--backend", "local")
