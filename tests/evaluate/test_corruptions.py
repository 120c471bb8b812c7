"""Common corruptions: deterministic by image, of growing effect, and refused where they cannot be made."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rtk.config import ConfigError
from rtk.evaluate.corruptions import (
    SEVERITIES,
    TYPES,
    check_corruptions,
    corrupt_image,
    measured_with,
    read_rows,
    summarise,
    write_rows,
)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A smooth picture (32, 32, 3) with an edge: blur, noise and contrast all show."""
    pytest.importorskip("imagecorruptions")
    x, y = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32))
    picture = np.stack([x, y, (x > 0.5) * 0.8], axis=2)
    return (picture * 200 + 20).astype(np.uint8)


def test_types_are_the_librarys_common_ones():
    library = pytest.importorskip("imagecorruptions")
    assert list(TYPES) == library.get_corruption_names("common")


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_changes_the_image_and_depends_on_its_id_alone(photo, kind):
    before = np.random.get_state()[1].copy()
    first = corrupt_image(photo, kind, 3, sample_id=7)
    np.random.random(5)
    assert first.shape == photo.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, photo)
    np.testing.assert_array_equal(corrupt_image(photo, kind, 3, sample_id=7), first)
    np.random.set_state(("MT19937", before, 624, 0, 0.0))
    state = np.random.get_state()[1].copy()
    corrupt_image(photo, kind, 1, sample_id=1)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # the caller's generator is left alone


@pytest.mark.parametrize("kind", ["gaussian_noise", "impulse_noise", "glass_blur", "snow"])
def test_random_types_differ_between_images(photo, kind):
    one, other = (corrupt_image(photo, kind, 3, sample_id=number) for number in (1, 2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", ["gaussian_noise", "defocus_blur", "contrast", "brightness"])
def test_effect_grows_with_severity(photo, kind):
    effects = [
        np.abs(corrupt_image(photo, kind, severity, 0).astype(float) - photo).mean()
        for severity in SEVERITIES
    ]
    assert effects == sorted(effects)
    assert effects[-1] > 1.3 * effects[0]


def test_missing_library_and_small_images_are_refused(monkeypatch):
    pytest.importorskip("imagecorruptions")
    with pytest.raises(ConfigError, match="got data.image_size 28, wanted 32 or more"):
        check_corruptions(28)
    check_corruptions(32)
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ConfigError, match=r"reliability-toolkit\[corruptions\]"):
        check_corruptions(32)


def test_rows_are_written_read_and_summarised(tmp_path):
    rows = [
        {"step": 8, "corruption": "none", "severity": 0, "images": 9, "accuracy": 1.0, "aurc": 0.0},
        {
            "step": 8,
            "corruption": "fog",
            "severity": 1,
            "images": 9,
            "accuracy": 0.8,
            "aurc": 0.1,
            "auroc_errors": 0.7,
        },
        {
            "step": 8,
            "corruption": "fog",
            "severity": 2,
            "images": 9,
            "accuracy": 0.6,
            "aurc": 0.3,
            "auroc_errors": 0.5,
        },
    ]
    assert read_rows(tmp_path, 8) == []
    write_rows(tmp_path, rows)
    assert read_rows(tmp_path, 8) == rows
    assert read_rows(tmp_path, 9) == []  # of another checkpoint
    one, other = ({"measured_on": {"test": {"data": data}}, "confidence": "msp"} for data in ("aa", "bb"))
    write_rows(tmp_path, [{**measured_with(one), **row} for row in rows])
    assert [row["corruption"] for row in read_rows(tmp_path, 8, measured_with(one))] == ["none", "fog", "fog"]
    assert read_rows(tmp_path, 8, measured_with(other)) == []  # of another test set
    assert read_rows(tmp_path, 8, measured_with({**one, "confidence": "energy"})) == []
    assert measured_with({"confidence": "msp"}) == {}  # an older evaluation does not say
    assert summarise(rows) == pytest.approx({"accuracy": 0.7, "aurc": 0.2, "auroc_errors": 0.6})
    assert "auroc_errors" not in summarise(
        [rows[1], {**rows[2], "severity": 2} | {}, rows[0] | {"severity": 3}]
    )
