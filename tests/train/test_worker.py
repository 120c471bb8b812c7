"""What a worker does when it cannot go on."""

from __future__ import annotations

import math
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rtk.config import ConfigError, load_config
from rtk.data.decode.arrays import ImageArrays
from rtk.data.sets.of_run import RunSets
from rtk.objectives import active_terms
from rtk.runs.folder import RunFolder
from rtk.train import worker
from rtk.train.job import TrainingData, TrainingJob


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job whose state cannot be built, as with weights that are missing on one node."""

    def build_state(*_):
        raise ValueError("model.weights: no such file")

    monkeypatch.setattr(worker, "build_state", build_state)
    run = RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]))
    return TrainingJob(str(run.path), run.config_tree(), 8, 100, resume=False)


def test_alone_it_says_so(job):
    assert worker.run_job(job, None, None, None) == {
        "status": "failed",
        "message": "model.weights: no such file",
    }


def test_among_others_it_ends_them_and_the_next_start_says_so(job, monkeypatch):
    monkeypatch.setattr(worker, "world_size", lambda: 2)
    with pytest.raises(ValueError, match="no such file"):
        worker.run_job(job, None, None, None)
    assert worker.run_job(job, None, None, None)["message"] == "model.weights: no such file"


def test_the_learning_rate_of_swa_leaves_its_course_and_stays_constant(job):
    """SURE's CIFAR schedule: a cosine over 200 epochs, left at 120 for ten epochs of annealing to 0.05."""
    changes = ["train.duration=200ep", "train.batch_size=10", "optimizer.lr=0.1", "averaging.kind=swa"]
    changes += ["averaging.start=120ep", "schedule.swa_lr=0.05"]
    tree = load_config("digits_ce", changes).model_dump(mode="json")
    swa = TrainingJob(job.run_path, tree, 8, 100, resume=False)
    epochs = (0, 100, 120, 125, 130, 199)
    rates = [worker.rate_at(swa.config, epoch * swa.steps_per_epoch, swa) for epoch in epochs]
    left = 0.05 * (1 + math.cos(math.pi * 0.6))
    assert rates == pytest.approx([0.1, 0.05, left, (left + 0.05) / 2, 0.05, 0.05])
    with pytest.raises(ConfigError, match=r"schedule.swa_lr: got 0.05 with averaging.kind ema"):
        load_config("digits_ce", [*changes, "averaging.kind=ema"])


@pytest.mark.parametrize(("redraw", "others"), [("true", {"mixed", "pixmix"}), ("mixup", {"mixed"})])
def test_the_views_of_the_second_pass_that_are_drawn_anew(job, redraw, others):
    config = load_config("digits_demo", [f"sharpness.redraw_views={redraw}", "train.batch_size=4"])
    again = TrainingJob(job.run_path, config.model_dump(mode="json"), 8, 12, resume=False)
    generator = np.random.default_rng(0)
    images, pictures = (generator.integers(0, 256, (12, 3, side, side), dtype=np.uint8) for side in (32, 36))
    train, mixing = (ImageArrays(those, np.arange(12) % 8, np.arange(12)) for those in (images, pictures))
    terms = active_terms(config.objective)
    state = SimpleNamespace(terms_at=lambda step: terms, ascent_at=lambda step: object() if step else None)
    data = TrainingData(RunSets(train=train, mixing=mixing))
    plain, ascending = islice(worker._batches(again, data, state, torch.device("cpu"), 0), 2)
    assert plain[1] is None
    views, redrawn = ascending
    assert redrawn.keys() == views.keys() == {"clean", "mixed", "pixmix"}
    assert {name for name in views if not torch.equal(views[name].images, redrawn[name].images)} == others
