import json
import os
import pickle
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rtk.data.image import BadImageError, decode_rgb
from rtk.data.prepare.prepare import prepare
from rtk.data.sets import dataset as dataset_module
from rtk.data.sets.dataset import check_labels, content_hash, labels, open_dataset, read_rows
from rtk.runs import bounded_parquet


def save(image, encoding="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, format=encoding, **options)
    return buffer.getvalue()


def test_open_file_folder_and_uri(make_parquet, png):
    make_parquet([png()] * 2, [0, 1], file="data/train.parquet", sample_id=[0, 1])
    file = make_parquet([png()] * 3, [1, 1, 0], file="data/test.parquet")
    one, both = open_dataset(file), open_dataset(file.parent)
    assert (one.rows, one.classes, one.has_sample_id) == (3, ("a", "b"), False)
    assert (both.rows, len(both.files), both.has_sample_id) == (5, 2, False)
    assert labels(both).tolist() == [1, 1, 0, 0, 1]
    assert labels(both).dtype == np.int64
    remote = open_dataset(f"file://{file.parent}/")
    assert (remote.rows, labels(remote).tolist()) == (5, labels(both).tolist())
    assert pickle.loads(pickle.dumps(both)) == both


def test_relative_path(make_parquet, png, monkeypatch):
    file = make_parquet([png()], [0])
    monkeypatch.chdir(file.parent)
    assert open_dataset("all.parquet").rows == 1


def test_classes_may_be_missing_where_not_needed(make_parquet, png):
    file = make_parquet([png()], [0], classes=None)
    assert open_dataset(file, need_classes=False).classes == ()
    with pytest.raises(ValueError, match=r"classes.json is missing"):
        open_dataset(file)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"classes": []}', '{"classes": [1]}', '{"names": ["a"]}', '{"classes": "ab"}']
)
def test_bad_classes(make_parquet, png, content):
    file = make_parquet([png()], [0])
    (file.parent / "classes.json").write_text(content)
    with pytest.raises(ValueError, match=r"classes.json: (wanted|no valid JSON)"):
        open_dataset(file)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"label": [0]}, "column 'image' is missing; it has label"),
        ({"image": [b""]}, "column 'label' is missing"),
        ({"image": ["text"], "label": [0]}, "column 'image' is string; wanted binary"),
        ({"image": [b""], "label": [0.5]}, "column 'label' is double; wanted an integer"),
        ({"image": [b""], "label": [0], "sample_id": ["x"]}, "column 'sample_id' is string"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "zero rows"),
    ],
)
def test_bad_files(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path / "x.parquet")


def test_files_that_expand_hugely(make_parquet, png, tmp_path, monkeypatch):
    path = make_parquet([png(), b"x" * 50_000], [0, 1], row_group_size=1)
    dataset = open_dataset(path)
    monkeypatch.setattr(bounded_parquet, "PIECE_BYTES", 1000)
    monkeypatch.setattr(bounded_parquet, "MOST_EXPANSION", 2)
    rows = read_rows(dataset)
    assert next(rows).image == png()
    with pytest.raises(ValueError, match=r"all.parquet: the pages of row group 1 may expand"):
        next(rows)
    table = pa.table({"image": pa.array([b""] * 60_000, pa.binary()), "label": np.zeros(60_000, np.int64)})
    pq.write_table(table, tmp_path / "many.parquet", row_group_size=60_000)
    with pytest.raises(ValueError, match=r"many.parquet: labels of 60,000 rows may expand to"):
        open_dataset(tmp_path / "many.parquet")


def test_missing_paths(tmp_path):
    with pytest.raises(ValueError, match="gone: does not exist"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(
        ValueError,
        match=r"no \.parquet files in this folder; wanted .*rtk data prepare .* --out",
    ):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"nope://x: cannot open this URI"):
        open_dataset("nope://x")
    (tmp_path / "x.parquet").write_text("no Parquet at all")
    with pytest.raises(ValueError, match=r"x.parquet: no Parquet file.*rtk data prepare"):
        open_dataset(tmp_path)


def test_check_labels(make_parquet, png):
    dataset = open_dataset(make_parquet([png()] * 3, [0, 5, 6]))
    check_labels(dataset, 7)
    with pytest.raises(ValueError, match=r"label 5 in row 1 is out of range.*2 such rows"):
        check_labels(dataset, 5)


def test_read_rows_takes_any_choice(make_parquet, png):
    images = [png(seed) for seed in range(10)]
    dataset = open_dataset(make_parquet(images, [0, 1] * 5, sample_id=list(range(100, 110))))
    rows = list(read_rows(dataset, np.array([0, 4, 9])))
    assert [row.number for row in rows] == [0, 4, 9]
    assert [row.image for row in rows] == [images[0], images[4], images[9]]
    assert [(row.label, row.sample_id, row.path) for row in rows] == [
        (0, 100, None),
        (0, 104, None),
        (1, 109, None),
    ]
    assert [row.image for row in read_rows(dataset)] == images


def test_content_hash_follows_the_content_only(make_parquet, png, tmp_path):
    def of(file, label):
        return content_hash(open_dataset(make_parquet([png()], [label], file=file)))

    first = of("one/x.parquet", 0)
    assert len(first) == 64
    assert of("two/y.parquet", 0) == first
    assert of("three/x.parquet", 1) != first


