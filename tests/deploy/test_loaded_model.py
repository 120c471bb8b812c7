"""A packaged model in a notebook: images of any kind, and always the same answer."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rtk.config.errors import ConfigError
from rtk.data.image import decode_rgb, encode_png
from rtk.deploy.loaded_model import LoadedModel
from tests.deploy.test_packaged_model import packaged  # noqa: F401


@pytest.fixture
def model(packaged):  # noqa: F811
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
    with pytest.raises(TypeError, match="got float64"):
        model(np.zeros((4, 4, 3)))
    with pytest.raises(TypeError, match="got int"):
        model([1])
    with pytest.raises(ConfigError, match="/nowhere does not exist"):
        model("/nowhere")
