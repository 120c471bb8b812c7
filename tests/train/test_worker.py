"""What a worker does when it cannot go on."""

from __future__ import annotations

import pytest

from rtk.config import load_config
from rtk.runs.folder import RunFolder
from rtk.train import worker
from rtk.train.job import TrainingJob


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