def test_content_hash_uses_the_manifest_if_it_fits(make_folder, tmp_path):
    prepare(make_folder({"": 2}), tmp_path / "out")
    manifest = tmp_path / "out/manifest.json"
    with_manifest = content_hash(open_dataset(tmp_path / "out"))
    stated = json.loads(manifest.read_text())
    manifest.rename(tmp_path / "aside.json")
    assert content_hash(open_dataset(tmp_path / "out")) == with_manifest
    stated["files"][0]["bytes"] += 1  # of another file, as its size says
    stated["files"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(stated))
    assert content_hash(open_dataset(tmp_path / "out")) == with_manifest


def test_content_hash_of_large_files_reads_the_footer(make_parquet, png, monkeypatch):
    monkeypatch.setattr(dataset_module, "HASH_LIMIT", 10)
    file = make_parquet([png()] * 2, [0, 1])
    first = content_hash(open_dataset(file))
    make_parquet([png()] * 2, [1, 1])
    assert content_hash(open_dataset(file)) != first


# decode_rgb

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RGB[..., 0]


@pytest.mark.parametrize("encoding", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats(encoding):
    pixels = decode_rgb(save(Image.fromarray(RGB), encoding), None)
    assert np.array_equal(pixels, RGB)
    assert pixels.flags.writeable


@pytest.mark.parametrize("encoding", ["JPEG", "WEBP", "GIF", "JPEG2000"])
def test_other_formats(encoding):
    flat = Image.new("RGB", (16, 16), (200, 100, 50))
    assert np.abs(decode_rgb(save(flat, encoding), None).astype(int) - [200, 100, 50]).max() <= 4


def test_greyscale_is_repeated():
    assert np.array_equal(decode_rgb(save(Image.fromarray(GREY)), None), np.stack([GREY] * 3, axis=-1))


@pytest.mark.parametrize("encoding", ["PNG", "TIFF", "PPM"])
def test_16_bit_is_scaled_not_clipped(encoding):
    wide = np.array([[0, 128, 129, 257 * 100, 65535]], dtype=np.uint16)
    pixels = decode_rgb(save(Image.fromarray(wide), encoding), None)
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 100, 255]


def test_cmyk_jpeg():
    cmyk = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    assert np.abs(decode_rgb(save(cmyk, "JPEG"), None).astype(int) - [255, 0, 0]).max() <= 4


def test_transparency_is_laid_on_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    assert decode_rgb(save(Image.fromarray(rgba)), None)[0].tolist() == [[10, 20, 30], [255] * 3, [204] * 3]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_palette_with_transparency(transparency):
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert decode_rgb(save(image), None)[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    data = save(image, transparency=transparency)
    assert decode_rgb(data, None)[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_float_image_is_refused():
    with pytest.raises(BadImageError, match=r"mode F .*no defined brightness range"):
        decode_rgb(save(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), None)


@pytest.mark.parametrize(("height", "width"), [(40, 23), (23, 40), (8, 8), (64, 64), (5, 31)])
def test_resizing_is_that_of_torchvision(height, width):
    from torchvision.transforms import v2

    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))
    wanted = v2.CenterCrop(16)(v2.Resize(16)(image))
    assert np.array_equal(decode_rgb(save(image), 16), np.array(wanted))


def test_image_of_the_wanted_size_is_untouched():
    image = Image.fromarray(RGB[:5])
    assert np.array_equal(decode_rgb(save(image), 5), RGB[:5])


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_001)])
def test_of_a_needle_only_the_middle_is_resized(size):
    pixels = np.linspace(0, 255, 100_000).astype(np.uint8)
    needle = Image.fromarray(np.resize(pixels, size[::-1]))
    result = decode_rgb(save(needle), 224)
    assert result.shape == (224, 224, 3)
    assert abs(result.astype(int) - 127).max() <= 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"GIF89a", "."),
        (b"\x89PNG\r\n\x1a\n", "."),
        (save(Image.fromarray(RGB))[:-30], "."),
        (save(Image.new("RGB", (64, 64)), "JPEG")[:-100], "Truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "no image in a supported format"),
    ],
)
def test_broken_images(data, reason):
    with pytest.raises(BadImageError, match=reason):
        decode_rgb(data, None)


def test_bomb_beyond_pillows_error_limit(png_claiming):
    with pytest.raises(BadImageError, match="decompression bomb, limit 89478485 pixels"):
        decode_rgb(png_claiming(20_000, 10_000), None)


def test_a_page_that_cannot_be_read_is_blamed_on_its_file(make_parquet, png):
    file = make_parquet([png()] * 400, [0, 1] * 200, file="data/train.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[:4] + bytes([255] * 60) + whole[64:])
    with pytest.raises(ValueError, match=r"train\.parquet: damaged: "):
        list(read_rows(open_dataset(file)))


def test_a_folder_with_a_name_that_is_no_text(tmp_path):
    (tmp_path / "set").mkdir()
    os.mkdir(bytes(tmp_path / "set") + b"/\xff")
    with pytest.raises(ValueError, match="a name in this folder is not UTF-8"):
        open_dataset(tmp_path / "set")
