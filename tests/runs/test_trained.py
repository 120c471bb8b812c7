import pytest

from rtk.config import load_config
from rtk.runs.folder import RunFolder
from rtk.runs.trained import Trained, last_validation, mean_speed, read_trained, validations


def test_best_epoch_and_speed(tmp_path):
    run = RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]))
    assert read_trained(run) == Trained(None, None, None)
    for epoch, (speed, aurc) in enumerate([(100.0, 0.5), (300.0, 0.25), (300.0, 0.75)], start=1):
        run.append_metrics(10 * epoch, epoch, {"train/images_per_second": speed, "val/aurc": aurc})
    run.write_json("best.json", {"step": 20, "val/aurc": 0.25})
    assert read_trained(run) == Trained(2.0, {"val/aurc": 0.25}, pytest.approx(180.0))


def test_speed_is_all_images_over_all_time():
    # 4 steps at 8 images/s and 12 at 24: 16 batches in 0.5 + 0.5 batches' seconds.
    rows = [{"step": 4, "value": 8.0}, {"step": 16, "value": 24.0}]
    assert mean_speed(rows) == 16.0
    assert mean_speed([]) is None


def test_validations_are_by_step_and_hold_nothing_else(tmp_path):
    run = RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]))
    assert validations(run) == last_validation(run) == {}
    for step, aurc in [(10, 0.5), (20, 0.25)]:
        run.append_metrics(step, step / 10, {"train/lr": 0.1, "val/aurc": aurc, "val/accuracy": 1 - aurc})
    run.append_metrics(25, 2.5, {"train/lr": 0.1})
    first, last = {"val/aurc": 0.5, "val/accuracy": 0.5}, {"val/aurc": 0.25, "val/accuracy": 0.75}
    assert validations(run) == {10: first, 20: last}
    assert last_validation(run) == last
