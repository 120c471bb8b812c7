import numpy as np
import pytest
import torch

from rtk.config.load import build_config
from rtk.data.decode.arrays import ImageArrays
from rtk.data.order import epoch_order, rank_batch
from rtk.data.views.fractals import render_fractals
from rtk.data.views.maker import ViewMaker
from rtk.objectives import TERMS, view_makers

NAMES = tuple(dict.fromkeys(term.view.name for term in TERMS.values()))
CLASSES = 5
DATA = build_config({"data": {"train": "unused"}}).data


@pytest.fixture(scope="module")
def maker():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (48, 3, 32, 32), dtype=np.uint8)
    train = ImageArrays(images, generator.integers(0, CLASSES, 48), np.arange(1000, 1048))
    config = build_config({"data": {"train": "unused"}})
    outliers = generator.integers(0, 256, (9, 3, 32, 32), dtype=np.uint8)
    pictures = render_fractals(8, 36, 0)
    return ViewMaker(train, pictures, CLASSES, config.data, view_makers(config.objective), 7, outliers)


def by_row(maker, batches, epoch):
    """Views of every row, from whichever batch it came in."""
    found = {}
    for rows in batches:
        views = maker(rows, epoch, NAMES)
        for place, row in enumerate(rows):
            found[int(row)] = {
                name: (views[name].images[place], views[name].targets[place]) for name in NAMES
            }
    return found


@pytest.mark.parametrize(("ranks", "batch", "threads"), [(1, 16, 1), (2, 16, 1), (4, 8, 1), (1, 48, 2)])
def test_views_depend_on_seed_epoch_and_sample_alone(maker, ranks, batch, threads):
    order = epoch_order(7, 1, 48)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    cut = [
        rank_batch(order, step, batch, rank, ranks) for step in range(48 // batch) for rank in range(ranks)
    ]
    ours, whole = by_row(maker, cut, 1), by_row(maker, [np.arange(48)], 1)
    torch.set_num_threads(before)
    for row in range(48):
        for name in NAMES:
            for one, other in zip(ours[row][name], whole[row][name], strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_another_epoch_gives_other_views(maker):
    one, other = (maker(np.arange(48), epoch, NAMES) for epoch in (0, 1))
    for name in NAMES:
        same = (one[name].images == other[name].images).flatten(1).all(1)
        assert same.float().mean() < 0.2


def test_label_mass_is_one_and_images_are_in_range(maker):
    views = maker(np.arange(48), 0, NAMES)
    for name in ("mixed", "cutmix", "openmix", "mixoe"):
        assert torch.allclose(views[name].targets.sum(1), torch.ones(48))
        assert views[name].targets.min() >= 0
    for view in views.values():
        assert view.images.dtype == torch.float32
        assert view.images.min() >= 0
        assert view.images.max() <= 1


def test_only_the_asked_views_are_made(maker):
    assert set(maker(np.arange(4), 0, {"clean"})) == {"clean"}


def test_pixmix_without_pictures_is_refused(maker):
    bare = ViewMaker(maker.train, None, CLASSES, build_config({"data": {"train": "x"}}).data, maker.makers, 0)
    with pytest.raises(ValueError, match="pictures"):
        bare(np.arange(4), 0, {"pixmix"})


def test_redrawn_views_are_other_ones_of_the_same_clean_images(maker):
    one, other = (maker(np.arange(48), 0, NAMES, redraw) for redraw in (0, 1))
    torch.testing.assert_close(one["clean"].images, other["clean"].images, rtol=0, atol=0)
    for name in ("mixed", "cutmix", "pixmix", "openmix", "mixoe"):
        same = (one[name].images == other[name].images).flatten(1).all(1)
        assert same.float().mean() < 0.3


def test_resized_crops_have_the_size_that_the_model_sees(maker):
    data = {"train": "unused", "image_size": 28, "decode_size": 32, "augment": {"crop": "resized"}}
    config = build_config({"data": data})
    resized = ViewMaker(maker.train, maker.mixing, CLASSES, config.data, view_makers(config.objective), 7)
    views = resized(np.arange(6), 0, {"clean", "mixed", "pixmix"})
    assert {view.images.shape for view in views.values()} == {(6, 3, 28, 28)}


def test_openmix_gives_the_outliers_share_to_the_last_class(maker):
    maker = ViewMaker(maker.train, None, CLASSES + 1, DATA, maker.makers, 7, maker.outliers.numpy())
    view = maker(np.arange(48), 0, {"openmix"})["openmix"]
    own = view.targets.gather(1, torch.from_numpy(maker.train.labels)[:, None])[:, 0]
    torch.testing.assert_close(view.targets[:, -1], 1 - own)
    assert ((own > 0.1) & (own < 0.9)).all()


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixoe_targets_fall_with_the_outliers_share(maker, mix):
    tree = {"data": {"train": "x", "outliers": "x"}, "objective": {"mixoe": {"mix": mix, "alpha": 10}}}
    makers = view_makers(build_config(tree).objective)
    maker = ViewMaker(maker.train, None, CLASSES, DATA, makers, 7, maker.outliers.numpy())
    view = maker(np.arange(48), 0, {"mixoe"})["mixoe"]
    labels = torch.from_numpy(maker.train.labels)
    others = view.targets.clone().scatter_(1, labels[:, None], 2.0).amin(1)
    own = view.targets.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(own + (CLASSES - 1) * others, torch.ones(48))
    assert (own > others).all()


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_views_of_images_in_any_memory_layout(maker, crop):
    images = np.ascontiguousarray(maker.train.images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    strided = ImageArrays(images, maker.train.labels, maker.train.sample_ids)
    data = build_config({"data": {"train": "x", "augment": {"crop": crop}}}).data
    plain, other = (
        ViewMaker(train, maker.mixing, CLASSES, data, maker.makers, 7, maker.outliers.numpy())
        for train in (maker.train, strided)
    )
    for name, view in other(np.arange(48), 0, NAMES).items():
        torch.testing.assert_close(view.images, plain(np.arange(48), 0, {name})[name].images)
