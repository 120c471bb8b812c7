"""A proxy before a server of MLflow: replies come late, or are lost the first time."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class SlowProxy:
    """What a proxy does to replies. The server has then done what it was asked for.

    Attributes:
        uri: where the proxy listens.
        delay: seconds that each reply waits.
        lost: what is in the paths of requests whose first reply never comes.
        gate: cleared, all replies wait until it is set.
        held: how many wait for it.
    """

    def __init__(self, port: int) -> None:
        self.uri, self.delay = f"http://127.0.0.1:{port}", 0.0
        self.lost: set[str] = set()
        self.gate, self.held = threading.Event(), 0
        self.gate.set()

    def lets_pass(self, path: str) -> bool:
        """Wait as long as the reply to a request; whether it is to come at all."""
        time.sleep(self.delay)
        if not self.gate.is_set():
            self.held += 1
            self.gate.wait()
        hit = {part for part in self.lost if part in path}
        self.lost -= hit
        return not hit


class _Handler(BaseHTTPRequestHandler):
    """Passes requests on; sub-classes say to which port and through which proxy."""

    protocol_version = "HTTP/1.1"
    server_port: int
    proxy: SlowProxy

    def forward(self) -> None:
        """Ask the server, and pass its reply on."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        behind = http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=60)
        behind.request(self.command, self.path, body, dict(self.headers))
        reply = behind.getresponse()
        content = reply.read()
        behind.close()
        if not self.proxy.lets_pass(self.path):
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing: whoever asked has gone."""


@contextmanager
def slow_proxy(port: int) -> Iterator[SlowProxy]:
    """A proxy before the server that listens at a port of this machine."""
    handler = type("Handler", (_Handler,), {"server_port": port})
    listening = _Server(("127.0.0.1", 0), handler)
    handler.proxy = SlowProxy(listening.server_address[1])
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield handler.proxy
    finally:
        handler.proxy.gate.set()
        listening.shutdown()
        listening.server_close()
