import gzip
import os

import numpy as np
import pytest

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
