"""A packaged model that knows nothing, and pictures for it."""

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rtk.deploy.packaged_model import PackagedModel
from tests.deploy.random_package import encoded, random_package


@pytest.fixture(scope="module")
def packaged() -> PackagedModel:
    """A random model whose thresholds split its own scores."""
    return random_package()


@pytest.fixture
def folder(packaged, tmp_path, monkeypatch):
    packaged.save(tmp_path / "package")

    def refuse(*arguments, **options):
        raise AssertionError("something was unpickled")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    return tmp_path / "package"


@pytest.fixture
def images(tmp_path):
    """A folder with one PNG below another, and a Parquet file with two images."""
    (tmp_path / "photos" / "below").mkdir(parents=True)
    (tmp_path / "photos" / "a.png").write_bytes(encoded(0))
    (tmp_path / "photos" / "below" / "b.JPG").write_bytes(encoded(1))
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    pq.write_table(pa.table({"image": [encoded(2), encoded(3)]}), tmp_path / "more.parquet")
    return [str(tmp_path / "photos"), str(tmp_path / "more.parquet")]
