from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from rtk.data.image import BadImageError
from rtk.data.sets import duplicates
from rtk.data.sets.duplicates import DISTANCE, components, group_rows, near_duplicates
from rtk.data.sets.fingerprint import Fingerprints, look_at, look_at_each


def scene(seed, side=64):
    """A picture of some blurred patches, which copies can be told to be of."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image, encoding="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, encoding, **options)
    return buffer.getvalue()


COPIES = {
    "compressed": lambda image: encoded(image, "JPEG", quality=40),
    "smaller": lambda image: encoded(image.resize((32, 32))),
    "larger": lambda image: encoded(image.resize((200, 200)), "JPEG"),
    "brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.1), "WEBP"),
    "darker": lambda image: encoded(ImageEnhance.Brightness(image).enhance(0.85)),
}


def prints_of(images):
    prints = Fingerprints.for_images(len(images))
    for row, (_, look) in enumerate(look_at_each(images, lambda image: image)):
        prints.put(row, look)
    return prints


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_found_and_nothing_else(copy):
    scenes = [scene(seed) for seed in range(60)]
    prints = prints_of([encoded(image) for image in scenes] + [COPIES[copy](image) for image in scenes])
    assert near_duplicates(prints).tolist() == [[row, row + 60] for row in range(60)]


def test_colour_and_brightness_tell_pictures_apart():
    plain = [
        Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "black", "grey", "white", "red")
    ]
    assert near_duplicates(prints_of([encoded(image) for image in plain])).tolist() == [[0, 5]]
    turned = [scene(0), scene(0).transpose(Image.Transpose.ROTATE_90)]
    assert len(near_duplicates(prints_of([encoded(image) for image in turned]))) == 0


def test_no_pair_within_the_distance_is_missed(monkeypatch):
    monkeypatch.setattr(duplicates, "_CODES", 50)  # several slices
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 2**64, 40, dtype=np.uint64).repeat(10)
    for _ in range(4):
        codes ^= np.uint64(1) << generator.integers(0, 64, len(codes)).astype(np.uint64)
    codes = np.unique(codes)
    one, other = np.nonzero(np.triu(np.bitwise_count(codes[:, None] ^ codes[None]) <= DISTANCE, 1))
    assert len(one) > 100
    assert duplicates._close_codes(codes).tolist() == np.stack([one, other], 1).tolist()


def test_thousands_of_one_picture_are_one_group_without_all_pairs():
    prints = Fingerprints.for_images(5000)
    prints.thumbs[:] = look_at(encoded(scene(0))).thumb
    pairs = near_duplicates(prints)
    assert len(pairs) < 100_000  # of 12 million
    assert (components(pairs, 5000) == 0).all()


def test_groups_are_what_pairs_connect():
    groups = components(np.array([[1, 4], [4, 2], [0, 5]]), 7)
    assert [rows.tolist() for rows in group_rows(groups)] == [[0, 5], [1, 2, 4]]
    assert group_rows(components(np.empty((0, 2), int), 3)) == []
    assert len(near_duplicates(Fingerprints.for_images(0))) == 0
    assert len(near_duplicates(Fingerprints.for_images(1))) == 0


def test_photographs_are_looked_at_small_but_whole():
    large = scene(1, 1000)
    look = look_at(encoded(large, "JPEG", quality=90))
    assert look.size == (1000, 1000)
    whole = look_at(encoded(large))
    assert int(look.code ^ whole.code).bit_count() <= 2
    assert abs(look.thumb.astype(int) - whole.thumb).mean() < 2


def test_phone_pictures_are_looked_at_upright():
    upright = scene(2).resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert look_at(turned).size == (64, 48)
    assert near_duplicates(prints_of([encoded(upright), turned])).tolist() == [[0, 1]]


def test_broken_images_say_why(photo):
    looks = [look for _, look in look_at_each([photo, photo[: len(photo) // 2], b""], lambda data: data)]
    assert looks[0].size == (48, 40)
    assert "truncated" in looks[1]
    assert looks[2] == "empty (0 bytes)"
    with pytest.raises(BadImageError):
        look_at(b"")
