"""Makers of small real sources: image files, CIFAR archives in the authors' format, idx files, Parquet."""

import gzip
import json
import pickle
import struct
import tarfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def encode(pixels, encoding="PNG", **options):
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format=encoding, **options)
    return buffer.getvalue()


def random_pixels(seed, height=8, width=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def png():
    """png(seed, height, width) -> bytes of a random RGB image."""
    return lambda seed=0, height=8, width=8: encode(random_pixels(seed, height, width))


@pytest.fixture
def png_claiming():
    """png_claiming(width, height) -> a small PNG whose header states this size."""

    def make(width, height):
        data = encode(random_pixels(0))
        header = b"IHDR" + struct.pack(">2I", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]

    return make


@pytest.fixture
def make_folder(tmp_path):
    """make_folder({"cat": 3, "dog": 2}) -> folder: that many images in sub-folders, PNG and JPEG in turn."""

    def make(counts, root="images"):
        folder = tmp_path / root
        for seed, (name, count) in enumerate(counts.items()):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                encoding = ("PNG", "JPEG")[number % 2]
                data = encode(random_pixels(1000 * seed + number), encoding)
                (folder / name / f"{number}.{encoding.lower()}").write_bytes(data)
        return folder

    return make


@pytest.fixture
def make_cifar(tmp_path):
    """make_cifar(files, packed) -> an archive holding these {name: content}, each a protocol 2 pickle."""

    def make(files, packed=True, folder="cifar-10-batches-py"):
        root = tmp_path / folder
        root.mkdir()
        for name, content in files.items():
            data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
            (root / name).write_bytes(data)
        if not packed:
            return root
        with tarfile.open(tmp_path / f"{folder}.tar.gz", "w:gz") as archive:
            archive.add(root, arcname=folder)
        return tmp_path / f"{folder}.tar.gz"

    return make


@pytest.fixture
def cifar_batch():
    """cifar_batch(seed, labels) -> a batch as in CIFAR-10's files."""

    def make(seed, labels, labels_key=b"labels"):
        data = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        names = [f"img_{seed}_{row}.png".encode() for row in range(len(labels))]
        return {b"batch_label": b"one", labels_key: labels, b"data": data, b"filenames": names}

    return make


@pytest.fixture
def make_idx(tmp_path):
    """make_idx(split, pixels, labels, packed) -> folder with the pair of idx files."""

    def make(split, pixels, labels, packed=True):
        folder = tmp_path / "raw"
        folder.mkdir(exist_ok=True)
        images = struct.pack(">4I", 0x803, *pixels.shape) + pixels.tobytes()
        targets = struct.pack(">2I", 0x801, len(labels)) + bytes(labels)
        for name, data in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", targets)):
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
        return folder

    return make


@pytest.fixture
def make_parquet(tmp_path):
    """make_parquet(images, labels, **columns) -> a Parquet file with `classes.json` beside it."""

    def make(images, labels, classes=("a", "b"), file="data/all.parquet", row_group_size=3, **columns):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"image": pa.array(images, pa.binary()), "label": labels, **columns})
        pq.write_table(table, path, row_group_size=row_group_size)
        if classes is not None:
            (path.parent / "classes.json").write_text(json.dumps({"classes": list(classes)}))
        return path

    return make


@pytest.fixture
def folder_listing():
    """folder_listing(folder) -> names of everything in it, hidden files too."""
    return lambda folder: sorted(path.name for path in Path(folder).iterdir())
