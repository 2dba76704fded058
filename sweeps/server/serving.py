"""Listening: a socket, uvicorn, and a clean end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from pydantic import ValidationError

from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.server import app
from sweeps.server.auth import LOCAL
from sweeps.server.faults import Faults, FaultsError
from sweeps.server.service import Service
from sweeps.server.settings import ServerSettings


def serve(settings: ServerSettings, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; jobs go on at the next start. Port 0: a free one, which is said.

    Raises UserInputError for settings that are wrong, SweepError where the address or the folder is taken.
    """
    try:
        faults = Faults.parse(settings.faults)
    except FaultsError as error:
        raise UserInputError([Problem("--faults", str(error))]) from error
    with _listening(host, port) as listener:
        try:
            service = Service(dataclasses.replace(settings, local_only=host in LOCAL), faults)
        except ValidationError as error:
            problems = [Problem(f"--set {'.'.join(map(str, e['loc']))}", e["msg"]) for e in error.errors()]
            raise UserInputError(problems) from error
        try:
            _run(service, listener, host, say)
        finally:
            if jobs := service.runner.at_work():
                say(f"ending: {jobs} running job(s) are suspended where they are; this may take some seconds")
            service.close()
    say("ended; what has not finished goes on at the next start")


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # named by its protocol, because asyncio only then turns off Nagle's algorithm, which costs 40 ms an answer
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UserInputError([Problem("--host", f"{host} is no address of this machine")]) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise SweepError(f"{host}:{port} cannot be used: {error.strerror}", "try another --port") from error
        listener.listen(2048)
        yield listener


def _run(service: Service, listener: socket.socket, host: str, say: Callable[[str], None]) -> None:
    logging.getLogger("sweeps.server").setLevel(logging.INFO)
    config = uvicorn.Config(
        app.create(service),
        http="h11",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    with _ending(server):
        service.start()
        shown = f"[{host}]" if ":" in host else host
        say(f"listening on http://{shown}:{listener.getsockname()[1]}/v1   (Ctrl-C ends it)")
        if host in LOCAL:
            say("only this machine can reach it; --host 0.0.0.0 lets others in")
        elif not service.keys:
            say("warning: anybody who can reach this address can train and delete here: set keys, see --api-key-env")
        server.run(sockets=[listener])


@contextlib.contextmanager
def _ending(server: uvicorn.Server) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the server in good order, also before uvicorn listens to them.

    Uvicorn, once it has ended, raises the signal again that ended it, which shall end nothing else.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
