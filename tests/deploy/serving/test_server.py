"""The socket of a server: where it listens, whom it lets wait, and how it ends."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import pytest

from rtk.config import ConfigError
from rtk.deploy.serving import server
from rtk.deploy.serving.server import address_of, listen
from tests.deploy.random_package import encoded
from tests.deploy.serving.asking import HOST, ask, port_of, serving


def test_another_name_of_this_machine_is_not_answered_to(url):
    assert ask(f"{url}/model", Host="evil.example")[0] == 400


@pytest.mark.parametrize("pieces", [[], [b"GET /health HTTP/1.1\r\n", *[b"a: b\r\n"] * 100]])
def test_a_connection_that_asks_nothing_is_closed(packaged, monkeypatch, pieces):
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.2)
    with serving(packaged) as url, socket.create_connection((HOST, port_of(url)), 0.05) as client:
        left, until = iter(pieces), time.monotonic() + 60
        while not is_closed(client):
            assert time.monotonic() < until
            with suppress(ConnectionError):  # it may be closed by now
                client.sendall(next(left, b""))


def is_closed(client: socket.socket) -> bool:
    """Whether the other side has closed a connection; waits as long as its timeout is."""
    try:
        return client.recv(1000) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_slow_answer_is_not_cut_off(packaged, monkeypatch):
    class Slow(type(packaged)):
        def predict_pixels(self, pixels):
            time.sleep(1.5)
            return super().predict_pixels(pixels)

    monkeypatch.setattr(server, "IDLE_SECONDS", 1)
    with serving(Slow(**vars(packaged))) as url:
        assert ask(f"{url}/predict", encoded(0))[0] == 200


def test_a_body_that_does_not_come_does_not_hold_up_the_end(packaged, monkeypatch):
    monkeypatch.setattr(server, "END_BODY_SECONDS", 0.2, raising=False)
    with socket.socket() as client:
        with serving(packaged) as url:
            client.connect((HOST, port_of(url)))
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc")
            time.sleep(0.3)  # until it has arrived
            begin = time.monotonic()
        assert time.monotonic() - begin < server.END_SECONDS / 2
        assert client.recv(1000) == b""


def test_a_port_that_is_taken_is_named():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--host 127.0.0.1 --port {port}: cannot listen there"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot listen there"):
        listen("127.0.0.1", 2**20)
    with pytest.raises(ConfigError, match="cannot listen there"):
        listen("no such host", 0)


def test_the_address_is_one_that_others_can_use():
    for host, named in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("0.0.0.0", socket.gethostname())):
        with listen(host, 0) as listener:
            assert address_of(listener, host == "::1").startswith(f"http{'s' * (host == '::1')}://{named}:")
