"""CIFAR archives and batches, whole, cut, and hostile."""

import gzip
import os
import pickle
import tarfile
from io import BytesIO

import numpy as np
import pytest

from rtk.data.image import decode_rgb
from rtk.data.prepare.inert_pickle import read_inert_pickle
from rtk.data.prepare.prepare import prepare
from rtk.data.prepare.sources import open_source
from rtk.data.sets.dataset import open_dataset, read_rows


def records(source):
    return {split.name: list(split.read()) for split in source.splits}


@pytest.fixture
def cifar10(cifar_batch):
    return {
        "batches.meta": {b"label_names": [b"airplane", b"automobile"], b"num_vis": 3072},
        "data_batch_2": cifar_batch(2, [1]),
        "data_batch_1": cifar_batch(1, [0, 1, 1]),
        "test_batch": cifar_batch(3, [1, 0]),
        "readme.html": b"<html>",
    }


@pytest.mark.parametrize("packed", [True, False])
def test_cifar10(make_cifar, cifar10, packed, tmp_path):
    archive = make_cifar(cifar10, packed)
    source = open_source(archive)
    assert (source.kind, source.classes, source.has_paths) == (
        "CIFAR-10 archive",
        ("airplane", "automobile"),
        True,
    )
    found = records(source)
    assert [record.label for record in found["train"]] == [0, 1, 1, 1]
    assert [record.path for record in found["test"]] == ["img_3_0.png", "img_3_1.png"]
    prepare(archive, tmp_path / "out")
    first_row = cifar10["data_batch_1"][b"data"][0]
    assert np.array_equal(found["train"][0].payload, first_row.reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize("names", [3, "ab"])
def test_file_names_of_a_cifar_batch_that_are_no_list(make_cifar, cifar10, names):
    cifar10["data_batch_1"][b"filenames"] = names
    with pytest.raises(ValueError, match="'filenames' is no list"):
        open_source(make_cifar(cifar10))


def test_a_packed_archive_that_is_cut(tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(gzip.compress(bytes(range(256)) * 40)[:60])
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz"):
        open_source(archive)


def test_cifar_images_are_written_as_png(make_cifar, cifar10, tmp_path):
    prepare(make_cifar(cifar10), tmp_path / "out")
    rows = list(read_rows(open_dataset(tmp_path / "out/test.parquet")))
    pixels = cifar10["test_batch"][b"data"].reshape(2, 3, 32, 32).transpose(0, 2, 3, 1)
    for row, wanted in zip(rows, pixels, strict=True):
        assert np.array_equal(decode_rgb(row.image, None), wanted)
    assert [row.sample_id for row in rows] == [4, 5]


def test_cifar100_gives_fine_labels(make_cifar, cifar_batch):
    files = {
        "meta": {b"fine_label_names": [b"apple", b"bear"], b"coarse_label_names": [b"fruit"]},
        "train": cifar_batch(0, [1, 0], b"fine_labels") | {b"coarse_labels": [0, 0]},
        "test": cifar_batch(1, [1], b"fine_labels") | {b"coarse_labels": [0]},
    }
    source = open_source(make_cifar(files, folder="cifar-100-python"))
    assert (source.kind, source.classes) == ("CIFAR-100 archive", ("apple", "bear"))
    assert {name: [r.label for r in split] for name, split in records(source).items()} == {
        "train": [1, 0],
        "test": [1],
    }


def test_cifar_folder_is_found_one_level_down(make_cifar, cifar10):
    assert open_source(make_cifar(cifar10, packed=False).parent).kind == "CIFAR-10 archive"


# The bytes that Python 2 wrote for {'data': numpy.array([[1, 2]], dtype='u1'), 'labels': [7]}: strings are
# byte strings there, which Python 3 cannot write.
PYTHON2_PICKLE = (
    b"\x80\x02}q\x01(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x01K\x02\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x00tb\x89U\x02\x01\x02tbU\x06labels]K\x07au."
)


def test_pickle_of_python2(tmp_path):
    content = read_inert_pickle(BytesIO(PYTHON2_PICKLE), "x")
    assert content[b"labels"] == [7]
    assert np.array_equal(content[b"data"].to_numpy(), np.array([[1, 2]], dtype=np.uint8))


class Malicious:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (np.array, "array")]
)
def test_malicious_pickle_executes_nothing(make_cifar, cifar10, tmp_path, function, name):
    mark = tmp_path / "executed"
    cifar10["test_batch"][b"labels"] = Malicious(function, f"touch {mark}")
    with pytest.raises(
        ValueError, match=rf"test_batch: cannot read this pickle safely: it asks for .*{name}"
    ):
        prepare(make_cifar(cifar10), tmp_path / "out")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_pickle_cannot_change_a_stand_in(make_cifar, cifar10, tmp_path):
    changes_global = b"\x80\x02cnumpy\nndarray\n}U\x06_buildK\x01sb."
    with pytest.raises(ValueError, match="it changes a global"):
        open_source(make_cifar(cifar10 | {"test_batch": changes_global}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"labels": [0, 2]}, "label 2 is out of range, there are 2 classes"),
        ({b"labels": [0]}, r"'data' is uint8 \(2, 3072\); wanted uint8 \(1, 3072\)"),
        ({b"labels": None}, "lacks a list of integers"),
        ({b"data": np.zeros((2, 3072))}, "'data' is corrupt: array of dtype 'f8'"),
        ({b"data": np.array([None, None])}, "'data' is corrupt: array of unknown contents"),
        ({b"data": b""}, "asks for .*bytes|lacks the array 'data'"),
        ({b"filenames": [b"x"]}, "1 file names for 2 labels"),
    ],
)
def test_misshapen_cifar_batch(make_cifar, cifar10, change, message):
    cifar10["test_batch"] |= change
    with pytest.raises(ValueError, match=rf"test_batch:? .*({message})"):
        open_source(make_cifar(cifar10))


def test_corrupt_cifar_archives(make_cifar, cifar10):
    cifar10["test_batch"] = pickle.dumps(cifar10["test_batch"], protocol=2)[:-100]
    archive = make_cifar(cifar10)
    with pytest.raises(ValueError, match="test_batch: cannot read this pickle safely"):
        open_source(archive)
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"tar.gz: .*cannot read this"):
        open_source(archive)


def test_tar_of_something_else(tmp_path, make_folder):
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        archive.add(make_folder({"a": 1}), arcname="images")
    with pytest.raises(ValueError, match=r"images.tar.gz: no CIFAR archive in the authors' python version"):
        open_source(tmp_path / "images.tar.gz")
