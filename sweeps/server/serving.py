"""Serving: a listening socket, uvicorn, and a clean shutdown."""

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
from sweeps.server.app import create_app
from sweeps.server.auth import LOOPBACK_HOSTS
from sweeps.server.faults import Faults, FaultsError
from sweeps.server.http_protocol import ACCEPTED_AT_ONCE, limited_protocol, max_connections
from sweeps.server.service import Service
from sweeps.server.settings import ServerSettings


def serve(settings: ServerSettings, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGHUP. The next start continues the jobs.

    Port 0 picks a free port. `say` receives messages for the user, among them the address. Raises
    UserInputError for wrong settings, SweepError if another program uses the address or the folder.
    """
    try:
        faults = Faults.parse(settings.faults)
    except FaultsError as error:
        raise UserInputError([Problem("--faults", str(error))]) from error
    with _listening(host, port) as listener:
        try:
            service = Service(dataclasses.replace(settings, local_only=host in LOOPBACK_HOSTS), faults)
        except ValidationError as error:
            raise UserInputError(
                [Problem(f"--set {'.'.join(map(str, mistake['loc']))}", mistake["msg"]) for mistake in error.errors()]
            ) from error
        try:
            _run(service, listener, host, say)
        finally:
            if jobs := service.runner.active_count():
                say(f"stopping: suspending {jobs} running job(s); this may take a few seconds")
            service.close()
    say("stopped; the next start continues unfinished jobs")


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # The protocol is explicit because asyncio otherwise leaves Nagle's algorithm on, which
        # delays each answer by 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UserInputError([Problem("--host", f"{host} is not an address of this machine")]) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise SweepError(f"cannot listen on {host}:{port}: {error.strerror}", "Choose another --port.") from error
        listener.listen(ACCEPTED_AT_ONCE)
        yield listener


def _run(service: Service, listener: socket.socket, host: str, say: Callable[[str], None]) -> None:
    logging.getLogger("sweeps.server").setLevel(logging.INFO)
    config = uvicorn.Config(
        create_app(service),
        http=limited_protocol(max_connections()),
        ws="none",
        backlog=ACCEPTED_AT_ONCE,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        lifespan="off",
    )
    server = _Server(config, service)
    with _clean_shutdown(server):
        service.start()
        shown_host = f"[{host}]" if ":" in host else host
        say(f"listening on http://{shown_host}:{listener.getsockname()[1]}/v1   (Ctrl-C stops it)")
        if host in LOOPBACK_HOSTS:
            say("only this machine can reach it; --host 0.0.0.0 lets others in")
        elif not service.keys:
            say(
                "warning: anybody who can reach this address can train and delete models here. "
                "Set API keys; see --api-key-env."
            )
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's server. At its shutdown, requests that wait for a model get an answer at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what waits for a model, and shut down as uvicorn does.

        A request that a model still answers after uvicorn's patience is broken off, too.
        """
        self._service.predictions.refuse()
        self._service.is_stopping = True
        await super().shutdown(sockets)
        self._service.predictions.abort()


@contextlib.contextmanager
def _clean_shutdown(server: uvicorn.Server) -> Iterator[None]:
    """Make Ctrl-C, SIGTERM and SIGHUP shut the server down cleanly.

    This also holds before uvicorn has installed its own handlers. Once uvicorn has stopped, it
    raises the signal again that stopped it. The handlers here absorb that signal, so that it does
    not end the process before the cleanup.
    """

    def stop(*_: object) -> None:
        server.should_exit = True

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under `nohup`
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
