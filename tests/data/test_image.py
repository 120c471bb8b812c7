"""Pictures that are stored turned: upright by default, as they are stored where that is asked for."""

from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from rtk.config.load import build_config
from rtk.data.decode.pipeline import Selection, decode_block, encoded_blocks, evaluation_selection
from rtk.data.decode.stream import decode_group
from rtk.data.image import BadImageError, decode_rgb, open_image, orientation, read_info, reduce_jpeg, to_rgb
from rtk.data.sets.dataset import open_dataset
from rtk.evaluate.corruptions import CLEAN, _corrupt_block
from rtk.evaluate.predict import _stamp
from rtk.report.view_sheet import _decode
from rtk.train.training_data import _selection

ORIENTATION = 0x0112
UPRIGHT = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
# What the tag says was done to the picture, by hand: rows and columns of EXIF 2.32, tag 274.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: UPRIGHT.transpose(1, 0, 2)[::-1],
    7: UPRIGHT.transpose(1, 0, 2)[::-1, ::-1],
    8: UPRIGHT.transpose(1, 0, 2)[:, ::-1],
}


def tagged(pixels, value, encoding="PNG", **options):
    exif, buffer = Image.Exif(), BytesIO()
    exif[ORIENTATION] = value
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, encoding, exif=exif, **options)
    return buffer.getvalue()


def phone_picture(encoding="JPEG"):
    return tagged(np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8), 6, encoding)


@pytest.mark.parametrize("value", STORED)
def test_every_orientation_gives_the_upright_picture(value):
    data = tagged(STORED[value], value)
    assert np.array_equal(decode_rgb(data, None), UPRIGHT)
    assert np.array_equal(decode_rgb(data, None, exif="ignore"), STORED[value])
    assert read_info(open_image(data)).orientation == value


