import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rtk.cli import main
from rtk.data.image import decode_rgb
from rtk.data.prepare.inspect import inspect_dataset
from rtk.data.prepare.parquet_writer import ROW_GROUP_ROWS
from rtk.data.prepare.prepare import BadImagesError, prepare
from rtk.data.sets.dataset import content_hash, labels, open_dataset, read_rows


def read_table(path):
    return pq.ParquetFile(path).read()


def test_image_folder_keeps_bytes_paths_and_labels(tmp_path, make_folder):
    source = make_folder({"dog": 3, "cat": 2})
    report = prepare(source, tmp_path / "out")
    table = read_table(tmp_path / "out/all.parquet")
    assert table.schema.names == ["image", "label", "sample_id", "path"]
    assert [str(kind) for kind in table.schema.types] == ["binary", "int64", "int64", "string"]
    for row in table.to_pylist():
        assert row["image"] == (source / row["path"]).read_bytes()
        assert report.classes[row["label"]] == row["path"].split("/")[0]
    assert table["sample_id"].to_pylist() == [0, 1, 2, 3, 4]
    assert report.ok
    assert (report.rows, report.classes, report.counts) == (5, ("cat", "dog"), (2, 3))


def test_splits_become_files_and_sample_ids_go_on(tmp_path, make_folder):
    source = make_folder({"train/a": 3, "train/b": 2, "val/a": 1, "test/b": 2})
    report = prepare(source, tmp_path / "out")
    assert [(file.file, file.rows) for file in report.files] == [
        ("train.parquet", 5),
        ("val.parquet", 1),
        ("test.parquet", 2),
    ]
    ids = [read_table(tmp_path / "out" / file.file)["sample_id"].to_pylist() for file in report.files]
    assert ids == [[0, 1, 2, 3, 4], [5], [6, 7]]


