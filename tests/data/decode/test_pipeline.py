from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rtk.data.decode.blocks import find_faults
from rtk.data.decode.pipeline import Selection, decode_datasets, encoded_blocks
from rtk.data.image import BadImageError, encode_png, resize_and_crop
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset


def write(folder, images, **columns):
    folder.mkdir()
    labels = np.arange(len(images)) % 3
    pq.write_table(pa.table({"image": images, "label": labels, **columns}), folder / "all.parquet")
    (folder / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    return open_dataset(folder)


@pytest.fixture(params=["in this process", "by Ray Data"])
def way(request, monkeypatch, ray_session):
    if request.param == "by Ray Data":
        monkeypatch.setattr("rtk.data.decode.pipeline.LITTLE", 0)


def test_several_sets_keep_their_order_size_and_ids(tmp_path, way):
    pixels = np.random.default_rng(0).integers(0, 256, (1300, 8, 8, 3), dtype=np.uint8)
    encoded = [encode_png(image) for image in pixels]
    plain = write(tmp_path / "plain", encoded)
    named = write(tmp_path / "named", encoded[:20], sample_id=np.arange(500, 520))
    arrays = decode_datasets({"a": Selection(plain, 8), "b": Selection(named, 4, rows=7)})
    assert (arrays["a"].images == pixels.transpose(0, 3, 1, 2)).all()
    assert (arrays["a"].labels == np.arange(1300) % 3).all()
    assert (arrays["a"].sample_ids == np.arange(1300)).all()
    assert arrays["b"].images.shape == (7, 3, 4, 4)
    assert (arrays["b"].sample_ids == np.arange(500, 507)).all()


def test_an_image_that_cannot_be_decoded_is_named(tmp_path, way):
    good = encode_png(np.zeros((8, 8, 3), np.uint8))
    broken = write(tmp_path / "broken", [good, good[:40], good])
    with pytest.raises(BadImageError, match="data set 'train', row 1: "):
        decode_datasets({"train": Selection(broken, 8)})


def test_rows_that_are_left_out_are_as_if_not_there(tmp_path, way):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    encoded = [encode_png(image) for image in pixels]
    encoded[3], encoded[20] = b"", encoded[20][:40]
    dataset = write(tmp_path / "some", encoded, sample_id=np.arange(100, 140))
    selection = Selection(dataset, 8, rows=30)
    found = sorted((fault.row, fault.sample_id) for fault in find_faults({"some": selection}))
    assert found == [(3, 103), (20, 120)]
    selection = replace(selection, left_out=(3, 20))
    rows = np.delete(np.arange(30), [3, 20])
    arrays = decode_datasets({"some": selection})["some"]
    assert len(selection) == 28
    assert (arrays.images == pixels[rows].transpose(0, 3, 1, 2)).all()
    assert (arrays.labels == rows % 3).all()
    assert (arrays.sample_ids == rows + 100).all()
    blocks = list(encoded_blocks("some", selection, size=9))
    assert [row for block in blocks for row in block["row"].to_pylist()] == list(range(28))


def test_builtin_digits(tmp_path, monkeypatch):
    monkeypatch.setenv("RTK_CACHE", str(tmp_path))
    rows = {
        name: open_dataset(resolve_path(f"builtin:digits/{name}.parquet")).rows
        for name in ("train", "validation", "test", "near_digits89", "far_photos")
    }
    assert rows == {"train": 865, "validation": 145, "test": 433, "near_digits89": 354, "far_photos": 400}
    with pytest.raises(ValueError, match="no such file, there are .*train.parquet"):
        resolve_path("builtin:digits/trian.parquet")


@pytest.mark.parametrize(
    ("crop_share", "interpolation"), [(1.0, "bilinear"), (0.95, "bicubic"), (0.875, "bilinear")]
)
@pytest.mark.parametrize("size", [(61, 43), (40, 40), (300, 200)])
def test_evaluation_images_are_timms(crop_share, interpolation, size):
    timm_data = pytest.importorskip("timm.data")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    transform = timm_data.create_transform(
        32, interpolation=interpolation, crop_pct=crop_share, mean=(0, 0, 0), std=(1, 1, 1)
    )
    wanted = (transform(image) * 255).round().byte().permute(1, 2, 0).numpy()
    assert (np.asarray(resize_and_crop(image, 32, crop_share, interpolation)) == wanted).all()
