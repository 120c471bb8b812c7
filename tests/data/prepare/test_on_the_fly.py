import numpy as np
import pytest

from rtk.data.prepare.on_the_fly import prepared
from rtk.data.prepare.prepare import prepare
from rtk.data.sets.dataset import labels, open_dataset, read_rows


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


def test_a_folder_is_prepared_once_for_each_content(make_folder, png, tmp_path, cache, capsys):
    folder = make_folder({"b": 2, "a": 1})
    copy = prepared(str(folder), labelled=True)
    dataset = open_dataset(copy)
    assert dataset.classes == ("a", "b")
    rows = {row.path: (row.image, row.label) for row in read_rows(dataset)}
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
    assert rows == {name: (path.read_bytes(), "ab".index(name[0])) for name, path in files.items()}
    moved = folder.rename(tmp_path / "moved")
    assert prepared(str(moved), labelled=True) == copy
    (moved / "a/0.png").write_bytes(png(99))  # of the same name, time and length or not
    changed = prepared(str(moved), labelled=True)
    assert changed != copy
    assert png(99) in {row.image for row in read_rows(open_dataset(changed))}
    assert len([path for path in cache.iterdir() if not path.name.startswith(".")]) == 2


def test_every_image_of_a_set_without_classes_is_taken(make_folder):
    folder = make_folder({"train/x": 2, "test": 1, "others/a/b": 1, "": 1})
    dataset = open_dataset(prepared(str(folder), labelled=False))
    assert (dataset.rows, dataset.classes) == (5, ("unlabelled",))
    assert labels(dataset).tolist() == [0] * 5
    with pytest.raises(ValueError, match="--split-folders"):
        prepared(str(folder), labelled=True)


def test_one_of_several_sets_has_to_be_named(make_folder):
    folder = make_folder({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 2})
    with pytest.raises(ValueError, match=r"holds several sets \(train, test\), wanted one of them"):
        prepared(str(folder), labelled=True)
    assert open_dataset(prepared(str(folder / "test"), labelled=True)).rows == 3


def test_broken_images_stay_for_whoever_reads_them(make_folder):
    folder = make_folder({"": 1})
    (folder / "broken.png").write_bytes(b"broken")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    rows = {row.path: row.image for row in read_rows(open_dataset(prepared(str(folder), labelled=False)))}
    assert rows == {"0.png": (folder / "0.png").read_bytes(), "broken.png": b"broken", "gone.png": b""}


def test_what_is_prepared_or_missing_is_left_as_it_is(make_folder, make_parquet, png, tmp_path, cache):
    prepare(make_folder({"a": 1, "b": 1}), tmp_path / "out")
    bare = make_parquet([png()], [0], classes=None)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "out", tmp_path / "out/all.parquet", bare, tmp_path / "gone", tmp_path / "empty"):
        assert prepared(str(path), labelled=True) == str(path)
    for path in ("builtin:digits/test.parquet", "s3://bucket/x"):
        assert prepared(path, labelled=False) == path
    assert not cache.exists()


def test_arrays_become_images(make_idx):
    pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    dataset = open_dataset(prepared(str(make_idx("train", pixels, [0, 1])), labelled=True))
    assert (dataset.rows, dataset.classes) == (2, ("0", "1"))
