"""A worker process ends with its server, whatever its libraries do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backends.contract import Placement, PredictOptions
from sweeps.server.worker_messages import PredictCommand, WorkerSetup, encode

pytestmark = pytest.mark.unit

PROGRAM = """
import time
from backends.fake import FakeBackend
from sweeps.server import worker_process

def predict(*_):
    print("predicting", flush=True)
    time.sleep(3600)

FakeBackend.predict = predict
worker_process.STOP_TIMEOUT_S = 0.2
worker_process.main()
"""


def test_a_worker_that_hangs_ends_after_its_server(tmp_path: Path) -> None:
    setup = WorkerSetup(backend="fake", options={}, workspace=str(tmp_path), placement=Placement())
    worker = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stderr is not None
    worker.stdin.write(encode(setup) + encode(PredictCommand("fake-small", [{"prompt": "a"}], PredictOptions())))
    worker.stdin.flush()
    assert worker.stderr.readline() == "predicting\n"
    worker.communicate(timeout=60)  # closes stdin, as the end of the server does
    assert worker.returncode == 1
