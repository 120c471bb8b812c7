"""A server over its socket: what it answers, what it refuses, and what it counts."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import numpy as np
import pytest

from rtk.deploy.serving.sample import Sample
from tests.deploy.random_package import encoded
from tests.deploy.serving.asking import KIB, as_json, ask, serving

TOKEN = "a-secret-of-some-length"


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


def test_the_model_says_what_it_is_and_promises(packaged, url):
    _, said, _ = ask(f"{url}/model")
    assert said["origin"] == {"run": "random", "step": 7}
    assert said["classes"] == packaged.classes
    assert said["tau_id"] == packaged.rule.tau_id
    assert said["promise"].startswith("no guarantee")
    assert ask(f"{url}/health")[1] == {"status": "ok"}
    assert ask(f"{url}/nowhere")[0] == 404
    assert ask(f"{url}/predict")[0] == 405


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
