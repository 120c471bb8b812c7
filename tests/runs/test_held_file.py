"""Files on object storage are fetched in few requests."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from rtk.runs import held_file
from rtk.runs.bounded_parquet import BoundedParquet, open_bounded
from rtk.runs.held_file import HeldFile


class Counted:
    """An open file that counts what is asked of it."""

    def __init__(self, path):
        self.file, self.requests = pa.OSFile(str(path)), 0

    def size(self):
        return self.file.size()

    def read_at(self, count, place):
        self.requests += 1
        return self.file.read_at(count, place)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two row groups of 40 images of 110 kB: some ten pages each."""
    generator = np.random.default_rng(0)
    table = pa.table(
        {"image": [generator.bytes(110_000) for _ in range(80)], "label": np.arange(80), "other": [b"x"] * 80}
    )
    path = tmp_path_factory.mktemp("held") / "photographs.parquet"
    pq.write_table(table, path, row_group_size=40)
    return path, table


def test_a_row_group_is_two_requests_for_two_columns(photographs):
    path, table = photographs
    file = Counted(path)
    parquet = BoundedParquet(file, str(path), is_far=True)
    opening = file.requests
    batches = list(parquet.batches(16, ["image", "label"], [1]))
    assert pa.Table.from_batches(batches).equals(table.slice(40).select(["image", "label"]))
    assert opening <= 3
    assert file.requests - opening == 2


def test_what_is_too_large_to_hold_is_read_piece_by_piece(photographs, monkeypatch):
    path, table = photographs
    monkeypatch.setattr(held_file, "MOST_HELD", 10**6)
    file = Counted(path)
    batches = list(BoundedParquet(file, str(path), is_far=True).batches(16))
    assert pa.Table.from_batches(batches).equals(table)
    assert file.requests > 10


def test_a_filesystem_that_is_not_here_is_far(photographs):
    path, table = photographs
    far = fs.SubTreeFileSystem(str(path.parent), fs.LocalFileSystem())
    with open_bounded(path.name, far) as parquet:
        assert pa.Table.from_batches(list(parquet.batches(100))).equals(table)


def test_it_reads_like_any_file(tmp_path):
    path = tmp_path / "letters"
    path.write_bytes(b"abcdefghij")
    file = HeldFile(pa.OSFile(str(path)))
    file.hold([(2, 5), (8, 100), (50, 60)])
    assert [file.read_at(2, 2), file.read_at(5, 1), file.read_at(9, 8), file.read_at(3, 12)] == [
        b"cd",
        b"bcdef",
        b"ij",
        b"",
    ]
    assert (file.seek(-3, 2), file.read(2), file.tell(), file.seek(-1, 1), file.read()) == (
        7,
        b"hi",
        9,
        8,
        b"ij",
    )
