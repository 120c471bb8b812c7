"""Images in common, whatever the files are called and whichever images are beside them."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtk.data.sets import overlap as module
from rtk.data.sets.dataset import open_dataset
from rtk.data.sets.overlap import first_overlap, overlap


@pytest.fixture
def dataset(tmp_path):
    """A set of images that are just these numbers as bytes; 0 is an empty image."""

    def make(*numbers: int, name: str = ""):
        folder = tmp_path / (name or "-".join(map(str, numbers)))
        folder.mkdir()
        images = [number.to_bytes(4, "little") if number else b"" for number in numbers]
        labels = pa.array([0] * len(numbers), pa.int64())
        pq.write_table(
            pa.table({"image": pa.array(images, pa.binary()), "label": labels}), folder / "all.parquet"
        )
        (folder / "classes.json").write_text(json.dumps({"classes": ["only"]}))
        return open_dataset(folder)

    return make


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ((1, 2, 3, 4), (4, 3, 2, 1), 1),
        ((1, 2, 3, 4), (5, 6), 0),
        ((1, 2, 3, 4), (4, 5), 0.5),
        ((7,), (1, 2, 3, 7), 1),
        ((1, 1, 2), (2, 3), 0.5),
        ((0, 1, 2), (0, 3), 0),
        ((0,), (0, 1), 0),
    ],
)
def test_share_of_the_smaller_set(dataset, one, other, share):
    first, second = dataset(*one, name="one"), dataset(*other, name="other")
    assert overlap(first, second) == overlap(second, first) == share


def test_large_sets_are_compared_as_wholes(dataset, monkeypatch):
    monkeypatch.setattr(module, "HASH_LIMIT", 10)
    copies = dataset(1, 2, name="a"), dataset(1, 2, name="b")
    assert overlap(*copies) == 1
    assert overlap(copies[0], dataset(1, 3)) == 0


def test_a_few_images_that_sets_share_by_nature_are_let_pass(dataset):
    used, tests = dataset(*range(1, 1001), name="used"), dataset(*range(1000, 2001), name="tests")
    assert overlap(used, tests) > 0
    assert first_overlap({"validation": used}, {"test": tests}) is None


def test_names_both_sets(dataset):
    used = {"validation": dataset(1, 2), "validation_ood": dataset(3, 4)}
    tests = {"test": dataset(5, 6), "places": dataset(4, 7)}
    assert first_overlap(used, tests) == ("validation_ood", "places", 0.5)
