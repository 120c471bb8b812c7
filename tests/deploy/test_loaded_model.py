"""A packaged model in a notebook: images of any kind, and always the same answer."""

import io
import re
import textwrap

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rtk.config.errors import ConfigError
from rtk.data.image import decode_rgb, encode_png
from rtk.deploy.loaded_model import LoadedModel, _named
from rtk.deploy.packaged_model import BATCH
from rtk.deploy.predict import predict_named


@pytest.fixture
def model(packaged):
    return LoadedModel(packaged)


def test_images_of_any_kind_get_the_same_answer(model, photo, tmp_path):
    (tmp_path / "a.jpg").write_bytes(photo)
    picture, pixels = Image.open(io.BytesIO(photo)), decode_rgb(photo, None)
    one = model(photo)
    assert list(one)[:4] == ["image", "label", "confidence", "decision"]
    assert one.decision.item() in ("accept", "likely-wrong", "unfamiliar")
    several = [photo, picture, pixels, encode_png(pixels), tmp_path / "a.jpg"]
    for images in (several, picture, pixels, tmp_path / "a.jpg", str(tmp_path)):
        answer = model(images).drop(columns="image")
        same = pd.concat([one] * len(answer), ignore_index=True)[list(answer)]
        pd.testing.assert_frame_equal(answer, same)
    assert len(model(several)) == 5
    assert len(model(np.stack([pixels] * 3))) == 3
    assert model(tmp_path).image.item() == str(tmp_path / "a.jpg")


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "I;16"])
def test_a_pil_image_is_what_its_file_is(model, mode, tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(colours.view(np.uint16)[:, :, 0])
    else:
        picture = Image.fromarray(colours if mode == "RGBA" else colours[:, :, :3].copy()).convert(mode)
    picture.save(tmp_path / "a.tif")
    by_picture, by_file = (model(given).drop(columns="image") for given in (picture, tmp_path / "a.tif"))
    pd.testing.assert_frame_equal(by_picture, by_file)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("encoding", ["TIFF", "JPEG"])
def test_a_pil_image_of_a_phone_is_turned_as_its_file_is(model, mode, encoding, tmp_path):
    exif, pixels = Image.Exif(), np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    exif[0x0112] = 6
    path = tmp_path / f"a.{encoding.lower()}"
    Image.fromarray(pixels).convert(mode).save(path, encoding, exif=exif)
    by_picture, by_file = (model(given).drop(columns="image") for given in (Image.open(path), path))
    pd.testing.assert_frame_equal(by_picture, by_file)
    upright = model(decode_rgb(path.read_bytes(), None)).drop(columns="image")
    pd.testing.assert_frame_equal(by_picture, upright)
    stored = model(decode_rgb(path.read_bytes(), None, exif="ignore")).drop(columns="image")
    assert encoding == "TIFF" or not by_picture.equals(stored)


def test_what_is_no_image_is_said_so(model, photo):
    read = model([photo, b"no image"])
    assert read.error.notna().tolist() == [False, True]
    assert read.label.isna().tolist() == [False, True]
    with pytest.raises(TypeError, match="got int64, wanted uint8"):
        model(np.zeros((4, 4, 3), np.int64))
    with pytest.raises(TypeError, match="got int, wanted a path"):
        model([1])
    with pytest.raises(ConfigError, match="/nowhere does not exist"):
        model("/nowhere")


def test_pixels_of_every_layout_and_kind_are_the_same_image(model, photo):
    pixels = decode_rgb(photo, None)
    first, fractions = np.moveaxis(pixels, -1, 0), pixels / 255
    one = model(photo).drop(columns="image")
    given = [
        pixels,
        first,
        pixels[:, ::-1][:, ::-1],  # a view with negative strides
        fractions,
        fractions.astype(np.float32),
        fractions.astype(np.float16),
        torch.from_numpy(pixels),
        torch.from_numpy(first.copy()),
        torch.from_numpy(np.moveaxis(fractions, -1, 0).copy()).float().requires_grad_(),
        bytearray(photo),
    ]
    for images in (given, *given[:3], *given[-3:]):
        answer = model(images).drop(columns="image")
        pd.testing.assert_frame_equal(answer, pd.concat([one] * len(answer), ignore_index=True))
    assert model([*given, io.BytesIO(photo)]).error.isna().sum() == len(given) + 1
    assert model(io.BytesIO(photo)).equals(model(photo))
    batch = model(torch.from_numpy(np.stack([first] * 2)).float() / 255)
    pd.testing.assert_frame_equal(batch.drop(columns="image"), pd.concat([one] * 2, ignore_index=True))


def test_grey_and_transparent_pixels_are_what_their_files_are(model):
    colours = np.random.default_rng(1).integers(0, 256, (16, 20, 4), dtype=np.uint8)
    for pixels, layouts in (
        (colours[:, :, 0], [lambda p: p, lambda p: p[None], lambda p: p[:, :, None], torch.from_numpy]),
        (colours, [lambda p: p, lambda p: np.moveaxis(p, -1, 0)]),
    ):
        wanted = model(encode_png(pixels))
        for layout in layouts:
            pd.testing.assert_frame_equal(model(layout(np.ascontiguousarray(pixels))), wanted)


def test_channels_are_last_in_arrays_and_first_in_tensors_where_both_could_be(model):
    pixels = np.random.default_rng(2).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    by_array, by_tensor = (model(given) for given in (pixels, torch.from_numpy(pixels)))
    pd.testing.assert_frame_equal(by_array, model(encode_png(pixels)))
    pd.testing.assert_frame_equal(by_tensor, model(encode_png(np.moveaxis(pixels, 0, -1).copy())))
    assert not by_array.equals(by_tensor)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((4, 4, 3), 200.0), "got float64 from 200 to 200, wanted 0 to 1"),
        (torch.full((3, 4, 4), -1.5), "got float32 from -1.5 to -1.5, wanted 0 to 1"),
        (np.full((4, 4, 3), np.nan), "from nan to nan"),
        (np.zeros((5, 6, 7), np.uint8), r"got shape \(5, 6, 7\), wanted pixels"),
        (np.zeros((0, 4, 3), np.uint8), r"got shape \(0, 4, 3\)"),
    ],
    ids=["up to 255", "normalised", "nan", "no channels", "empty"],
)
def test_pixels_that_could_mean_something_else_are_refused(model, pixels, message):
    with pytest.raises(ConfigError, match=message):
        model(pixels)


