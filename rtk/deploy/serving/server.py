"""The server's process: its socket, its signals, and its end."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from rtk.config.errors import ConfigError
from rtk.deploy.serving.access import is_loopback

BACKLOG = 1024
IDLE_SECONDS = 30  # of a connection until the next request has begun
END_SECONDS = 30  # for what is being answered when the server is stopped
END_BODY_SECONDS = 10  # for what is still coming then


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        ConfigError: naming the port, where something else has it or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host {host} --port {port}: cannot listen there ({error})") from None
    # Of what is accepted, too. asyncio would set it only on sockets that name their protocol; without it the
    # end of an answer waits 40 ms until the other side has acknowledged its beginning.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_of(listener: socket.socket, secure: bool) -> str:
    """URL by which a server is reached: of this machine's name where it listens at all its addresses."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http{'s' * secure}://{f'[{host}]' if ':' in host else host}:{port}"


class Connection(H11Protocol):
    """A connection that is closed where the head of a request does not come within `timeout_keep_alive`.

    uvicorn starts that time after an answer only, and stops it at any byte: as many connections as it allows,
    which say nothing or a byte now and then, would shut out everybody for ever, without a token.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        """Take bytes; the time goes on until a request has begun, which stops it."""
        self.conn.receive_data(data)
        self.handle_events()

    def shutdown(self) -> None:
        """Answer what has come; a body that goes on coming is broken off, or the end would wait for it."""
        super().shutdown()
        self.loop.call_later(END_BODY_SECONDS, self._break_off)

    def _break_off(self) -> None:
        if self.cycle is not None and self.cycle.more_body:
            self.transport.close()


def make_server(
    app: FastAPI, host: str, needs_token: bool, tls: tuple[Path, Path] | None = None
) -> uvicorn.Server:
    """What answers until a signal ends it; what is being answered then is answered first.

    Without a token only names of this machine are answered to: a page in its browser could have another name
    lead here.

    Args:
        app: of `make_app`.
        host: that it will listen at.
        needs_token: whether requests bring one.
        tls: files of the certificate and of its key.
    """
    if not needs_token and is_loopback(host):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])
    secrets: dict[str, Any] = {}
    if tls is not None:
        secrets = {"ssl_certfile": str(tls[0]), "ssl_keyfile": str(tls[1])}
    settings = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        lifespan="off",  # its part of the end prints a traceback
        server_header=False,
        backlog=BACKLOG,
        limit_concurrency=BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=END_SECONDS,
        **secrets,
    )
    return uvicorn.Server(settings)
