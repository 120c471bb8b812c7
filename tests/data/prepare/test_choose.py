"""Some classes and images of a prepared set."""

import numpy as np
import pytest
from PIL import Image

from rtk.data.prepare.choose import balanced_rows, choose_images
from rtk.data.prepare.prepare import prepare
from rtk.data.sets.dataset import labels, open_dataset, read_rows


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Six ants, four bees and two cats, whose grey level is their place in the folder."""
    folder = tmp_path_factory.mktemp("photos")
    for name, count in {"ant": 6, "bee": 4, "cat": 2}.items():
        (folder / name).mkdir()
        for number in range(count):
            Image.new("L", (8, 8), 20 * number).save(folder / name / f"{number}.png")
    return open_dataset(prepare(folder, folder.parent / "sets").out)


def test_kept_classes_are_numbered_anew_and_keep_bytes_ids_and_paths(prepared, tmp_path):
    assert choose_images(prepared, ["cat", "ant"], tmp_path / "some", "train") == 8
    made = open_dataset(tmp_path / "some/train.parquet")
    assert made.classes == ("cat", "ant")
    before = {row.sample_id: row for row in read_rows(prepared)}
    for row in read_rows(made):
        old = before[row.sample_id]
        assert (row.image, row.path) == (old.image, old.path)
        assert made.classes[row.label] == prepared.classes[old.label]


def test_at_most_so_many_are_drawn_from_each_class_in_turn(prepared, tmp_path):
    choose_images(prepared, ["ant", "bee", "cat"], tmp_path, "few", 8)
    assert np.bincount(labels(open_dataset(tmp_path / "few.parquet"))).tolist() == [3, 3, 2]
    values = np.array([0] * 50 + [1] * 50)
    draws = [balanced_rows(values, [0, 1], 10, seed) for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert all((np.diff(rows) > 0).all() for rows in draws)
    assert len(balanced_rows(values, [1], None, 0)) == 50


def test_bad_arguments(prepared, tmp_path):
    with pytest.raises(ValueError, match="has no class 'dog', wanted of ant, bee, cat"):
        choose_images(prepared, ["dog"], tmp_path, "train")
    choose_images(prepared, ["ant"], tmp_path, "ants")
    (tmp_path / "classes.json").write_text('{"classes": ["ant", "bee"]}')  # one without an image
    ants = open_dataset(tmp_path / "ants.parquet")
    with pytest.raises(ValueError, match="no image is of bee"):
        choose_images(ants, ["bee"], tmp_path, "bees")
