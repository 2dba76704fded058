"""`make hosted-demo`: run spaces/snli-hosted.yaml against a `sweep serve` of its own.

The server listens on 127.0.0.1 and keeps its files in .sweep/server. The script exits with the
sweep's exit code.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

SWEEP = Path(sys.executable).with_name("sweep")
SPACE = "spaces/snli-hosted.yaml"
SHUTDOWN_TIMEOUT_S = 60


def main(port: str) -> int:
    """Run the sweep with a server at `port` and return the sweep's exit code."""
    # The server gets a session of its own, so that Ctrl-C reaches only the sweep. The sweep can
    # then stop cleanly while its host still answers.
    server = subprocess.Popen(
        [SWEEP, "serve", "--port", port], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert server.stderr is not None
        address = _address(server.stderr)
        if address is None:
            return server.wait()
        threading.Thread(target=_relay, args=(server.stderr,), daemon=True).start()
        return _run_sweep(address)
    finally:
        server.terminate()
        server.wait(SHUTDOWN_TIMEOUT_S)


def _address(log_lines: Iterable[str]) -> str | None:
    """Return the address that the server logs once its model is ready, or None if the server exits
    before.
    """
    for line in log_lines:
        print(f"server: {line}", end="", file=sys.stderr)
        if match := re.search(r"http://\S+", line):
            return match[0]
    return None


def _relay(log_lines: Iterable[str]) -> None:
    for line in log_lines:
        print(f"server: {line}", end="", file=sys.stderr)


def _run_sweep(address: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "SWEEP_SERVER_KEY"}
    with subprocess.Popen([SWEEP, "run", SPACE, "--set", f"backend.base_url={address}"], env=environment) as sweep:
        while True:
            try:
                return sweep.wait()
            except KeyboardInterrupt:  # the sweep received it too, and reports how it stops
                continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