@pytest.mark.parametrize("encoding", ["JPEG", "WEBP", "TIFF", "MPO"])
def test_every_encoding_is_turned_as_pillow_turns_it(encoding):
    data = tagged(np.kron(STORED[6], np.ones((8, 8, 1), np.uint8)), 6, encoding)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB"))
    assert np.array_equal(decode_rgb(data, None), wanted)
    assert wanted.shape == (48, 32, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_every_mode_is_turned(mode):
    picture = Image.fromarray(UPRIGHT[:, :, 0].astype(np.uint16) * 257 if mode == "I;16" else STORED[6])
    picture = picture.transpose(Image.Transpose.ROTATE_90) if mode == "I;16" else picture.convert(mode)
    exif, buffer = Image.Exif(), BytesIO()
    exif[ORIENTATION] = 6
    picture.save(buffer, "PNG", exif=exif)
    stored = decode_rgb(buffer.getvalue(), None, exif="ignore")
    assert np.array_equal(decode_rgb(buffer.getvalue(), None), np.rot90(stored, -1))


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_does_not_exist_turns_nothing(value):
    assert np.array_equal(decode_rgb(tagged(UPRIGHT, value), None), UPRIGHT)


def test_broken_metadata_is_no_broken_picture():
    data = tagged(UPRIGHT, 6, "WEBP", lossless=True)
    place = data.index(b"EXIF") + 8
    broken = data[:place] + b"\xff" * 20 + data[place + 20 :]
    assert orientation(open_image(broken)) == 1
    assert np.array_equal(decode_rgb(broken, None), UPRIGHT)


def test_a_png_may_hold_its_orientation_behind_its_pixels_and_a_truncated_one_stays_an_error():
    data = phone_picture("PNG")
    place = data.index(b"eXIf") - 4
    size = int.from_bytes(data[place : place + 4], "big") + 12
    rest, end = data[:place] + data[place + size :], data.index(b"IEND") - 4 - size
    behind = rest[:end] + data[place : place + size] + rest[end:]
    assert np.array_equal(decode_rgb(behind, None), decode_rgb(data, None))
    broken = open_image(data[: data.index(b"IDAT") + 20])
    assert orientation(broken) == 6
    with pytest.raises(BadImageError, match="truncated"):
        to_rgb(broken)


@pytest.fixture
def dataset(tmp_path):
    columns = {"image": pa.array([phone_picture()] * 2, pa.binary()), "label": [0, 1]}
    pq.write_table(pa.table(columns), tmp_path / "all.parquet")
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"]}')
    return open_dataset(tmp_path / "all.parquet")


def data_config(**values):
    return build_config({"data": {"train": "x", "validation": "x", "image_size": 4, **values}})


@pytest.mark.parametrize("settings", [{}, {"exif": "ignore"}, {"jpeg": "reduced"}])
def test_every_way_of_decoding_a_set_goes_by_the_config(dataset, settings):
    config = data_config(**settings)
    selection = evaluation_selection(config.data, dataset)
    wanted = decode_rgb(phone_picture(), 4, **settings).transpose(2, 0, 1)
    (encoded,) = encoded_blocks("test", selection)
    blocks = [
        decode_block(encoded),
        *decode_group(selection, dataset.files[0], group=0, start=0, skip=0, stop=2),
        *_corrupt_block(encoded, [CLEAN], np.arange(2)),
    ]
    for block in blocks:
        assert block["pixels"].to_pylist() == [wanted.tobytes()] * 2
    assert np.array_equal(_decode(dataset, 4, 2, config.data).images, np.stack([wanted] * 2))
    keys = ("train", "validation", "validation_near_ood.x", "mixing", "outliers")
    selections = [_selection(config, key, dataset) for key in keys]
    assert all(
        getattr(selection, key) == value for selection in selections for key, value in settings.items()
    )


@pytest.mark.parametrize("settings", [{"exif": "ignore"}, {"jpeg": "reduced"}])
def test_both_ways_differ_and_pictures_are_turned_and_whole_by_default(dataset, settings):
    assert not np.array_equal(decode_rgb(phone_picture(), 4), decode_rgb(phone_picture(), 4, **settings))
    for default in (data_config().data, Selection(dataset, 4)):
        assert (default.exif, default.jpeg) == ("apply", "full")


def test_predictions_from_before_the_setting_stay_valid_and_only_where_nothing_is_turned(dataset):
    old = {"data", "rows", "size", "crop_share", "interpolation"}
    assert set(_stamp(Selection(dataset, 4, exif="ignore"))) == old
    assert set(_stamp(Selection(dataset, 4))) == old | {"exif"}
    assert set(_stamp(Selection(dataset, 4, exif="ignore", jpeg="reduced"))) == old | {"jpeg"}


@pytest.mark.parametrize(
    ("encoding", "size", "side", "wanted"),
    [
        ("JPEG", (1024, 768), 32, (128, 96)),
        ("JPEG", (1024, 768), 33, (256, 192)),
        ("MPO", (1024, 768), 64, (256, 192)),
        ("JPEG", (768, 1024), 65, (384, 512)),
        ("JPEG", (1024, 768), 129, (1024, 768)),
        ("JPEG", (1024, 768), 5000, (1024, 768)),
        ("JPEG", (1024, 764), 32, (256, 191)),
        ("JPEG", (1024, 767), 32, (1024, 767)),
        ("PNG", (1024, 768), 32, (1024, 768)),
        ("WEBP", (1024, 768), 32, (1024, 768)),
    ],
)
def test_a_jpeg_is_decoded_to_at_least_three_times_the_side_wanted(encoding, size, side, wanted):
    buffer = BytesIO()
    Image.new("RGB", size, "teal").save(buffer, encoding)
    image = open_image(buffer.getvalue())
    reduce_jpeg(image, side)
    assert to_rgb(image).size == wanted


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_photograph_that_is_decoded_smaller_is_hardly_another(mode):
    picture, buffer = Image.fromarray(load_sample_image("china.jpg")[:424]).convert(mode), BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    side = 424 // 6
    full, reduced = (decode_rgb(buffer.getvalue(), side, jpeg=jpeg) for jpeg in ("full", "reduced"))
    difference = np.abs(full.astype(int) - reduced)
    assert 0 < difference.mean() < 0.5
    assert difference.max() <= 8
    whole = [decode_rgb(buffer.getvalue(), None, jpeg=jpeg) for jpeg in ("full", "reduced")]
    assert np.array_equal(*whole)  # which is not resized
    share = [decode_rgb(buffer.getvalue(), side, 0.5, jpeg=jpeg) for jpeg in ("full", "reduced")]
    assert np.array_equal(*share)  # the shorter side becomes twice that of the crop


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_conversion_in_bands_is_that_of_the_whole(monkeypatch, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, 4), dtype=np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(pixels).convert("RGB" if mode == "P" else mode).convert(mode)
    stream = BytesIO()
    picture.save(stream, "PNG", **({"transparency": 3} if mode == "P" else {}))
    whole = decode_rgb(stream.getvalue(), None)
    monkeypatch.setattr("rtk.data.image.BAND_PIXELS", 100)
    np.testing.assert_array_equal(decode_rgb(stream.getvalue(), None), whole)
