"""Parquet bombs are refused or read in bounded memory; what is large and real goes on being read."""

import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtk.runs import bounded_parquet
from rtk.runs.bounded_parquet import open_bounded
from rtk.runs.parquet_pages import read_pages

MIB = 2**20
READ = """
import re, sys
from pathlib import Path
from rtk.runs.bounded_parquet import open_bounded
try:
    with open_bounded(sys.argv[1]) as file:
        batches = file.batches(256, ["image"])
        print(sum(len(value) for batch in batches for value in batch["image"].to_pylist()))
except ValueError as error:
    print(error)
# Not getrusage: its maximum is handed down from the process that starts this one.
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, compression="zstd", **options)
    return path


def read_elsewhere(path):
    """What a process of its own finds in a file, and the most MiB that it has taken."""
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=60)
    said, most = done.stdout.splitlines()
    return said, float(most)


def test_pages_are_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.bytes(1000 + 7 * row) for row in range(300)]
    path = tmp_path / "x.parquet"
    for version, dictionary in (("1.0", False), ("2.0", False), ("1.0", True), ("2.0", True)):
        options = {"data_page_version": version, "use_dictionary": dictionary, "write_statistics": False}
        write(path, {"image": images}, row_group_size=100, **options)
        chunk = pq.read_metadata(path).row_group(1).column(0)
        with pa.OSFile(str(path)) as file:
            pages = list(read_pages(file, chunk))
        assert sum(page.values for page in pages if not page.is_dictionary) == 100
        assert sum(page.is_dictionary for page in pages) == dictionary
        assert pages[0].expanded >= sum(4 + len(image) for image in images[100:200])
        # The footer's sums have the headers, of some 30 bytes each, in them.
        for ours, stated in (("stored", "compressed"), ("expanded", "uncompressed")):
            rest = getattr(chunk, f"total_{stated}_size") - sum(getattr(page, ours) for page in pages)
            assert 0 < rest <= 60 * len(pages)


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("dictionary", [True, False])
def test_a_bomb_in_a_page_is_refused_before_it_is_decoded(tmp_path, dictionary):
    columns = {"image": [bytes(96 * MIB)] * 4, "label": [0] * 4}
    path = write(tmp_path / "x.parquet", columns, use_dictionary=dictionary)
    assert path.stat().st_size < 64 * 1024
    said, most = read_elsewhere(path)
    assert f"{path}: the pages of row group 0 may expand to {96 if dictionary else 384} MiB from" in said
    assert most < 160


@on_linux
@pytest.mark.slow
def test_a_bomb_of_rows_that_repeat_a_dictionary_is_read_in_bounded_memory(tmp_path):
    path = write(tmp_path / "x.parquet", {"image": [bytes(32 * MIB)] * 24})
    said, most = read_elsewhere(path)
    assert said == str(24 * 32 * MIB)
    assert most < 1000  # mostly 400 to 450; now and then the allocator gives memory back later


@on_linux
def test_a_bomb_of_shared_beginnings_is_read_in_bounded_memory(tmp_path):
    encoding = {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}}
    path = write(tmp_path / "x.parquet", {"image": [bytes(4 * MIB)] * 200}, **encoding)
    assert path.stat().st_size < 4096
    said, most = read_elsewhere(path)
    assert said == str(200 * 4 * MIB)
    assert most < 1000  # mostly 400 to 450; now and then the allocator gives memory back later


def test_a_file_is_not_read_for_ever(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", {"image": [bytes(MIB)] * 90}, row_group_size=10)
    stored = path.stat().st_size / MIB
    monkeypatch.setattr(bounded_parquet, "ALL_BYTES", 40 * MIB)
    monkeypatch.setattr(bounded_parquet, "MOST_REPEATED", 5)
    rows = []
    with open_bounded(path) as file:
        batches = (batch for group in range(9) for batch in file.batches(3, ["image"], [group]))
        with pytest.raises(ValueError, match="what is read of it may expand to 4") as error:
            rows.extend(map(len, batches))
    assert 36 <= sum(rows) <= 40
    assert f"from {stored:,.3f} MiB in the file, wanted at most 40 MiB, or 5 times" in str(error.value)


def test_many_rows_of_one_number_are_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_parquet, "TABLE_BYTES", 2**20)
    path = write(tmp_path / "x.parquet", {"label": np.zeros(900_000, np.int64)}, row_group_size=2**31 - 1)
    with open_bounded(path) as file, pytest.raises(ValueError, match=r"x.parquet: its rows may expand to"):
        file.table(["label"])


def test_one_row_that_is_a_long_list_is_refused(tmp_path):
    flat = pa.array(np.zeros(50_000_000, np.float32))
    path = write(tmp_path / "x.parquet", {"logits": pa.ListArray.from_arrays([0, len(flat)], flat)})
    with (
        open_bounded(path) as file,
        pytest.raises(ValueError, match="lists of row group 0 may expand"),
    ):
        next(file.batches(1))


def test_a_footer_that_lies_changes_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", {"image": [bytes(2 * MIB)] * 3})
    data = path.read_bytes()
    with pa.OSFile(str(path)) as file:
        chunk = pq.read_metadata(path).row_group(0).column(0)
        pages = list(read_pages(file, chunk))
    true = _varint(chunk.total_uncompressed_size)
    assert data.count(true, chunk.total_compressed_size) == 2  # in the footer: of the column and of the group
    lie = _varint(7)[:-1] + b"\x8e" + b"\x80" * (len(true) - 2) + b"\x00"
    path.write_bytes(data.replace(true, lie))
    assert pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 7
    monkeypatch.setattr(bounded_parquet, "PIECE_BYTES", MIB)
    with open_bounded(path) as file, pytest.raises(ValueError, match=r"row group 0 may expand to 2 MiB"):
        next(file.batches(3))
    assert pages[0].expanded == 2 * MIB + 4


def _varint(number):
    number, out = 2 * number, b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


@pytest.mark.parametrize("limit", [2**26, 100_000, 1])
def test_the_same_rows_come_whatever_fits(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(bounded_parquet, "PIECE_BYTES", limit)
    rng = np.random.default_rng(1)
    images = [rng.bytes(int(size)) for size in rng.integers(0, 9000, 200)]
    path = write(tmp_path / "x.parquet", {"image": images, "label": np.arange(200)}, row_group_size=70)
    with open_bounded(path) as file:
        batches = list(file.batches(64))
        some = list(file.batches(64, ["image"], [1]))
        assert file.table(["label"])["label"].to_pylist() == list(range(200))
    sizes = [len(batch) for batch in batches]
    assert sizes == [64, 64, 64, 8] if limit == 2**26 else max(sizes) < 64
    assert [value for batch in batches for value in batch["image"].to_pylist()] == images
    assert [value for batch in batches for value in batch["label"].to_pylist()] == list(range(200))
    assert [value for batch in some for value in batch["image"].to_pylist()] == images[70:140]
    assert some[0].schema.names == ["image"]


def test_a_large_row_group_of_photographs_is_read(tmp_path):
    rng = np.random.default_rng(2)
    images = [rng.bytes(1_000_000) for _ in range(150)]  # as incompressible as JPEG
    path = write(tmp_path / "x.parquet", {"image": images})
    with open_bounded(path) as file:
        sizes = []
        for batch in file.batches(256):
            assert batch["image"].to_pylist() == images[sum(sizes) : sum(sizes) + len(batch)]
            sizes.append(len(batch))
    assert sum(sizes) == 150
    assert max(sizes) <= 67


def test_damaged_pages_are_named(tmp_path):
    path = write(tmp_path / "x.parquet", {"image": [b"abc"] * 4})
    data = bytearray(path.read_bytes())
    for place, junk in ((4, b"\xff" * 8), (4, bytes(8)), (6, b"\xff\xff\xff\xff\x0f")):
        broken = data[:place] + junk + data[place + len(junk) :]
        with pytest.raises(ValueError, match=r"x: damaged: .*\(column 'image'\)"):
            next(bounded_parquet.BoundedParquet(pa.BufferReader(bytes(broken)), "x").batches(4))


def test_an_empty_file_has_an_empty_table(tmp_path):
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), stream)
    file = bounded_parquet.BoundedParquet(pa.BufferReader(stream.getvalue()), "x")
    assert list(file.batches(4)) == []
    assert file.table(["label"]).schema == pa.schema([("label", pa.int64())])