def test_paths_of_every_kind_may_be_mixed_with_images(model, photo, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.jpg").write_bytes(photo)
    pq.write_table(pa.table({"image": [photo, photo]}), tmp_path / "more.parquet")
    given = [photo, tmp_path / "below", str(tmp_path / "more.parquet"), decode_rgb(photo, None)]
    table = model(image for image in given)
    names = [0, str(tmp_path / "below" / "a.jpg"), *(f"{tmp_path}/more.parquet:{row}" for row in (0, 1)), 3]
    assert table.image.tolist() == names
    assert table.drop(columns="image").drop_duplicates().shape[0] == 1


def test_an_endless_stream_is_read_a_batch_at_a_time(model, photo):
    """A generator of more than a batch: none is asked for before the one before it is done."""
    read = []

    def stream():
        for number in range(130):
            read.append(number)
            yield photo

    rows = predict_named(model.packaged, _named(stream()))
    next(rows)
    assert len(read) == BATCH
    assert len(list(rows)) == 129


def test_a_torn_picture_costs_only_itself(model, photo, tmp_path):
    torn = Image.open(io.BytesIO(photo[: len(photo) // 2]))
    table = model([photo, torn])
    assert table.error.isna().tolist() == [True, False]
    assert "truncated" in table.error[1]


def test_the_docstring_s_example_runs(model, photo, tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", LoadedModel.__call__.__doc__, re.DOTALL)
    model.packaged.save(tmp_path / "runs" / "flowers" / "export")
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg"):
        (tmp_path / name).write_bytes(photo)
    pq.write_table(pa.table({"image": [photo]}), tmp_path / "more.parquet")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(textwrap.dedent(block), names)
    assert names["table"].image.tolist() == ["photo.jpg", "photos/a.jpg", "more.parquet:0"]
    assert names["table"].error.isna().all()
