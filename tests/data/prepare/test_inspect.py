from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rtk.data.prepare.inspect import contact_sheet, inspect_dataset
from rtk.data.sets.dataset import open_dataset


def test_counts_sizes_and_duplicates(make_parquet, png):
    images = [png(0), png(1, 4, 12), png(0), png(0), b"broken"]
    report = inspect_dataset(make_parquet(images, [0, 0, 0, 1, 0], classes=["a", "b", "c"]))
    assert (report.rows, report.looked_at, report.classes, report.class_counts) == (
        5,
        5,
        ("a", "b", "c"),
        (4, 1, 0),
    )
    assert (report.balance.min, report.balance.median, report.balance.max) == (0, 1.0, 4)
    assert (report.balance.imbalance, report.balance.empty) == (4.0, ("c",))
    assert report.bytes == sum(map(len, images))
    assert report.sizes == {"8x8": 3, "12x4": 1}
    assert (report.width, report.height) == ((8, 12), (4, 8))
    assert (report.modes, report.encodings) == ({"RGB": 4}, {"PNG": 4})
    assert (report.duplicates, report.conflicts, report.unreadable) == (2, 1, 1)


def test_sample_is_repeatable_and_counts_all_labels(make_parquet, png):
    path = make_parquet([png(seed, 8, 8 + seed) for seed in range(20)], [0, 1] * 10)
    first = inspect_dataset(path, sample=5)
    assert (first.looked_at, sum(first.sizes.values()), first.class_counts) == (5, 5, (10, 10))
    assert inspect_dataset(path, sample=5) == first
    assert inspect_dataset(path, sample=5, seed=1) != first
    assert inspect_dataset(path, sample=100).looked_at == 20


def test_without_class_names(make_parquet, png):
    report = inspect_dataset(make_parquet([png()] * 2, [0, 2], classes=None))
    assert (report.classes, report.class_counts) == (("0", "1", "2"), (1, 0, 1))


def test_nothing_readable(make_parquet):
    report = inspect_dataset(make_parquet([b"x"], [0]))
    assert (report.unreadable, report.width, report.sizes) == (1, None, {})


def test_contact_sheet_shows_images_and_names(make_parquet, png):
    name = "a very long class name that cannot fit"
    red = Image.new("RGB", (10, 5), "red")
    buffer = BytesIO()
    red.save(buffer, format="PNG")
    dataset = open_dataset(make_parquet([buffer.getvalue(), b"broken"], [0, 0], classes=[name]))
    sheet = np.array(contact_sheet(dataset, rows=2, columns=3))
    assert sheet.shape == (224, 288, 3)
    assert sheet[48, 48].tolist() == [255, 0, 0]
    assert sheet[48, 96 + 48].tolist() == [128, 128, 128]
    assert (sheet[96:112, :96] < 128).any()
    assert (sheet[112:] == 255).all()
    assert (sheet[96:112, 94:98] == 255).all()  # captions stay in their cells


def test_contact_sheet_is_repeatable(make_parquet, png):
    dataset = open_dataset(make_parquet([png(seed) for seed in range(30)], [0] * 30))
    sheets = [np.array(contact_sheet(dataset, 2, 2, seed)) for seed in (0, 0, 1)]
    assert np.array_equal(sheets[0], sheets[1])
    assert not np.array_equal(sheets[0], sheets[2])
    with pytest.raises(ValueError, match="got 0, 2"):
        contact_sheet(dataset, 0, 2)


def test_real_data(rtk_data):
    report = inspect_dataset(rtk_data / "cifar100/test.parquet", sample=300)
    assert (report.rows, report.balance.min, report.balance.max) == (10_000, 100, 100)
    assert (report.sizes, report.encodings) == ({"32x32": 300}, {"PNG": 300})
