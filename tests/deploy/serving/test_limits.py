"""What a server takes in at once, in memory and in time, and what it does with the rest."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import pytest
from starlette.exceptions import HTTPException

from rtk.deploy.serving import app, requests
from tests.deploy.random_package import encoded
from tests.deploy.serving.asking import KIB, as_json, ask, serving


@pytest.mark.parametrize("values", ['"%d": 1', "[%d]", '"%d"'])
def test_a_flood_of_values_is_not_taken_apart(monkeypatch, values):
    monkeypatch.setattr(requests, "Images", None)  # is not asked
    body = "{" + ",".join(values % number for number in range(3000)) + "}"
    with pytest.raises(HTTPException) as error:
        requests.images_of(body.encode())
    assert error.value.detail.startswith("body: got far more than 1024 images")


def test_more_than_the_memory_is_for_is_refused_until_there_is_room(packaged):
    """While the first is being computed a second one of its size is refused; then it is taken."""
    begun, go = threading.Event(), threading.Event()

    class Slow(type(packaged)):
        def predict_pixels(self, pixels):
            begun.set()
            assert go.wait(60)
            return super().predict_pixels(pixels)

    slow = Slow(**vars(packaged))
    padded = encoded(0) + bytes(KIB)  # what follows the end of a PNG is not read
    with serving(slow, limits=(4 * KIB, 3 * KIB)) as url, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, f"{url}/predict", padded)
        assert begun.wait(60)
        status, said, headers = ask(f"{url}/predict", padded)
        assert (status, headers["retry-after"]) == (503, "1")
        assert "busy" in said
        go.set()
        assert first.result()[0] == 200
        assert ask(f"{url}/predict", padded)[0] == 200


def test_few_images_are_decoded_before_the_network_has_time_for_them(packaged, monkeypatch):
    decoded, go = [], threading.Event()
    decode = type(packaged.preprocessing).__call__

    class Slow(type(packaged)):
        def predict_pixels(self, pixels):
            assert go.wait(60)
            return super().predict_pixels(pixels)

    def counting(self, data):
        decoded.append(data)
        return decode(self, data)

    monkeypatch.setattr(type(packaged.preprocessing), "__call__", counting)
    monkeypatch.setattr(app, "IN_HAND", 8)
    with serving(Slow(**vars(packaged))) as url, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, f"{url}/predict", as_json(*map(encoded, range(30))), "application/json")
        until = time.monotonic() + 60
        while len(decoded) < 8:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.3)
        in_hand = len(decoded)
        go.set()
        assert in_hand == 8
        assert len(asked.result()[1]["predictions"]) == len(decoded) == 30


def test_what_is_still_coming_counts_too(packaged):
    with serving(packaged, limits=(4 * KIB, 3 * KIB)) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 60) as slow:
            head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n"
            slow.sendall(head + bytes(2500))
            until = time.monotonic() + 60
            while ask(f"{url}/predict", encoded(0) + bytes(KIB))[0] != 503:  # it has not arrived yet
                assert time.monotonic() < until
            slow.close()
        while ask(f"{url}/predict", encoded(0) + bytes(KIB))[0] == 503:
            assert time.monotonic() < until


def test_a_body_that_breaks_off_is_no_failure_of_the_server(packaged, caplog):
    with serving(packaged) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 60) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc")
        until, text = time.monotonic() + 60, ""
        while "rtk_served_refused_total{" not in text:
            assert time.monotonic() < until
            with urlopen(f"{url}/metrics", timeout=60) as answer:
                text = answer.read().decode()
    assert 'rtk_served_refused_total{status="400"} 1.0' in text
    assert not caplog.records


def test_a_body_that_does_not_come_is_not_waited_for(packaged, monkeypatch):
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.1)
    with serving(packaged) as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc")
            assert client.recv(1000).startswith(b"HTTP/1.1 408")
