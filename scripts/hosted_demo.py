"""`make hosted-demo`: the main job at a host: starts `sweep serve`, runs spaces/snli-hosted.yaml there, ends it.

The server listens on 127.0.0.1 and keeps its files in .sweep/server. Exits with the sweep's code.
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
ENDS_WITHIN_S = 60


def main(port: str) -> int:
    """Run the job with a server at `port` and return its exit code."""
    # a session of its own: Ctrl-C is for the sweep, which ends in order while its host still answers
    server = subprocess.Popen(
        [SWEEP, "serve", "--port", port], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert server.stderr is not None
        address = _address(server.stderr)
        if address is None:
            return server.wait()
        threading.Thread(target=_relay, args=(server.stderr,), daemon=True).start()
        return _sweep(address)
    finally:
        server.terminate()
        server.wait(ENDS_WITHIN_S)


def _address(said: Iterable[str]) -> str | None:
    """Return the address that the server says, after its model is there; None where it ended instead."""
    for line in said:
        print(f"server: {line}", end="", file=sys.stderr)
        if found := re.search(r"http://\S+", line):
            return found[0]
    return None


def _relay(said: Iterable[str]) -> None:
    for line in said:
        print(f"server: {line}", end="", file=sys.stderr)


def _sweep(address: str) -> int:
    environment = {key: value for key, value in os.environ.items() if key != "SWEEP_SERVER_KEY"}
    with subprocess.Popen([SWEEP, "run", SPACE, "--set", f"backend.base_url={address}"], env=environment) as sweep:
        while True:
            try:
                return sweep.wait()
            except KeyboardInterrupt:  # the sweep got it, too, and says what it does
                continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
