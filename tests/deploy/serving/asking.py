"""A server in a thread of this process, and requests to it."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rtk.deploy.serving.app import Service, make_app
from rtk.deploy.serving.requests import Limits
from rtk.deploy.serving.server import address_of, listen, make_server

KIB = 2**10
HOST = "127.0.0.1"


@contextmanager
def serving(packaged, sha256=None, limits=(64 * KIB, 128 * KIB), sample=None):
    """URL of a server in a thread of this process."""
    with listen("127.0.0.1", 0) as listener:
        application = make_app(Service(packaged, Limits(*limits), sha256, 2, sample))
        running = make_server(application, "127.0.0.1", sha256 is not None)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield address_of(listener, False)
        finally:
            running.should_exit = True
            thread.join(60)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def ask(url: str, body: bytes | None = None, kind: str = "", **headers: str):
    """Status, answer and headers."""
    request = Request(url, body, {"Content-Type": kind or "image/png", **headers})
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read()), answer.headers
    except HTTPError as error:
        return error.code, error.read().decode(), error.headers


def as_json(*images: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()
