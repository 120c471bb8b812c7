"""What is read as an image is a file: pipes are not waited for, devices not read without end."""

import os

import pytest

from rtk.data import image_files
from rtk.data.image_files import read_image_file
from rtk.data.prepare.prepare import prepare
from rtk.deploy.predict import encoded_images


def test_neither_pipes_nor_devices_nor_what_is_too_large(tmp_path, monkeypatch, photo):
    (tmp_path / "a.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(photo)
    for name in ("a.png", "b.png"):
        with pytest.raises(OSError, match="no regular file"):
            read_image_file(tmp_path / name)
    assert read_image_file(tmp_path / "c.png") == photo
    monkeypatch.setattr(image_files, "LARGEST_FILE", 10)
    with pytest.raises(OSError, match="wanted at most 10"):
        read_image_file(tmp_path / "c.png")


def test_preparation_and_prediction_name_them(tmp_path, photo):
    for name in "ab":
        (tmp_path / "src" / name).mkdir(parents=True)
    (tmp_path / "src" / "b" / "x.jpg").write_bytes(photo)
    (tmp_path / "src" / "a" / "x.jpg").write_bytes(photo)
    (tmp_path / "src" / "a" / "y.jpg").symlink_to("/dev/zero")
    assert "no regular file" in prepare(tmp_path / "src", tmp_path / "out", skip_bad=True).skipped[0].reason
    said = dict(encoded_images(sorted((tmp_path / "src" / "a").iterdir())))
    assert [type(value).__name__ for value in said.values()] == ["bytes", "BadImageError"]
