"""Validation metrics of an epoch against the metric functions themselves."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rtk.config import load_config
from rtk.data.decode.arrays import ImageArrays
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset, read_rows
from rtk.data.sets.of_run import RunSets
from rtk.data.views.augment import to_float
from rtk.metrics import ds_aurc, ds_f1, ood_detection
from rtk.models import build_model
from rtk.scores.logits import energy, msp
from rtk.train.state import TrainState
from rtk.train.validate import validate, validation_batches


def arrays(count: int, seed: int) -> ImageArrays:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return ImageArrays(images, generator.integers(0, 8, count), np.arange(count))


def test_batchnorm_statistics_do_not_come_from_images_of_one_class():
    images = np.repeat(np.arange(4, dtype=np.uint8), 32)[:, None, None, None] * np.ones((3, 2, 2), np.uint8)
    sorted_by_class = ImageArrays(images, np.repeat(np.arange(4), 32), np.arange(128))
    model = build_model(load_config("digits_ce", ["model.width=4"]).model, 8, 32)
    batches = [(255 * batch[:, 0, 0, 0]).round() for batch in validation_batches(model, sorted_by_class, 32)]
    assert [len(batch) for batch in batches] == [32] * 4
    assert all(len(batch.unique()) == 4 for batch in batches)
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(4.0).repeat_interleave(32))


def test_ood_metrics_are_means_over_the_sets_of_a_group():
    config = load_config("digits_ce", ["model.width=4"])
    torch.manual_seed(0)
    model = build_model(config.model, 8, 32).eval()
    known, near = arrays(40, 0), {"a": arrays(30, 1), "b": arrays(20, 2)}
    near["b"] = replace(near["b"], labels=near["b"].labels + 1000)  # classes of its own
    sets = RunSets(train=arrays(8, 3), validation=known, validation_near_ood=near)
    state = TrainState(SimpleNamespace(module=model), None, {}, [], [])
    found = validate(state, sets, 16, False, config.evaluate)

    def scores(part):
        with torch.no_grad():
            logits = model.eval()(to_float(torch.from_numpy(part.images))).double()
        return msp(logits).numpy(), energy(logits).numpy(), (logits.argmax(1).numpy() == part.labels)

    confidence, score, correct = scores(known)
    others = [scores(part) for part in near.values()]
    assert found["val/accuracy"] == pytest.approx(correct.mean())
    expected = np.mean([ood_detection(score, s)["auroc"] for _, s, _ in others])
    assert found["val/auroc_near"] == pytest.approx(expected, abs=1e-6)
    for name, metric in (("ds_f1", ds_f1), ("ds_aurc", ds_aurc)):
        expected = np.mean([metric(confidence, score, correct, c, s) for c, s, _ in others])
        assert found[f"val/{name}_near"] == pytest.approx(
            expected, abs=0.03
        )  # near ties: fp32 batches differ
    assert not any(key.endswith("_far") for key in found)


def test_validation_sets_of_the_digits_share_no_image_with_the_test_sets():
    config = load_config("digits_ce")
    tests = [config.data.test, *config.data.near_ood.values(), *config.data.far_ood.values()]
    tuned = [*config.data.validation_near_ood.values(), *config.data.validation_far_ood.values()]

    def images(paths):
        sets = [open_dataset(resolve_path(path), need_classes=False) for path in paths]
        return {row.image for dataset in sets for row in read_rows(dataset)}

    assert len(tuned) == 2
    assert not images(tests) & images(tuned)
