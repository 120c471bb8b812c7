"""A server over its socket: what it answers, what it refuses, and what it counts."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from starlette.exceptions import HTTPException

from rtk.config import ConfigError
from rtk.deploy.serving import app, requests, server
from rtk.deploy.serving.app import Service, make_app
from rtk.deploy.serving.requests import Limits
from rtk.deploy.serving.sample import Sample
from rtk.deploy.serving.server import address_of, listen, make_server
from tests.deploy.random_package import encoded

TOKEN = "a-secret-of-some-length"
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


@pytest.fixture(scope="module")
def url(packaged):
    with serving(replace(packaged, expected={"accept": 6, "likely-wrong": 3, "unfamiliar": 1})) as found:
        yield found


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


def test_an_image_gets_the_row_of_rtk_predict(packaged, url):
    status, row, headers = ask(f"{url}/predict", encoded(0))
    (wanted,) = packaged.predict([encoded(0)])
    assert (status, headers["rtk-model"]) == (200, "random@7")
    assert row == pytest.approx(wanted)


def test_several_images_get_their_rows_in_order(packaged, url):
    images = [encoded(1), b"no image", encoded(2)]
    status, answer, _ = ask(f"{url}/predict", as_json(*images), "application/json; charset=utf-8")
    wanted = packaged.predict(images)
    assert status == 200
    for row, one in zip(answer["predictions"], wanted, strict=True):
        assert (row["label"], row["decision"], row["error"]) == (one["label"], one["decision"], one["error"])
        assert row["confidence"] == pytest.approx(one["confidence"])


def test_many_at_once_get_each_their_own(packaged, url):
    wanted = packaged.predict(map(encoded, range(40)))
    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(lambda seed: ask(f"{url}/predict", encoded(seed))[1], range(40)))
    assert len({row["confidence"] for row in rows}) == 40
    np.testing.assert_allclose(
        [row["confidence"] for row in rows], [row["confidence"] for row in wanted], rtol=1e-5
    )


def test_what_cannot_be_read_is_said_and_counted(url):
    before = ask(f"{url}/status")[1]["images"]["unreadable"]
    status, said, _ = ask(f"{url}/predict", b"no image")
    assert status == 422
    assert json.loads(said)["error"].startswith("no image in a supported format")
    assert ask(f"{url}/status")[1]["images"]["unreadable"] == before + 1


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"", "", 400, "got an empty body"),
        (b"x" * (64 * KIB + 1), "", 413, "got more than 0.0625 MiB"),
        (b"--a", "multipart/form-data; boundary=a", 415, "got a form"),
        (b"{", "application/json", 400, "body: Invalid JSON"),
        (b"[" * 60_000, "application/json", 400, "body: Invalid JSON"),
        (b"{}", "application/json", 400, "images: Field required"),
        (b'{"images": []}', "application/json", 400, "images: List should have at least 1 item"),
        (b'{"images": ["QUJD", "QUJD!"]}', "application/json", 400, "images.1: wanted an encoded image in"),
        (b'{"images": [7]}', "application/json", 400, "images.0: wanted an encoded image in"),
        (b'{"images": ["QUJD"], "size": 3}', "application/json", 400, "size: Extra inputs"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(url, body, kind, status, said):
    got, answer, _ = ask(f"{url}/predict", body, kind)
    assert got == status
    assert said in json.loads(answer)["error"]


@pytest.mark.parametrize("values", ['"%d": 1', "[%d]", '"%d"'])
def test_a_flood_of_values_is_not_taken_apart(monkeypatch, values):
    monkeypatch.setattr(requests, "Images", None)  # is not asked
    body = "{" + ",".join(values % number for number in range(3000)) + "}"
    with pytest.raises(HTTPException) as error:
        requests.images_of(body.encode())
    assert error.value.detail.startswith("body: got far more than 1024 images")


def test_the_model_says_what_it_is_and_promises(packaged, url):
    _, said, _ = ask(f"{url}/model")
    assert said["origin"] == {"run": "random", "step": 7}
    assert said["classes"] == packaged.classes
    assert said["tau_id"] == packaged.rule.tau_id
    assert said["promise"].startswith("no guarantee")
    assert ask(f"{url}/health")[1] == {"status": "ok"}
    assert ask(f"{url}/nowhere")[0] == 404
    assert ask(f"{url}/predict")[0] == 405


def test_another_name_of_this_machine_is_not_answered_to(url):
    assert ask(f"{url}/model", Host="evil.example")[0] == 400


def test_status_says_what_was_expected(url):
    assert ask(f"{url}/status")[1]["expected"] == {
        "images": 10,
        "accept": 0.6,
        "likely-wrong": 0.3,
        "unfamiliar": 0.1,
    }


def test_without_the_token_nothing_is_answered_but_health(packaged):
    with serving(packaged, hashlib.sha256(TOKEN.encode()).hexdigest()) as url:
        for path in ("predict", "model", "status", "metrics", "nowhere"):
            assert ask(f"{url}/{path}", encoded(0) if path == "predict" else None)[0] == 401
        assert ask(f"{url}/model", Host="a/health?")[0] == 401
        assert ask(f"{url}/health")[0] == 200
        assert ask(f"{url}/predict", encoded(0), Authorization=f"Bearer {TOKEN}")[0] == 200
        assert ask(f"{url}/model", Authorization=f"Bearer {TOKEN}", Host="my.example")[0] == 200


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


@pytest.mark.parametrize("pieces", [[], [b"GET /health HTTP/1.1\r\n", *[b"a: b\r\n"] * 100]])
def test_a_connection_that_asks_nothing_is_closed(packaged, monkeypatch, pieces):
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.2)
    with serving(packaged) as url, socket.create_connection((HOST, port_of(url)), 0.05) as client:
        left, until = iter(pieces), time.monotonic() + 60
        while not is_closed(client):
            assert time.monotonic() < until
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
            time.sleep(0.6)
            return super().predict_pixels(pixels)

    monkeypatch.setattr(server, "IDLE_SECONDS", 0.2)
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


def test_a_failure_of_the_model_is_an_answer(packaged):
    class Broken(type(packaged)):
        def predict_pixels(self, pixels):
            raise ValueError("confidence and ood_score: got NaN, wanted numbers")

    with serving(Broken(**vars(packaged))) as url:
        status, said, headers = ask(f"{url}/predict", encoded(0))
        assert (status, headers["rtk-model"]) == (500, "random@7")
        assert "got NaN" in said
        assert ask(f"{url}/health")[0] == 200
        with urlopen(f"{url}/metrics", timeout=60) as answer:
            assert 'rtk_served_refused_total{status="500"} 1.0' in answer.read().decode()


def test_what_is_answered_may_be_kept(packaged, tmp_path):
    sample = Sample(tmp_path, 100, packaged.classes)
    with serving(packaged, sample=sample) as url:
        ask(f"{url}/predict", as_json(encoded(0), b"no image", encoded(1), encoded(0)), "application/json")
    rows = packaged.predict([encoded(0), encoded(1)])
    wanted = [(row["label"], image) for row, image in zip(rows, (encoded(0), encoded(1)), strict=True)]
    found = [(path.parent.name, path.read_bytes()) for path in sample.folder.glob("*/*")]
    assert sorted(found) == sorted(wanted)


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
