"""A server of object storage on this machine, and one before it that errs as those of clouds do."""

from __future__ import annotations

import http.client
import random
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import quote

STALL_SECONDS = 4.0  # longer than the client waits for an answer


@contextmanager
def storage_server() -> Iterator[int]:
    """The port of a server that knows S3's protocol and keeps everything in memory."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


def make_bucket(port: int, name: str) -> None:
    """Make an empty bucket on a server."""
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")).close()


def uri_of(port: int, bucket: str) -> str:
    """URI of a bucket on a server, without a folder."""
    return f"s3://{bucket}?endpoint_override={quote(f'http://127.0.0.1:{port}', safe='')}&region=us-east-1"


def in_folder(uri: str, folder: str) -> str:
    """URI of a folder of a bucket."""
    address, _, options = uri.partition("?")
    return f"{address}/{folder}?{options}"


class Faults:
    """How often a server errs: shares of requests that fail, are cut off, stall, or are answered by halves.

    Attributes:
        requests: answered so far, in whatever way.
        injected: of these, those that it spoilt.
    """

    def __init__(
        self, seed: int = 0, error: float = 0.0, reset: float = 0.0, cut: float = 0.0, stall: float = 0.0
    ) -> None:
        self.kinds = (("error", error), ("reset", reset), ("cut", cut), ("stall", stall))
        self.random = random.Random(seed)
        self.requests = self.injected = 0

    def draw(self) -> str:
        """What happens to the next request; `none` for most."""
        self.requests += 1
        value = self.random.random()
        for kind, share in self.kinds:
            if value < share:
                self.injected += 1
                return kind
            value -= share
        return "none"


class _Unreliable(BaseHTTPRequestHandler):
    """Passes a request on to another server, or does not; sub-classes say to which, and how often."""

    protocol_version = "HTTP/1.1"
    upstream: int
    faults: Faults

    def answer(self) -> None:
        """Answer a request of any kind."""
        body = self.body()
        kind = self.faults.draw()
        if kind == "stall":
            time.sleep(STALL_SECONDS)
        if kind in ("reset", "stall"):
            self.close_connection = True
        elif kind == "error":
            self.reply(503, {}, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
        else:
            self.pass_on(body, is_cut=kind == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def pass_on(self, body: bytes, is_cut: bool) -> None:
        """What the server answers; cut: half of it."""
        server = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=30)
        server.request(self.command, self.path, body, dict(self.headers))
        answer = server.getresponse()
        self.reply(answer.status, dict(answer.getheaders()), answer.read(), is_cut)
        server.close()

    def body(self) -> bytes:
        """Of the request, as it came: in chunks where its length was not known."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts, size = [], -1
        while size != 0:
            parts.append(self.rfile.readline())
            size = int(parts[-1].split(b";")[0], 16)
            parts.append(self.rfile.read(size + 2))
        return b"".join(parts)

    def reply(self, status: int, headers: dict[str, str], content: bytes, is_cut: bool = False) -> None:
        """Send an answer."""
        own = ("connection", "transfer-encoding", "date", "server")
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            if name.lower() not in own:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if is_cut else content)
        self.close_connection = self.close_connection or is_cut

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def unreliable(port: int, faults: Faults) -> Iterator[int]:
    """The port of a server that passes requests on to another one, or does not."""
    handler = type("Handler", (_Unreliable,), {"upstream": port, "faults": faults})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
