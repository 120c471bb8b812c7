"""Blocks made as they are asked for: the same rows from any files, few ahead, errors as they were raised."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from rtk.data.decode.blocks import AHEAD, READERS, decoded_blocks
from rtk.data.decode.pipeline import Selection
from rtk.data.image import encode_png
from rtk.data.sets.dataset import open_dataset

pytestmark = pytest.mark.ray
SIZE = 4


@pytest.fixture
def selection(tmp_path):
    """Three files of 11 images each, in row groups of 3."""
    folder = tmp_path / "images"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (33, 8, 8, 3), dtype=np.uint8)
    for first in range(0, 33, 11):
        part = {"image": [encode_png(image) for image in images[first : first + 11]], "label": [0] * 11}
        pq.write_table(pa.table(part), folder / f"{first:02}.parquet", row_group_size=3)
    (folder / "classes.json").write_text('{"classes": ["a"]}')
    return Selection(open_dataset(folder), 8)


def rows_of(selection):
    blocks = [ray.get(reference) for reference in decoded_blocks({"some": selection}, SIZE)]
    return sorted(block["row"].to_pylist() for block in blocks)


def test_blocks_are_of_consecutive_rows_of_a_file(selection, ray_session):
    whole = [
        [*range(start, min(start + SIZE, end))] for end in (11, 22, 33) for start in range(end - 11, end, 4)
    ]
    assert rows_of(selection) == whole
    assert rows_of(selection.first(13)) == [*whole[:3], [11, 12]]
    # Rows that are left out move those behind, and change no other block.
    assert rows_of(replace(selection, left_out=(1, 12))) == [
        [0, 1, 2], [3, 4, 5, 6], [7, 8, 9],
        [10, 11, 12], [13, 14, 15, 16], [17, 18, 19],
        [20, 21, 22, 23], [24, 25, 26, 27], [28, 29, 30],
    ]  # fmt: skip


def _counted(block: pa.Table, folder: Path) -> pa.Table:
    (folder / str(block["row"][0])).touch()
    return block


def test_few_blocks_are_made_before_they_are_asked_for(selection, tmp_path, ray_session):
    made = tmp_path / "made"
    made.mkdir()
    many = {f"set {number}": selection for number in range(30)}
    blocks = decoded_blocks(many, 1, partial(_counted, folder=made))
    next(blocks)
    time.sleep(3)
    cpus = int(ray.cluster_resources()["CPU"])
    # Each task that may run has made what it may, though 990 are to be had.
    assert len(list(made.iterdir())) <= cpus * (AHEAD + 1) + READERS
    blocks.close()


def test_an_error_of_a_reading_task_is_that_of_the_block(selection, ray_session):
    Path(selection.dataset.files[-1]).write_bytes(b"no Parquet")
    references = list(decoded_blocks({"some": selection}, SIZE))
    outcomes = []
    for reference in references:
        try:
            outcomes.append(len(ray.get(reference)))
        except ray.exceptions.RayTaskError as error:
            outcomes.append(type(error.cause).__name__)
    assert sorted(map(str, outcomes)) == ["3", "3", "4", "4", "4", "4", "ArrowInvalid"]
