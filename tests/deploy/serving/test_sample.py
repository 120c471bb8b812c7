"""Which images a server keeps: an even sample of the distinct ones, as files that a person can sort."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import pytest
from scipy.stats import binomtest

from rtk.cli import main
from rtk.config import ConfigError
from rtk.deploy.serving.sample import Sample
from tests.deploy.random_package import CLASSES, encoded

IMAGES = [encoded(seed) for seed in range(30)]
DECISIONS = ("unfamiliar", "accept")
ROWS = [{"label": CLASSES[seed % 3], "decision": DECISIONS[seed % 2]} for seed in range(30)]


def kept(sample: Sample) -> dict[str, str]:
    """Class and decision of what is kept, by SHA-256."""
    found = {}
    for path in sample.folder.glob("*/*"):
        decision, _, name = path.stem.rpartition("-")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == name
        found[name] = f"{path.parent.name} {decision}"
    return found


def wanted(most: int) -> dict[str, str]:
    hashes = {hashlib.sha256(image).hexdigest(): row for image, row in zip(IMAGES, ROWS, strict=True)}
    return {name: f"{hashes[name]['label']} {hashes[name]['decision']}" for name in sorted(hashes)[:most]}


@pytest.mark.parametrize("most", [1, 7, 30, 100])
def test_the_smallest_hashes_are_kept_in_whatever_order_they_come(tmp_path, most):
    for number in range(3):
        sample = Sample(tmp_path, most, CLASSES)
        order = np.random.default_rng(number).permutation(30)
        for index in [*order, *order]:  # what comes again is not another one
            sample.offer(IMAGES[index], ROWS[index])
        assert kept(sample) == wanted(most)


def test_what_is_kept_has_nothing_to_do_with_when_it_came(tmp_path):
    """Of 400 images in turn half of those kept are of the first half, give or take chance."""
    early = 0
    for number in range(4):
        sample = Sample(tmp_path, 25, CLASSES)
        for index in range(100):
            sample.offer(IMAGES[0] + bytes([number, index]), {"label": "cat", "decision": "accept"})
        early += sum(path.read_bytes()[-1] < 50 for path in sample.folder.glob("*/*"))
    assert binomtest(early, 100, 0.5).pvalue > 1e-3


def test_many_at_once_leave_the_same(tmp_path):
    sample = Sample(tmp_path, 7, CLASSES)

    def offer(start: int) -> None:
        for index in range(start, 30, 4):
            sample.offer(IMAGES[index], ROWS[index])

    threads = [threading.Thread(target=offer, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept(sample) == wanted(7)


def test_what_was_moved_is_left_alone(tmp_path):
    sample = Sample(tmp_path, 1, CLASSES)
    order = sorted(range(30), key=lambda index: hashlib.sha256(IMAGES[index]).hexdigest(), reverse=True)
    sample.offer(IMAGES[order[0]], ROWS[order[0]])
    (path,) = sample.folder.glob("*/*")
    path.rename(tmp_path / path.name)
    sample.offer(IMAGES[order[1]], ROWS[order[1]])
    assert (tmp_path / path.name).exists()
    assert len(kept(sample)) == 1


def test_a_full_disk_is_said_once_until_it_is_over(tmp_path, monkeypatch, capsys):
    sample = Sample(tmp_path, 30, CLASSES)
    write = type(tmp_path).write_bytes

    def full(path, data):
        raise OSError(28, "No space left on device")

    for _ in range(2):
        monkeypatch.setattr(type(tmp_path), "write_bytes", full)
        sample.offer(IMAGES[0], ROWS[0])
        sample.offer(IMAGES[1], ROWS[1])
        said = capsys.readouterr().err
        assert said.count("No space left on device; images are answered, but not kept") == 1
        monkeypatch.setattr(type(tmp_path), "write_bytes", write)
        sample.offer(IMAGES[2], ROWS[2])
        sample._hashes.clear()
    assert len(kept(sample)) == 1
    assert not list(sample.folder.glob("*/.*"))


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "..", " a", "a\nb", "a\0b", "a\\b", "x" * 201])
def test_a_class_that_can_be_no_folder_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="--keep: the class "):
        Sample(tmp_path, 1, ["cat", name])
    assert not list(tmp_path.iterdir())


def test_object_storage_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--keep: got 's3://bucket/kept', wanted a folder of this machine"):
        Sample("s3://bucket/kept", 1, CLASSES)
    assert not list(tmp_path.iterdir())


def test_what_is_kept_can_be_prepared_as_it_is(tmp_path, capsys):
    sample = Sample(tmp_path / "kept", 30, CLASSES)
    for image, row in zip(IMAGES, ROWS, strict=True):
        sample.offer(image, row)
    assert main(["data", "prepare", str(sample.folder), "--out", str(tmp_path / "set")]) == 0
    assert "30 images" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--keep: .*file"):
        Sample(tmp_path / "file", 1, CLASSES)
