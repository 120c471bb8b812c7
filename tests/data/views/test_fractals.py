import numpy as np
import pytest

from rtk.data.views.fractals import render_fractals


@pytest.fixture(scope="module")
def pictures():
    return render_fractals(48, 32, seed=0)


def test_shape_and_type(pictures):
    assert pictures.shape == (48, 3, 32, 32)
    assert pictures.dtype == np.uint8


def test_a_larger_set_starts_with_the_smaller_one(pictures):
    np.testing.assert_array_equal(render_fractals(5, 32, seed=0), pictures[:5])


def test_another_seed_gives_other_pictures(pictures):
    assert (render_fractals(4, 32, seed=1) != pictures[:4]).any((1, 2, 3)).all()


def test_pictures_are_colourful_structured_and_varied(pictures):
    pixels = pictures.astype(float)
    assert (pixels.std((2, 3)).max(1) > 20).all()
    assert (np.ptp(pixels, axis=1).mean((1, 2)) > 15).all()  # channels differ: not grey
    assert (np.abs(np.diff(pixels, axis=3)).mean((1, 2, 3)) > 3).all()  # edges: not blank
    flat = pixels.reshape(48, -1)
    distances = np.abs(flat[:, None] - flat[None]).mean(-1)[~np.eye(48, dtype=bool)]
    assert distances.min() > 20


@pytest.mark.parametrize("size", [1, 2, 33])
def test_any_size(size):
    assert render_fractals(2, size, seed=0).shape == (2, 3, size, size)


def test_no_pictures():
    assert render_fractals(0, 8, seed=0).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(("count", "size"), [(-1, 8), (1, 0)])
def test_bad_arguments(count, size):
    with pytest.raises(ValueError, match="count, size"):
        render_fractals(count, size, seed=0)
