"""Workers that do not see the folder of their run speak to it through an actor."""

from __future__ import annotations

import time

import pytest

from rtk.config import load_config
from rtk.runs.desk import DistantRun, open_desk
from rtk.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path, ray_session) -> RunFolder:
    return RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]))


@pytest.fixture
def distant(run, tmp_path) -> DistantRun:
    return DistantRun(tmp_path / "of this node", open_desk(run))


def test_what_a_worker_says_is_in_the_folder(run, distant):
    distant.append_metrics(1, 0.5, {"train/lr": 0.1})
    distant.append_metrics(2, 1.0, {"train/lr": 0.2})
    distant.write_json("ranks/00000.json", {"beats": 1})
    distant.add_notice("a word")
    distant.drop_metrics_after(1)
    distant.close()
    assert [(row["step"], row["value"]) for row in run.read_metrics()] == [(1, 0.1)]
    assert distant.read_metrics() == run.read_metrics()
    assert distant.read_json("ranks/00000.json") == {"beats": 1}
    distant.remove_json("ranks/00000.json")
    assert distant.read_json("ranks/00000.json") is None
    assert run.read_notices() == ["a word"]
    assert not distant.path.exists()


def test_a_request_to_stop_is_heard_soon(run, distant):
    assert not distant.stop_requested()
    run.request_stop()
    until = time.monotonic() + 30
    while not distant.stop_requested():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_request_to_save_is_known_at_once_by_who_makes_or_meets_it(run, distant):
    assert not distant.save_requested()  # and the question is on its way, with the answer of now
    distant.request_save()
    assert distant.save_requested()
    assert run.save_requested()
    distant.clear_save()
    assert not distant.save_requested()
    assert not run.save_requested()


def test_metrics_that_cannot_be_written_are_no_secret(run, distant):
    run.metrics_file.mkdir()
    distant.append_metrics(1, 0.5, {"train/lr": 0.1})
    with pytest.raises(OSError, match="metrics.csv"):
        distant.close()


def test_nothing_else_can_be_asked_for(distant):
    with pytest.raises(ValueError, match="got 'change_config', wanted one of append_metrics, "):
        distant._ask("change_config", None, 0)
