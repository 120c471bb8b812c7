from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rtk.data.check.findings import distance_from_usual, findings
from rtk.data.check.survey import survey
from rtk.data.sets.dataset import open_dataset


def scene(seed, width=40, height=40, encoding="PNG"):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, encoding)
    return buffer.getvalue()


@pytest.fixture
def seen(make_parquet):
    """Training and test images: a copy over both, one labelled twice, exact copies, odd and broken ones."""
    images = [scene(seed) for seed in range(30)]
    images += [scene(3, encoding="JPEG"), scene(4), b"", scene(31, 200, 200), scene(32, 40, 9)]
    labels = [row % 2 for row in range(30)] + [0, 0, 1, 1, 1]
    paths = [f"{row}.png" for row in range(35)]
    train = make_parquet(images, labels, file="train/train.parquet", path=paths)
    # The same classes in another order, and no paths.
    test = make_parquet([scene(0, 30, 30), scene(40)], [1, 1], classes=("b", "a"), file="test/test.parquet")
    calls = []
    datasets = {"train": open_dataset(train), "test": open_dataset(test)}
    result = survey(datasets, lambda *call: calls.append(call))
    assert calls[-1] == (37, 37)
    return result


def test_what_is_kept_of_each_image(seen):
    assert seen.classes == ("a", "b")
    assert seen.labels[[0, 1, 35, 36]].tolist() == [0, 1, 0, 0]
    assert "another order" in seen.notes["test"]
    assert seen.sizes[[0, 32, 33, 34]].tolist() == [[40, 40], [0, 0], [200, 200], [40, 9]]
    assert seen.broken == {32: "empty (0 bytes)"}
    assert (seen.paths[5], seen.paths[36]) == ("5.png", None)
    assert seen.numbers_of("test").tolist() == [35, 36]
    assert 32 not in seen.decodable
    assert seen.read({3, 36}) == {3: scene(3), 36: scene(40)}


def test_duplicates_over_sets_come_first(seen):
    groups = [
        (group.images.tolist(), group.exact, group.over_sets, group.differs)
        for group in findings(seen).duplicates
    ]
    assert groups == [
        ([0, 35], False, True, False),
        ([3, 30], False, False, True),
        ([4, 31], True, False, False),
    ]


def test_odd_sizes(seen):
    assert [(odd.image, odd.kind) for odd in findings(seen).odd] == [(34, "wide"), (33, "large")]


def test_classes(seen):
    found = findings(seen)
    assert found.counts.tolist() == [[17, 2], [18, 0]]
    assert (found.balance["train"].min, found.balance["test"].empty) == (17, ("b",))
    assert found.rare == ()


def test_rare_classes(make_parquet):
    labels = [0] * 200 + [1] * 12 + [2] * 200 + [3] * 9
    path = make_parquet([scene(0)] * len(labels), labels, classes=("a", "b", "c", "d"))
    found = findings(survey({"all": open_dataset(path)}, lambda done, total: None))
    assert found.rare == ("d",)
    assert [len(group.images) for group in found.duplicates] == [421]


def test_what_varies_widely_is_not_odd():
    usual = np.log(np.linspace(50, 1000, 100))
    assert not distance_from_usual(usual, usual, np.log(3)).any()
    assert distance_from_usual(np.log([20, 100, 400]), np.log(np.full(9, 100)), np.log(3)) == pytest.approx(
        [np.log(0.2) / np.log(3), 0, np.log(4) / np.log(3)]
    )
    assert distance_from_usual(np.ones(2), np.empty(0), 1.0).tolist() == [0, 0]


def test_other_classes_are_refused(make_parquet):
    paths = [
        make_parquet([scene(0)], [0], classes=names, file=f"{names[0]}/x.parquet")
        for names in (("a", "b"), ("c", "b"))
    ]
    datasets = {path.parent.name: open_dataset(path) for path in paths}
    with pytest.raises(ValueError, match="'c', and lack 'a'.*--labels-by number"):
        survey(datasets, lambda done, total: None)
    assert "c" in survey(datasets, lambda done, total: None, by_number=True).notes["c"]
