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


# Folders


def test_folder_classes_are_sorted_and_nested_images_found(make_folder, png):
    folder = make_folder({"b": 1, "a": 2})
    (folder / "a/deep").mkdir()
    (folder / "a/deep/x.JPG").write_bytes(png())
    (folder / ".git").mkdir()
    source = open_source(folder)
    assert (source.kind, source.classes, source.count) == ("image folder", ("a", "b"), 4)
    found = {(record.path, record.label) for record in records(source)["all"]}
    assert found == {("a/0.png", 0), ("a/1.jpeg", 0), ("a/deep/x.JPG", 0), ("b/0.png", 1)}


def test_flat_folder_is_one_unnamed_class(make_folder):
    source = open_source(make_folder({"": 3}))
    assert (source.classes, source.count) == (("unlabelled",), 3)


def test_images_beside_class_folders_are_reported(make_folder):
    source = open_source(make_folder({"": 1, "a": 1, "b": 1}))
    assert (source.classes, source.ignored) == (("a", "b"), ("0.png",))


def test_one_folder_called_train_may_be_a_class(make_folder):
    assert open_source(make_folder({"bus": 1, "train": 1})).classes == ("bus", "train")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train/a": 1, "test/a": 1, "extra/a": 1}, r"split folders \(test, train\) and others \(extra\)"),
        ({"train/a": 1, "val/images": 1}, r"val/ has classes that train/ lacks: images"),
        ({"a": 1, "empty": 0}, r"class folder 'empty' holds no image"),
    ],
)
def test_unclear_folders(make_folder, counts, message):
    with pytest.raises(ValueError, match=message):
        open_source(make_folder(counts))


def test_file_name_that_is_no_unicode(make_folder, png, tmp_path):
    folder = make_folder({"": 1})
    try:
        (folder / os.fsdecode(b"\xff.png")).write_bytes(png())
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    prepare(folder, tmp_path / "out")
    assert {row.path for row in read_rows(open_dataset(tmp_path / "out"))} == {"0.png", "\\xff.png"}


# CIFAR


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


# idx


@pytest.mark.parametrize("packed", [True, False])
def test_idx(make_idx, tmp_path, packed):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6), dtype=np.uint8)
    make_idx("train", pixels[:3], [0, 2, 1], packed)
    folder = make_idx("t10k", pixels[3:], [2, 0], packed)
    source = open_source(folder)
    assert (source.kind, source.classes) == ("idx files", ("0", "1", "2"))
    found = records(source)
    assert list(found) == ["train", "test"]
    assert [record.label for record in found["train"]] == [0, 2, 1]
    assert np.array_equal(np.stack([record.payload for record in found["test"]]), pixels[3:])
    report = prepare(folder, tmp_path / "out")
    assert [(file.file, file.modes) for file in report.files] == [
        ("train.parquet", {"L": 3}),
        ("test.parquet", {"L": 2}),
    ]


def test_broken_idx(make_idx):
    folder = make_idx("train", np.zeros((3, 4, 4), np.uint8), [0, 1], packed=False)
    with pytest.raises(ValueError, match="3 images, but 2 labels"):
        open_source(folder)
    make_idx("train", np.zeros((2, 4, 4), np.uint8), [0, 1], packed=False)
    images = folder / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte: ends too early"):
        records(open_source(folder))
    images.write_bytes(b"\0" * 16)
    with pytest.raises(ValueError, match="starts with 0x00000000; wanted 0x00000803"):
        open_source(folder)
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="its labels are missing"):
        open_source(folder)


def test_truncated_gzip(make_idx):
    folder = make_idx("train", np.zeros((2, 40, 40), np.uint8), [0, 1])
    labels_file = folder / "train-labels-idx1-ubyte.gz"
    labels_file.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x02\0\1")[:-12])
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte.gz: (corrupt gzip file|ends too early)"):
        open_source(folder)


# Parquet


def test_parquet_keeps_path_and_sample_id(make_parquet, png):
    path = make_parquet([png(), png()], [0, 1], sample_id=[7, 3], path=["x", "y"], more=[1, 2])
    source = open_source(path)
    assert (source.kind, source.ignored) == ("Parquet", ("column more",))
    assert [(r.sample_id, r.path) for r in records(source)["all"]] == [(7, "x"), (3, "y")]


def test_parquet_folder_has_a_split_a_file(make_parquet, png):
    make_parquet([png()] * 2, [0, 1], file="data/train.parquet")
    path = make_parquet([png()] * 3, [0, 1, 1], file="data/test.parquet")
    found = records(open_source(path.parent))
    assert {name: [r.label for r in split] for name, split in found.items()} == {
        "test": [0, 1, 1],
        "train": [0, 1],
    }


def test_parquet_null_image_is_a_bad_image(make_parquet, png, tmp_path):
    report = prepare(make_parquet([None, png()], [0, 1]), tmp_path / "out", skip_bad=True)
    assert [bad.reason for bad in report.skipped] == ["empty (0 bytes)"]


@pytest.mark.parametrize(
    ("labels", "columns", "message"),
    [
        ([0, 2], {}, r"all.parquet: label 2 in row 1 is out of range, there are 2 classes \(1 such rows\)"),
        ([-1, 0], {}, "label -1 in row 0 is out of range"),
        ([None, 0], {}, "column 'label' has 1 missing values"),
        ([0, 1], {"sample_id": [5, 5]}, "sample_id 5 stands in more than one row"),
    ],
)
def test_bad_parquet(make_parquet, png, labels, columns, message):
    with pytest.raises(ValueError, match=message):
        open_source(make_parquet([png()] * 2, labels, **columns))


# Anything else


def test_unknown_sources_say_what_was_found_and_what_is_supported(tmp_path):
    with pytest.raises(ValueError, match="gone: does not exist"):
        open_source(tmp_path / "gone")
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"(?s)x.zip: found a .zip file.*supported are.*cifar-10-python"):
        open_source(tmp_path / "x.zip")
    with pytest.raises(ValueError, match=r"(?s)found 1 \.zip; supported are"):
        open_source(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: found an empty folder"):
        open_source(tmp_path / "empty")