@pytest.fixture
def phone_folder(tmp_path):
    """Three pictures of 12 x 8 pixels, one of which is stored turned; and a square one, stored turned too."""
    folder = tmp_path / "phone"
    folder.mkdir()
    for name, orientation, size in (
        ("a", 1, (12, 8)),
        ("b", 6, (8, 12)),
        ("c", 1, (12, 8)),
        ("d", 3, (8, 8)),
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png", exif=exif)
    return folder


def test_pictures_stored_turned_keep_their_bytes_and_are_counted(tmp_path, phone_folder, capsys):
    report = prepare(phone_folder, tmp_path / "out")
    assert (report.turned, report.manifest()["files"][0]["turned"]) == (2, 2)
    for row in read_table(tmp_path / "out/all.parquet").to_pylist():
        assert row["image"] == (phone_folder / row["path"]).read_bytes()
    assert inspect_dataset(tmp_path / "out").turned == 2
    assert main(["data", "prepare", str(phone_folder), "--out", str(tmp_path / "again")]) == 0
    assert "turned or mirrored by EXIF: 2 images" in capsys.readouterr().out


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_resized_pictures_are_turned_for_good_or_never(tmp_path, phone_folder, exif):
    report = prepare(phone_folder, tmp_path / "out", image_size=8, exif=exif)
    assert report.turned == 2
    assert inspect_dataset(tmp_path / "out").turned == 0
    for row in read_table(tmp_path / "out/all.parquet").to_pylist():
        wanted = decode_rgb((phone_folder / row["path"]).read_bytes(), 8, exif=exif)
        for later in ("apply", "ignore"):
            assert np.array_equal(decode_rgb(row["image"], None, exif=later), wanted)


def test_same_source_gives_the_same_files(tmp_path, make_folder):
    source = make_folder({"a": 20, "b": 20})
    first, second = (prepare(source, tmp_path / name) for name in ("one", "two"))
    assert first.files == second.files
    in_order = labels(open_dataset(tmp_path / "one"))
    assert not np.array_equal(in_order, np.sort(in_order))  # classes are mixed


def test_manifest_says_what_was_written(tmp_path, make_folder):
    source = make_folder({"a": 3, "b": 2})
    (source / "a/notes.txt").write_text("not an image")
    report = prepare(source, tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    (file,) = manifest["files"]
    assert file["class_counts"] == [3, 2]
    assert (file["rows"], file["width"], file["height"]) == (5, [8, 8], [8, 8])
    assert (file["modes"], file["encodings"]) == ({"RGB": 5}, {"PNG": 3, "JPEG": 2})
    assert file["bytes"] == (tmp_path / "out/all.parquet").stat().st_size
    assert len(file["sha256"]) == 64
    assert manifest["source"] == str(source)
    assert manifest["ignored"] == ["a/notes.txt"] == list(report.ignored)
    assert json.loads((tmp_path / "out/classes.json").read_text()) == {"classes": ["a", "b"]}


def test_prepared_data_can_be_prepared_again(tmp_path, make_folder):
    prepare(make_folder({"train/a": 3, "test/a": 1, "train/b": 1}), tmp_path / "one")
    report = prepare(tmp_path / "one", tmp_path / "two")
    assert sorted(file.file for file in report.files) == ["test.parquet", "train.parquet"]
    for file in report.files:
        assert read_table(tmp_path / "one" / file.file).equals(read_table(tmp_path / "two" / file.file))


def test_many_rows_become_parts_and_bounded_row_groups(tmp_path, png, make_parquet):
    count = 2 * ROW_GROUP_ROWS + 10
    source = make_parquet([png()] * count, [0] * count, classes=["a"], file="data/train.parquet")
    report = prepare(source, tmp_path / "out", rows_per_file=ROW_GROUP_ROWS + 5)
    assert [(file.file, file.rows) for file in report.files] == [
        ("train.parquet/part-00000.parquet", ROW_GROUP_ROWS + 5),
        ("train.parquet/part-00001.parquet", ROW_GROUP_ROWS + 5),
    ]
    metadata = pq.read_metadata(tmp_path / "out" / report.files[0].file)
    assert [metadata.row_group(group).num_rows for group in range(2)] == [ROW_GROUP_ROWS, 5]
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    for path in (tmp_path / "out", tmp_path / "out/train.parquet"):
        dataset = open_dataset(path)
        assert (dataset.rows, dataset.classes) == (count, ("a",))
    assert content_hash(dataset) == content_hash(open_dataset(tmp_path / "out"))


def test_image_size_resizes_and_keeps_images_that_fit(tmp_path, png, make_parquet):
    images = [png(0, 30, 20), png(1, 16, 16)]
    prepare(make_parquet(images, [0, 1]), tmp_path / "out", image_size=16)
    first, second = read_rows(open_dataset(tmp_path / "out"))
    assert np.array_equal(decode_rgb(first.image, None), decode_rgb(images[0], 16))
    assert second.image == images[1]


def test_progress_ends_at_the_total(tmp_path, make_folder):
    calls = []
    prepare(make_folder({"a": 70, "b": 10}), tmp_path / "out", progress=lambda *call: calls.append(call))
    assert calls == [(64, 80), (80, 80)]


@pytest.fixture
def broken_folder(make_folder):
    """A folder of 6 images, 4 of them broken."""
    folder = make_folder({"a": 4, "b": 2})
    whole = (folder / "a/0.png").read_bytes()
    (folder / "a/0.png").write_bytes(whole[: len(whole) // 2])
    (folder / "a/1.jpeg").write_bytes(b"")
    (folder / "b/0.png").write_text("hello")
    (folder / "b/2.png").symlink_to(folder / "gone.png")
    return folder


def test_bad_images_are_all_named_and_nothing_is_left(tmp_path, broken_folder, folder_listing):
    with pytest.raises(BadImagesError) as raised:
        prepare(broken_folder, tmp_path / "sub/out")
    reasons = {bad.origin: bad.reason for bad in raised.value.bad}
    assert set(reasons) == {"a/0.png", "a/1.jpeg", "b/0.png", "b/2.png"}
    assert "empty (0 bytes)" in reasons["a/1.jpeg"]
    assert "no image in a supported format" in reasons["b/0.png"]
    assert "No such file" in reasons["b/2.png"]
    for expected in ("4 images", str(broken_folder), "a/0.png", "nothing was written"):
        assert expected in str(raised.value)
    assert folder_listing(tmp_path / "sub") == []


def test_skip_bad_writes_the_others(tmp_path, broken_folder):
    report = prepare(broken_folder, tmp_path / "out", skip_bad=True)
    assert not report.ok
    assert (report.rows, report.counts, len(report.skipped)) == (3, (2, 1), 4)
    assert read_table(tmp_path / "out/all.parquet")["sample_id"].to_pylist() == [0, 1, 2]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert {entry["origin"] for entry in manifest["skipped"]} == {bad.origin for bad in report.skipped}


def test_message_shows_ten_of_many(tmp_path, make_parquet):
    source = make_parquet([b"x"] * 12, [0] * 12)
    with pytest.raises(BadImagesError, match="and 2 more") as raised:
        prepare(source, tmp_path / "out")
    assert len(raised.value.bad) == 12
    assert str(raised.value).count(" row ") == 10


def test_split_without_readable_image(tmp_path, make_folder, folder_listing):
    folder = make_folder({"train": 2, "val": 1})
    (folder / "val/0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="val has no readable image"):
        prepare(folder, tmp_path / "out", skip_bad=True)
    assert folder_listing(tmp_path) == ["images"]


def test_decompression_bomb_is_a_bad_image(tmp_path, make_folder, png_claiming):
    folder = make_folder({"": 1})
    (folder / "bomb.png").write_bytes(png_claiming(10_000, 9_000))
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(BadImagesError, match=r"limit 89478485 pixels.*10000x9000"),
    ):
        prepare(folder, tmp_path / "out")


def test_interrupt_leaves_nothing(tmp_path, make_folder, folder_listing):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(make_folder({"": 2}), tmp_path / "out", progress=interrupt)
    assert folder_listing(tmp_path) == ["images"]


def test_an_interrupted_run_goes_on_after_its_last_finished_file(tmp_path, png, make_parquet):
    images = [png() if row % 50 else b"broken" for row in range(700)]
    source = make_parquet(images, [0] * 700, classes=["a"], file="data/train.parquet")
    options = {"skip_bad": True, "rows_per_file": 150}
    looked_at: list[int] = []

    def interrupt(done, total):
        looked_at.append(done)
        if done > 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", progress=interrupt, **options)
    assert not (tmp_path / "out").exists()
    looked_at.clear()
    report = prepare(source, tmp_path / "out", progress=lambda done, total: looked_at.append(done), **options)
    whole = prepare(source, tmp_path / "whole", **options)
    assert 300 < looked_at[0] < 310  # two files were finished: 300 images and what is broken among them
    assert looked_at[-1] == 700
    assert {**report.manifest(), "source": ""} == {**whole.manifest(), "source": ""}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out", "whole"]


def test_what_another_job_left_is_not_used(tmp_path, make_folder):
    source, left = make_folder({"": 2}), tmp_path / ".out.partial"
    left.mkdir()
    (left / "progress.json").write_text('{"key": {}, "finished": [{}]}')
    (left / "all.parquet").write_bytes(b"of another job")
    report = prepare(source, tmp_path / "out")
    assert {path.name for path in report.out.iterdir()} == {"all.parquet", "classes.json", "manifest.json"}


def test_out_must_be_new_or_empty_and_outside(tmp_path, make_folder):
    source = make_folder({"": 1})
    with pytest.raises(ValueError, match=r"images/new: lies inside the source"):
        prepare(source, source / "new")
    out = tmp_path / "out"
    out.mkdir()
    prepare(source, out)
    with pytest.raises(ValueError, match=r"out: exists and is not an empty folder"):
        prepare(source, out)


@pytest.mark.parametrize("option", ["image_size", "rows_per_file"])
def test_sizes_below_one(tmp_path, make_folder, option):
    with pytest.raises(ValueError, match=f"{option}: got 0"):
        prepare(make_folder({"": 1}), tmp_path / "out", **{option: 0})


def test_real_photographs(tmp_path, rtk_data: Path):
    report = prepare(rtk_data / "flowers5/test.parquet", tmp_path / "out")
    assert report.ok
    assert report.rows == 860
    before = read_table(rtk_data / "flowers5/test.parquet")
    assert read_table(tmp_path / "out/test.parquet").select(["image", "label"]).equals(before)
