import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from rtk.data.views.augment import RESIZED_CROP_DRAWS, crop_boxes, crop_flip, random_resized_crop, to_float
from rtk.data.views.draws import randint, uniforms


def random_images(n, height=32, width=32):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, height, width), dtype=np.uint8))


def as_pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def smooth_images(n, height, width):
    small = np.random.default_rng(0).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return torch.stack(
        [as_tensor(Image.fromarray(x).resize((width, height), Image.Resampling.BICUBIC)) for x in small]
    )


@pytest.mark.parametrize(("height", "width", "padding"), [(32, 32, 4), (7, 12, 3), (9, 9, 0)])
def test_crop_flip_equals_pillow(height, width, padding):
    images, u = random_images(50, height, width), uniforms(0, 0, np.arange(50), "crop", 3)
    result = crop_flip(images, u, padding)
    for image, (row, column, mirror), got in zip(images, u, result, strict=True):
        top, left = randint(row, 2 * padding + 1), randint(column, 2 * padding + 1)
        wanted = ImageOps.expand(as_pillow(image), padding).crop((left, top, left + width, top + height))
        wanted = ImageOps.mirror(wanted) if mirror < 0.5 else wanted
        assert torch.equal(got, as_tensor(wanted))


def test_crop_flip_without_flip_or_padding_is_the_image():
    images = random_images(8)
    assert torch.equal(crop_flip(images, np.zeros((8, 3)), padding=0, flip=False), images)


def test_views_do_not_depend_on_the_batch_but_on_the_epoch():
    images, ids = random_images(30, 48, 40), np.arange(30)
    order = np.random.default_rng(1).permutation(30)[:11]
    for count, view in ((3, crop_flip), (RESIZED_CROP_DRAWS, lambda x, u: random_resized_crop(x, u, 24))):
        together = view(images, uniforms(0, 2, ids, "crop", count))
        part = view(images[order], uniforms(0, 2, ids[order], "crop", count))
        assert torch.equal(part, together[order])
        later = view(images, uniforms(0, 3, ids, "crop", count))
        assert (together != later).flatten(1).any(1).float().mean() > 0.9


def test_random_resized_crop_equals_pillow_within_one_grey_level():
    images, u = smooth_images(20, 60, 80), uniforms(0, 0, np.arange(20), "crop", RESIZED_CROP_DRAWS)
    result = random_resized_crop(images, u, 32)
    boxes = crop_boxes(np.full(20, 60), np.full(20, 80), u, (0.08, 1.0), (3 / 4, 4 / 3))
    for image, (top, left, height, width), mirror, got in zip(
        images, boxes, u[:, -1] < 0.5, result, strict=True
    ):
        part = as_pillow(image).crop((left, top, left + width, top + height))
        wanted = part.resize((32, 32), Image.Resampling.BILINEAR)
        wanted = as_tensor(ImageOps.mirror(wanted) if mirror else wanted)
        assert (got.int() - wanted.int()).abs().max() <= 1


def test_random_resized_crop_takes_images_of_any_sizes():
    images = [random_images(1, 30, 50)[0], random_images(1, 90, 20)[0]]
    u = uniforms(0, 0, np.arange(2), "crop", RESIZED_CROP_DRAWS)
    together = random_resized_crop(images, u, 16)
    assert together.shape == (2, 3, 16, 16)
    for i, image in enumerate(images):
        assert torch.equal(random_resized_crop(image[None], u[i : i + 1], 16)[0], together[i])


def test_crop_boxes_lie_inside_with_the_area_and_ratio_asked_for():
    n = 5000
    heights, widths = np.full(n, 300), np.full(n, 400)
    top, left, height, width = crop_boxes(
        heights, widths, uniforms(0, 0, np.arange(n), "crop", RESIZED_CROP_DRAWS), (0.1, 0.5), (0.5, 2)
    ).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    area, ratio = height * width / (300 * 400), width / height
    assert 0.098 < area.min() < 0.11
    assert 0.48 < area.max() < 0.51
    assert 0.49 < ratio.min() < 0.52
    assert 1.9 < ratio.max() < 2.02
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.05)


def test_crop_boxes_fall_back_to_the_centre():
    u = np.full((2, RESIZED_CROP_DRAWS), 0.5)
    boxes = crop_boxes(np.array([10, 100]), np.array([100, 10]), u, (1.0, 1.0), (3 / 4, 4 / 3))
    assert boxes.tolist() == [[0, 43, 10, 13], [43, 0, 13, 10]]


def test_to_float():
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crop_flip(random_images(2).float(), np.zeros((2, 3))), "images: got torch.float32"),
        (lambda: crop_flip(random_images(2), np.zeros((3, 3))), "u: got shape"),
        (lambda: crop_flip(random_images(2), np.zeros((2, 3)), padding=-1), "padding: got -1"),
        (lambda: random_resized_crop(random_images(2), np.zeros((2, 3)), 8), "u: got shape"),
        (lambda: crop_boxes(np.ones(1), np.ones(1), np.zeros((1, 23)), (0.5, 0.1), (1, 1)), "scale, ratio"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
